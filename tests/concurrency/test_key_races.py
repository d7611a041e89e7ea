"""Admission by key while several processes launch and finish runs of the same keys: order kept, nobody forgotten."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from itertools import count
from uuid import UUID, uuid4

import pytest
from django.db import connection

from orchestrator.ledger.statements.rows import Claimed
from orchestrator.models import Job, JobRun, Transition
from orchestrator.services.attempts import claim_task_run
from orchestrator.services.runs import RunRequest, launch_runs, start_runs
from tests.concurrency.test_races import at_once
from tests.support.factories import job_of, task_of
from tests.support.simulation import WORKER, claim, heal, run_task, settle

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("database_url", "broker"),
    pytest.mark.slow,
]

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROUNDS = 8


@pytest.fixture(autouse=True)
def _on_postgresql() -> None:
    assert connection.vendor == "postgresql", "UPBEAT_TEST_DATABASE_URL must name a PostgreSQL"


def started(job: Job, *keys: UUID, limit: int = 1, drop: bool = False) -> list[int]:
    assert job.latest_version_id is not None
    made = start_runs(
        [
            RunRequest(
                tenant_id=job.tenant_id, job_id=job.pk, version_id=job.latest_version_id, trigger_key=str(uuid4()),
                trigger={"type": "event"}, logical_date=NOON, admission_key=key, admission_limit=limit,
                admission_drop=drop,
            )
            for key in keys
        ]
    )  # fmt: skip
    return [one.run_id for one in made if one.run_id is not None]


def states(ids: list[int]) -> list[str]:
    found = dict(JobRun.objects.filter(pk__in=ids).values_list("pk", "state"))
    return [found[id] for id in ids]


@pytest.mark.parametrize("limit", [None, 5])
def test_of_two_launches_of_one_key_only_its_first_run_starts(limit: int | None) -> None:
    job = job_of("a", limit=limit)
    for _ in range(ROUNDS):
        key = uuid4()
        ids = started(job, key, key)

        answers = at_once(lambda: launch_runs([ids[1]]), lambda: launch_runs([ids[0]]), lambda: launch_runs(ids))  # noqa: B023

        assert not [one for one in answers if isinstance(one, BaseException)]
        assert states(ids) == ["running", "pending"]
        run_task(JobRun.objects.get(pk=ids[0]), "a")
        assert states(ids) == ["succeeded", "running"]
        run_task(JobRun.objects.get(pk=ids[1]), "a")


def test_a_run_that_is_launched_while_the_one_before_it_ends_is_not_forgotten() -> None:
    job = job_of("a")
    for _ in range(ROUNDS):
        key = uuid4()
        first, second = started(job, key, key)
        launch_runs([first])
        attempt = claim(JobRun.objects.get(pk=first), "a")

        at_once(lambda: launch_runs([second]), lambda: settle(attempt))  # noqa: B023  called at once

        assert states([first, second]) == ["succeeded", "running"]
        run_task(JobRun.objects.get(pk=second), "a")


def test_of_runs_that_would_rather_not_wait_one_starts_and_the_others_are_dropped() -> None:
    job = job_of("a")
    for _ in range(ROUNDS):
        key = uuid4()
        ids = started(job, key, key, key, drop=True)

        at_once(*(partial(launch_runs, [id]) for id in reversed(ids)))

        assert states(ids).count("running") <= 1
        assert set(states(ids)) <= {"running", "cancelled"}
        assert JobRun.objects.filter(pk__in=ids, reason="concurrency_drop").count() >= 2
        for id in ids:
            if states([id]) == ["running"]:
                run_task(JobRun.objects.get(pk=id), "a")


@pytest.mark.parametrize("limit", [1, 2])
def test_workers_that_launch_and_finish_at_once_keep_the_order_of_every_key(limit: int) -> None:
    job = job_of("a")
    keys = [uuid4() for _ in range(6)]
    ids = started(job, *(key for _ in range(8) for key in keys), limit=limit)
    chunks = [ids[start::4] for start in range(4)]
    turn = count()

    def launch(chunk: list[int]) -> None:
        for start in range(0, len(chunk), 3):
            launch_runs(chunk[start : start + 3])

    def finish() -> None:
        for _ in range(60):
            open_ = JobRun.objects.filter(state="running", pk__in=ids).order_by("pk").values_list("pk", flat=True)
            mine = list(open_)[next(turn) % 3 :: 3]
            for id in mine:
                claimed = claim_task_run(task_of(JobRun.objects.get(pk=id), "a").pk, worker=WORKER)
                # Else the other one, who looked at the same time, was faster.
                if isinstance(claimed, Claimed):
                    settle(claimed)

    at_once(*(partial(launch, chunk) for chunk in chunks), finish, finish)
    for _ in range(len(ids)):
        running = list(JobRun.objects.filter(state="running", pk__in=ids))
        for run in running:
            run_task(run, "a")
        if not running:
            break
    heal()

    assert set(states(ids)) == {"succeeded"}
    key_of = dict(JobRun.objects.filter(pk__in=ids).values_list("pk", "admission_key"))
    order: dict[UUID, list[int]] = defaultdict(list)
    facts = Transition.objects.filter(subject="run", run_id__in=ids).order_by("id").values_list("run_id", "to_state")
    open_of: dict[UUID, int] = defaultdict(int)
    for run_id, to_state in facts:
        key = key_of[run_id]
        if to_state == "running":
            order[key].append(run_id)
            open_of[key] += 1
        elif to_state == "succeeded":
            open_of[key] -= 1
    if limit == 1:
        # With more at once, two transactions may start two of them at the same time.
        assert all(found == sorted(found) for found in order.values())
    assert all(len(found) == 8 for found in order.values())
