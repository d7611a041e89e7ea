from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext

from orchestrator.errors import InvalidParameters
from orchestrator.models import Job, JobRun, Transition
from orchestrator.services.jobs import archive_job, pause_job
from orchestrator.services.runs import RunRequest, job_targets, launch_runs, publish_launch, resolve_for, start_runs
from tests.support.factories import age, default_tenant, job_of, state_of
from tests.support.simulation import Broker, Launch, heal

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def request(job: Job, key: str, **fields: Any) -> RunRequest:
    assert job.latest_version_id is not None
    defaults = {"trigger": {"type": "event", "rule": "r"}, "logical_date": NOON}
    return RunRequest(
        tenant_id=job.tenant_id, job_id=job.pk, version_id=job.latest_version_id, trigger_key=key, **(defaults | fields)
    )


def test_a_batch_starts_each_of_its_runs_in_its_order_and_admits_none(broker: Broker) -> None:
    jobs = [job_of("a"), job_of("a -> b")]

    started = start_runs([request(jobs[i % 2], f"k{i:03}") for i in range(250)])

    ids = [one.run_id for one in started]
    assert all(one.created and not one.reason for one in started)
    assert ids == sorted(ids)
    runs = list(JobRun.objects.order_by("pk"))
    assert [run.trigger_key for run in runs] == [f"k{i:03}" for i in range(250)]
    assert {(run.state, run.reason) for run in runs} == {("pending", "")}
    facts = Transition.objects.filter(subject="run").order_by("id")
    assert list(facts.values_list("run_id", "from_state", "to_state", "cause")) == [
        (id, "", "pending", "event") for id in ids
    ]
    assert broker.published == []


def test_every_column_of_a_request_is_kept_as_it_was_given() -> None:
    job = job_of("a")
    key = uuid4()
    expires = NOON + timedelta(hours=1)

    [one] = start_runs(
        [
            request(
                job, "k", trigger={"type": "event", "by": "ada", "x": 'a "quoted" \\ naïve 值'}, parameters=b'{"n": 1.5}',
                event=orjson.dumps({"payload": {"deep": [{"a": None}]}}), priority=1, event_id=77, admission_key=key,
                admission_limit=3, admission_drop=True, drop_when_paused=True, expires_at=expires, root_event_id=70,
                depth=2, rule_chain=["a", "b"],
            )
        ]
    )  # fmt: skip

    run = JobRun.objects.get(pk=one.run_id)
    assert run.trigger == {"type": "event", "by": "ada", "x": 'a "quoted" \\ naïve 值'}
    assert run.parameters == {"n": 1.5}
    assert run.event == {"payload": {"deep": [{"a": None}]}}
    assert (run.priority, run.event_id, run.logical_date) == (1, 77, NOON)
    assert (run.admission_key, run.admission_limit, run.admission_drop) == (key, 3, True)
    assert (run.drop_when_paused, run.expires_at) == (True, expires)
    assert (run.root_event_id, run.depth, run.rule_chain) == (70, 2, ["a", "b"])
    assert Transition.objects.get(run_id=run.pk).by == "ada"


def test_a_run_without_an_event_has_none_and_a_key_without_a_limit_lets_one_run() -> None:
    job = job_of("a")

    start_runs([request(job, "plain"), request(job, "keyed", admission_key=uuid4())])

    plain, keyed = JobRun.objects.order_by("pk")
    assert (plain.event, plain.admission_limit, keyed.admission_limit) == (None, None, 1)
    assert JobRun.objects.filter(event__isnull=True).count() == 2


def test_the_same_trigger_key_gives_the_same_run_within_a_batch_and_between_two() -> None:
    job = job_of("a")
    [first] = start_runs([request(job, "once")])

    again = start_runs([request(job, "other"), request(job, "once"), request(job, "other")])

    assert [one.created for one in again] == [True, False, False]
    assert again[1].run_id == first.run_id
    assert again[0].run_id == again[2].run_id
    assert JobRun.objects.count() == 2
    assert Transition.objects.count() == 2


def test_a_job_that_is_gone_or_archived_is_told_for_its_own_requests_alone() -> None:
    healthy, gone, archived = job_of("a"), job_of("a"), job_of("a")
    archive_job(archived, by="ada")
    lost = request(gone, "gone")
    gone_id = gone.pk
    Job.objects.filter(pk=gone_id).update(latest_version=None)
    gone.versions.all().delete()
    Job.objects.filter(pk=gone_id).delete()

    started = start_runs([lost, request(healthy, "fine"), request(archived, "archived")])

    assert [(one.run_id is None, one.created, one.reason) for one in started] == [
        (True, False, "job_gone"), (False, True, ""), (True, False, "job_archived"),
    ]  # fmt: skip


@pytest.mark.postgresql
def test_a_batch_costs_the_same_few_statements_whatever_its_size() -> None:
    job = job_of("a")

    counts = []
    for size in (1, 250):
        with CaptureQueriesContext(connection) as queries:
            start_runs([request(job, f"{size}-{i}") for i in range(size)])
        counts.append(len(queries))

    assert counts[0] == counts[1] <= 2


@pytest.mark.postgresql
def test_a_value_that_the_database_refuses_fails_the_batch_and_leaves_nothing() -> None:
    job = job_of("a")
    with pytest.raises(DataError), transaction.atomic():
        start_runs([request(job, "fine"), request(job, "bad", event=b'{"x": "\\u0000"}')])

    assert not JobRun.objects.exists()


def test_targets_name_the_version_and_what_its_parameters_are() -> None:
    job, paused, archived = job_of("a"), job_of("a"), job_of("a")
    pause_job(paused, by="ada")
    archive_job(archived, by="ada")

    targets = job_targets(job.tenant_id, [job.name, paused.name, archived.name, "no-such-job"])

    assert targets.keys() == {job.name, paused.name, archived.name}
    assert (targets[job.name].job_id, targets[job.name].version_id) == (job.pk, job.latest_version_id)
    assert (targets[paused.name].paused, targets[archived.name].archived) == (True, True)
    assert targets[job.name].priority == 2
    with pytest.raises(InvalidParameters):
        resolve_for(targets[job.name], default_tenant(), {"unknown": 1}, NOON)


@pytest.mark.parametrize("size", [1, 100, 500, 501, 1200])
def test_runs_are_launched_alike_whatever_the_size_of_the_batch(size: int, broker: Broker) -> None:
    jobs = [job_of("a") for _ in range(3)]
    started = start_runs([request(jobs[i % 3], f"k{i}") for i in range(size)])

    launch_runs([one.run_id for one in started if one.run_id is not None])

    assert {run.state for run in JobRun.objects.all()} == {"running"}
    assert len(broker.hinted()) == size
    launch_runs([one.run_id for one in started if one.run_id is not None])
    assert len(broker.hinted()) == size, "launching again publishes nothing"
    assert state_of(JobRun.objects.latest("pk")) == "running"


def test_a_hint_that_is_lost_doubled_or_late_launches_every_run_once(broker: Broker) -> None:
    job = job_of("a")
    lost, doubled, late = (
        [one.run_id for one in start_runs([request(job, f"{name}{i}") for i in range(4)]) if one.run_id is not None]
        for name in ("lost", "doubled", "late")
    )
    publish_launch(doubled)
    publish_launch(doubled)
    for delivery in [one for one in broker.waiting if isinstance(one, Launch)]:
        launch_runs(delivery.run_ids)
    age(*JobRun.objects.filter(pk__in=lost + late), seconds=20)

    heal()
    launch_runs(late)

    assert {run.state for run in JobRun.objects.all()} <= {"running", "succeeded"}
    admitted = Transition.objects.filter(subject="run", to_state="running").values_list("run_id", flat=True)
    assert sorted(filter(None, admitted)) == sorted(lost + doubled + late)
