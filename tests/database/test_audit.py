"""The audit record: appended with every change and command, from every side, and never changed."""

from __future__ import annotations

import importlib
import io
import json
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from orchestrator.conf import options
from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.models import AuditRecord, Job, Tenant
from orchestrator.services import connections, jobs, locks, runs, secrets, tokens
from orchestrator.services.audit import record_audit
from tests.support.api import Api
from tests.support.records import default_tenant, new_job, new_run, new_task_run, new_token, token_text
from triggers.services.sources import SourceSpec, create_source, switch_source

pytestmark = pytest.mark.django_db
LIST = "/admin/orchestrator/auditrecord/"
RECORDS = "/api/v1/audit-records"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    keys = (Fernet.generate_key().decode(),)
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})


def record(**more) -> AuditRecord:
    fields = {"action": "job.pause", "subject": "job", "by": "user:ada", "tenant_id": default_tenant().pk, **more}
    record_audit(**fields)
    return AuditRecord.objects.latest("pk")


def said(action: str) -> list[tuple[object, object]]:
    return [(row.before, row.after) for row in AuditRecord.objects.filter(action=action).order_by("pk")]


# --- appended only


def guard(*names: str) -> None:
    """Set up what the migration sets up, and other tests do without so that tables can be emptied behind them."""
    statements = importlib.import_module("orchestrator.migrations.0005_console").APPEND_ONLY[connection.vendor]
    with connection.cursor() as cursor:
        for name in names:
            if name in statements:
                cursor.execute(statements[name])


@pytest.mark.parametrize(
    "statement",
    [
        "update orchestrator_auditrecord set by = 'nobody'",
        "delete from orchestrator_auditrecord",
        pytest.param("truncate orchestrator_auditrecord", marks=pytest.mark.postgresql),
    ],
)
def test_the_database_refuses_to_change_or_delete_a_record(statement):
    guard("delete", "truncate")
    kept = record()

    with pytest.raises(DatabaseError, match="only ever appended"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)

    assert AuditRecord.objects.get().by == kept.by


def test_the_model_cannot_do_it_either():
    guard("delete")
    row = record()
    row.by = "nobody"

    for change in (row.save, row.delete, AuditRecord.objects.all().delete):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_a_change_that_is_taken_back_leaves_no_record():
    job = new_job()

    with transaction.atomic():
        jobs.pause_job(job, by="user:ada")
        transaction.set_rollback(True)

    assert not AuditRecord.objects.exists()


# --- what is said


def test_a_definition_is_recorded_with_what_changes(broker):
    spec = JobSpec(name="etl", tasks=(TaskSpec("extract", "noop"),))
    jobs.apply_definition(tenant=default_tenant(), spec=spec, source="", author="user:ada", comment="first")
    jobs.apply_definition(tenant=default_tenant(), spec=spec, source="", author="user:ada")
    wider = JobSpec(name="etl", tasks=(TaskSpec("extract", "noop"), TaskSpec("load", "noop")))
    jobs.apply_definition(tenant=default_tenant(), spec=wider, source="", author="cli:root", comment="second")

    rows = list(AuditRecord.objects.order_by("pk"))
    assert [(row.action, row.by, row.surface, row.reason) for row in rows] == [
        ("job.create", "user:ada", "admin", "first"),
        ("job.update", "cli:root", "command", "second"),
    ]
    assert rows[1].before == {"version": 1}
    assert rows[1].after["version"] == 2
    assert any("load" in change for change in rows[1].after["changes"])
    assert {row.subject_name for row in rows} == {"etl"}


def test_a_secret_is_recorded_by_its_name_and_never_by_its_value():
    for value in ("hunter2-hunter2", "hunter3-hunter3"):
        secrets.set_secret(tenant=default_tenant(), name="warehouse", value=value, by="user:ada")
    url = "postgresql://etl:hunter2-hunter2@db.example/sales"
    connections.set_connection(tenant=default_tenant(), name="db", url=url, by="user:ada")
    connections.delete_connection(tenant=default_tenant(), name="db", by="user:ada")
    secrets.delete_secret(tenant=default_tenant(), name="warehouse", by="user:ada", reason="moved")
    _, token = tokens.create_token(tenant=default_tenant(), name="ci", by="user:ada")

    rows = list(AuditRecord.objects.order_by("pk"))
    assert [row.action for row in rows] == [
        "secret.create", "secret.replace", "connection.create", "connection.delete", "secret.delete", "token.create",
    ]  # fmt: skip
    everything = json.dumps([[row.before, row.after, row.reason, row.subject_name] for row in rows])
    assert "hunter" not in everything
    assert token not in everything


def test_only_what_differs_stands_in_before_and_after():
    locks.set_lock(tenant=default_tenant(), name="gate", capacity=1, description="the gate", by="user:ada")
    locks.set_lock(tenant=default_tenant(), name="gate", capacity=3, by="user:ada")
    locks.set_lock(tenant=default_tenant(), name="gate", capacity=3, by="user:ada")

    assert said("lock.create") == [(None, {"capacity": 1, "description": "the gate"})]
    assert said("lock.update") == [({"capacity": 1}, {"capacity": 3})]


def test_a_source_is_recorded_with_the_names_of_its_secrets():
    secrets.set_secret(tenant=default_tenant(), name="hook", value="hunter2-hunter2", by="ada")
    spec = SourceSpec("shop", "webhook", {"provider": "github"}, {"current": "hook"})
    create_source(tenant=default_tenant(), spec=spec, by="user:ada")
    switch_source(tenant=default_tenant(), slug="shop", enabled=False, by="user:ada")

    (made,) = said("source.create")
    assert made[1]["secrets"] == {"current": "hook"}
    assert said("source.disable") == [({"enabled": True}, {"enabled": False})]


def test_the_same_command_twice_is_one_record(broker):
    job = new_job()
    run = new_run(job)
    new_task_run(run, 0, "ready")

    for _ in range(2):
        jobs.pause_job(job, by="user:ada", reason="maintenance")
        runs.pause_run(run.pk, by="token:ci")
    for _ in range(2):
        runs.cancel_run(run.pk, by="token:ci", reason="wrong day")

    rows = AuditRecord.objects.order_by("action")
    assert [(row.action, row.by, row.surface) for row in rows] == [
        ("job.pause", "user:ada", "admin"),
        ("run.cancel", "token:ci", "api"),
        ("run.pause", "token:ci", "api"),
    ]
    assert said("run.cancel") == [({"state": "running"}, {"stop": "cancelled"})]


def test_what_a_person_starts_is_recorded_and_what_a_token_starts_is_in_the_run(broker):
    for by in ("user:ada", "cli:root", "token:ci", "schedule:nightly"):
        new_job(f"job-{by.partition(':')[0]}")
        runs.start_run(
            tenant=default_tenant(), job_name=f"job-{by.partition(':')[0]}", parameters={}, trigger={"by": by}
        )

    assert sorted(AuditRecord.objects.values_list("action", "by")) == [
        ("run.start", "cli:root"),
        ("run.start", "user:ada"),
    ]


def test_commands_of_the_shell_are_recorded_with_the_login_name():
    call_command("set_lock", "gate", capacity=2, stdout=io.StringIO())

    row = AuditRecord.objects.get(action="lock.create")
    assert row.by.startswith("cli:")
    assert row.surface == "command"


def test_a_long_text_is_kept_by_its_beginning():
    row = record(after={"description": "x" * 5_000})

    assert row.after["description"].endswith("… (5,000 characters)")


# --- read in the admin


def test_the_page_of_a_record_shows_before_and_after_side_by_side(admin_client):
    row = record(before={"capacity": 1}, after={"capacity": 3, "note": "<b>bold</b>"}, reason="more of them")

    page = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()

    cells = page.partition("<thead>")[2]
    assert cells.index("capacity") < cells.index(">1<") < cells.index(">3<")
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "more of them" in page
    assert 'name="_save"' not in page


def test_records_are_found_by_who_what_and_when(admin_client):
    record(by="user:ada", action="job.pause", subject_name="nightly-etl")
    record(by="user:eve", action="secret.replace", subject="secret", subject_name="warehouse")

    for query, found, left_out in (
        ({"by": "user:ada"}, "nightly-etl", "warehouse"),
        ({"action": "secret.replace"}, "warehouse", "nightly-etl"),
        ({"subject": "job"}, "nightly-etl", "warehouse"),
        ({"q": "wareh"}, "warehouse", "nightly-etl"),
        ({"at": "1h"}, "warehouse", "nothing left out"),
    ):
        body = admin_client.get(LIST, query).content.decode().partition("<tbody")[2]
        assert found in body, query
        assert left_out not in body, query
    later = (timezone.now() + timedelta(days=1)).isoformat()
    assert "warehouse" not in admin_client.get(LIST, {"at_from": later}).content.decode().partition("<tbody")[2]


def test_nobody_may_add_change_or_delete_a_record_by_a_page(admin_client):
    row = record()

    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.get(f"{LIST}{row.pk}/delete/").status_code == 403
    assert admin_client.post(f"{LIST}{row.pk}/change/", {"by": "nobody"}).status_code == 403
    assert AuditRecord.objects.get().by == "user:ada"


def test_the_history_of_a_record_leads_to_what_was_recorded_of_it(admin_client):
    job = new_job()

    answer = admin_client.get(reverse("admin:orchestrator_job_history", args=[job.pk]))

    assert answer["Location"] == f"{LIST}?subject=job&subject_id={job.pk}"


def test_a_changed_definition_leads_to_the_comparison_of_its_versions(admin_client, broker):
    for tasks in ((TaskSpec("a", "noop"),), (TaskSpec("b", "noop"),)):
        spec = JobSpec(name="etl", tasks=tasks)
        jobs.apply_definition(tenant=default_tenant(), spec=spec, source="", author="user:ada")
    row = AuditRecord.objects.get(action="job.update")
    old, new = Job.objects.get(name="etl").versions.order_by("number").values_list("pk", flat=True)

    page = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()

    assert f"compare/?old={old}&amp;new={new}" in page


# --- read by the API


def test_the_api_lists_the_records_of_its_tenant_newest_first():
    for number in range(3):
        record(subject_id=number)
    record(tenant_id=Tenant.objects.create(slug="other").pk, subject_id=99)
    record(tenant_id=None, action="user.create", subject="user")
    api = Api(token_text("operate"))

    first = api.get(RECORDS, {"action": "job.pause", "limit": 2}).json()
    second = api.get(RECORDS, {"action": "job.pause", "limit": 2, "cursor": first["next"]}).json()

    assert [row["subject_id"] for row in first["items"] + second["items"]] == ["2", "1", "0"]
    assert second["next"] is None
    assert first["items"][0]["by"] == "user:ada"
    one = api.get(f"{RECORDS}/{first['items'][0]['id']}").json()
    assert one == first["items"][0]


def test_the_api_finds_records_by_every_filter():
    record(by="user:eve", subject_name="nightly-etl", subject_id=7, surface="admin")
    record(by="token:ci", action="run.cancel", subject="run")
    api = Api(token_text("admin"))
    now = timezone.now()

    def found(**query: object) -> list[str]:
        items = api.get(RECORDS, query).json()["items"]
        return sorted(row["action"] for row in items if row["action"] != "token.create")

    assert found(by="user:eve") == found(action="job.*") == found(name="nightly-etl") == ["job.pause"]
    assert found(subject="job", subject_id="7") == found(surface="admin") == ["job.pause"]
    assert found(**{"from": (now - timedelta(hours=1)).isoformat()}) == ["job.pause", "run.cancel"]
    assert found(to=(now - timedelta(hours=1)).isoformat()) == []
    assert api.get(RECORDS, {"from": "yesterday"}).status_code == 400


def test_a_token_for_named_jobs_reads_no_records():
    new_job("mine")

    answer = Api(new_token("admin", jobs=("mine",))[1]).get(RECORDS)

    assert (answer.status_code, answer.json()["code"]) == (403, "out_of_scope")


# --- records of other packages


def test_periodic_tasks_and_groups_are_recorded_by_their_pages(admin_client):
    every = IntervalSchedule.objects.create(every=10, period="seconds")
    form = {"name": "tick", "regtask": "", "task": "celery.backend_cleanup", "enabled": "on", "interval": every.pk,
            "args": "[]", "kwargs": "{}", "headers": "{}"}  # fmt: skip
    add, page = "/admin/django_celery_beat/periodictask/add/", "/admin/django_celery_beat/periodictask/"

    assert admin_client.post(add, form).status_code == 302
    task = PeriodicTask.objects.get(name="tick")
    assert admin_client.post(f"{page}{task.pk}/change/", {**form, "args": "[1]"}).status_code == 302
    assert admin_client.post(page, {"action": "disable_tasks", "_selected_action": [task.pk]}).status_code == 302
    assert admin_client.post(f"{page}{task.pk}/delete/", {"post": "yes"}).status_code == 302
    assert admin_client.post("/admin/auth/group/add/", {"name": "night shift"}).status_code == 302

    ((_, made),) = said("periodic_task.create")
    assert (made["name"], made["enabled"]) == ("tick", True)
    assert [({"args": a["args"]}, {"args": b["args"]}) for a, b in said("periodic_task.update")] == [
        ({"args": "[]"}, {"args": "[1]"})
    ]
    assert said("periodic_task.disable") == [({"enabled": True}, {"enabled": False})]
    assert [after for _, after in said("periodic_task.delete")] == [None]
    assert [after["name"] for _, after in said("group.create")] == ["night shift"]
    assert set(AuditRecord.objects.values_list("by", flat=True)) == {"user:admin"}
