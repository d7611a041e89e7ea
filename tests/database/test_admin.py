from __future__ import annotations

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.models import ApiToken, JobRun, JobVersion, Lease, Lock, Secret
from orchestrator.services.tokens import authenticate
from orchestrator.states import RunState, TaskState
from tests.support.factories import job_of
from tests.support.graphs import drawn
from tests.support.records import (
    default_tenant,
    new_attempt,
    new_job,
    new_run,
    new_task_run,
    new_token,
    new_transition,
)

pytestmark = pytest.mark.django_db
LEDGER = ("job", "jobversion", "jobrun", "taskrun", "attempt", "transition", "lease")
EDITABLE = ("tenant", "secret", "apitoken", "lock")


def path(model: str, rest: str = "") -> str:
    return f"/admin/orchestrator/{model}/{rest}"


def fill(rows: int) -> None:
    job = new_job(tasks=("extract", "load"))
    Lease.objects.create(name="beat", expires_at=timezone.now())
    Lock.objects.create(tenant=default_tenant(), name="primary_db")
    Secret.objects.create(tenant=default_tenant(), name="a", ciphertext=b"x")
    new_token()
    for _ in range(rows):
        run = new_run(job)
        new_attempt(new_task_run(run, 0, TaskState.SUCCEEDED, attempt_count=1))
        new_transition(run, "pending", "running")


@pytest.mark.parametrize("rows", [0, 10])
@pytest.mark.parametrize("model", LEDGER + EDITABLE)
def test_every_list_opens_empty_and_full(admin_client, model, rows):
    if rows:
        fill(rows)

    assert admin_client.get(path(model)).status_code == 200


@pytest.mark.parametrize("model", ["jobrun", "taskrun", "attempt", "transition"])
def test_a_list_of_the_ledger_never_counts_and_costs_the_same_for_any_length(admin_client, model):
    fill(2)
    admin_client.get(path(model))
    counts = []
    for rows in (0, 20):
        job = new_job(f"more-{rows}")
        for _ in range(rows):
            run = new_run(job)
            new_attempt(new_task_run(run, 0))
            new_transition(run, "pending", "running")
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(path(model))
        counts.append(len(captured))
        assert not [q for q in captured if "COUNT(" in q["sql"].upper() and f"orchestrator_{model}" in q["sql"]]

    assert counts[0] == counts[1]


@pytest.mark.parametrize("model", LEDGER)
def test_nobody_adds_changes_or_deletes_the_ledger(admin_client, model):
    fill(1)
    row = next(iter(admin.site._registry[_model(model)].model.objects.all()[:1]))

    assert admin_client.get(path(model, "add/")).status_code == 403
    assert admin_client.post(path(model, f"{row.pk}/change/"), {}).status_code == 403
    assert admin_client.post(path(model, f"{row.pk}/delete/"), {"post": "yes"}).status_code == 403
    assert admin_client.get(path(model, f"{row.pk}/change/")).status_code == 200


def _model(name: str):
    return next(model for model in admin.site._registry if model._meta.label_lower == f"orchestrator.{name}")


def test_the_next_page_is_offered_only_if_there_is_one(admin_client):
    job = new_job()
    for _ in range(51):
        new_run(job)

    first, second = (admin_client.get(path("jobrun", f"?p={page}")) for page in (1, 2))

    assert len(first.context["cl"].result_list) == 50
    assert len(second.context["cl"].result_list) == 1
    assert "?p=2" in first.content.decode()
    assert "?p=3" not in second.content.decode()


@pytest.mark.parametrize("query", ["", "?state__exact=failed"])
@pytest.mark.parametrize("rows", [0, 60])
def test_a_list_that_does_not_count_shows_no_made_up_number(admin_client, rows, query):
    job = new_job()
    for _ in range(rows):
        new_run(job)

    assert "9999999999" not in admin_client.get(path("jobrun", query)).content.decode()


def test_cancel_reports_each_run_and_each_refusal(admin_client):
    job = new_job()
    job.paused_at = timezone.now()
    job.save()
    pending, ended = new_run(job, RunState.PENDING), new_run(job, RunState.SUCCEEDED)

    answer = admin_client.post(
        path("jobrun"),
        {"action": "cancel", "_selected_action": [pending.pk, ended.pk], "confirmed": "yes"},
        follow=True,
    )

    said = [str(message) for message in answer.context["messages"]]
    assert said == [
        f"nightly-etl #{pending.pk}: cancelled",
        f"nightly-etl #{ended.pk}: Run {ended.pk} has already succeeded.",
    ]
    assert JobRun.objects.get(pk=pending.pk).state == "cancelled"


def test_a_person_who_may_only_look_cannot_cancel(client, django_user_model):
    from django.contrib.auth.models import Permission

    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename="view_jobrun"))
    client.force_login(person)
    run = new_run(new_job(), RunState.PENDING)

    client.post(path("jobrun"), {"action": "cancel", "_selected_action": [run.pk], "confirmed": "yes"}, follow=True)

    assert JobRun.objects.get(pk=run.pk).state == "pending"


def test_a_token_made_here_is_shown_once_and_works(admin_client):
    new_job("nightly-etl")

    answer = admin_client.post(
        path("apitoken", "add/"),
        {"tenant": default_tenant().pk, "name": "ci", "scopes": ["trigger"], "job_names": ["nightly-etl"]},
        follow=True,
    )

    plaintext = str(next(iter(answer.context["messages"]))).rpartition(" ")[2]
    token = authenticate(plaintext)
    assert (token.scopes, token.job_names) == (["trigger"], ["nightly-etl"])
    assert plaintext not in admin_client.get(path("apitoken")).content.decode()


def test_a_revoked_token_is_good_for_nothing(admin_client):
    token, plaintext = new_token()

    admin_client.post(path("apitoken"), {"action": "revoke", "_selected_action": [token.pk]})

    assert authenticate(plaintext) is None
    assert ApiToken.objects.get(pk=token.pk).revoked_at is not None


def test_a_secret_is_never_shown_and_says_when_no_key_is_set(admin_client):
    form = {"tenant": default_tenant().pk, "name": "a", "value": "topsecret"}

    answer = admin_client.post(path("secret", "add/"), form)

    assert "UPBEAT_ENCRYPTION_KEYS is not set" in answer.content.decode()
    assert "topsecret" not in answer.content.decode()
    assert not Secret.objects.exists()


def test_the_admins_of_other_packages_wear_the_theme(admin_client):
    for page in ("django_celery_beat/periodictask/add/", "auth/user/add/", "django_celery_beat/crontabschedule/add/"):
        assert "border-base-200" in admin_client.get(f"/admin/{page}").content.decode()


def two_versions() -> tuple[JobVersion, JobVersion]:
    for tasks in ("extract", "extract -> load"):
        job_of(drawn(tasks, name="nightly-etl"))
    first, second = JobVersion.objects.order_by("number")
    return first, second


def test_two_versions_are_compared_on_a_page_in_words_and_as_text(admin_client):
    first, second = two_versions()

    chosen = {"action": "compare", "_selected_action": [second.pk, first.pk]}
    page = admin_client.post(path("jobversion"), chosen, follow=True)

    assert page.redirect_chain == [(path("jobversion", f"compare/?old={first.pk}&new={second.pk}"), 302)]
    assert "add task load (noop) after extract" in page.content.decode()
    assert "+  - name: load" in page.content.decode()
    linked = admin_client.get(path("jobversion", f"{second.pk}/change/")).content.decode()
    assert "What changed since v1" in linked


def test_only_two_versions_of_one_job_are_compared(admin_client, client, django_user_model):
    first, _ = two_versions()
    other = job_of("a", name="other").latest_version

    chosen = {"action": "compare", "_selected_action": [first.pk, other.pk]}
    answers = [
        admin_client.get(path("jobversion", f"compare/?old={first.pk}&new={new}")) for new in (other.pk, 0, "x", 10**30)
    ]

    assert "exactly two versions" in admin_client.post(path("jobversion"), chosen, follow=True).content.decode()
    assert [answer.status_code for answer in answers] == [404] * 4
    client.force_login(django_user_model.objects.create_user("eve", is_staff=True))
    assert client.get(path("jobversion", f"compare/?old={first.pk}&new={first.pk}")).status_code == 403
