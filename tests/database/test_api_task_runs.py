from __future__ import annotations

import json

import pytest
from django.utils import timezone

from orchestrator.conf import options
from orchestrator.models import Attempt, TaskRun
from orchestrator.states import TaskState
from orchestrator.store import keep_result, log_key, open_store
from tests.support.api import Api, problems
from tests.support.records import new_attempt, new_job, new_run, new_task_run, new_transition, token_text

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> Api:
    return Api(token_text("read"))


@pytest.fixture
def row() -> TaskRun:
    run = new_run(new_job("nightly-etl", tasks=("extract", "load")))
    # SQLite gives ids out again after a rollback; a file of the run that had this one may be left.
    open_store(options().store_location).delete_runs([run.pk])
    return new_task_run(run, 1, TaskState.SUCCEEDED)


def store_log(attempt: Attempt, data: bytes) -> None:
    open_store(options().store_location).append(log_key(attempt.task_run.run_id, attempt.pk), data)


def test_a_task_run_is_shown_with_its_run(api, row):
    shown = api.get(f"/api/v1/task-runs/{row.pk}").json()

    assert {key: shown[key] for key in ("id", "task", "state", "job", "run", "run_url", "position")} == {
        "id": row.pk,
        "task": "load",
        "state": "succeeded",
        "job": "nightly-etl",
        "run": row.run_id,
        "run_url": f"http://testserver/api/v1/runs/{row.run_id}",
        "position": 1,
    }


@pytest.mark.parametrize("result", [{"n": 3}, [], 0, False, "text"])
def test_a_result_that_lies_in_the_ledger_is_answered_as_it_is(api, row, result):
    TaskRun.objects.filter(pk=row.pk).update(result=result)

    answer = api.get(f"/api/v1/task-runs/{row.pk}/result")

    assert (answer.status_code, answer["Content-Type"], answer.json()) == (200, "application/json", result)


def test_a_large_result_comes_from_the_store_in_pieces(api, row):
    value = {"rows": ["ö" * 1000] * 2000}
    kept = keep_result(open_store(options().store_location), row.run_id, value)
    TaskRun.objects.filter(pk=row.pk).update(result_ref=kept.ref)

    answer = api.get(f"/api/v1/task-runs/{row.pk}/result")
    pieces = list(answer.streaming_content)

    assert json.loads(b"".join(pieces)) == value
    assert len(pieces) > 10
    assert answer["Content-Length"] == str(sum(map(len, pieces)))
    assert answer["ETag"] == f'"{kept.ref.rpartition("/")[2]}"'


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (TaskState.RUNNING, "has no result yet: it is running"),
        (TaskState.SUCCEEDED, "ended succeeded and returned no result"),
    ],
)
def test_without_a_result_the_answer_says_why(api, row, state, words):
    final = state == TaskState.SUCCEEDED
    TaskRun.objects.filter(pk=row.pk).update(state=state, ended_at=timezone.now() if final else None)

    answer = api.get(f"/api/v1/task-runs/{row.pk}/result")

    assert (answer.status_code, answer.json()["code"]) == (404, "result_missing")
    assert words in answer.json()["message"]


def test_a_result_that_the_store_no_longer_has_is_missing(api, row):
    TaskRun.objects.filter(pk=row.pk).update(result_ref=f"results/{row.run_id}/{'0' * 64}")

    answer = api.get(f"/api/v1/task-runs/{row.pk}/result")

    assert (answer.status_code, answer.json()["message"]) == (404, "The result is no longer in the store.")


def test_what_happened_to_a_task_and_its_attempts_is_listed_apart(api, row):
    attempt, other = new_attempt(row), new_task_run(row.run, 0)
    run = row.run
    new_transition(run, "pending", "running")
    wanted = [
        new_transition(run, "ready", "running", subject="task_run", subject_id=row.pk),
        new_transition(run, "running", "succeeded", subject="attempt", subject_id=attempt.pk),
    ]
    new_transition(run, "ready", "running", subject="task_run", subject_id=other.pk)

    of_task = api.get(f"/api/v1/task-runs/{row.pk}/transitions").json()["items"]
    of_runs = api.get(f"/api/v1/runs/{run.pk}/transitions?subject=run").json()["items"]

    assert [fact["id"] for fact in of_task] == [fact.pk for fact in wanted]
    assert [fact["subject"] for fact in of_runs] == ["run"]


def test_task_runs_are_chosen_by_state_and_task(api, row):
    new_task_run(row.run, 0, TaskState.RUNNING)

    def found(query: str) -> list[str]:
        return [item["task"] for item in api.get(f"/api/v1/runs/{row.run_id}/task-runs?{query}").json()["items"]]

    assert (found("state=running,failed"), found("task=load"), found("state=failed")) == (["extract"], ["load"], [])
    assert api.get(f"/api/v1/runs/{row.run_id}/task-runs?state=done").status_code == 400


def test_re_runs_of_a_run_are_chosen(api, row):
    again = new_run(row.run.job, rerun_of=row.run)

    found = api.get(f"/api/v1/runs?rerun_of={row.run_id}").json()["items"]

    assert [(item["id"], item["rerun_of"]) for item in found] == [(again.pk, row.run_id)]


def test_a_complete_log_is_streamed_as_events_that_can_be_taken_up_again(api, row):
    attempt = new_attempt(row)
    store_log(attempt, "eins\nzwö\n".encode())

    whole = api.get(f"/api/v1/attempts/{attempt.pk}/log/stream")
    rest = api.get(f"/api/v1/attempts/{attempt.pk}/log/stream", headers={"Last-Event-ID": "5"})

    assert whole["Content-Type"] == "text/event-stream; charset=utf-8"
    assert whole.content.decode() == (
        'id: 10\nevent: log\ndata: {"text": "eins\\nzwö\\n"}\n\nevent: end\ndata: {"state": "succeeded"}\n\n'
    )
    assert rest.content.decode().startswith('id: 10\nevent: log\ndata: {"text": "zwö\\n"}\n\n')


def test_a_stream_is_plain_text_for_those_who_ask_for_it(api, row):
    attempt = new_attempt(row)
    store_log(attempt, b"one\ntwo\n")

    answer = api.get(f"/api/v1/attempts/{attempt.pk}/log/stream", headers={"Accept": "text/plain"})

    assert (answer["Content-Type"], answer.content) == ("text/plain; charset=utf-8", b"one\ntwo\n")


def test_an_event_id_that_is_none_is_refused(api, row):
    answer = api.get(f"/api/v1/attempts/{new_attempt(row).pk}/log/stream", headers={"Last-Event-ID": "x"})

    assert problems(answer) == {"Last-Event-ID": "the id of an event of this stream"}
