"""Steering in the admin: each action asks first, and says for each row what became of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.models import Job, JobRun, Transition
from orchestrator.services.jobs import pause_job
from tests.support.factories import job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import PERMANENT, claim, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def act(client: Client, model: str, action: str, *chosen: int, reason: str = "for a reason", query: str = "") -> Any:
    """Choose rows and an action, and confirm it; returns what was said of each row."""
    path = f"/admin/orchestrator/{model}/{query}"
    post: dict[str, Any] = {"action": action, "_selected_action": list(chosen)}
    asked = client.post(path, post)
    assert asked.status_code == 200
    assert "Yes, do it" in asked.content.decode()
    answer = client.post(path, {**post, "confirmed": "yes", "reason": reason}, follow=True)
    return [str(message) for message in answer.context["messages"]]


def failed_run(drawing: Job | str = "a -> b -> c; d") -> JobRun:
    run = run_of(drawing)
    run_task(run, "a")
    run_task(run, "d")
    run_task(run, "b", PERMANENT)
    return run


def test_an_action_asks_before_it_does_anything(admin_client: Client) -> None:
    run = run_of("a")

    page = admin_client.post(
        "/admin/orchestrator/jobrun/", {"action": "cancel", "_selected_action": [run.pk]}
    ).content.decode()

    assert "Cancel these runs?" in page
    assert f"{run.job.name} #{run.pk}" in page
    assert 'name="reason"' in page
    assert state_of(run) == "running"


def test_runs_are_cancelled_with_who_and_why_and_each_refusal_is_told(admin_client: Client) -> None:
    waiting, running, ended = run_of("a"), run_of("a"), run_of("a")
    claim(running, "a")
    run_task(ended, "a")

    said = act(admin_client, "jobrun", "cancel", waiting.pk, running.pk, ended.pk, reason="wrong day")

    assert [text.partition(": ")[2] for text in said] == [
        "cancelled",
        "asked to stop; it ends with its running tasks",
        f"Run {ended.pk} has already succeeded.",
    ]
    fact = Transition.objects.get(subject="run", subject_id=waiting.pk, to_state="cancelled")
    assert (fact.by, fact.reason) == ("user:admin", "wrong day")


def test_runs_are_paused_and_resumed(admin_client: Client) -> None:
    run = run_of("a")

    act(admin_client, "jobrun", "pause", run.pk, reason="release")
    paused = JobRun.objects.get(pk=run.pk)
    assert (paused.paused_by, paused.pause_reason) == ("user:admin", "release")

    act(admin_client, "jobrun", "resume", run.pk)
    assert JobRun.objects.get(pk=run.pk).paused_at is None


@pytest.mark.parametrize(("action", "ready"), [("rerun_failed", ["b"]), ("rerun_whole", ["a", "d"])])
def test_runs_are_run_again_and_those_that_cannot_be_are_told(
    admin_client: Client, action: str, ready: list[str]
) -> None:
    failed, running = failed_run(), run_of("a")

    said = act(admin_client, "jobrun", action, failed.pk, running.pk, reason="fixed")

    made = JobRun.objects.get(rerun_of=failed)
    assert f"#{made.pk}</a>" in said[0]
    assert "once it has ended" in said[1]
    assert sorted(name for name, state in states_of(made).items() if state == "ready") == ready
    assert (made.trigger["by"], made.trigger["reason"]) == ("user:admin", "fixed")


def test_tasks_are_skipped_and_marked_and_each_refusal_is_told(admin_client: Client) -> None:
    run = run_of("a -> b; c -> d")
    claim(run, "c")

    said = act(admin_client, "taskrun", "skip", task_of(run, "a").pk, task_of(run, "c").pk)
    assert said[0].endswith(f"#{run.pk} a: skipped")
    assert "c runs" in said[1]

    act(admin_client, "taskrun", "mark", task_of(run, "d").pk)
    assert states_of(run) == {"a": "skipped", "b": "skipped", "c": "running", "d": "succeeded"}
    assert Transition.objects.get(subject_id=task_of(run, "d").pk, cause="mark").by == "user:admin"


def test_a_run_is_run_again_from_chosen_tasks(admin_client: Client) -> None:
    run = failed_run()
    chosen = [task_of(run, name).pk for name in "db"]

    act(admin_client, "taskrun", "rerun_from", *chosen, query=f"?run__id__exact={run.pk}")

    made = JobRun.objects.get(rerun_of=run)
    assert made.trigger["from"] == ["b", "d"] or made.trigger["from"] == ["d", "b"]
    assert states_of(made) == {"a": "succeeded", "d": "ready", "b": "ready", "c": "waiting"}


def test_jobs_are_paused_archived_restored_and_resumed(admin_client: Client) -> None:
    job, other = job_of("a"), job_of("a")
    pause_job(other, by="ada", reason="")

    for action in ("pause", "archive", "restore", "resume"):
        said = act(admin_client, "job", action, job.pk, reason=f"{action} it")
        assert len(said) == 1

    facts = Transition.objects.filter(subject="job", subject_id=job.pk).order_by("pk")
    assert [(fact.cause, fact.reason, fact.by) for fact in facts] == [
        (action, f"{action} it", "user:admin") for action in ("pause", "archive", "restore", "resume")
    ]
    assert Job.objects.get(pk=other.pk).paused_at is not None


@pytest.mark.parametrize(("model", "action"), [("jobrun", "rerun_whole"), ("taskrun", "skip"), ("job", "archive")])
def test_who_may_only_look_steers_nothing(client: Client, django_user_model: Any, model: str, action: str) -> None:
    from django.contrib.auth.models import Permission

    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename=f"view_{model}"))
    client.force_login(person)
    run = run_of("a")
    row = {"jobrun": run.pk, "taskrun": task_of(run, "a").pk, "job": run.job_id}[model]
    before = Transition.objects.count()

    client.post(
        f"/admin/orchestrator/{model}/", {"action": action, "_selected_action": [row], "confirmed": "yes"}, follow=True
    )

    assert (Transition.objects.count(), JobRun.objects.count()) == (before, 1)
