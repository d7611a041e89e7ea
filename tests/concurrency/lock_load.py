"""Runs that share one lock while their workers are killed: `python -m tests.concurrency.lock_load`.

200 runs of two priorities under a lock of capacity 3, whose workers are killed at random: the whole tree, the parent
alone, a forked child alone. Prints a report and exits 0 if every promise held:

- never more than 3 inside: each command takes one of three files by `flock`, which the kernel gives back when the last
  of its processes is gone, and writes into the witness file when it finds none free;
- nobody starves: every run succeeds;
- order: a trigger of the database writes down each ask, grant and release; each grant must have gone to the first in
  the queue by (priority, asked), and never to a fourth.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from tests.concurrency.kill_load import Cluster

CAPACITY = 3
PRIORITIES = ("P1", "P3")
#: A holder that vanished costs one slot for its lease and the ten seconds after it.
LEASE_SECONDS = "4"
#: From the last kill on.
ENDED_WITHIN = 120.0

LOCK = f"kind: Lock\nname: three\ncapacity: {CAPACITY}\n"
JOB = """
kind: Job
name: guarded-{name}
priority: {priority}
parameters: [{{name: home, type: string}}]
tasks:
  - name: inside
    type: shell
    idempotent: true
    locks: [three]
    env: {{H: "${{params.home}}"}}
    command: |
      for slot in 1 2 3; do
        exec 9> "$H/slot$slot"
        if flock -n 9; then
          echo "in $UPBEAT_RUN_ID" >> "$H/witness"
          sleep 0.3
          exit 0
        fi
      done
      echo "full $UPBEAT_RUN_ID" >> "$H/witness"
"""

#: All three happen under the row lock of the named lock, so the order of the log is the order of the facts.
LOG = """
create table lock_log (id bigserial primary key, tx bigint default txid_current(), what text, request bigint,
                       priority int, asked_at timestamptz);
create function log_lock() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into lock_log (what, request, priority, asked_at) values ('ask', new.id, new.priority, new.asked_at);
    elsif tg_op = 'DELETE' then
        insert into lock_log (what, request) values ('release', old.id);
    elsif old.granted_at is null and new.granted_at is not null then
        insert into lock_log (what, request) values ('grant', new.id);
    end if;
    return null;
end $$;
create trigger log_lock after insert or update or delete on orchestrator_lockrequest
    for each row execute function log_lock();
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--home", type=Path)
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.runs} runs, {chosen.kills} kills", flush=True)
    home = chosen.home or Path(tempfile.mkdtemp(prefix="upbeat-locks-"))
    os.environ["UPBEAT_LEASE_SECONDS"] = LEASE_SECONDS
    with ExitStack() as stack:
        cluster = Cluster("redis", home, stack, random.Random(chosen.seed))
        os.environ.update(cluster.environ)
        stack.callback(cluster.stop)
        return _drive(cluster, chosen, home)


def _drive(cluster: Cluster, chosen: argparse.Namespace, home: Path) -> int:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from orchestrator.models import JobRun, Tenant
    from orchestrator.services.runs import start_run

    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(LOG)
    for name, text in [("lock", LOCK), *((p, JOB.format(name=p.lower(), priority=p)) for p in PRIORITIES)]:
        (home / f"{name}.yaml").write_text(text)
        call_command("apply", str(home / f"{name}.yaml"), verbosity=0)
    cluster.start()
    done = threading.Event()
    threading.Thread(target=_supervise, args=(cluster, done), daemon=True).start()
    time.sleep(8)
    chance = random.Random(chosen.seed + 1)
    killer = threading.Thread(target=_kill, args=(cluster, chosen.kills, random.Random(chosen.seed + 2)), daemon=True)
    killer.start()
    tenant = Tenant.objects.get(slug="default")
    for n in range(chosen.runs):
        start_run(
            tenant=tenant, job_name=f"guarded-{chance.choice(PRIORITIES).lower()}", parameters={"home": str(home)},
            trigger={"kind": "load"}, trigger_key=f"load-{n}",
        )  # fmt: skip
        time.sleep(chance.expovariate(chosen.runs / 15.0))
    killer.join()
    last_kill = time.monotonic()
    while time.monotonic() - last_kill < ENDED_WITHIN and JobRun.objects.filter(ended_at=None).exists():
        time.sleep(0.5)
    took = time.monotonic() - last_kill
    done.set()
    problems = _judge(home, chosen.runs)
    print(
        f"kills: {', '.join(cluster.faults)}; all ended {took:.1f} s after the last" if took < ENDED_WITHIN else "late"
    )
    connection.close()
    for problem in problems:
        print("PROBLEM:", problem)
    return 1 if problems else 0


def _supervise(cluster: Cluster, done: threading.Event) -> None:
    while not done.wait(1.0):
        cluster.supervise()


def _kill(cluster: Cluster, count: int, chance: random.Random) -> None:
    """Kill workers that have a holder inside: the whole tree, the parent alone, or the forked child that runs it."""
    while len(cluster.faults) < count:
        time.sleep(chance.uniform(1, 4))
        # A process that ends by itself at this moment cannot be killed; another one will be.
        with suppress(psutil.Error):
            busy = [worker for worker in cluster.workers if worker.running and _holds(psutil.Process(worker.pid))]
            if not busy:
                continue
            worker = chance.choice(busy)
            forked = [child for child in worker.children() if "celery" in " ".join(child.cmdline()) and _holds(child)]
            kind = chance.choice(["tree", "parent", *(["child"] if forked else [])])
            if kind == "child":
                chance.choice(forked).kill()
            else:
                {"tree": worker.kill_tree, "parent": worker.kill}[kind]()
            cluster.faults.append(f"{kind} of {worker.name}")


def _holds(process: psutil.Process) -> bool:
    return any(below.name() == "sleep" for below in process.children(recursive=True))


def _judge(home: Path, expected: int) -> list[str]:
    from django.db import connection

    from orchestrator.models import Attempt, JobRun, LockRequest, TaskRun

    problems = []
    states = Counter(JobRun.objects.values_list("state", flat=True))
    lost = Attempt.objects.filter(state="lost").count()
    witnessed = Counter(line.split()[0] for line in (home / "witness").read_text().splitlines())
    print(f"runs: {dict(states)}, attempts: {Attempt.objects.count()}, lost: {lost}, witnessed: {dict(witnessed)}")
    if states != {"succeeded": expected}:
        problems.append(f"not all of {expected} succeeded: {dict(states)}")
        for row in TaskRun.objects.exclude(state="succeeded").select_related("run")[:10]:
            problems.append(f"run {row.run_id} {row.state}: {row.reason}")
    if witnessed["full"]:
        problems.append(f"{witnessed['full']} commands found {CAPACITY} others inside")
    if not lost:
        problems.append("no kill hit a holder: this load proved nothing")
    if left := LockRequest.objects.count():
        problems.append(f"{left} requests are left")
    with connection.cursor() as cursor:
        cursor.execute("select tx, what, request, priority, asked_at from lock_log order by id")
        return problems + replay(cursor.fetchall())


def replay(log: list[tuple[int, str, int, int, Any]]) -> list[str]:
    """Go through asks, releases and grants in their order; name each grant that was not the first's turn.

    Between two asks of a transaction the log says nothing about the order: a statement that gives back and grants
    fires its triggers at its end.
    """
    problems = []
    waiting: dict[int, tuple[int, Any, int]] = {}
    held: set[int] = set()
    for (tx, _), group in groupby(log, key=lambda fact: (fact[0], fact[1] == "ask")):
        facts = list(group)
        waiting |= {request: (priority, at, request) for _, what, request, priority, at in facts if what == "ask"}
        gone = {request for _, what, request, _, _ in facts if what == "release"}
        granted = {request for _, what, request, _, _ in facts if what == "grant"}
        for request in gone - granted:
            waiting.pop(request, None)
        held -= gone
        first = set(sorted(waiting, key=lambda request: waiting[request])[: len(granted)])
        if granted != first:
            problems.append(f"transaction {tx} granted {sorted(granted)}, but {sorted(first)} were first")
        held |= granted - gone
        for request in granted:
            waiting.pop(request, None)
        if len(held) > CAPACITY:
            problems.append(f"transaction {tx} made {len(held)} holders")
    grants = sum(what == "grant" for _, what, *_ in log)
    print(f"{grants} grants in {len(log)} facts, {len(problems)} not in order")
    return problems


if __name__ == "__main__":
    sys.exit(main())
