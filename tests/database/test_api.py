from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from orchestrator.api.following import whole_characters
from orchestrator.conf import options
from orchestrator.models import IdempotencyKey, JobRun, RateWindow, Tenant
from orchestrator.states import RunState, TaskState
from orchestrator.store import log_key, open_store
from tests.support.api import Api, problems
from tests.support.records import (
    new_attempt,
    new_job,
    new_run,
    new_task_run,
    new_token,
    new_transition,
    token_text,
)

pytestmark = pytest.mark.django_db
TRIGGER = "/v1/jobs/trigger"
SCHEMA = Path(__file__).parent / "openapi.yml"


@pytest.fixture
def paused_job():
    """A job whose runs stay pending: what is triggered publishes nothing."""
    job = new_job("nightly-etl")
    job.paused_at = timezone.now()
    job.save()
    return job


@pytest.mark.parametrize("path", [TRIGGER, "/api/v1/jobs/trigger"])
def test_a_trigger_call_starts_a_run(paused_job, path):
    answer = Api(token_text()).send(path, {"jobName": "nightly-etl", "parameters": {}})

    run = JobRun.objects.get()
    assert answer.status_code == 202
    assert answer.json() == {
        "id": run.pk,
        "state": "pending",
        "url": f"http://testserver/api/v1/runs/{run.pk}",
        "created": True,
        "reason": "job is paused",
    }
    assert run.trigger["by"] == "token:ci"


def test_a_repeated_key_answers_the_same_run(paused_job):
    api = Api(token_text())

    first = api.send(TRIGGER, {"jobName": "nightly-etl", "parameters": {}}, **{"Idempotency-Key": "deploy-17"})
    second = api.send(TRIGGER, {"parameters": {}, "jobName": "nightly-etl"}, **{"Idempotency-Key": "deploy-17"})

    assert (first.json()["created"], second.json()["created"]) == (True, False)
    assert first.json()["id"] == second.json()["id"]
    assert JobRun.objects.count() == 1


def test_a_key_used_for_another_request_is_refused(paused_job):
    new_job("other")
    api = Api(token_text())
    api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "deploy-17"})

    answer = api.send(TRIGGER, {"jobName": "other"}, **{"Idempotency-Key": "deploy-17"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert JobRun.objects.count() == 1


def test_a_key_whose_record_was_lost_still_starts_no_second_run(paused_job):
    api = Api(token_text())
    first = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"})
    IdempotencyKey.objects.all().delete()

    second = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"})

    assert second.json()["id"] == first.json()["id"]
    assert IdempotencyKey.objects.get().run_id == first.json()["id"]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_key_is_free_again_after_24_hours(paused_job, recorded):
    api = Api(token_text())
    first = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"}).json()["id"]
    yesterday = timezone.now() - timedelta(hours=24, minutes=1)
    JobRun.objects.update(created_at=yesterday)
    IdempotencyKey.objects.update(created_at=yesterday)
    if not recorded:
        IdempotencyKey.objects.all().delete()

    second = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"}).json()
    third = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"}).json()

    assert second["created"]
    assert second["id"] != first
    assert (third["id"], third["created"]) == (second["id"], False)


def test_a_refused_request_does_not_use_up_its_key(paused_job):
    api = Api(token_text())
    refused = api.send(TRIGGER, {"jobName": "unknown"}, **{"Idempotency-Key": "k"})

    answer = api.send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"})

    assert (refused.status_code, answer.status_code) == (404, 202)


def test_keys_of_two_tokens_are_two_keys(paused_job):
    for token in (token_text(), token_text()):
        Api(token).send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"})

    assert JobRun.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_ten_identical_requests_at_once_start_one_run(paused_job):
    token = token_text()

    def call(_):
        try:
            return Api(token).send(TRIGGER, {"jobName": "nightly-etl"}, **{"Idempotency-Key": "k"}).json()
        finally:
            connection.close()

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(call, range(10)))

    assert len({answer["id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1
    assert JobRun.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"jobName": "unknown"}, 404, "unknown_job"),
        ({"jobName": "archived"}, 409, "job_archived"),
        ({"jobName": 7}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ({"jobName": "nightly-etl", "parameters": []}, 400, "invalid_request"),
        ({"jobName": "nightly-etl", "parametres": {}}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
        ("{", 400, "invalid_request"),
        (b"\xff", 400, "invalid_request"),
        ('{"jobName": "nightly-etl", "parameters": {"a": NaN}}', 400, "invalid_request"),
        ({"jobName": "a\0b"}, 400, "invalid_request"),
        ({"jobName": "nightly-etl", "parameters": {"a": "\0"}}, 400, "invalid_request"),
        ('{"jobName": "nightly-etl", "parameters": {"a": "\\ud800"}}', 400, "invalid_request"),
        ('{"jobName": "nightly-etl", "parameters": ' + '{"a":' * 900 + "1" + "}" * 901, 400, "invalid_request"),
        ("[" * 100_000, 400, "invalid_request"),
        ({"jobName": "x" * 2_000_000}, 413, "too_large"),
    ],
)
def test_a_bad_trigger_call_is_refused_and_starts_nothing(paused_job, body, status, code):
    archived = new_job("archived")
    archived.archived_at = timezone.now()
    archived.save()

    answer = Api(token_text()).send(TRIGGER, body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(answer.content) < 2000
    assert not JobRun.objects.exists()


def test_all_problems_of_a_body_are_named_at_once(paused_job):
    answer = Api(token_text()).send(TRIGGER, {"parameters": 1, "jobname": "x"})

    assert set(problems(answer)) == {"jobName", "jobname", "parameters"}


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic YTpi", "Bearer", "Bearer \xe9"])
def test_a_call_without_a_valid_token_is_unauthenticated(header):
    for path in ("/api/v1/runs", "/api/v1/runs/1"):
        answer = Client().get(path, headers={"Authorization": header} if header else {})

        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer["WWW-Authenticate"].startswith("Bearer")


def test_too_many_calls_say_when_to_come_back():
    token, text = new_token()
    api = Api(text)
    api.get("/api/v1/runs")
    RateWindow.objects.filter(token=token).update(calls=10_000)

    answer = api.get("/api/v1/runs")

    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_calls")
    assert 1 <= int(answer["Retry-After"]) <= 60


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api", 404),
        ("get", "/api/v1/nothing", 404),
        ("post", "/v1/jobs", 404),
        ("get", "/api/v1/runs/", 404),
        ("get", "/api/v1/runs/abc", 404),
        ("get", "/api/v1/runs/-1", 404),
        ("get", f"/api/v1/runs/{10**18 - 1}", 404),
        ("get", f"/api/v1/runs/{10**30}", 404),
        ("get", f"/api/v1/jobs/{10**30}", 404),
        ("get", "/api/v1/jobs/Nightly_ETL", 404),
        ("get", "/api/v1/task-runs/1/attempts", 404),
        ("get", "/api/v1/attempts/1/log", 404),
        ("get", TRIGGER, 405),
        ("delete", "/api/v1/runs", 405),
        ("post", "/api/v1/runs/1", 405),
        ("get", "/api/v1/runs/1/cancellation", 405),
        ("get", "/api/v1/runs?cursor=abc", 400),
        ("get", "/api/v1/runs?limit=0", 400),
        ("get", "/api/v1/runs?limit=1e9", 400),
        ("get", "/api/v1/runs?state=done", 400),
        ("get", "/api/v1/runs?stat=failed", 400),
        ("get", "/api/v1/runs?job=a&job=b", 400),
        ("get", "/api/v1/runs?job=%00", 400),
        ("get", "/api/v1/runs?created_from=yesterday", 400),
        ("get", "/api/v1/runs?created_from=0001-01-01T00:00:00%2B14:00", 400),
        ("get", "/api/v1/runs/1?wait=61", 400),
        ("get", "/api/v1/runs/1?wait=nan", 400),
        ("get", "/api/v1/attempts/1/log?offset=-1", 400),
    ],
)
def test_every_refusal_has_the_one_shape(method, path, status):
    answer = getattr(Api(token_text("admin")), method)(path)

    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message", "details"}


def test_a_run_is_shown_with_what_the_contract_names():
    run = new_run(new_job(), RunState.SUCCEEDED, parameters={"key": {"secret": "reports-api"}})

    shown = Api(token_text()).get(f"/api/v1/runs/{run.pk}").json()

    assert {key: shown[key] for key in ("id", "job", "version", "state", "reason", "parameters", "rerun_of")} == {
        "id": run.pk,
        "job": "nightly-etl",
        "version": 1,
        "state": "succeeded",
        "reason": "",
        "parameters": {"key": {"secret": "reports-api"}},
        "rerun_of": None,
    }
    assert shown["trigger"] == {"kind": "manual", "by": "ada"}
    assert shown["created_at"].endswith("Z")
    assert shown["url"] == f"http://testserver/api/v1/runs/{run.pk}"


def test_runs_are_listed_newest_first_page_by_page():
    job = new_job()
    ids = [new_run(job).pk for _ in range(5)]
    api = Api(token_text())

    first = api.get("/api/v1/runs?limit=3").json()
    second = api.get(f"/api/v1/runs?limit=3&cursor={first['next']}").json()

    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


def test_runs_are_chosen_by_job_state_and_trigger():
    job, other = new_job("a"), new_job("b")
    wanted = new_run(job, RunState.FAILED, trigger={"kind": "api", "by": "x"})
    new_run(job, RunState.FAILED)
    new_run(job, RunState.RUNNING, trigger={"kind": "api", "by": "x"})
    new_run(other, RunState.FAILED, trigger={"kind": "api", "by": "x"})

    found = Api(token_text()).get("/api/v1/runs?job=a&state=failed,timed_out&trigger=api").json()["items"]

    assert [item["id"] for item in found] == [wanted.pk]


def test_a_tenant_sees_nothing_of_another():
    run = new_run(new_job())
    row = new_task_run(run)
    attempt = new_attempt(row)
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))

    paths = [
        f"runs/{run.pk}",
        f"runs/{run.pk}/task-runs",
        f"task-runs/{row.pk}/attempts",
        f"attempts/{attempt.pk}/log",
        f"jobs/{run.job_id}",
        "jobs/nightly-etl/versions/1/text",
    ]
    assert [stranger.get(f"/api/v1/{path}").status_code for path in paths] == [404] * len(paths)
    assert stranger.get("/api/v1/runs").json()["items"] == []
    assert stranger.send(f"/api/v1/runs/{run.pk}/cancellation").status_code == 404


def test_a_token_for_named_jobs_sees_and_starts_only_these():
    mine, foreign = new_job("mine"), new_job("foreign")
    shown, hidden = new_run(mine), new_run(foreign)
    api = Api(token_text("admin", jobs=("mine",)))

    assert [item["id"] for item in api.get("/api/v1/runs").json()["items"]] == [shown.pk]
    assert [item["name"] for item in api.get("/api/v1/jobs").json()["items"]] == ["mine"]
    assert api.get(f"/api/v1/runs/{hidden.pk}").status_code == 403
    assert api.send(TRIGGER, {"jobName": "foreign"}).status_code == 403
    assert api.send(TRIGGER, {"jobName": "unknown"}).status_code == 403
    assert api.send(f"/api/v1/jobs/{foreign.pk}/pause").status_code == 403


def test_a_reader_cannot_steer():
    run = new_run(new_job())
    api = Api(token_text("read"))

    answers = [
        api.send(TRIGGER, {"jobName": "nightly-etl"}),
        api.send(f"/api/v1/runs/{run.pk}/cancellation"),
        api.send("/api/v1/jobs/nightly-etl/pause"),
        Api(token_text("operate")).send("/api/v1/jobs/nightly-etl/archive"),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(403, "out_of_scope")] * 4


def test_task_runs_and_what_happened_are_listed():
    run = new_run(new_job(tasks=("extract", "load")))
    new_task_run(run, 0, TaskState.SUCCEEDED, result={"n": 3}, attempt_count=1)
    new_task_run(run, 1, TaskState.RUNNING)
    new_transition(run, "pending", "running", cause="admission", by="engine")
    api = Api(token_text())

    tasks = api.get(f"/api/v1/runs/{run.pk}/task-runs").json()["items"]
    facts = api.get(f"/api/v1/runs/{run.pk}/transitions").json()["items"]

    assert [(t["task"], t["type"], t["state"], t["attempts"], t["result"]) for t in tasks] == [
        ("extract", "noop", "succeeded", 1, {"n": 3}),
        ("load", "noop", "running", 0, None),
    ]
    assert [(f["subject"], f["from"], f["to"], f["cause"], f["by"]) for f in facts] == [
        ("run", "pending", "running", "admission", "engine")
    ]


def test_a_log_is_read_on_from_an_offset_until_it_is_complete():
    run = new_run(new_job())
    row = new_task_run(run, state=TaskState.RUNNING)
    attempt = new_attempt(row, "running")
    store = open_store(options().store_location)
    store.append(log_key(run.pk, attempt.pk), "eins\nzwö".encode()[:-1])
    api = Api(token_text())
    path = f"/api/v1/attempts/{attempt.pk}/log"

    first = api.get(path)
    store.append(log_key(run.pk, attempt.pk), "ö\n".encode()[1:])
    type(attempt).objects.update(state="succeeded", ended_at=timezone.now())
    second = api.get(f"{path}?offset={first['X-Next-Offset']}")

    assert (first.content.decode(), first["X-Next-Offset"], "X-Complete" in first) == ("eins\nzw", "7", False)
    assert (second.content.decode(), second["X-Complete"]) == ("ö\n", "true")
    assert [item["number"] for item in api.get(f"/api/v1/task-runs/{row.pk}/attempts").json()["items"]] == [1]


@pytest.mark.parametrize("text", ["a", "ö", "€", "😀", "aö€😀"])
def test_no_character_of_a_log_is_cut_in_two(text):
    data = text.encode()

    for end in range(len(data) + 1):
        data[: whole_characters(data[:end])].decode()


def test_a_pending_run_is_cancelled_with_its_reason(paused_job):
    run_id = Api(token_text()).send(TRIGGER, {"jobName": "nightly-etl"}).json()["id"]

    answer = Api(token_text("operate")).send(f"/api/v1/runs/{run_id}/cancellation", {"reason": "wrong day"})

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["reason"]) == ("cancelled", "wrong day")


def test_an_ended_run_cannot_be_cancelled():
    run = new_run(new_job(), RunState.SUCCEEDED)

    answer = Api(token_text("operate")).send(f"/api/v1/runs/{run.pk}/cancellation")

    assert (answer.status_code, answer.json()["code"]) == (409, "run_final")


def test_a_job_is_paused_and_resumed_by_name_or_id():
    job = new_job()
    api = Api(token_text("operate", "read"))

    paused = api.send("/api/v1/jobs/nightly-etl/pause", {"reason": "migration"})
    resumed = api.send(f"/api/v1/jobs/{job.pk}/resume")

    assert (paused.json()["pause_reason"], paused.json()["paused_by"]) == ("migration", "token:ci")
    assert resumed.json()["paused_at"] is None


def test_an_archived_job_leaves_the_list():
    new_job()
    api = Api(token_text("admin"))

    assert api.send("/api/v1/jobs/nightly-etl/archive").status_code == 200
    assert api.get("/api/v1/jobs").json()["items"] == []
    assert len(api.get("/api/v1/jobs?archived=true").json()["items"]) == 1


def test_a_version_is_read_with_its_spec_and_as_it_was_written():
    new_job()
    api = Api(token_text())

    listed = api.get("/api/v1/jobs/nightly-etl/versions").json()["items"]
    detail = api.get("/api/v1/jobs/nightly-etl/versions/1").json()
    text = api.get("/api/v1/jobs/nightly-etl/versions/1/text")

    assert [(version["number"], version["author"]) for version in listed] == [(1, "ada")]
    assert detail["spec"]["name"] == "nightly-etl"
    assert text.content.decode().startswith("kind: Job")
    assert api.get("/api/v1/jobs/nightly-etl/versions/2").json()["code"] == "unknown_version"


def test_the_document_is_for_a_token_or_a_person_signed_in(admin_client):
    assert Client().get("/api/v1/schema").status_code == 401
    assert Api(token_text()).get("/api/v1/schema").status_code == 200
    assert admin_client.get("/api/v1/docs").status_code == 200
    assert b"https://" not in admin_client.get("/api/v1/docs").content


def test_the_openapi_document_is_the_one_that_was_agreed(admin_client):
    """After a change that is meant: `UPDATE_SNAPSHOTS=1`, and read the difference."""
    import os

    document = admin_client.get("/api/v1/schema").content.decode()
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SCHEMA.write_text(document)

    assert document == SCHEMA.read_text()
