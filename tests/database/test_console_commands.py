"""Pages of commands: they say what will happen, do it once it is confirmed, and lead to the run."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.models import JobRun, Transition
from orchestrator.services.jobs import archive_job, pause_job
from orchestrator.services.runs import launch_runs, pause_run
from tests.support.factories import job_of, run_of, state_of, states_of
from tests.support.simulation import PERMANENT, claim, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def page(client: Client, run: JobRun, command: str, query: str = "") -> str:
    answer = client.get(f"/admin/runs/{run.pk}/{command}/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def effects(client: Client, run: JobRun, command: str, query: str = "") -> dict[str, list[str]]:
    """Title → tasks of each group that the page lists."""
    preview = client.get(f"/admin/runs/{run.pk}/{command}/{query}").context["preview"]
    return {effect.title: [task.name for task in effect.tasks] for effect in preview.effects}


def confirm(client: Client, run: JobRun, command: str, **fields: Any) -> Any:
    answer = client.post(f"/admin/runs/{run.pk}/{command}/", {"reason": "for a reason", **fields})
    return answer


def failed_run() -> JobRun:
    run = run_of("a -> b -> c; d")
    run_task(run, "a")
    run_task(run, "d")
    run_task(run, "b", PERMANENT)
    return run


def test_cancel_tells_what_ends_at_once_and_what_is_asked_to_stop(admin_client: Client) -> None:
    run = run_of("a -> b; c -> d")
    claim(run, "c")

    assert effects(admin_client, run, "cancel") == {"Asked to stop": ["c"], "End cancelled at once": ["a", "b", "d"]}
    assert state_of(run) == "running"

    answer = confirm(admin_client, run, "cancel")

    assert answer.status_code == 302
    assert answer["Location"] == f"/admin/runs/{run.pk}/"
    fact = Transition.objects.get(subject="run", subject_id=run.pk, cause="cancel")
    assert (fact.by, fact.reason) == ("user:admin", "stop requested: for a reason")


def test_what_a_page_says_of_a_skip_is_what_happens(admin_client: Client) -> None:
    run = run_of("a -> b -> c; a -[skipped]-> d; e -> f")

    said = effects(admin_client, run, "skip", "?task=a")
    assert said == {"Ends skipped": ["a"], "Become ready": ["d"], "End skipped by this": ["b", "c"]}

    confirm(admin_client, run, "skip", task=["a"])
    assert states_of(run) == {
        "a": "skipped", "b": "skipped", "c": "skipped", "d": "ready", "e": "ready", "f": "waiting",
    }  # fmt: skip


def test_several_tasks_are_marked_at_once(admin_client: Client) -> None:
    run = run_of("a, b -> c")

    assert effects(admin_client, run, "mark-succeeded", "?task=a&task=b") == {
        "End marked as succeeded": ["a", "b"], "Become ready": ["c"],
    }  # fmt: skip

    confirm(admin_client, run, "mark-succeeded", task=["a", "b"])
    assert states_of(run) == {"a": "succeeded", "b": "succeeded", "c": "ready"}


def test_of_several_tasks_those_that_run_or_have_ended_stay_as_they_are(admin_client: Client) -> None:
    run = run_of("a; b; c -> d")
    run_task(run, "a")
    claim(run, "b")

    assert effects(admin_client, run, "skip", "?task=a&task=b&task=c") == {
        "Ends skipped": ["c"],
        "End skipped by this": ["d"],
        "Stay as they are: they run, or have ended": ["a", "b"],
    }
    assert "a running task cannot be ended by hand" in page(admin_client, run, "skip", "?task=a&task=b")

    confirm(admin_client, run, "skip", task=["a", "b", "c"])
    assert states_of(run) == {"a": "succeeded", "b": "running", "c": "skipped", "d": "skipped"}


def test_pause_and_resume_say_what_is_held_and_what_starts(admin_client: Client) -> None:
    run = run_of("a -> b; c")
    claim(run, "c")

    assert effects(admin_client, run, "pause") == {"Go on": ["c"], "Held until the run is resumed": ["a", "b"]}
    confirm(admin_client, run, "pause")
    assert JobRun.objects.get(pk=run.pk).paused_by == "user:admin"
    assert "is paused already, by user:admin" in page(admin_client, run, "pause")

    assert effects(admin_client, run, "resume") == {"Start": ["a"], "Follow later": ["b"]}
    confirm(admin_client, run, "resume")
    assert JobRun.objects.get(pk=run.pk).paused_at is None


@pytest.mark.parametrize(
    ("query", "fields", "again", "taken_over"),
    [
        ("", {"from": "failed"}, ["b", "c"], ["a", "d"]),
        ("?from=start", {"from": "start"}, ["a", "b", "c", "d"], None),
        ("?from=tasks&task=d", {"from": "tasks", "task": "d"}, ["d"], ["a", "b", "c"]),
        ("?task=c", {"task": "c"}, ["c"], ["a", "b", "d"]),
    ],
)
def test_a_rerun_names_what_runs_again_and_what_is_taken_over(
    admin_client: Client, query: str, fields: dict[str, str], again: list[str], taken_over: list[str] | None
) -> None:
    run = failed_run()

    said = effects(admin_client, run, "rerun", query)
    answer = confirm(admin_client, run, "rerun", **fields)

    assert sorted(said["Run again, as far as their dependencies open"]) == again
    assert (sorted(said["Taken over as they ended, with their results"]) if taken_over else None) == taken_over
    made = JobRun.objects.get(rerun_of=run)
    assert answer["Location"] == f"/admin/runs/{made.pk}/"
    assert made.trigger["by"] == "user:admin"


def test_a_form_that_is_sent_twice_runs_it_again_once(admin_client: Client) -> None:
    run = failed_run()
    form = {"from": "failed", "form_key": "k1"}

    first, second = (confirm(admin_client, run, "rerun", **form) for _ in range(2))
    other = confirm(admin_client, run, "rerun", **{**form, "from": "start"})

    assert first["Location"] == second["Location"] != other["Location"]
    assert JobRun.objects.filter(rerun_of=run).count() == 2


def test_an_ended_run_offers_a_rerun_with_the_mark_instead(admin_client: Client) -> None:
    run = failed_run()

    shown = page(admin_client, run, "mark-succeeded", "?task=b")

    assert "has already ended: failed" in shown
    assert f"/admin/runs/{run.pk}/rerun/?from=failed&amp;mark=succeeded%3Ab" in shown
    assert effects(admin_client, run, "rerun", "?from=failed&mark=succeeded:b") == {
        "Run again, as far as their dependencies open": ["c"],
        "Marked as succeeded instead of run": ["b"],
        "Taken over as they ended, with their results": ["a", "d"],
    }


@pytest.mark.parametrize(
    ("command", "query", "words"),
    [
        ("cancel", "", "has already ended"),
        ("resume", "", "has already ended"),
        ("skip", "?task=nobody", "has no task"),
        ("skip", "", "No task was named"),
        ("rerun", "?task=nobody", "cannot be run again so"),
        ("rerun", "?mark=eaten:b", "succeeded or skipped"),
    ],
)
def test_what_cannot_be_done_is_said_and_no_button_does_it(
    admin_client: Client, command: str, query: str, words: str
) -> None:
    shown = page(admin_client, failed_run(), command, query)

    assert words in shown
    assert 'name="reason"' not in shown


def test_a_command_that_is_refused_when_it_is_confirmed_says_so_and_shows_the_run_as_it_is_now(
    admin_client: Client,
) -> None:
    run = run_of("a")
    assert 'name="reason"' in page(admin_client, run, "skip", "?task=a")
    claim(run, "a")

    answer = confirm(admin_client, run, "skip", task="a")

    assert answer.status_code == 200
    assert "Not done." in answer.content.decode()
    assert "a running task cannot be ended by hand" in answer.content.decode()


def test_a_rerun_says_what_holds_or_forbids_it(admin_client: Client) -> None:
    run = failed_run()
    pause_job(run.job, by="ada")
    assert "the new run waits until the job is resumed" in page(admin_client, run, "rerun")

    archive_job(run.job, by="ada")
    assert "is archived; it starts no more runs" in page(admin_client, run, "rerun")


def test_a_pending_run_is_cancelled_without_a_task_and_has_none_to_skip(admin_client: Client) -> None:
    job = job_of("a", limit=1)
    run_of(job)
    waiting = run_of(job)

    assert "none of its tasks runs" in page(admin_client, waiting, "cancel")
    assert "has not started" in page(admin_client, waiting, "skip", "?task=a")


def test_a_page_of_a_thousand_tasks_names_some_and_counts_the_others(admin_client: Client) -> None:
    run = run_of("start -> part*1000")
    launch_runs([run.pk])

    preview = admin_client.get(f"/admin/runs/{run.pk}/cancel/").context["preview"]

    assert [(effect.count, len(effect.tasks), effect.unnamed) for effect in preview.effects] == [(1001, 200, 801)]


def test_no_command_is_asked_of_a_run_that_is_not_there_or_by_another_word(admin_client: Client) -> None:
    run = run_of("a")

    answers = [f"/admin/runs/{pk}/cancel/" for pk in (0, run.pk + 1000, 2**63, 10**30)]
    assert [admin_client.get(path).status_code for path in [*answers, f"/admin/runs/{run.pk}/explode/"]] == [404] * 5


def test_markup_in_names_and_reasons_stays_text(admin_client: Client) -> None:
    run = run_of("a")
    pause_run(run.pk, by="<script>x</script>", reason="")

    shown = page(admin_client, run, "pause")

    assert "&lt;script&gt;x&lt;/script&gt;" in shown
    assert "<script>x" not in shown
