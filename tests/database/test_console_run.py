"""The page of a run: who may see it, what it says, what a refresh sends."""

from __future__ import annotations

import itertools
import json
import os
import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.models import Attempt, JobRun, RoleGrant, Task, TaskRun, Tenant, VersionLayout
from orchestrator.services import runs
from orchestrator.states import RunState, TaskState
from orchestrator.store import log_key, store_of_process
from tests.support.factories import default_tenant, job_of, run_of, task_of
from tests.support.graphs import drawn
from tests.support.large_runs import large_run
from tests.support.records import new_attempt, new_job, new_run, new_task_run, new_transition

pytestmark = pytest.mark.django_db
HX = {"HX-Request": "true"}
_attempt_ids = itertools.count(os.getpid() * 1000)


def page(run: JobRun, rest: str = "") -> str:
    return f"/admin/runs/{run.pk}/{rest}"


def data_of(html: str, name: str) -> dict:
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None, html[:500]
    return json.loads(found.group(1))


def failed_run() -> JobRun:
    run = new_run(new_job(tasks=("extract", "load", "report")), RunState.FAILED, reason="load failed")
    new_attempt(new_task_run(run, 0, TaskState.SUCCEEDED, attempt_count=1))
    new_attempt(new_task_run(run, 1, TaskState.FAILED, attempt_count=1, reason="exit code 3"), "failed", exit_code=3)
    new_task_run(run, 2, TaskState.UPSTREAM_FAILED, reason="load failed")
    return run


def person(django_user_model, role: str, tenant: Tenant | None = None):
    user = django_user_model.objects.create_user(f"{role}-{tenant}", is_staff=True)
    RoleGrant.objects.create(user=user, role=role, tenant=tenant)
    return user


# --- who may see it


def test_the_page_of_a_run_needs_a_login_and_the_permission_to_see_runs(client, admin_client, django_user_model):
    run = new_run(new_job())

    assert client.get(page(run)).status_code == 302
    client.force_login(django_user_model.objects.create_user("eve", is_staff=True))
    assert client.get(page(run)).status_code == 403
    assert admin_client.get(page(run)).status_code == 200
    assert admin_client.get("/admin/runs/999999/").status_code == 404
    assert admin_client.get(f"/admin/runs/{10**30}/").status_code == 404


def test_a_person_of_another_tenant_does_not_learn_that_there_is_such_a_run(client, django_user_model):
    run = failed_run()
    attempt = Attempt.objects.first()
    client.force_login(person(django_user_model, "admin", Tenant.objects.create(slug="other", name="Other")))

    paths = [page(run, rest) for rest in ("", "tasks/0/", "transitions/", f"attempts/{attempt.pk}/log/")]

    assert [client.get(path, headers=HX).status_code for path in paths] == [404] * 4
    assert client.get(drawing(run)).status_code == 403


def test_a_viewer_sees_the_run_without_what_commands_it(client, django_user_model):
    run = failed_run()

    client.force_login(person(django_user_model, "viewer", default_tenant()))
    seen = client.get(page(run)).content.decode()
    client.force_login(person(django_user_model, "operator", default_tenant()))
    steered = client.get(page(run)).content.decode()

    assert "load failed" in seen
    assert "rerun/?from=failed" not in seen
    assert "rerun/?from=failed" in steered


# --- what it says


def test_a_failed_run_names_what_failed_why_and_what_to_do(admin_client):
    html = admin_client.get(page(failed_run())).content.decode()

    assert "One task failed; 1 task behind it did not run." in html
    assert re.search(r'data-open-task="load".*?exit code 3', html, re.DOTALL)
    assert "Run again from what failed" in html


def test_a_pending_run_says_why_it_has_not_started(admin_client):
    job = job_of("a", limit=1)
    first = run_of(job, key="1")
    second = run_of(job, key="2")

    html = admin_client.get(page(second)).content.decode()

    assert "Why it has not started" in html
    assert f"run {first.pk}" in html
    assert data_of(html, "run-data")["states"] == ""


def test_a_run_says_what_led_to_it(admin_client):
    job = new_job()
    by_event = {"type": "event", "rule": "order-created", "rule_version": 3, "event_id": 7, "fingerprint": "abc"}
    run = new_run(job, trigger=by_event, event_id=7, root_event_id=5)
    again = new_run(job, trigger={"kind": "rerun", "by": "user:ada"}, rerun_of=run)

    caused, repeated = (admin_client.get(page(each)).content.decode() for each in (run, again))

    for word in (
        "/admin/triggers/event/5/change/",
        "/admin/triggers/event/7/change/",
        "order-created v3",
        "why it fired",
    ):
        assert word in caused
    assert "fingerprint" not in caused
    assert page(again) in caused
    assert f'<a href="{page(run)}">of run #{run.pk}</a>' in repeated


def test_markup_in_names_reasons_and_parameters_is_shown_as_text(admin_client):
    evil = "</script><img src=x onerror=alert(1)>"
    run = failed_run()
    JobRun.objects.filter(pk=run.pk).update(parameters={evil: evil}, trigger={"kind": evil, "by": evil})
    TaskRun.objects.filter(run=run, position=1).update(reason=evil, result={"x": evil})
    Task.objects.filter(version=run.version, position=1).update(name=evil)
    new_transition(run, "running", "failed", reason=evil, by=evil)

    for path in (page(run), page(run, "tasks/1/"), page(run, "transitions/")):
        html = admin_client.get(path, headers=HX if path != page(run) else {}).content.decode()
        assert "<img" not in html
        assert "&lt;img" in html


def test_no_script_or_handler_stands_in_the_page_itself(admin_client):
    html = admin_client.get(page(failed_run())).content.decode()

    for tag in re.findall(r"<script[^>]*>", html):
        assert "src=" in tag or "application/json" in tag
    assert not re.search(r"\son[a-z]+=", html.partition('id="content"')[2])


def test_a_secret_parameter_is_shown_by_its_name_alone(admin_client):
    run = new_run(new_job(), parameters={"password": {"secret": "warehouse"}})

    assert re.search(r"the secret</span>\s*<code>warehouse</code>", admin_client.get(page(run)).content.decode())


# --- refresh


def test_a_refresh_with_nothing_new_is_empty(admin_client):
    run = new_run(new_job())

    first = admin_client.get(page(run, "?cursor=0"), headers=HX)
    second = admin_client.get(page(run, "?cursor=0"), headers={**HX, "X-Seen": first["X-Seen"]})

    assert (first.status_code, second.status_code, second.content) == (200, 204, b"")


def test_a_refresh_sends_what_changed_since_the_last_one_and_the_states_of_all(admin_client):
    run = run_of("a -> b, c")
    known = data_of(admin_client.get(page(run)).content.decode(), "run-data")
    runs.pause_run(run.pk, by="ada")
    TaskRun.objects.filter(run=run, position=0).update(state=TaskState.RUNNING)
    moved = task_of(run, "a")
    new_transition(run, "ready", "running", subject="task_run", subject_id=moved.pk)

    answer = admin_client.get(page(run), {"cursor": known["cursor"]}, headers=HX)

    html = answer.content.decode()
    delta = data_of(html, "run-delta")
    assert "paused" in html
    assert [row[:3] for row in delta["rows"]] == [[0, moved.pk, "r"]]
    assert delta["states"] == "r" + known["states"][1:]
    assert delta["cursor"] > known["cursor"]


def test_a_browser_whose_copy_differs_gets_the_tasks_that_it_names(admin_client):
    run = run_of("a -> b, c")
    cursor = data_of(admin_client.get(page(run)).content.decode(), "run-data")["cursor"]

    answer = admin_client.get(page(run), {"cursor": cursor, "need": "0,2,x,99"}, headers=HX)

    assert [row[0] for row in data_of(answer.content.decode(), "run-delta")["rows"]] == [0, 2]


def test_more_changes_than_one_answer_takes_come_with_the_next(admin_client, monkeypatch):
    monkeypatch.setattr("orchestrator.console.views.run.MOST_CHANGES", 2)
    run = new_run(new_job(tasks=("a", "b", "c")))
    rows = [new_task_run(run, position) for position in range(3)]
    for row in rows:
        new_transition(run, "running", "succeeded", subject="task_run", subject_id=row.pk)

    first = data_of(admin_client.get(page(run), {"cursor": 0}, headers=HX).content.decode(), "run-delta")
    second = data_of(admin_client.get(page(run), {"cursor": first["cursor"]}, headers=HX).content.decode(), "run-delta")

    assert [row[0] for row in first["rows"] + second["rows"]] == [0, 1, 2]
    assert (first["more"], second["more"]) == (True, False)


def test_a_browser_stops_asking_once_the_run_has_ended(admin_client):
    run = failed_run()

    refreshed = admin_client.get(page(run), {"cursor": 0}, headers=HX)

    assert refreshed.status_code == 286
    assert 'hx-trigger="refresh, every' not in admin_client.get(page(run)).content.decode()


@pytest.mark.slow
def test_a_refresh_of_a_thousand_tasks_is_small_and_asks_as_often_as_one_of_three_hundred(admin_client):
    counts, sizes = {}, {}
    for size in (300, 1_000):
        run = large_run(default_tenant(), size)
        admin_client.get(page(run))
        with CaptureQueriesContext(connection) as captured:
            answer = admin_client.get(page(run), {"cursor": 0}, headers=HX)
        counts[size], sizes[size] = len(captured), len(answer.content)
        with CaptureQueriesContext(connection) as whole:
            admin_client.get(page(run))
        counts[size] = (counts[size], len(whole))

    assert counts[300] == counts[1_000]
    assert sizes[1_000] < 30_000


# --- the panel of a task


def test_the_panel_of_a_task_shows_its_attempts_its_neighbours_and_its_definition(admin_client):
    html = admin_client.get(page(failed_run(), "tasks/1/"), headers=HX).content.decode()

    assert "exit code 3" in html
    assert 'data-open-task="extract"' in html
    assert 'data-open-task="report"' in html
    assert f"/attempts/{Attempt.objects.get(state='failed').pk}/log/" in html
    assert "Run again from here" in html


def test_the_panel_of_a_waiting_task_says_what_it_waits_for_and_can_close_it(admin_client):
    run = run_of("a -> b")

    html = admin_client.get(page(run, "tasks/1/"), headers=HX).content.decode()

    assert "b waits for a" in html
    assert page(run, "skip/?task=b") in html
    assert page(run, "mark-succeeded/?task=b") in html


def test_the_address_of_a_panel_leads_to_the_page_with_that_task_open(admin_client):
    run = failed_run()

    assert admin_client.get(page(run, "tasks/1/"))["Location"] == page(run, "?task=load")
    assert admin_client.get(page(run, "tasks/77/"), headers=HX).status_code == 404
    assert admin_client.get(page(run, f"tasks/{10**20}/"), headers=HX).status_code == 404


def test_tasks_of_a_run_that_was_not_let_in_have_panels_too(admin_client):
    run = new_run(new_job(tasks=("a", "b")), RunState.PENDING)

    assert "has not been let in" in admin_client.get(page(run, "tasks/1/"), headers=HX).content.decode()


# --- transitions, logs, drawings


def test_what_happened_is_shown_newest_first_with_the_names_of_tasks(admin_client):
    run = failed_run()
    load = TaskRun.objects.get(run=run, position=1)
    new_transition(run, "running", "failed", subject="task_run", subject_id=load.pk, reason="exit code 3")
    new_transition(run, "running", "failed", reason="load failed", by="user:ada")

    html = admin_client.get(page(run, "transitions/")).content.decode()

    assert html.index("the run") < html.index('data-open-task="load"')
    assert "user:ada" in html


def with_log(data: bytes, state: str = "succeeded") -> tuple[JobRun, str]:
    run = new_run(new_job())
    # Ids come again after a rollback; what is in the store does not go with it.
    attempt = new_attempt(new_task_run(run, 0, attempt_count=1), state, pk=next(_attempt_ids))
    store_of_process().append(log_key(run.pk, attempt.pk), data)
    store_of_process().finish(log_key(run.pk, attempt.pk))
    return run, page(run, f"attempts/{attempt.pk}/log/")


def test_a_log_is_read_on_from_where_it_ended(admin_client):
    _, path = with_log("first\nzweite Zeile ü\n".encode())

    whole = admin_client.get(path)
    rest = admin_client.get(path, {"offset": 6})

    assert whole.content.decode() == "first\nzweite Zeile ü\n"
    assert rest.content.decode() == "zweite Zeile ü\n"
    assert whole["X-Next-Offset"] == rest["X-Next-Offset"] == "22"
    assert whole["X-Complete"] == "true"
    assert whole["Content-Type"].startswith("text/plain")
    assert whole["X-Content-Type-Options"] == "nosniff"


def test_the_log_of_a_running_attempt_is_not_complete_and_ends_with_a_whole_character(admin_client):
    _, path = with_log("ü".encode() + b"\xc3", "running")

    answer = admin_client.get(path)

    assert answer.content.decode() == "ü"
    assert answer["X-Next-Offset"] == "2"
    assert "X-Complete" not in answer


def test_of_a_long_log_the_end_is_shown_first_from_the_start_of_a_line(admin_client, monkeypatch):
    monkeypatch.setattr("orchestrator.console.views.logs.PIECE", 20)
    _, path = with_log(b"".join(b"line %d\n" % n for n in range(10)))

    end, start = admin_client.get(path), admin_client.get(path, {"offset": 0})

    assert end.content == b"line 8\nline 9\n"
    assert (end["X-Skipped"], end["X-Next-Offset"]) == ("56", "70")
    assert start.content == b"line 0\nline 1\nline 2\n"[:20]
    assert admin_client.get(path, {"download": ""}).content.count(b"\n") == 10


def test_a_log_is_found_by_its_own_run_alone(admin_client):
    _, path = with_log(b"secret")
    other = new_run(new_job("other"))

    assert (
        admin_client.get(page(other, path.partition("/attempts/")[1] + path.partition("/attempts/")[2])).status_code
        == 404
    )


def drawing(run: JobRun) -> str:
    from orchestrator.console.drawing import FORMAT

    return f"/admin/drawings/{run.version_id}/{FORMAT}/"


def test_the_picture_of_a_version_is_computed_once_and_kept(admin_client, monkeypatch):
    run = new_run(job_of(drawn("a -> b, c; b -> d; c -> d", name="diamond")))

    first = admin_client.get(drawing(run))
    monkeypatch.setattr("orchestrator.console.layout.layout", lambda *_: pytest.fail("computed again"))
    second = admin_client.get(drawing(run))

    assert first.json() == second.json()
    assert first.json()["names"] == ["a", "b", "c", "d"]
    assert first.json()["edges"] == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert len(first.json()["places"]) == 4
    assert "immutable" in first["Cache-Control"]
    assert VersionLayout.objects.filter(version_id=run.version_id).count() == 1


def test_a_picture_of_another_format_is_none(admin_client):
    run = new_run(new_job())

    assert admin_client.get(f"/admin/drawings/{run.version_id}/0.0/").status_code == 404
    assert admin_client.get("/admin/drawings/999999/1.1/").status_code == 404


def test_the_lists_lead_to_the_page_of_a_run(admin_client):
    run = failed_run()

    for model in ("jobrun", "taskrun"):
        assert page(run) in admin_client.get(f"/admin/orchestrator/{model}/").content.decode()
    assert f"/admin/orchestrator/jobrun/{run.pk}/change/" in admin_client.get(page(run)).content.decode()
