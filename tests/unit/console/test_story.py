"""What a run tells at one glance."""

from __future__ import annotations

from typing import Any

from orchestrator.console.statuses import Tone
from orchestrator.console.story import TaskFact, shares, story_of


def story(state: str, *, failing: int = 0, **more: Any):
    counts = more.pop("counts", {})
    facts = [TaskFact(f"load_{i}", "failed", "exit code 3") for i in range(failing)]
    if failing:
        counts = {"failed": failing, **counts}
    return story_of(
        state=state, counts=counts, failing=facts,
        **{"reason": "", "is_paused": False, "is_stopping": False, **more},
    )  # fmt: skip


def test_a_failed_run_says_which_task_failed_and_offers_its_log_and_a_re_run():
    told = story("failed", failing=1, counts={"upstream_failed": 2})

    assert told.headline == "One task failed; 2 tasks behind it did not run."
    assert told.tone == Tone.BAD
    assert [fact.name for fact in told.named] == ["load_0"]
    assert [(advice.task, advice.command, advice.query) for advice in told.advice] == [
        ("load_0", "", ""),
        ("", "rerun", "from=failed"),
    ]


def test_of_many_failures_five_are_named_and_the_rest_counted():
    told = story("failed", failing=12)

    assert (len(told.named), told.unnamed) == (5, 7)
    assert told.headline == "12 tasks failed."


def test_a_run_that_goes_on_after_a_failure_says_so():
    assert story("running", failing=1, counts={"running": 3}).headline == (
        "One task failed; the run goes on with what does not need it."
    )


def test_a_running_run_says_what_goes_on():
    retrying = [TaskFact("load", "retry_waiting", "exit code 75")]

    assert story("running", counts={"running": 2}).headline == "2 tasks run now."
    assert story("running", counts={"ready": 1}).headline == "1 task may start and waits."
    assert story("running", counts={"retry_waiting": 1}, retrying=retrying).named == tuple(retrying)
    assert story("running", is_paused=True).headline == "The run is paused: no further task starts."
    assert "asked to stop" in story("running", is_stopping=True).headline
    assert story("pending").headline == "The run waits to be let in."


def test_an_end_says_how_it_came():
    assert story("succeeded", counts={"skipped": 1}).headline == "Every task came to a good end; 1 task was skipped."
    assert story("cancelled", reason="by user:ada.").headline == "The run was cancelled: by user:ada."
    assert story("timed_out", reason="no end within 60 s").tone == Tone.BAD
    assert "which the job allows" in story("succeeded", failing=1).headline


def test_the_bar_shows_the_worst_first_and_before_admission_everything_waits():
    assert [(share.status.state, share.count) for share in shares(["succeeded", "failed", "succeeded"], 3)] == [
        ("failed", 1),
        ("succeeded", 2),
    ]
    assert [(share.status.state, share.percent) for share in shares([], 4)] == [("waiting", 100)]
    assert shares([], 0) == ()
