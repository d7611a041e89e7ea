from __future__ import annotations

from types import SimpleNamespace

import pytest
from flower.urls import settings
from flower.views.tasks import visible_task_columns

from orchestrator.canvas.binding import label_of
from orchestrator.contracts import EXECUTE, LABEL_BYTES
from orchestrator.flower_pages import COLUMNS, LINK, PLACE, LinkedPages, install, refuse_open, run_label, run_page


def task(args: str, name: str = EXECUTE) -> SimpleNamespace:
    return SimpleNamespace(name=name, args=args)


def test_the_label_of_a_message_leads_to_its_run():
    ours = task(label_of("nightly-etl", 12, "load_2"))

    assert run_label(ours) == "nightly-etl #12"
    assert run_page(ours, "localhost") == "http://localhost:8000/admin/runs/12/"
    assert run_page(ours, "::1") == "http://[::1]:8000/admin/runs/12/"


def test_a_label_that_was_cut_off_still_leads_to_its_run():
    label = label_of("j" * 63, 10**9, "t" * 90)

    assert len(label) == LABEL_BYTES
    assert run_page(task(label), "localhost").endswith(f"/admin/runs/{10**9}/")


@pytest.mark.parametrize("args", ["-", "", "(1, 2)", "x #1", "a #b c", "javascript:alert(1)", "a #1 b<script>"])
def test_what_is_no_label_of_ours_leads_nowhere(args):
    assert run_page(task(args), "localhost") == ""
    assert run_page(task("nightly-etl #12 load", name="elsewhere.task"), "localhost") == ""


def test_the_page_of_a_task_has_the_link_where_flower_has_its_buttons():
    install()

    assert PLACE in (LinkedPages(settings["template_path"])._create_template("task.html").code)
    assert "upbeat_page" in LINK
    assert "upbeat_page" in LinkedPages(settings["template_path"])._create_template("task.html").code


def test_what_a_task_is_comes_first_in_the_list():
    install()

    assert visible_task_columns(COLUMNS)[0] == ("args", "Job, run and task")
    assert len(visible_task_columns(COLUMNS)) == len(COLUMNS.split(","))


@pytest.mark.parametrize("basic_auth", [None, [], ["admin:"], ["admin"], ["admin:secret", "eve:"]])
def test_flower_does_not_start_without_a_password(basic_auth):
    with pytest.raises(SystemExit, match="FLOWER_BASIC_AUTH"):
        refuse_open(basic_auth, "")


def test_flower_starts_with_a_password_or_a_sign_in():
    refuse_open(["admin:secret"], "")
    refuse_open(None, ".*@example\\.com")
