"""A mixed load on real processes while processes and servers are killed: `python -m tests.concurrency.kill_load`.

Starts PostgreSQL and a broker of its own, two workers, a control worker and two beats; triggers runs of several
shapes; kills something at random moments; then asks the ledger and a witness file what happened. Every execution of
a shell task appends a line to the witness. Prints a report and exits 0 if every promise held:

- every run ends, within 60 s of the last fault (0 lost);
- no task that is not idempotent is executed twice; one that succeeded was executed exactly once;
- no attempt is called lost whose worker lived.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import amqp
import psycopg
import redis

from tests.support import services
from tests.support.processes import ROOT, Process, beat, worker

WITNESS = "UPBEAT_PARAM_WITNESS"

JOBS = """
kind: Job
name: mixed
parameters: [{name: witness, type: string}]
tasks:
  - {name: first, type: noop, idempotent: true}
  - {name: pay, type: shell, command: 'echo "$UPBEAT_RUN_ID pay" >> "$W"', env: {W: "${params.witness}"}, depends_on: [first]}
  - {name: w1, type: noop, idempotent: true, depends_on: [pay]}
  - {name: w2, type: noop, idempotent: true, depends_on: [pay]}
  - {name: w3, type: noop, idempotent: true, depends_on: [pay]}
  - {name: w4, type: noop, idempotent: true, depends_on: [pay]}
  - {name: w5, type: noop, idempotent: true, depends_on: [pay]}
  - {name: book, type: shell, command: 'echo "$UPBEAT_RUN_ID book" >> "$W"', env: {W: "${params.witness}"}, depends_on: [w1, w2, w3, w4, w5]}
---
kind: Job
name: chained
parameters: [{name: witness, type: string}]
tasks:
  - {name: a, type: noop, idempotent: true}
  - {name: b, type: noop, idempotent: true, depends_on: [a]}
  - {name: c, type: noop, idempotent: true, depends_on: [b]}
  - {name: d, type: shell, command: 'echo "$UPBEAT_RUN_ID d" >> "$W"', env: {W: "${params.witness}"}, depends_on: [c]}
---
kind: Job
name: retried
parameters: [{name: witness, type: string}]
tasks:
  - name: flaky
    type: shell
    idempotent: true
    retry: {max_attempts: 6, delay: 1s, backoff: fixed}
    command: 'echo "$UPBEAT_RUN_ID flaky" >> "$W"; test $(grep -c "^$UPBEAT_RUN_ID flaky" "$W") -gt 1'
    env: {W: "${params.witness}"}
  - {name: after, type: noop, idempotent: true, depends_on: [flaky]}
---
kind: Job
name: slow
parameters: [{name: witness, type: string}]
tasks:
  - name: long
    type: shell
    idempotent: true
    command: 'echo "$UPBEAT_RUN_ID long" >> "$W"; sleep 3'
    env: {W: "${params.witness}"}
  - name: once
    type: shell
    command: 'echo "$UPBEAT_RUN_ID once" >> "$W"; sleep 2'
    env: {W: "${params.witness}"}
---
kind: Job
name: locked
parameters: [{name: witness, type: string}]
tasks:
  - {name: guarded, type: shell, locks: [ledger_lock], command: 'echo "$UPBEAT_RUN_ID guarded" >> "$W"', env: {W: "${params.witness}"}}
  - {name: after, type: noop, idempotent: true, depends_on: [guarded]}
---
kind: Job
name: waited
parameters: [{name: witness, type: string}]
tasks:
  - {name: first, type: wait, for: 1s, idempotent: true}
  - {name: w1, type: wait, for: 2s, idempotent: true, depends_on: [first]}
  - {name: w2, type: wait, for: 2s, idempotent: true, depends_on: [first]}
  - {name: w3, type: wait, for: 3s, idempotent: true, depends_on: [first]}
  - {name: w4, type: noop, idempotent: true, depends_on: [first]}
  - {name: after, type: shell, command: 'echo "$UPBEAT_RUN_ID after" >> "$W"', env: {W: "${params.witness}"}, depends_on: [w1, w2, w3, w4]}
"""
#: Of each ten runs.
MIX = ("mixed", "mixed", "mixed", "chained", "chained", "waited", "retried", "retried", "slow", "locked")
IDEMPOTENT = {"flaky", "long"}
#: After the last fault every run must have ended within this.
SETTLED_WITHIN = 60.0


class Cluster:
    """Servers and processes of one load, with the pids of all that were killed."""

    def __init__(self, broker: str, home: Path, stack: ExitStack, chance: random.Random) -> None:
        self.chance = chance
        self.home = home
        self.killed: set[int] = set()
        self.faults: list[str] = []
        self.postgres = stack.enter_context(services.start_postgres())
        self.redis = stack.enter_context(services.start_redis())
        self.rabbitmq = stack.enter_context(services.start_rabbitmq()) if broker == "rabbitmq" else None
        self.environ = {
            "UPBEAT_PROFILE": "production",
            "DJANGO_SETTINGS_MODULE": "orchestrator.settings.production",
            "UPBEAT_SECRET_KEY": "only-for-the-kill-load-0123456789-abcdefghijklmnopqrstuvwxyz",
            "UPBEAT_ALLOWED_HOSTS": "localhost",
            "UPBEAT_HOME": str(home),
            "UPBEAT_DATABASE_URL": self.postgres.url,
            "UPBEAT_BROKER_URL": self.rabbitmq.url if self.rabbitmq else self.redis.url,
            "UPBEAT_RESULT_URL": self.redis.url,
            "UPBEAT_RECONCILE_SECONDS": "2",
        }
        lanes = "default,long,bulk"
        logs = home / "logs"
        logs.mkdir(parents=True)
        pooled = {**self.environ, "UPBEAT_DATABASE_POOL": "8"}
        # Threads as shipped, and forked children for the sake of what can be killed about them.
        self.workers = [
            worker("worker1", "-P", "threads", "-c", "4", queues=lanes, environ=self.environ, log=logs / "worker1.log"),
            worker("worker2", "-P", "prefork", "-c", "2", queues=lanes, environ=self.environ, log=logs / "worker2.log"),
        ]
        self.control = worker(
            "control", "-P", "threads", "-c", "4", queues="control", environ=pooled, log=logs / "control.log"
        )
        self.progress = [home / f"beat{n}.progress" for n in (1, 2)]
        self.beats = [
            beat(f"beat{n}", environ={**self.environ, "UPBEAT_PROGRESS_FILE": str(file)}, log=logs / f"beat{n}.log")
            for n, file in enumerate(self.progress, start=1)
        ]

    def reconciler_ticks(self, beat: int) -> bool:
        """Whether the reconciler of a beat (0 or 1) has begun to seek the lead."""
        return Path(f"{self.progress[beat]}.reconciler").exists()

    @property
    def processes(self) -> list[Process]:
        return [*self.workers, self.control, *self.beats]

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        for process in self.processes:
            if process.running:
                process.kill_tree()

    def supervise(self) -> None:
        """Start again what ended, as any supervisor would."""
        for process in self.processes:
            if not process.running:
                process.start()

    def manage(self, *arguments: str) -> str:
        """Run manage.py and return what it printed."""
        ended = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode in (0, 4), ended.stdout + ended.stderr
        return ended.stdout

    def apply(self, text: str) -> None:
        path = self.home / "job.yaml"
        path.write_text(text)
        self.manage("apply", str(path))

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def leader(self, name: str) -> tuple[str, int]:
        """Return who holds a lease, and its epoch."""
        rows = self.ask(f"select holder, epoch from orchestrator_lease where name = '{name}'")
        return (str(rows[0][0]), int(str(rows[0][1]))) if rows else ("", 0)

    # Faults.

    def kill_worker(self) -> None:
        target = self.chance.choice(self.workers)
        self.killed.update(each.pid for each in target.tree())
        target.kill_tree()

    def kill_worker_parent(self) -> None:
        target = self.chance.choice(self.workers)
        self.killed.update(each.pid for each in target.tree())
        target.kill()

    def kill_worker_child(self) -> None:
        children = [
            child for target in self.workers for child in target.children() if "celery" in " ".join(child.cmdline())
        ]
        if children:
            child = self.chance.choice(children)
            self.killed.add(child.pid)
            child.kill()

    def kill_control(self) -> None:
        self.killed.update(each.pid for each in self.control.tree())
        self.control.kill_tree()

    def kill_beat(self) -> None:
        self.chance.choice(self.beats).kill_tree()

    def freeze_beat(self) -> None:
        target = self.chance.choice(self.beats)
        target.pause()
        time.sleep(5)
        target.resume()

    def kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(self.chance.uniform(0.2, 2))
        self.redis.start()

    def kill_rabbitmq(self) -> None:
        assert self.rabbitmq is not None
        self.rabbitmq.kill()
        self.rabbitmq.start()

    def empty_broker(self) -> None:
        redis.Redis.from_url(self.redis.url).flushall()
        if self.rabbitmq:
            with amqp.Connection(**_amqp(self.rabbitmq.url)) as connection:
                for queue in ("default", "long", "bulk", "control"):
                    connection.channel().queue_purge(queue)

    def restart_postgres(self) -> None:
        self.postgres.kill()
        self.postgres.start()

    def stop_postgres(self) -> None:
        self.postgres.kill()
        time.sleep(45)
        self.postgres.start()


def _amqp(url: str) -> dict[str, Any]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return {"host": f"{parts.hostname}:{parts.port}", "userid": parts.username, "password": parts.password,
            "virtual_host": parts.path.lstrip("/") or "/"}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--faults", type=int, default=14)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--home", type=Path)
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, broker {chosen.broker}, {chosen.runs} runs, {chosen.faults} faults", flush=True)
    home = chosen.home or Path(tempfile.mkdtemp(prefix="upbeat-kill-"))
    with ExitStack() as stack:
        cluster = Cluster(chosen.broker, home, stack, random.Random(chosen.seed))
        os.environ.update(cluster.environ)
        stack.callback(cluster.stop)
        return _drive(cluster, chosen, home)


def _drive(cluster: Cluster, chosen: argparse.Namespace, home: Path) -> int:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from orchestrator.models import JobRun

    call_command("migrate", verbosity=0)
    _define_jobs(home)
    cluster.start()
    chance = random.Random(chosen.seed + 1)
    witness = home / "witness"
    done = threading.Event()
    supervisor = threading.Thread(target=_keep_up, args=(cluster, done), daemon=True)
    supervisor.start()
    faults = threading.Thread(target=_break_things, args=(cluster, chosen.faults, chance), daemon=True)
    time.sleep(8)
    faults.start()
    keys = [(f"load-{n}", chance.choice(MIX)) for n in range(chosen.runs)]
    for key, job in keys:
        _trigger(job, key, witness)
        time.sleep(chance.expovariate(chosen.runs / (chosen.faults * 7.0 + 5)))
    faults.join()
    last_fault = time.monotonic()
    while time.monotonic() - last_fault < SETTLED_WITHIN:
        open_runs = _insist(lambda: JobRun.objects.exclude(ended_at__isnull=False).count())
        if not open_runs:
            break
        time.sleep(0.5)
    took = time.monotonic() - last_fault
    done.set()
    problems = _judge(cluster, witness, len(keys))
    print(f"faults: {', '.join(cluster.faults)}")
    print(f"all ended {took:.1f} s after the last fault" if took < SETTLED_WITHIN else "not all ended in time")
    connection.close()
    for problem in problems:
        print("PROBLEM:", problem)
    if problems:
        print(f"home: {home}")
    return 1 if problems else 0


def _define_jobs(home: Path) -> None:
    from django.core.management import call_command

    for index, text in enumerate(JOBS.split("---\n")):
        path = home / f"job{index}.yaml"
        path.write_text(text)
        call_command("apply", str(path), verbosity=0)


def _trigger(job: str, key: str, witness: Path) -> None:
    from orchestrator.models import Tenant
    from orchestrator.services.runs import start_run

    _insist(
        lambda: start_run(
            tenant=Tenant.objects.get(slug="default"),
            job_name=job,
            parameters={"witness": str(witness)},
            trigger={"kind": "load"},
            trigger_key=key,
        )
    )


def _insist(ask: Callable[[], Any]) -> Any:
    """Ask until the database answers, as a client with an idempotency key does."""
    from django.db import InterfaceError, OperationalError, close_old_connections

    while True:
        try:
            return ask()
        except (OperationalError, InterfaceError):
            time.sleep(0.3)
            close_old_connections()


def _keep_up(cluster: Cluster, done: threading.Event) -> None:
    while not done.wait(1.0):
        cluster.supervise()


def _break_things(cluster: Cluster, count: int, chance: random.Random) -> None:
    kinds: list[Callable[[], None]] = [
        cluster.kill_worker, cluster.kill_worker_parent, cluster.kill_worker_child, cluster.kill_control,
        cluster.kill_beat, cluster.freeze_beat, cluster.kill_redis, cluster.empty_broker, cluster.restart_postgres,
    ]  # fmt: skip
    if cluster.rabbitmq:
        kinds.append(cluster.kill_rabbitmq)
    # Each kind at least once where there is room, the long outage of the database exactly once.
    plan = [*kinds, *chance.choices(kinds, k=max(0, count - len(kinds) - 1)), cluster.stop_postgres]
    chance.shuffle(plan)
    for fault in plan[:count] if count < len(plan) else plan:
        time.sleep(chance.uniform(1, 6))
        try:
            fault()
        except Exception:
            # A fault that could not be brought about is a defect of the load, not of the product.
            traceback.print_exc()
        cluster.faults.append(fault.__name__)


def _judge(cluster: Cluster, witness: Path, expected: int) -> list[str]:
    from orchestrator.models import Attempt, JobRun, TaskRun

    problems = []
    states = Counter(JobRun.objects.values_list("state", flat=True))
    print(f"runs: {dict(states)}")
    if sum(states.values()) != expected:
        problems.append(f"{sum(states.values())} runs for {expected} triggers")
    for run in JobRun.objects.filter(ended_at__isnull=True).select_related("job")[:10]:
        tasks = dict(TaskRun.objects.filter(run=run).values_list("task__name", "state"))
        problems.append(f"run {run.pk} of {run.job.name} is still {run.state}: {tasks}")
    lines = Counter(witness.read_text().splitlines() if witness.exists() else [])
    for line, count in lines.items():
        if count > 1 and line.split()[1] not in IDEMPOTENT:
            problems.append(f"executed {count} times: {line}")
    for task in TaskRun.objects.filter(state="succeeded", task__type="shell").select_related("task"):
        if not lines[f"{task.run_id} {task.task.name}"]:
            problems.append(f"succeeded without being executed: run {task.run_id} {task.task.name}")
    for task in TaskRun.objects.filter(state="failed").select_related("task"):
        if "lost" not in task.reason and "unknown" not in task.reason:
            problems.append(f"run {task.run_id} {task.task.name} failed: {task.reason}")
    for attempt in Attempt.objects.filter(state="running", task_run__run__ended_at__isnull=False)[:10]:
        problems.append(f"attempt {attempt.pk} is still open, but its run has ended")
    lost = Attempt.objects.filter(state="lost")
    print(f"attempts: {dict(Counter(Attempt.objects.values_list('state', flat=True)))}")
    for attempt in lost:
        pid = int(attempt.worker.rpartition("/")[2].partition(".")[0])
        if pid not in cluster.killed:
            problems.append(
                f"attempt {attempt.pk} called lost, but its worker {attempt.worker} was not killed: {attempt.reason}"
            )
    return problems


if __name__ == "__main__":
    sys.exit(main())
