from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from orchestrator.errors import JobManaged
from orchestrator.models import Job
from orchestrator.selectors.jobs import jobs_of, single_tasks_of
from orchestrator.services.jobs import (
    JobExists,
    apply_definition,
    archive_job,
    pause_job,
    restore_job,
    resume_job,
)
from tests.support.factories import default_tenant, job_of
from tests.support.graphs import drawn

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

OWNER = "rule:orders"


def hidden(drawing: str = "a") -> Job:
    spec = drawn(drawing, name="rule-orders")
    return apply_definition(tenant=default_tenant(), spec=spec, source="", author="ada", managed_by=OWNER).job


def names(page: Any) -> list[str]:
    return [job.name for job in page.items]


def test_lists_leave_hidden_jobs_out_unless_they_are_asked_for() -> None:
    own = job_of("a", name="own")
    hidden()

    assert names(jobs_of(own.tenant_id)) == ["own"]
    assert names(jobs_of(own.tenant_id, managed=True)) == ["rule-orders"]
    assert "rule-orders" not in names(single_tasks_of(own.tenant_id))


@pytest.mark.parametrize("command", [pause_job, resume_job, archive_job, restore_job])
def test_only_the_owner_of_a_hidden_job_steers_it(command: Callable[..., Job]) -> None:
    job = hidden()

    with pytest.raises(JobManaged, match="belongs to the rule 'orders'"):
        command(job, by="ada")

    command(job, by="ada", managed_by=OWNER)


def test_nobody_else_applies_a_definition_under_the_name_of_a_hidden_job() -> None:
    job = hidden()

    with pytest.raises(JobManaged, match="belongs to the rule 'orders'"):
        apply_definition(tenant=default_tenant(), spec=drawn("b", name="rule-orders"), source="", author="eve")

    job.refresh_from_db()
    assert job.versions.count() == 1


def test_an_owner_does_not_take_over_a_job_that_people_made() -> None:
    mine = job_of("a", name="rule-orders")

    with pytest.raises(JobExists, match="made by hand"):
        hidden()

    mine.refresh_from_db()
    assert (mine.managed_by, mine.versions.count()) == ("", 1)


def test_a_hidden_job_that_was_archived_comes_back_when_its_owner_applies_it() -> None:
    archive_job(hidden(), by="ada", managed_by=OWNER)

    job = hidden("a -> b")

    assert (job.archived_at, job.versions.count()) == (None, 2)


def test_the_list_of_the_admin_leaves_hidden_jobs_out_until_they_are_chosen(admin_client: Client) -> None:
    job_of("a", name="own")
    job = hidden()

    assert "rule-orders" not in admin_client.get("/admin/orchestrator/job/").text
    assert "rule-orders" in admin_client.get("/admin/orchestrator/job/?hidden=yes").text
    assert admin_client.get(f"/admin/orchestrator/job/{job.pk}/change/").status_code == 200
