"""What all benchmarks share: the processes as in production, runs on a clock, CPU time from the kernel's books."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from django.core.management import call_command
from django.db import connection

from orchestrator.dag.spec import JobSpec
from orchestrator.models import Tenant
from orchestrator.services.jobs import apply_definition
from orchestrator.services.runs import start_run
from orchestrator.services.tokens import create_token
from tests.support.processes import Process, beat, python, worker
from tests.support.services import free_port
from tests.support.waiting import eventually

#: How tasks are executed: one worker of two processes, two workers of one, or two of two threads.
WORKERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "prefork": (("-P", "prefork", "-c", "2"),),
    "solo": (("-P", "solo"), ("-P", "solo")),
    "threads": (("-P", "threads", "-c", "2"), ("-P", "threads", "-c", "2")),
}
#: By default the one that ships; docs/benchmarks.md has the figures of all three.
POOL = os.environ.get("UPBEAT_BENCH_POOL", "threads")
#: How many tasks they run at once.
SLOTS = {"prefork": 2, "solo": 2, "threads": 4}[POOL]
QUIET = ("--without-heartbeat",)


@dataclass(slots=True)
class Cost:
    """CPU seconds, of our processes, of the servers, and of the raw workers."""

    ours: float = 0.0
    servers: float = 0.0
    raw: float = 0.0


@dataclass(slots=True)
class Comparison:
    """Seconds of each repeat, ours and raw, and what our side cost."""

    seconds: list[float] = field(default_factory=list)
    raw_seconds: list[float] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    raw_cost: Cost = field(default_factory=Cost)
    runs: int = 0


class Bench:
    """A running Upbeat, and a plain Celery app beside it."""

    def __init__(self, directory: Path, *, repeat: int) -> None:
        self.repeat = repeat
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self.raw_processes: list[Process] = []
        self.servers = _servers()
        self.web_port = 0
        self._caller_seconds = 0.0

    def __enter__(self) -> Self:
        call_command("migrate", verbosity=0)
        self.tenant = Tenant.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.processes.values(), *self.raw_processes):
            # In a benchmark nothing is worth a graceful end, except that none may be left.
            process.kill_tree()

    # --- processes

    def start(self, *, web: bool = False) -> None:
        """Start what production starts, and wait until it is ready."""
        started = [
            worker(f"w{i}", *options, *QUIET, queues="default,long,bulk", environ={}, log=self._log(f"w{i}"))
            for i, options in enumerate(WORKERS[POOL])
        ]
        control = ("-P", "threads", "-c", "4", *QUIET)
        started.append(worker("control", *control, queues="control", environ={}, log=self._log("control")))
        for process in started:
            self.processes[process.name] = process.start()
        self.processes["beat"] = beat("beat", environ={}, log=self._log("beat")).start()
        if web:
            self.web_port = free_port()
            address = ("--host", "127.0.0.1", "--port", str(self.web_port), "--no-access-log")
            command = ("-m", "uvicorn", "orchestrator.asgi:application", *address)
            self.processes["web"] = python("web", *command, environ={}, log=self._log("web")).start()
            self.processes["web"].wait_for_output("Uvicorn running")
        for process in started:
            process.wait_for_output("ready.")

    def start_raw(self) -> None:
        """Start the plain app's workers: as many and of the same kind as ours."""
        for i, options in enumerate(WORKERS[POOL]):
            command = ("-m", "celery", "-A", "tests.benchmarks.raw_celery", "worker", "-n", f"raw{i}@%h", *options)
            quiet = ("--without-gossip", "--without-mingle", *QUIET, "--loglevel", "WARNING")
            process = python(f"raw{i}", *command, *quiet, environ={}, log=self._log(f"raw{i}"))
            self.raw_processes.append(process.start())

    def stop(self, name: str) -> None:
        self.processes.pop(name).stop()

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    # --- work

    def apply(self, spec: JobSpec) -> None:
        apply_definition(tenant=self.tenant, spec=spec, source="", author="bench")

    def token(self) -> str:
        return create_token(
            tenant=self.tenant, name="bench", scopes=("read", "trigger"), job_names=(), expires_at=None
        )[1]

    def trigger(self, job: str) -> int:
        """Start a run in this process and return its id; the CPU it takes counts as ours."""
        before = time.thread_time()
        run = start_run(tenant=self.tenant, job_name=job, parameters={}, trigger={"kind": "cli", "by": "bench"}).run
        self._caller_seconds += time.thread_time() - before
        return run.pk

    def run(self, job: str, *, within: float = 60.0) -> float:
        """Run a job to its success and return the seconds by the caller's clock, trigger call to seen end."""
        began = time.perf_counter()
        run_id = self.trigger(job)
        state = wait_for_end(run_id, within=within)
        seconds = time.perf_counter() - began
        assert state == "succeeded", f"run {run_id} of {job}: {state}"
        return seconds

    def compare(
        self, ours: Callable[[], float], raw: Callable[[], float], *, runs: int = 1, warm_up: int = 2
    ) -> Comparison:
        """Measure ours and raw in turn, `runs` of each in every repeat, after a warm-up of both."""
        for _ in range(warm_up):
            ours()
            raw()
        found = Comparison(runs=runs * self.repeat)
        for _ in range(self.repeat):
            with self.metered(found.cost):
                found.seconds.append(sum(ours() for _ in range(runs)) / runs)
            with self.metered(found.raw_cost):
                found.raw_seconds.append(sum(raw() for _ in range(runs)) / runs)
        return found

    # --- books

    @contextlib.contextmanager
    def metered(self, cost: Cost) -> Iterator[None]:
        """Add the CPU time that passes meanwhile to `cost`."""
        before = self._cpu()
        yield
        after = self._cpu()
        cost.ours += after.ours - before.ours
        cost.servers += after.servers - before.servers
        cost.raw += after.raw - before.raw

    def resident_mb(self) -> float:
        """Memory of the processes that execute tasks."""
        trees = [process.tree() for name, process in self.processes.items() if name.startswith("w")]
        return sum(p.memory_info().rss for tree in trees for p in tree) / 2**20

    def _cpu(self) -> Cost:
        ours = sum(cpu_seconds(process.tree()) for process in self.processes.values())
        servers = sum(cpu_seconds([top, *top.children(recursive=True)]) for top in self.servers)
        raw = sum(cpu_seconds(process.tree()) for process in self.raw_processes)
        return Cost(ours + self._caller_seconds, servers, raw)

    @property
    def settings(self) -> dict[str, Any]:
        """What a reader must know to judge a figure."""
        profile = os.environ["UPBEAT_PROFILE"]
        return {
            "profile": profile,
            "workers": [" ".join(options) for options in WORKERS[POOL]],
            "control": "-P threads -c 4",
            "database": _database_version(),
            "durable": _is_durable(),
            "broker": urlsplit(os.environ["UPBEAT_BROKER_URL"]).scheme,
            "worker_events": False,
            "cores": os.cpu_count(),
            "load_before": _load_before,
            "python": platform.python_version(),
        }


_load_before = round(os.getloadavg()[0], 2)


def per_task(seconds: float, tasks: int) -> float:
    return seconds * 1000 / tasks


def wait_for_end(run_id: int, *, within: float = 60.0) -> str:
    """Return the final state of a run once it is there to be seen."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("select state from orchestrator_jobrun where id = %s and ended_at is not null", [run_id])
            row = cursor.fetchone()
        if row:
            return str(row[0])
        time.sleep(0.005)
    raise AssertionError(f"run {run_id} did not end within {within:g} s")


def cpu_seconds(tree: list[psutil.Process]) -> float:
    """CPU time of living processes and of those below them that have ended."""
    total = 0.0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _servers() -> list[psutil.Process]:
    """The servers' processes, found by their ports; none where they run elsewhere."""
    urls = (os.environ["UPBEAT_DATABASE_URL"], os.environ["UPBEAT_BROKER_URL"])
    ports = {urlsplit(url).port for url in urls if url} - {None}
    listening = {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port in ports and found.pid
    }
    return [psutil.Process(pid) for pid in sorted(listening)]


def _database_version() -> str:
    sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute("select sqlite_version()" if sqlite else "show server_version")
        return f"{connection.vendor} {str(cursor.fetchone()[0]).split()[0]}"


def _is_durable() -> str:
    if connection.vendor == "sqlite":
        return "WAL, synchronous=NORMAL"
    with connection.cursor() as cursor:
        cursor.execute("show fsync")
        fsync = cursor.fetchone()[0]
        cursor.execute("show synchronous_commit")
        return f"fsync={fsync}, synchronous_commit={cursor.fetchone()[0]}"


__all__ = ["POOL", "SLOTS", "Bench", "Comparison", "Cost", "cpu_seconds", "eventually", "per_task", "wait_for_end"]
