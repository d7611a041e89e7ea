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

from orchestrator.diagnosis import clocks, disk, ledger, workers
from orchestrator.models import Job, JobRun, LaneWorker
from orchestrator.services.lanes import report_lanes
from orchestrator.services.leadership import Leadership
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
    assert not found["beat leader"]["ok"]
    assert not found["reconciler leader"]["ok"]
    assert all(check["hint"] for check in printed["checks"] if not check["ok"]), "each says what to do"


def test_doctor_names_the_lanes_that_jobs_use_and_no_worker_takes_from():
    new_job()
    new_job("archived")
    Job.objects.filter(name="archived").update(archived_at=timezone.now())

    found = workers.lanes()

    assert (found.ok, found.detail) == (
        False,
        "no live worker takes from: default (1 job), control (moves runs on)",
    )
    report_lanes("worker@host", ["default"], 4)
    report_lanes("control@host", ["control"], 8)
    assert (workers.lanes().ok, workers.lanes().detail) == (
        True,
        "control: 1 worker, 8 slots; default: 1 worker, 4 slots",
    )
    LaneWorker.objects.update(seen_at=timezone.now() - timedelta(seconds=31))
    assert not workers.lanes().ok


def test_doctor_tells_a_worker_that_is_silent_from_one_that_is_gone():
    report_lanes("worker@host", ["default"], 4)

    (found,) = workers.findings(workers.Told(names=frozenset({"control@host"})), known=True)
    assert (found.ok, found.detail) == (False, "worker@host took work lately and does not answer")

    LaneWorker.objects.all().delete()
    (found,) = workers.findings(workers.Told(names=frozenset({"control@host"})), known=True)
    assert (found.ok, found.detail) == (True, "control@host")


@pytest.mark.parametrize(
    ("told", "off"), [(99.0, -1.0), (100.0, 0.0), (100.7, 0.0), (101.0, 0.0), (131.0, 30.0)], ids=str
)
def test_a_clock_is_off_by_what_question_and_answer_do_not_explain(told, off):
    assert clocks.difference(told, asked=100.0, answered=101.0) == off


def test_doctor_names_the_hosts_whose_clocks_are_off():
    now = time.time()
    told = workers.Told(clocks={"a@one": now, "b@two": now - 60, "c@two": now}, asked=now - 0.1, answered=now + 0.1)

    (found,) = clocks.of_workers(told)
    assert not found.ok
    assert found.detail == "two is 60 s behind the database"
    assert "NTP" in found.hint

    (own,) = clocks.of_this_host()
    assert own.ok, own.detail


def test_doctor_says_who_leads_and_what_waits_for_nobody():
    Leadership("beat").seek()

    beat, reconciler = ledger.leaders()
    assert (beat.ok, reconciler.ok) == (True, False)
    assert "retries" in reconciler.detail


def test_a_disk_that_is_nearly_full_is_wrong(monkeypatch):
    assert [each.name for each in disk.findings()][:1] == ["disk"]
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 2**63)

    found = disk.findings()[0]
    assert not found.ok
    assert "prune_runs" in found.hint


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
