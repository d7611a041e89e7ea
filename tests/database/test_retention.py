from __future__ import annotations

import io
import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import Model
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.errors import InvalidRequest
from orchestrator.ledger import pruning
from orchestrator.models import (
    ApiToken,
    Attempt,
    Fragment,
    IdempotencyKey,
    JobRun,
    Lock,
    LockRequest,
    RateWindow,
    TaskRun,
    Transition,
)
from orchestrator.services import retention
from orchestrator.services.retention import Pruned, Pruner, prune_keys, prune_runs, sweep_store
from orchestrator.states import RunState, TaskState
from orchestrator.store import LocalStore, StoreError, log_key
from tests.support.records import default_tenant, new_attempt, new_job, new_run, new_task_run, new_token, new_transition

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
NINETY = 90 * DAY


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def job():
    return new_job(tasks=("extract", "load"))


def old_run(job, days: float = 100, state: RunState = RunState.SUCCEEDED, **more):
    """A run that was made, and if its state is final ended, so many days ago."""
    then = timezone.now() - days * DAY
    ended = {} if state in (RunState.PENDING, RunState.RUNNING) else {"ended_at": then}
    return new_run(job, state, **{"created_at": then, **ended, **more})


def full_run(job, store: LocalStore, days: float = 100) -> JobRun:
    """A run with something of everything."""
    run = old_run(job, days)
    fragment = Fragment.objects.create(run=run, size=1, created_at=run.created_at)
    task_run = new_task_run(run, 0, result_ref=store.put(run.pk, b"[1]"), fragment=fragment, fragment_index=0)
    attempt = new_attempt(task_run)
    store.append(log_key(run.pk, attempt.pk), b"hello\n")
    lock = Lock.objects.get_or_create(tenant=job.tenant, name="db")[0]
    LockRequest.objects.create(task_run=task_run, lock=lock, priority=2, asked_at=run.created_at)
    new_transition(run, "running", "succeeded")
    new_transition(run, "running", "succeeded", subject="task_run", subject_id=task_run.pk)
    token = ApiToken.objects.first() or new_token()[0]
    IdempotencyKey.objects.create(token=token, key=f"k{run.pk}", fingerprint="x", run=run, created_at=run.created_at)
    return run


def rows() -> dict[str, int]:
    """How many rows of runs there are, by table."""
    tables: tuple[type[Model], ...] = (JobRun, TaskRun, Attempt, Fragment, LockRequest, IdempotencyKey)
    of_runs = Transition.objects.filter(run_id__isnull=False)
    return {table.__name__: table._default_manager.count() for table in tables} | {"Transition": of_runs.count()}


def stored(store: LocalStore) -> list[int]:
    return sorted({run_id for some in store.run_ids() for run_id in some})


def test_an_old_run_goes_with_all_that_belongs_to_it_and_nothing_else(job, store):
    full_run(job, store, days=100)
    kept = full_run(job, store, days=80)
    before = rows()

    assert prune_runs(older_than=NINETY, store=store) == 1

    assert rows() == {name: count // 2 for name, count in before.items()}
    assert list(JobRun.objects.values_list("pk", flat=True)) == [kept.pk]
    assert stored(store) == [kept.pk]
    assert prune_runs(older_than=NINETY, store=store) == 0


def test_whatever_points_at_a_run_is_known_to_pruning():
    """A new table that points at one of these must be told to `ledger/pruning.py`."""
    pointing = {
        f"{relation.related_model._meta.label}.{relation.field.name}"
        for model in (JobRun, TaskRun, Attempt, Fragment)
        for relation in model._meta.get_fields(include_hidden=True)
        if relation.auto_created and not relation.concrete
    }

    assert pointing == {
        "orchestrator.JobRun.rerun_of",
        "orchestrator.TaskRun.run",
        "orchestrator.TaskRun.fragment",
        "orchestrator.TaskRun.carried_from",
        "orchestrator.Fragment.run",
        "orchestrator.Attempt.task_run",
        "orchestrator.LockRequest.task_run",
        "orchestrator.IdempotencyKey.run",
    }


def test_an_open_run_is_kept_however_old(job, store):
    for state in (RunState.PENDING, RunState.RUNNING):
        old_run(job, 1000, state)

    assert prune_runs(older_than=NINETY, store=store) == 0
    assert JobRun.objects.count() == 2


def test_a_run_that_ended_lately_is_kept_however_early_it_began(job, store):
    old_run(job, 1000, ended_at=timezone.now() - DAY)

    assert prune_runs(older_than=NINETY, store=store) == 0


def test_a_run_is_kept_while_its_rerun_is_open_and_let_go_once_that_has_ended(job, store):
    first = old_run(job)
    task_run = new_task_run(first, 0)
    again = old_run(job, 1, RunState.RUNNING, rerun_of=first)
    carried = new_task_run(again, 0, carried_from=task_run)

    assert prune_runs(older_than=NINETY, store=store) == 0
    JobRun.objects.filter(pk=again.pk).update(state=RunState.SUCCEEDED, ended_at=timezone.now())
    assert prune_runs(older_than=NINETY, store=store) == 1

    again.refresh_from_db()
    carried.refresh_from_db()
    assert (again.rerun_of_id, carried.carried_from_id) == (None, None)
    assert list(JobRun.objects.all()) == [again]


def test_a_dry_run_counts_and_deletes_nothing(job, store):
    runs = [full_run(job, store) for _ in range(3)]
    old_run(job, 1, RunState.RUNNING, rerun_of=runs[0])
    before = rows()

    assert prune_runs(older_than=NINETY, store=store, dry_run=True) == 2
    assert rows() == before
    assert len(stored(store)) == 3


def test_a_limit_takes_the_oldest_first(job, store):
    runs = [old_run(job) for _ in range(5)]

    assert prune_runs(older_than=NINETY, store=store, limit=2) == 2
    assert list(JobRun.objects.order_by("pk")) == runs[2:]


def test_one_tenant_can_be_pruned_alone(job, store):
    from orchestrator.models import Tenant

    other = Tenant.objects.create(slug="other")
    old_run(new_job(tenant=other))
    kept = old_run(job)

    assert prune_runs(older_than=NINETY, tenant=other, store=store) == 1
    assert list(JobRun.objects.all()) == [kept]


def test_runs_of_the_last_day_are_never_asked_away(store):
    with pytest.raises(InvalidRequest, match="24 hours"):
        prune_runs(older_than=timedelta(hours=23), store=store)


def test_batches_are_bounded_by_tasks_and_may_be_stopped_in_between(job, store, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH_TASKS", 4)
    monkeypatch.setattr(pruning, "WINDOW", 3)
    for _ in range(5):
        old_run(job)
    sizes: list[int] = []

    def after_batch(seconds: float) -> bool:
        sizes.append(JobRun.objects.count())
        return len(sizes) < 2

    assert prune_runs(older_than=NINETY, store=store, after_batch=after_batch) == 4
    assert sizes == [3, 1]
    assert prune_runs(older_than=NINETY, store=store) == 1


def test_an_idle_pruning_reads_one_window_however_many_runs_there_are(job, store, monkeypatch):
    monkeypatch.setattr(pruning, "WINDOW", 10)
    for _ in range(50):
        new_run(job, RunState.SUCCEEDED)

    with CaptureQueriesContext(connection) as captured:
        prune_runs(older_than=NINETY, store=store)

    assert len([query for query in captured if "jobrun" in query["sql"]]) == 1


def test_a_store_that_is_away_keeps_the_database_from_being_pruned(job, tmp_path):
    (tmp_path / "file").write_text("in the way")
    old_run(job)

    with pytest.raises(StoreError, match=r"the store .*/file failed"):
        prune_runs(older_than=NINETY, store=LocalStore(tmp_path / "file"))
    assert JobRun.objects.count() == 1


class LosingStore(LocalStore):
    """Dies between the database and the store."""

    def delete_runs(self, run_ids) -> None:
        raise StoreError("the store went away")


def test_what_a_crash_left_in_the_store_is_swept(job, store):
    full_run(job, store)
    kept = full_run(job, store, days=1)
    with pytest.raises(StoreError):
        prune_runs(older_than=NINETY, store=LosingStore(store.root))
    assert len(stored(store)) == 2

    assert sweep_store(store) == 1
    assert sweep_store(store) == 0
    assert stored(store) == [kept.pk]


def test_a_sweep_leaves_alone_what_this_database_cannot_know(job, store):
    """A database that was restored from an older copy, or emptied, has not seen these runs yet."""
    run = old_run(job, 1)
    store.put(run.pk + 1, b"newer")

    assert sweep_store(store) == 0
    JobRun.objects.all().delete()
    assert sweep_store(store) == 0


def test_keys_past_their_day_and_counts_of_calls_long_ago_go(job):
    token, _ = new_token()
    other, _ = new_token(name="other")
    now = timezone.now()
    run = new_run(job)
    for hours in (1, 23, 25, 1000):
        IdempotencyKey.objects.create(
            token=token, key=f"{hours}", fingerprint="x", run=run, created_at=now - timedelta(hours=hours)
        )
    minute = int(now.timestamp()) // 60
    RateWindow.objects.create(token=token, minute=minute, calls=1)
    RateWindow.objects.create(token=other, minute=minute - 100, calls=1)

    assert prune_keys() == 2
    assert sorted(IdempotencyKey.objects.values_list("key", flat=True)) == ["1", "23"]
    assert [window.token for window in RateWindow.objects.all()] == [token]


def test_beat_prunes_as_the_option_says_and_only_then(job, store, monkeypatch):
    monkeypatch.setattr(retention, "store_of_process", lambda: store)
    full_run(job, store)
    real = retention.options()

    assert Pruner(lambda: True).prune() == Pruned(runs=0, idempotency_keys=1, swept=0)
    monkeypatch.setattr(real, "_values", {**real._values, "UPBEAT_RUN_RETENTION_DAYS": 90})
    assert Pruner(lambda: True).prune() == Pruned(runs=1, idempotency_keys=0, swept=0)
    assert stored(store) == []


def test_a_store_that_is_away_does_not_end_the_pruner_which_sweeps_when_it_is_back(job, store, monkeypatch):
    real = retention.options()
    monkeypatch.setattr(real, "_values", {**real._values, "UPBEAT_RUN_RETENTION_DAYS": 90})
    monkeypatch.setattr(retention, "store_of_process", lambda: LosingStore(store.root))
    full_run(job, store)
    full_run(job, store, days=1)
    pruner = Pruner(lambda: True)

    assert pruner.prune() == Pruned()
    monkeypatch.setattr(retention, "store_of_process", lambda: store)

    assert pruner.prune() == Pruned(runs=0, idempotency_keys=0, swept=1)


def test_a_beat_that_loses_its_lead_stops_pruning_between_two_batches(job, store, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH_TASKS", 2)
    monkeypatch.setattr(retention, "store_of_process", lambda: store)
    real = retention.options()
    monkeypatch.setattr(real, "_values", {**real._values, "UPBEAT_RUN_RETENTION_DAYS": 90})
    for _ in range(3):
        old_run(job)

    Pruner(lambda: JobRun.objects.count() > 2).prune()

    assert JobRun.objects.count() == 2


def output_of(*arguments: str) -> str:
    out = io.StringIO()
    call_command("prune_runs", *arguments, stdout=out)
    return out.getvalue().strip()


@pytest.fixture
def process_store(store, monkeypatch):
    monkeypatch.setattr(retention, "store_of_process", lambda: store)
    return store


def test_the_command_says_what_it_would_do_and_does_it(job, process_store):
    full_run(job, process_store)
    full_run(job, process_store, days=2)

    assert output_of("--older-than", "90d", "--dry-run") == "1 runs would be deleted"
    assert json.loads(output_of("--older-than", "90d", "--json")) == {
        "dry_run": False, "runs": 1, "idempotency_keys": 1, "swept": 0,
    }  # fmt: skip
    assert output_of("--older-than", "36h") == ("1 runs deleted, 0 idempotency keys; logs of 0 vanished runs swept")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--older-than", "soon"), "--older-than: 'soon' is not a duration"),
        (("--older-than", "1h"), "24 hours"),
        (("--older-than", "90d", "--limit", "0"), "--limit: 0"),
        (("--older-than", "90d", "--tenant", "nobody"), "no tenant 'nobody'"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(process_store, arguments, says):
    with pytest.raises(CommandError, match=says):
        output_of(*arguments)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_rerun_that_is_being_made_keeps_its_source(job, store):
    """It locks the source's row: pruning passes over it instead of waiting or cutting the link."""
    from django.db import transaction

    first = old_run(job)
    inserted, go_on = threading.Event(), threading.Event()

    def rerun() -> None:
        try:
            with transaction.atomic():
                JobRun.objects.select_for_update(no_key=True).get(pk=first.pk)
                new_run(job, RunState.PENDING, key="again", rerun_of=first)
                inserted.set()
                go_on.wait(10)
        finally:
            connection.close()

    thread = threading.Thread(target=rerun)
    thread.start()
    assert inserted.wait(10)
    try:
        assert prune_runs(older_than=NINETY, store=store) == 0
    finally:
        go_on.set()
        thread.join()
    assert JobRun.objects.get(trigger_key="again").rerun_of_id == first.pk


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_ten_thousand_runs_are_pruned_in_a_minute_and_block_nobody_for_long(job, store):
    then = timezone.now() - 100 * DAY
    version, tasks = job.latest_version, list(job.latest_version.tasks.order_by("position"))
    runs = JobRun.objects.bulk_create(
        JobRun(
            tenant=job.tenant, job=job, version=version, trigger_key=f"k{number}", logical_date=then, created_at=then,
            state=RunState.SUCCEEDED, started_at=then, ended_at=then,
        )
        for number in range(10_000)
    )  # fmt: skip
    task_runs = TaskRun.objects.bulk_create(
        TaskRun(run=run, position=task.position, task=task, state=TaskState.SUCCEEDED, ended_at=then)
        for run in runs
        for task in tasks
    )
    Attempt.objects.bulk_create(
        Attempt(task_run=row, number=1, token=1, state="succeeded", started_at=then, ended_at=then) for row in task_runs
    )
    Transition.objects.bulk_create(
        Transition(at=then, subject="task_run", subject_id=row.pk, run_id=row.run_id, to_state="succeeded")
        for row in task_runs
    )
    batches: list[float] = []

    def after_batch(seconds: float) -> bool:
        batches.append(seconds)
        return True

    began = time.monotonic()
    assert prune_runs(older_than=NINETY, store=store, after_batch=after_batch) == 10_000
    took = time.monotonic() - began

    assert rows()["Attempt"] == rows()["TaskRun"] == rows()["JobRun"] == 0
    assert took < 60, f"{took:.1f} s"
    assert max(batches) < 5
    print(f"10,000 runs of two tasks: {took:.1f} s in {len(batches)} batches, the longest {max(batches):.2f} s")
    assert default_tenant()
