from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command

from orchestrator.models import JobRun, Transition
from tests.support.factories import run_of, state_of, states_of
from tests.support.simulation import PERMANENT, claim, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def output_of(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def failed_run() -> JobRun:
    run = run_of("a -> b -> c")
    run_task(run, "a")
    run_task(run, "b", PERMANENT)
    return run


def test_retry_runs_a_run_again_from_what_failed() -> None:
    run = failed_run()

    said = output_of("retry", str(run.pk), "--reason", "disk replaced")

    made = JobRun.objects.get(rerun_of=run)
    assert said == f"run {made.pk} running, run {run.pk} again\n"
    assert states_of(made) == {"a": "succeeded", "b": "ready", "c": "waiting"}
    assert made.trigger["by"].startswith("cli:")
    assert made.trigger["reason"] == "disk replaced"


def test_retry_takes_tasks_and_marks() -> None:
    run = failed_run()

    said = json.loads(output_of("retry", str(run.pk), "--from", "b, c", "--mark", "b=succeeded", "--json"))

    assert (said["state"], said["rerun_of"]) == ("running", run.pk)
    assert states_of(JobRun(pk=said["id"])) == {"a": "succeeded", "b": "succeeded", "c": "ready"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--from", "x"], "from"),
        (["--mark", "b"], "--mark"),
        (["--mark", "b=failed"], "mark.b"),
        (["--tenant", "nobody"], "nobody"),
    ],
)
def test_a_retry_that_is_refused_says_why(arguments: list[str], word: str) -> None:
    run = failed_run()
    errors = io.StringIO()

    with pytest.raises((CommandError, SystemExit)) as refused:
        call_command("retry", str(run.pk), *arguments, stderr=errors)

    assert word in errors.getvalue() + str(refused.value)
    assert not JobRun.objects.filter(rerun_of=run).exists()


def test_cancel_ends_a_run_or_asks_it_to_stop() -> None:
    first, second = run_of("a"), run_of("a")
    claim(second, "a")

    assert output_of("cancel", str(first.pk), "--reason", "wrong day") == f"run {first.pk} cancelled\n"
    assert output_of("cancel", str(second.pk)) == f"run {second.pk} is being stopped\n"

    assert (state_of(first), state_of(second)) == ("cancelled", "running")
    fact = Transition.objects.get(subject="run", subject_id=first.pk, to_state="cancelled")
    assert (fact.reason, fact.by.startswith("cli:")) == ("wrong day", True)
    with pytest.raises((CommandError, SystemExit)):
        call_command("cancel", str(2**40), stderr=io.StringIO())
