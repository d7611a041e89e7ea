"""The trigger form: it is drawn from the job, each problem stands at its field, and one form starts one run."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.dag.spec import ParameterSpec
from orchestrator.models import Job, JobRun, RoleGrant, Secret
from orchestrator.services.jobs import archive_job, pause_job
from tests.support.factories import default_tenant, job_of, run_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

PARAMETERS = (
    ParameterSpec("region", "enum", values=("eu", "us"), required=True),
    ParameterSpec("day", "date", default="${biz_date}", has_default=True),
    ParameterSpec("rows", "integer", default=100, has_default=True),
    ParameterSpec("key", "secret"),
    ParameterSpec("options", "object"),
    ParameterSpec("note", "string"),
)


def a_job(**fields: Any) -> Job:
    return job_of("a", parameters=PARAMETERS, **fields)


def form_of(client: Client, job: Job, query: str = "") -> dict[str, str]:
    """The page's fields as a browser would send them back."""
    context = client.get(f"/admin/jobs/{job.pk}/trigger/{query}").context
    return {
        **{field.name: field.value for field in context["fields"]},
        "form_key": context["form_key"],
        "version": str(context["version"].number),
        "reason": "",
    }


def send(client: Client, job: Job, form: dict[str, str]) -> Any:
    return client.post(f"/admin/jobs/{job.pk}/trigger/", form)


def test_a_form_starts_a_run_with_what_its_fields_show(admin_client: Client) -> None:
    Secret.objects.create(tenant=default_tenant(), name="warehouse", ciphertext=b"x")
    job = a_job()
    form = form_of(admin_client, job)

    answer = send(
        admin_client,
        job,
        {**form, "param.region": "us", "param.key": "warehouse", "param.options": '{"a": 1}', "reason": "asked by ada"},
    )

    run = JobRun.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/admin/runs/{run.pk}/")
    assert {**run.parameters, "day": "…"} == {
        "region": "us", "day": "…", "rows": 100, "key": {"secret": "warehouse"}, "options": {"a": 1},
    }  # fmt: skip
    assert run.trigger == {"kind": "manual", "by": "user:admin", "reason": "asked by ada"}


def test_each_problem_stands_at_its_field_and_nothing_is_lost_or_started(admin_client: Client) -> None:
    job = a_job()
    wrong = {"param.rows": "many", "param.options": "{", "param.note": "<b>kept</b>", "param.day": "soon"}

    answer = send(admin_client, job, {**form_of(admin_client, job), **wrong})
    assert answer.status_code == 200
    problems = {field.spec.name: field.problem for field in answer.context["problem_fields"]}
    assert problems == {
        "region": "expected a value: the parameter is required, one of eu, us",
        "day": '"soon": expected a date such as 2026-12-01',
        "rows": '"many": expected an integer of at most 64 bits',
        "options": "not JSON: Expecting property name enclosed in double quotes in line 1, column 2; expected a mapping",
    }
    shown = answer.content.decode()
    assert 'aria-invalid="true"' in shown
    assert "&lt;b&gt;kept&lt;/b&gt;" in shown
    assert not JobRun.objects.exists()


def test_a_form_that_is_sent_twice_starts_one_run_and_with_other_values_another(admin_client: Client) -> None:
    job = a_job()
    form = {**form_of(admin_client, job), "param.region": "eu"}

    first, second = send(admin_client, job, form), send(admin_client, job, form)
    assert first["Location"] == second["Location"]
    assert JobRun.objects.count() == 1

    send(admin_client, job, {**form, "param.region": "us"})
    send(admin_client, job, {**form_of(admin_client, job), "param.region": "eu"})
    assert JobRun.objects.count() == 3


def test_a_form_of_an_older_version_is_shown_again(admin_client: Client) -> None:
    job = a_job()
    form = {**form_of(admin_client, job), "param.region": "eu"}
    job_of("a -> b", name=job.name, parameters=PARAMETERS)

    answer = send(admin_client, job, form)

    assert answer.status_code == 200
    assert "it is at version 2 now" in answer.content.decode()
    assert 'value="eu" selected' in answer.content.decode()
    assert not JobRun.objects.exists()


def test_a_paused_a_full_and_an_archived_job_say_so_before(admin_client: Client) -> None:
    paused, full, archived = a_job(), job_of("a", limit=1, when_full="skip"), a_job()
    pause_job(paused, by="ada", reason="source is down")
    run_of(full)
    archive_job(archived, by="ada")

    def page(job: Job) -> str:
        return admin_client.get(f"/admin/jobs/{job.pk}/trigger/").content.decode()

    assert "paused by ada (source is down)" in page(paused)
    assert "1 run is open, and the job takes 1 at a time: a further one ends cancelled at once" in page(full)
    assert "starts no more runs" in page(archived)
    assert "form_key" not in page(archived)
    assert send(admin_client, archived, {"param.region": "eu"}).status_code == 200


def test_a_form_begins_with_the_parameters_of_an_earlier_run(admin_client: Client) -> None:
    job = a_job()
    run = run_of(job, parameters={"region": "us", "rows": 7, "note": "two\nlines"})

    form = form_of(admin_client, job, f"?from_run={run.pk}")

    assert (form["param.region"], form["param.rows"], form["param.note"]) == ("us", "7", "two\nlines")
    assert form_of(admin_client, job_of("a"), f"?from_run={run.pk}").keys() == {"form_key", "version", "reason"}


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 302), (None, 404)])
def test_who_may_trigger_is_decided_by_the_role_in_the_tenant(
    client: Client, django_user_model: Any, role: str | None, status: int
) -> None:
    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    if role is not None:
        RoleGrant.objects.create(user=person, tenant=default_tenant(), role=role)
    client.force_login(person)

    assert send(client, a_job(), {"param.region": "eu"}).status_code == status
    assert JobRun.objects.count() == (status == 302)


def test_a_job_that_is_not_there_has_no_form(admin_client: Client) -> None:
    assert [admin_client.get(f"/admin/jobs/{pk}/trigger/").status_code for pk in (0, 10**30)] == [404, 404]
