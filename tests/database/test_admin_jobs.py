"""Pages of jobs, versions, task runs and attempts in the admin: what they lead to, and what they show of logs."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.models import Attempt, JobVersion, RoleGrant
from orchestrator.services.jobs import archive_job
from orchestrator.store import log_key, store_of_process
from tests.support.factories import default_tenant, job_of, run_of, task_of
from tests.support.graphs import drawn
from tests.support.simulation import PERMANENT, claim, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def page(client: Client, path: str) -> str:
    answer = client.get(f"/admin/{path}")
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize(
    ("role", "buttons"),
    [("viewer", set()), ("operator", {"trigger-job"}), ("editor", {"trigger-job", "edit-definition", "copy-job"})],
)
def test_the_page_of_a_job_offers_what_the_role_includes(
    client: Client, django_user_model: Any, role: str, buttons: set[str]
) -> None:
    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    RoleGrant.objects.create(user=person, tenant=default_tenant(), role=role)
    client.force_login(person)
    job = job_of("a")

    shown = page(client, f"orchestrator/job/{job.pk}/change/")

    assert {word for word in ("trigger-job", "edit-definition", "copy-job") if f"{word}/" in shown} == buttons
    assert ("new-job/" in page(client, "orchestrator/job/")) == (role == "editor")
    answer = client.get(f"/admin/orchestrator/job/{job.pk}/trigger-job/")
    assert answer.status_code == (403 if role == "viewer" else 302)
    if role != "viewer":
        assert answer["Location"] == f"/admin/jobs/{job.pk}/trigger/"


def test_the_list_of_jobs_leads_to_the_form_of_each_that_can_run(admin_client: Client) -> None:
    active, archived = job_of("a"), job_of("a")
    archive_job(archived, by="ada")

    shown = page(admin_client, "orchestrator/job/")

    assert f"/admin/jobs/{active.pk}/trigger/" in shown
    assert f"/admin/jobs/{archived.pk}/trigger/" not in shown


def test_an_attempt_shows_the_end_of_its_log_as_text(admin_client: Client) -> None:
    run = run_of("a")
    run_task(run, "a", PERMANENT)
    attempt = Attempt.objects.get(task_run__run=run)
    key = log_key(run.pk, attempt.pk)
    # Ids come again in other tests, the store stays.
    store_of_process().delete_runs([run.pk])
    store_of_process().append(key, b"".join(b"line %d\n" % number for number in range(20_000)))
    store_of_process().append(key, b"<script>alert(1)</script>\n")

    shown = page(admin_client, f"orchestrator/attempt/{attempt.pk}/change/")

    assert "line 19999\n&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "line 1\n" not in shown
    assert "The last 63 of" in shown
    assert f"/admin/runs/{run.pk}/attempts/{attempt.pk}/log/?download" in shown
    assert "&lt;script&gt;" in page(admin_client, f"orchestrator/taskrun/{attempt.task_run_id}/change/")


def test_a_task_run_names_its_attempts_and_says_where_a_log_is_followed(admin_client: Client) -> None:
    run = run_of("a -> b")
    claim(run, "a")
    store_of_process().delete_runs([run.pk])
    running, waiting = task_of(run, "a"), task_of(run, "b")

    shown = page(admin_client, f"orchestrator/taskrun/{running.pk}/change/")

    assert "attempt 1" in shown
    assert "It has written nothing yet." in shown
    assert f'/admin/runs/{run.pk}/?task=a">a in run #{run.pk}</a> follows the log' in shown
    assert "No worker has tried it yet." in page(admin_client, f"orchestrator/taskrun/{waiting.pk}/change/")


def test_two_versions_stand_side_by_side_with_what_differs_within_a_line(admin_client: Client) -> None:
    for tasks in ("extract -> load", "extract -> load; load: attempts=3", "extract"):
        job_of(drawn(tasks, name="nightly"))
    one, two, three = JobVersion.objects.order_by("number")

    shown = page(admin_client, f"orchestrator/jobversion/compare/?old={one.pk}&new={two.pk}")
    assert 'class="d-added"' in shown
    assert "max_attempts: 3" in shown

    shown = page(admin_client, f"orchestrator/jobversion/compare/?old={two.pk}&new={three.pk}")
    assert 'class="d-removed"' in shown
    assert f'<option value="{one.pk}">v1</option>' in shown
    assert f"/admin/jobs/{one.job_id}/definition/?version=2" in shown


def test_a_version_is_opened_in_the_editor(admin_client: Client) -> None:
    version = job_of("a").latest_version
    assert version is not None

    answer = admin_client.get(f"/admin/orchestrator/jobversion/{version.pk}/open-editor/")

    assert answer["Location"] == f"/admin/jobs/{version.job_id}/definition/?version=1"
