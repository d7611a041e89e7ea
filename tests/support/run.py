"""What `make test` runs: the servers, then pytest in passes, then nothing left behind.

With arguments it is one plain pytest run with the servers there. Without, six passes: the quick tests on two
processes with PostgreSQL, the database tests again on SQLite (the embedded profile ships on it), on two what kills,
on two what waits for leases and brokers, on two every page in a browser, and one after the other what must be quick, because a busy
neighbour would spoil it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.provision import end_left_over, end_on_term, needed_by, provided

RESULTS = Path("build/test-results")
NO_TESTS = 5  # pytest's exit code for "nothing was collected"


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of pytest: what it is called, its arguments, the variables taken away from it."""

    name: str
    arguments: tuple[str, ...]
    without: tuple[str, ...] = ()


SERIAL = "slow or kill or acceptance"
ELSEWHERE = f"bench or browser or {SERIAL}"
#: Each test has a cluster of its own, and some take minutes: whoever is free takes the next.
KILLS = ("tests/concurrency/test_kill_load.py", "tests/concurrency/test_kill.py", "tests/concurrency/test_endings.py")
#: Slow, and indifferent to a neighbour: they wait for what happens, on servers, topics and queues of their own.
WAITING = (
    *("tests/concurrency/test_ingest.py", "tests/deploy/test_backup.py"),
    *("tests/brokers/test_kafka.py", "tests/brokers/test_rabbitmq_listener.py", "tests/brokers/test_kafka_kill.py"),
    *("tests/concurrency/test_locks.py", "tests/database/test_api_fuzz.py", "tests/brokers/test_poison.py"),
    *("tests/brokers/test_kafka_topics.py", "tests/brokers/test_rabbitmq_topology.py"),
    *("tests/brokers/test_rabbitmq_dead_letters.py", "tests/brokers/test_run_triggers.py"),
    *("tests/listeners/test_run_triggers.py", "tests/listeners/test_supervisor.py"),
    *("tests/concurrency/test_webhooks.py", "tests/concurrency/test_task_types.py"),
    *("tests/concurrency/test_key_races.py", "tests/contract/test_sql.py", "tests/brokers/test_emit_events.py"),
    *("tests/database/triggers/test_diagnosis.py", "tests/database/triggers/test_emit_events.py"),
    *("tests/database/test_lanes.py", "tests/database/test_retention.py"),
)
PASSES = (
    Pass("quick tests", ("-n", "2", "--dist", "loadfile", "-m", f"not ({ELSEWHERE})")),
    Pass(
        "database tests on SQLite",
        ("-n", "2", "--dist", "loadfile", "-m", f"not ({ELSEWHERE} or postgresql)", "tests/database"),
        without=("UPBEAT_TEST_DATABASE_URL",),
    ),
    Pass("kill tests", ("-n", "2", "--dist", "loadgroup", "-m", SERIAL, "--durations=5", *KILLS)),
    Pass("slow tests that wait", ("-n", "2", "--dist", "loadfile", "-m", SERIAL, "--durations=10", *WAITING)),
    Pass("pages in a browser", ("-n", "2", "-m", "browser", "--durations=15", "tests/browser")),
    Pass(
        "slow tests, acceptance",
        (
            "-m",
            f"not bench and not browser and ({SERIAL})",
            "--durations=15",
            *(f"--ignore={path}" for path in (*KILLS, *WAITING)),
        ),
    ),
)


def main(arguments: list[str]) -> int:
    """Run everything, or what `arguments` say; return 0 only if all passed and nothing was left running."""
    end_on_term()
    began = time.monotonic()
    try:
        with provided(only=needed_by(arguments)):
            code = _pytest(arguments, os.environ) if arguments else _all_passes(began)
    except KeyboardInterrupt:
        code = 130
    finally:
        leaks = end_left_over()
        for line in leaks:
            print(f"left running by the tests, now ended: {line}", file=sys.stderr, flush=True)
    return code or (1 if leaks else 0)


def _all_passes(began: float) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    worst, totals = 0, Counter[str]()
    for number, one in enumerate(PASSES):
        print(f"\n=== {one.name} ===", flush=True)
        report = RESULTS / f"{number}.xml"
        report.unlink(missing_ok=True)
        environ = {key: value for key, value in os.environ.items() if key not in one.without}
        code = _pytest([*one.arguments, f"--junit-xml={report}", "-o", "junit_family=xunit2"], environ)
        if code not in (0, NO_TESTS):
            worst = worst or code
            if not report.exists():  # interrupted, or it could not even start
                return worst
        totals += _counts(report)
    if not totals["passed"]:
        print("no test ran", file=sys.stderr)
        return worst or NO_TESTS
    # The closing lines above are of one pass each; this one is of the whole.
    print(f"\nall passes took {time.monotonic() - began:.0f} s")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped", flush=True)
    return worst


def _counts(report: Path) -> Counter[str]:
    if not report.exists():
        return Counter()
    counts = Counter[str]()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counts += Counter(passed=int(suite.get("tests", 0)) - failed - skipped, failed=failed, skipped=skipped)
    return counts


def _pytest(arguments: list[str], environ: os._Environ[str] | dict[str, str]) -> int:
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], env=environ)
    try:
        return process.wait()
    except BaseException:
        # Ctrl-C reached pytest too; it gets the time to tear its fixtures down.
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
