"""Role × action over the admin's pages, its commands and the console; the API has the same table in test_api_access.

Everything stands in two tenants: `team-0`, in which the person has a role, and `team-1`, in which not.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from orchestrator.conf import options
from orchestrator.errors import OutOfScope
from orchestrator.models import (
    AuditRecord,
    Connection,
    Job,
    JobRun,
    Lock,
    RoleGrant,
    Secret,
    TaskRun,
    Tenant,
    Transition,
)
from orchestrator.roles import Action, Role
from orchestrator.services import access, people
from orchestrator.states import RunState, TaskState
from tests.support.admin_rows import fill
from tests.support.api import Api
from tests.support.records import new_job, new_run, new_task_run, new_token, token_text
from triggers.models import DeadLetter, EventSource, TriggerRule

pytestmark = pytest.mark.django_db
ROLES = (None, *Role)
#: Which lists a role opens first; the others are open from viewer on.
OPENED_FIRST_BY = {
    "orchestrator.auditrecord": Role.OPERATOR,
    "orchestrator.apitoken": Role.ADMIN,
    "orchestrator.rolegrant": Role.ADMIN,
}
#: Of the installation, not of a tenant: for those who have a role everywhere, or are superusers.
OF_NO_TENANT = ("auth.user", "auth.group")


@pytest.fixture
def teams(broker: Any) -> tuple[Tenant, Tenant]:
    """Two tenants with one of everything each."""
    fill(0, 2)
    ours, theirs = Tenant.objects.get(slug="team-0"), Tenant.objects.get(slug="team-1")
    return ours, theirs


def person(role: str | None, tenant: Tenant | None, name: str = "eve") -> User:
    user = User.objects.create_user(name, password="a long enough password", is_staff=True)
    if role is not None:
        people.grant_role(user=user, role=role, tenant=tenant, by="cli:test")
    return user


def signed_in(user: User) -> Client:
    client = Client(raise_request_exception=True)
    client.force_login(user)
    return client


def at_least(role: str | None, least: Role) -> bool:
    return role is not None and list(Role).index(Role(role)) >= list(Role).index(least)


def lists() -> list[Any]:
    ours = ("orchestrator", "triggers", "auth")
    return [model for model in admin.site._registry if model._meta.app_label in ours]


def url_of(model: Any, page: str = "changelist", *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


# --- pages


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_the_lists_that_it_may_see_and_no_other(teams, role):
    client = signed_in(person(role, teams[0]))
    opened = {model._meta.label_lower: client.get(url_of(model)).status_code for model in lists()}

    for label, status in opened.items():
        least = OPENED_FIRST_BY.get(label, Role.VIEWER)
        expected = 403 if label in OF_NO_TENANT or not at_least(role, least) else 200
        assert status == expected, f"{role} opens {label}"


def test_an_admin_of_one_tenant_sees_nothing_of_another_in_any_list_or_page(teams):
    ours, theirs = teams
    client = signed_in(person(Role.ADMIN, ours))
    for model in lists():
        label = model._meta.label_lower
        if label not in access.TENANT_PATHS:
            continue
        path = access.TENANT_PATHS[label]
        hidden = model._default_manager.filter(**{path: theirs.pk}).first()
        shown = model._default_manager.filter(**{path: ours.pk}).first()
        assert hidden is not None, f"no rows of {label} in the other tenant"
        assert shown is not None, f"no rows of {label} in ours"

        page = client.get(url_of(model)).content.decode()
        assert "team-1" not in page, f"the list of {label} tells of the other tenant"
        assert client.get(url_of(model, "change", shown.pk)).status_code == 200, label
        # As for a number that there is none of.
        assert client.get(url_of(model, "change", hidden.pk)).status_code == 302, label


def test_facts_of_another_tenant_are_not_listed(teams):
    ours, theirs = teams
    job = Job.objects.get(tenant=theirs, name__startswith="export")
    Transition.objects.create(at=job.created_at, subject="job", subject_id=job.pk, to_state="paused", reason="secretly")
    mine = Job.objects.get(tenant=ours, name__startswith="export")
    Transition.objects.create(at=job.created_at, subject="job", subject_id=mine.pk, to_state="paused", reason="openly")

    page = signed_in(person(Role.VIEWER, ours)).get(url_of(Transition), {"subject": "job"}).content.decode()

    assert "openly" in page
    assert "secretly" not in page


def test_a_choice_of_tenants_and_of_related_rows_offers_only_ones_own(teams):
    ours, _ = teams
    client = signed_in(person(Role.ADMIN, ours))

    for model in (Lock, Secret, Connection, TriggerRule, EventSource):
        page = client.get(url_of(model, "add")).content.decode()
        assert "team-0" in page
        assert "team-1" not in page, model


def test_a_row_is_not_put_into_another_tenant_by_a_forged_choice(teams):
    ours, theirs = teams
    client = signed_in(person(Role.EDITOR, ours))

    answer = client.post(url_of(Lock, "add"), {"tenant": theirs.pk, "name": "gate", "capacity": 1, "description": ""})

    assert answer.status_code == 200
    assert not Lock.objects.filter(name="gate").exists()


@pytest.mark.parametrize("role", ROLES)
def test_the_console_opens_for_whoever_may_look(teams, role):
    client = signed_in(person(role, teams[0]))
    own, other = (JobRun.objects.filter(tenant=tenant).first() for tenant in teams)
    asked = 200 if role is not None else (403, 404)

    for name in ("console_run", "console_transitions"):
        found = client.get(reverse(f"admin:{name}", args=[own.pk])).status_code
        assert found == asked if isinstance(asked, int) else found in asked, name
        assert client.get(reverse(f"admin:{name}", args=[other.pk])).status_code in (403, 404), name


def test_the_first_page_tells_who_has_no_role_whom_to_ask(teams):
    User.objects.create_superuser("grace", password="x")

    page = signed_in(person(None, None)).get("/admin/").content.decode()

    assert "grace" in page


# --- commands: who may leaves a record, who may not leaves none


@dataclass(frozen=True)
class Command:
    """Something done in the admin: the first role that may, and the record that it leaves."""

    least: Role
    record: str
    send: Callable[[Client, Tenant], Any]


def chosen(model: Any, action: str, find: Callable[[Tenant], Any], **more: Any) -> Callable[[Client, Tenant], Any]:
    def send(client: Client, tenant: Tenant) -> Any:
        row = find(tenant)
        data = {"action": action, "_selected_action": [row.pk], "confirmed": "yes", "reason": "because", **more}
        return client.post(url_of(model), data)

    return send


def added(model: Any, **fields: Any) -> Callable[[Client, Tenant], Any]:
    return lambda client, tenant: client.post(url_of(model, "add"), {"tenant": tenant.pk, **fields})


def running(tenant: Tenant) -> JobRun:
    run = new_run(new_job(f"work-{tenant.slug}-{JobRun.objects.count()}", tenant=tenant))
    new_task_run(run, 0, TaskState.READY)
    return run


def failed(tenant: Tenant) -> JobRun:
    run = new_run(new_job(f"work-{tenant.slug}-{JobRun.objects.count()}", tenant=tenant), RunState.FAILED)
    new_task_run(run, 0, TaskState.FAILED)
    return run


def job_of(tenant: Tenant) -> Job:
    return Job.objects.get(tenant=tenant, name__startswith="export")


def on_console(name: str, find: Callable[[Tenant], Any], *more: Any, **data: Any) -> Callable[[Client, Tenant], Any]:
    def send(client: Client, tenant: Tenant) -> Any:
        return client.post(reverse(f"admin:{name}", args=[find(tenant).pk, *more]), data)

    return send


def defines(client: Client, tenant: Tenant) -> Any:
    job = job_of(tenant)
    text = f"kind: Job\nname: {job.name}\ntasks:\n  - name: other\n    type: noop\n"
    url = reverse("admin:console_job_definition", args=[job.pk])
    return client.post(url, {"action": "save", "text": text, "based_on": "1"})


def gives_a_role(client: Client, tenant: Tenant) -> Any:
    User.objects.get_or_create(username="newcomer")
    return client.post(url_of(RoleGrant, "add"), {"username": "newcomer", "tenant": tenant.pk, "role": "viewer"})


COMMANDS = {
    "cancel runs": Command(Role.OPERATOR, "run.cancel", chosen(JobRun, "cancel", running)),
    "cancel a run on its page": Command(Role.OPERATOR, "run.cancel", on_console("console_command", running, "cancel")),
    "pause a run on its page": Command(Role.OPERATOR, "run.pause", on_console("console_command", running, "pause")),
    "run again": Command(Role.OPERATOR, "run.rerun", chosen(JobRun, "rerun_failed", failed)),
    "skip tasks": Command(
        Role.OPERATOR, "task.skip", chosen(TaskRun, "skip", lambda tenant: running(tenant).task_runs.get())
    ),
    "trigger a job": Command(Role.OPERATOR, "run.start", on_console("console_trigger", job_of)),
    "pause jobs": Command(Role.OPERATOR, "job.pause", chosen(Job, "pause", job_of)),
    "disable rules": Command(
        Role.OPERATOR, "rule.disable", chosen(TriggerRule, "disable", lambda t: TriggerRule.objects.get(tenant=t))
    ),
    "discard dead letters": Command(
        Role.OPERATOR, "dead_letter.discard", chosen(DeadLetter, "discard", lambda t: DeadLetter.objects.get(tenant=t))
    ),
    "archive jobs": Command(Role.EDITOR, "job.archive", chosen(Job, "archive", job_of)),
    "change a definition": Command(Role.EDITOR, "job.update", defines),
    "define a lock": Command(Role.EDITOR, "lock.create", added(Lock, name="gate", capacity=2, description="")),
    "make a rule": Command(
        Role.EDITOR,
        "rule.create",
        added(TriggerRule, definition="ruleId: new\neventType: a.b\ntaskName: sync\n", comment=""),
    ),
    "delete rules": Command(
        Role.EDITOR, "rule.delete", chosen(TriggerRule, "delete_chosen", lambda t: TriggerRule.objects.get(tenant=t))
    ),
    "delete sources": Command(
        Role.EDITOR, "source.delete", chosen(EventSource, "delete_chosen", lambda t: EventSource.objects.get(tenant=t))
    ),
    "store a connection": Command(
        Role.ADMIN, "connection.create", added(Connection, name="db", url="sqlite:////var/data/a.sqlite3", description="")
    ),
    "make a token": Command(Role.ADMIN, "token.create", lambda client, tenant: client.post(
        "/admin/orchestrator/apitoken/add/",
        {"tenant": tenant.pk, "name": "new", "scopes": ["read"], "expires_at_0": "", "expires_at_1": ""},
    )),
    "give a role": Command(Role.ADMIN, "role.grant", gives_a_role),
    "change a tenant": Command(Role.ADMIN, "tenant.update", lambda client, tenant: client.post(
        url_of(Tenant, "change", tenant.pk),
        {"slug": tenant.slug, "name": "New name", "timezone": "UTC", "parameters": "{}", "allowed_networks": ""},
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_for_the_roles_of_the_table_in_their_tenant(teams, monkeypatch, name):
    keys = (Fernet.generate_key().decode(),)
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})
    ours, theirs = teams
    command = COMMANDS[name]

    def records(role: Role | None, tenant: Tenant | None) -> int:
        user = person(role, tenant, name=f"{role}-{tenant}")
        mine = AuditRecord.objects.filter(by=f"user:{user.username}", action=command.record)
        command.send(signed_in(user), ours)
        return mine.count()

    # From the least to the most: what is done once may not be possible twice.
    below = [role for role in ROLES if not at_least(role, command.least)]
    assert [records(role, ours) for role in below] == [0] * len(below), "a role that may not"
    assert records(Role.ADMIN, theirs) == 0, "an admin of another tenant"
    assert records(command.least, ours) == 1, "the first role that may"


def test_what_is_chosen_in_two_tenants_is_done_where_the_role_allows_it(teams):
    ours, theirs = teams
    user = person(Role.OPERATOR, ours)
    people.grant_role(user=user, role=Role.VIEWER, tenant=theirs, by="cli:test")
    runs = [running(ours), running(theirs)]

    page = signed_in(user).post(
        url_of(JobRun),
        {"action": "cancel", "_selected_action": [run.pk for run in runs], "confirmed": "yes"},
        follow=True,
    )

    assert [JobRun.objects.get(pk=run.pk).state for run in runs] == ["cancelled", "running"]
    assert "your role in its tenant does not include this" in page.content.decode()


# --- rights themselves


def test_a_role_everywhere_counts_in_every_tenant_and_adds_to_that_in_one(teams):
    ours, theirs = teams
    user = person(Role.VIEWER, None)
    people.grant_role(user=user, role=Role.EDITOR, tenant=ours, by="cli:test")

    assert access.tenants_of(user, Action.VIEW) is None
    assert access.tenants_of(user, Action.DEFINE) == {ours.pk}
    assert access.may(user, Action.VIEW, theirs.pk)
    assert not access.may(user, Action.DEFINE, theirs.pk)


def test_who_was_switched_off_may_nothing_and_a_superuser_all(teams):
    off = person(Role.ADMIN, None)
    off.is_active = False
    root = User.objects.create_superuser("root", password="x")

    assert not any(access.may(off, action, teams[0].pk) for action in Action)
    assert all(access.may(root, action, teams[0].pk) for action in Action)
    assert not access.may(None, Action.VIEW, teams[0].pk)


def test_a_token_may_what_its_scopes_say_in_its_own_tenant(teams):
    ours, theirs = teams
    token = new_token("read", tenant=ours)[0]

    assert access.tenants_of(token, Action.VIEW) == {ours.pk}
    assert access.tenants_of(token, Action.STEER) == frozenset()
    access.require(token, Action.VIEW, ours.pk)
    for action, tenant in ((Action.STEER, ours), (Action.VIEW, theirs)):
        with pytest.raises(OutOfScope):
            access.require(token, action, tenant.pk)


def test_a_permission_of_the_framework_counts_in_every_tenant(teams):
    user = person(None, None)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_jobrun", "change_jobrun"]))
    user = User.objects.get(pk=user.pk)

    assert user.has_perm("orchestrator.steer_jobrun")
    assert not user.has_perm("orchestrator.view_job")
    page = signed_in(user).get(url_of(JobRun)).content.decode()
    assert page.count("export-of-all-customer-orders") >= 2


def test_a_page_reads_the_grants_of_a_person_once(teams):
    client = signed_in(person(Role.OPERATOR, teams[0]))

    with CaptureQueriesContext(connection) as captured:
        client.get(url_of(JobRun))

    asked = [query["sql"] for query in captured if "rolegrant" in query["sql"] or "auth_permission" in query["sql"]]
    assert len(asked) == 1


def test_a_trigger_call_asks_for_no_role_and_writes_no_record(broker):
    new_job("nightly-etl")
    api = Api(token_text("trigger"))
    api.send("/v1/jobs/trigger", {"jobName": "nightly-etl"})

    with CaptureQueriesContext(connection) as captured:
        assert api.send("/v1/jobs/trigger", {"jobName": "nightly-etl"}).status_code == 202

    assert not [query for query in captured if "rolegrant" in query["sql"] or "auditrecord" in query["sql"]]


# --- people


def test_an_admin_of_a_tenant_gives_roles_there_and_nowhere_else(teams):
    ours, theirs = teams
    client = signed_in(person(Role.ADMIN, ours))
    User.objects.create(username="newcomer")

    for tenant in (theirs.pk, ""):
        answer = client.post(url_of(RoleGrant, "add"), {"username": "newcomer", "tenant": tenant, "role": "admin"})
        assert answer.status_code == 200
    assert not RoleGrant.objects.filter(user__username="newcomer").exists()

    client.post(url_of(RoleGrant, "add"), {"username": "newcomer", "tenant": ours.pk, "role": "editor"})
    assert RoleGrant.objects.get(user__username="newcomer").role == "editor"
    assert User.objects.get(username="newcomer").is_staff


def test_who_runs_the_installation_makes_people_but_no_superusers(teams):
    boss = person(Role.ADMIN, None, name="boss")
    root = User.objects.create_superuser("root", password="x")
    client = signed_in(boss)

    page = client.get(url_of(User, "change", boss.pk)).content.decode()
    assert 'name="is_superuser"' not in page
    grants = {"role_grants-TOTAL_FORMS": 0, "role_grants-INITIAL_FORMS": 0}
    person_form = {"username": "boss", "is_active": "on", "is_staff": "on", "is_superuser": "on", **grants}
    client.post(url_of(User, "change", boss.pk), person_form)
    assert not User.objects.get(pk=boss.pk).is_superuser

    client.post(url_of(User, "change", root.pk), {**person_form, "username": "taken-over"})
    client.post(
        reverse("admin:auth_user_password_change", args=[root.pk]), {"password1": "q" * 20, "password2": "q" * 20}
    )
    root.refresh_from_db()
    assert root.username == "root"
    assert root.check_password("x")


def test_roles_are_given_changed_and_taken_away_on_the_page_of_a_person(admin_client, teams):
    ours, theirs = teams
    user = person(Role.VIEWER, ours, name="ada")
    held = user.role_grants.get()
    form = {"username": "ada", "is_active": "on", "is_staff": "on"}
    rows = {
        "role_grants-TOTAL_FORMS": 2,
        "role_grants-INITIAL_FORMS": 1,
        "role_grants-0-id": held.pk,
        "role_grants-0-user": user.pk,
        "role_grants-0-tenant": ours.pk,
        "role_grants-0-role": "operator",
        "role_grants-1-id": "",
        "role_grants-1-user": user.pk,
        "role_grants-1-tenant": theirs.pk,
        "role_grants-1-role": "editor",
    }

    answer = admin_client.post(url_of(User, "change", user.pk), {**form, **rows})

    assert answer.status_code == 302, answer.context["errors"]
    assert set(user.role_grants.values_list("tenant__slug", "role")) == {("team-0", "operator"), ("team-1", "editor")}
    said = AuditRecord.objects.filter(action="role.grant", by="user:admin").order_by("pk")
    assert [(row.tenant_id, row.before, row.after) for row in said] == [
        (ours.pk, {"role": "viewer"}, {"role": "operator"}),
        (theirs.pk, None, {"role": "editor"}),
    ]


# --- the door


def test_nobody_sees_a_page_without_signing_in(teams):
    run = JobRun.objects.first()
    for url in ("/admin/", url_of(JobRun), url_of(AuditRecord), reverse("admin:console_run", args=[run.pk])):
        answer = Client().get(url)
        assert answer.status_code == 302
        assert answer["Location"].startswith("/admin/login/?next=/admin/")


@pytest.mark.parametrize("next_page", ["https://elsewhere.example/", "//elsewhere.example/", "javascript:alert(1)"])
def test_signing_in_leads_nowhere_else(teams, next_page):
    person(Role.VIEWER, teams[0])

    answer = Client().post(
        f"/admin/login/?next={next_page}",
        {"username": "eve", "password": "a long enough password", "next": next_page},
    )

    assert answer.status_code == 302
    assert answer["Location"] == "/admin/"


def test_a_command_without_the_token_of_its_form_is_refused(teams):
    client = Client(enforce_csrf_checks=True)
    client.force_login(person(Role.ADMIN, teams[0]))
    run = running(teams[0])

    for url, data in (
        (reverse("admin:console_command", args=[run.pk, "cancel"]), {}),
        (url_of(JobRun), {"action": "cancel", "_selected_action": [run.pk], "confirmed": "yes"}),
        (url_of(Lock, "add"), {"tenant": teams[0].pk, "name": "gate", "capacity": 1}),
    ):
        assert client.post(url, data).status_code == 403
    assert JobRun.objects.get(pk=run.pk).state == "running"


def test_a_role_is_given_and_taken_away_from_the_shell(teams):
    ours, _ = teams
    user = User.objects.create(username="ada")
    said = io.StringIO()

    call_command("grant_role", "ada", "operator", tenant="team-0", reason="on call", stdout=said)
    call_command("grant_role", "ada", "viewer", everywhere=True, stdout=said)
    assert set(user.role_grants.values_list("tenant_id", "role")) == {(ours.pk, "operator"), (None, "viewer")}

    call_command("grant_role", "ada", "none", everywhere=True, stdout=said)
    assert user.role_grants.get().role == "operator"
    for wrong in (["nobody", "viewer"], ["ada", "none"]):
        with pytest.raises(CommandError):
            call_command("grant_role", *wrong, everywhere=True, stdout=said)
    row = AuditRecord.objects.get(action="role.grant", reason="on call")
    assert (row.by.partition(":")[0], row.surface, row.after) == ("cli", "command", {"role": "operator"})


def test_a_page_that_is_not_for_a_role_says_so_and_leads_back(teams):
    page = signed_in(person(Role.VIEWER, teams[0])).get(url_of(AuditRecord))

    assert page.status_code == 403
    assert "Your role does not include this page" in page.content.decode()
    assert 'href="/admin/"' in page.content.decode()
