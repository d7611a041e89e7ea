from __future__ import annotations

import io
import json
import threading
import time
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from orchestrator.management.commands import doctor
from orchestrator.models import Job, JobRun, LaneWorker
from orchestrator.services.lanes import report_lanes
from orchestrator.services.tokens import authenticate
from orchestrator.states import RunState
from tests.support.records import default_tenant, new_job, new_run

pytestmark = pytest.mark.django_db


def output_of(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def paused_job():
    job = new_job("nightly-etl")
    job.paused_at = timezone.now()
    job.save()
    return job


def test_a_token_is_printed_once_and_works():
    new_job("nightly-etl")

    plaintext = output_of(
        "create_token", "ci", "--scope", "trigger", "--job", "nightly-etl", "--expires", "90d"
    ).strip()

    token = authenticate(plaintext)
    assert (token.scopes, token.job_names) == (["trigger"], ["nightly-etl"])


def test_a_token_as_json_has_the_token_under_its_name():
    printed = json.loads(output_of("create_token", "ci", "--json"))

    assert authenticate(printed["token"]).pk == printed["id"]
    assert printed["scopes"] == ["read", "trigger"]


@pytest.mark.parametrize("arguments", [["--expires", "soon"], ["--job", "unknown"], ["--tenant", "unknown"]])
def test_a_token_that_cannot_be_made_is_refused(arguments):
    with pytest.raises(CommandError):
        call_command("create_token", "ci", *arguments)


def test_trigger_prints_the_id_and_the_url(paused_job):
    printed = output_of("trigger", "nightly-etl")

    run = JobRun.objects.get()
    assert printed.startswith(f"run {run.pk} pending http://127.0.0.1:")
    assert printed.strip().endswith(f"/api/v1/runs/{run.pk}")
    assert run.trigger["kind"] == "cli"


def test_the_same_key_starts_one_run(paused_job):
    first, second = (
        json.loads(output_of("trigger", "nightly-etl", "--idempotency-key", "k", "--json")) for _ in range(2)
    )

    assert first["id"] == second["id"]
    assert (first["created"], second["created"]) == (True, False)


@pytest.mark.parametrize("arguments", [["unknown"], ["nightly-etl", "--param", "x"], ["nightly-etl", "--param", "a=b"]])
def test_a_refused_trigger_ends_with_2(paused_job, arguments):
    with pytest.raises(CommandError) as refused:
        call_command("trigger", *arguments, stderr=io.StringIO())

    assert refused.value.returncode == 2


def test_waiting_for_a_run_that_goes_on_ends_with_4(paused_job):
    with pytest.raises(SystemExit) as ended:
        output_of("trigger", "nightly-etl", "--wait", "0.2")

    assert ended.value.code == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("state", "code"), [(RunState.SUCCEEDED, 0), (RunState.FAILED, 1), (RunState.CANCELLED, 1)])
def test_waiting_ends_as_the_run_ends(paused_job, state, code):
    def end_it() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if JobRun.objects.update(state=state, ended_at=timezone.now()):
                break
            time.sleep(0.05)
        connection.close()

    thread = threading.Thread(target=end_it)
    thread.start()
    try:
        output_of("trigger", "nightly-etl", "--wait", "10")
        ended = 0
    except SystemExit as stopped:
        ended = stopped.code
    thread.join()

    assert ended == code


@pytest.mark.django_db(transaction=True)
def test_doctor_says_what_is_wrong_and_what_to_do(monkeypatch):
    from django.conf import settings

    monkeypatch.setitem(settings.CELERY, "broker_url", "redis://127.0.0.1:1/0")
    new_run(new_job())

    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", "--json", stdout=out)

    printed = json.loads(out.getvalue())
    found = {check["name"]: check for check in printed["checks"]}
    assert ended.value.code == 1
    assert not printed["ok"]
    assert found["database"]["ok"]
    assert not found["broker"]["ok"]
    assert "UPBEAT_BROKER_URL" in found["broker"]["hint"]
    assert not found["leaders"]["ok"]


def test_doctor_names_the_lanes_that_jobs_use_and_no_worker_takes_from():
    new_job()
    new_job("archived")
    Job.objects.filter(name="archived").update(archived_at=timezone.now())

    found = doctor._lanes()

    assert (found.ok, found.detail) == (False, "no live worker takes from: default (1 job)")
    report_lanes("worker@host", ["default"], 4)
    assert doctor._lanes().ok
    LaneWorker.objects.update(seen_at=timezone.now() - timedelta(seconds=31))
    assert not doctor._lanes().ok


def test_a_secret_is_read_from_a_file(tmp_path, monkeypatch):
    from cryptography.fernet import Fernet

    from orchestrator.conf import options
    from orchestrator.services import secrets

    keys = {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (Fernet.generate_key().decode(),)}
    monkeypatch.setattr(options(), "_values", keys)
    (tmp_path / "value").write_text("topsecret\n")

    printed = output_of("set_secret", "reports-api", "--file", str(tmp_path / "value"))

    assert "topsecret" not in printed
    assert secrets.reveal_secrets(default_tenant().pk, ["reports-api"]) == {"reports-api": "topsecret"}
