"""An attempt from claim to outcome, with the executor that really runs it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.dag.spec import JobSpec, ParameterSpec, TaskSpec
from orchestrator.models import TaskRun
from orchestrator.services import attempts
from tests.support.factories import job_of, run_of
from tests.support.simulation import WORKER, Broker
from workers.runtime import attempt
from workers.runtime.attempt import Ended, run_attempt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

SAYS = TaskSpec(
    name="says",
    type="shell",
    config={
        "command": 'echo "{\\"day\\": \\"$DAY\\", \\"at\\": \\"$UPBEAT_LOGICAL_DATE\\"}"',
        "env": {"DAY": "${execution_date}"},
        "result": "json",
    },
)


def test_a_command_gets_the_runs_date_in_the_tenants_zone(broker: Broker) -> None:
    run = run_of(job_of(JobSpec(name="dated", parameters=(ParameterSpec("day", "date"),), tasks=(SAYS,))))
    (task_run,) = TaskRun.objects.filter(run=run)

    assert run_attempt(task_run.pk, worker=WORKER) is Ended.FINAL

    task_run.refresh_from_db()
    assert (task_run.state, task_run.reason) == ("succeeded", "")
    run.refresh_from_db()
    assert task_run.result == {"day": run.logical_date.date().isoformat(), "at": run.logical_date.isoformat()}


def test_what_an_attempt_reads_of_its_run_is_the_same_on_each_database(broker: Broker) -> None:
    run = run_of(job_of(JobSpec(name="dated", tasks=(SAYS,))))

    facts = attempts.run_facts(run.pk)

    run.refresh_from_db()
    assert facts.logical_date == run.logical_date
    assert (facts.tenant_id, facts.time_zone, facts.parameters, facts.event) == (run.tenant_id, "UTC", {}, None)


def test_an_attempt_that_cannot_be_prepared_fails_and_is_not_left_to_be_called_lost(
    broker: Broker, monkeypatch: Any
) -> None:
    run = run_of(job_of(JobSpec(name="dated", tasks=(SAYS,))))
    (task_run,) = TaskRun.objects.filter(run=run)
    monkeypatch.setattr(attempt, "_inputs", lambda claimed: {}["no such key"])

    assert run_attempt(task_run.pk, worker=WORKER) is Ended.FINAL

    task_run.refresh_from_db()
    assert (task_run.state, task_run.reason) == ("failed", "the attempt could not be prepared: KeyError")
