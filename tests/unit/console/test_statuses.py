"""One place says how states look; none is left out, none is told by colour alone."""

from __future__ import annotations

import pytest

from orchestrator.console.statuses import (
    ATTEMPT_STATUSES,
    RUN_STATUSES,
    TASK_STATUSES,
    letters,
    status_of,
    theme_labels,
    worst_first,
)
from orchestrator.states import AttemptState, RunState, TaskState


@pytest.mark.parametrize(
    ("table", "states"), [(RUN_STATUSES, RunState), (TASK_STATUSES, TaskState), (ATTEMPT_STATUSES, AttemptState)]
)
def test_every_state_has_a_word_an_icon_a_sign_and_a_letter_of_its_own(table, states):
    assert set(table) == set(states)
    assert len({status.letter for status in table.values()}) == len(table)
    assert len({status.word for status in table.values()}) == len(table)
    assert len({status.sign for status in table.values()}) == len(table)
    assert all(status.icon and status.help.endswith(".") for status in table.values())


def test_what_failed_comes_first_and_what_is_fine_last():
    order = [status.state for status in worst_first("task")]

    assert order[:3] == ["failed", "timed_out", "running"]
    assert order[-1] == "succeeded"


def test_a_state_that_this_version_does_not_know_keeps_its_word():
    assert status_of("run", "being_undone").word == "being undone"


def test_states_are_written_as_letters():
    assert letters(["succeeded", "failed", "waiting", "upstream_failed"]) == "sfwu"


def test_the_words_of_the_lists_have_the_colours_of_the_theme():
    assert theme_labels()["timed out"] == theme_labels()["lost"] == "danger"
    assert theme_labels()["succeeded"] == "success"
