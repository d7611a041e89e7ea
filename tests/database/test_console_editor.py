"""The editor of definitions: problems at their lines, nothing stored when wrong, nobody's change lost unseen."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.dag.export import export_yaml
from orchestrator.dag.spec import JobSpec
from orchestrator.models import Job, JobVersion, RoleGrant, Tenant
from orchestrator.services.jobs import apply_definition, archive_job
from tests.support.factories import default_tenant, job_of
from tests.support.graphs import drawn

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

VALID = """\
# Kept with the version, as it was written.
kind: Job
name: nightly
tasks:
  - name: extract
    type: shell
    command: echo 1
"""


def text_of(drawing: str, name: str = "nightly") -> str:
    return export_yaml(drawn(drawing, name=name))


def nightly() -> Job:
    return job_of("a -> b", name="nightly")


def send(client: Client, job: Job | None, text: str, action: str = "save", **fields: Any) -> Any:
    path = f"/admin/jobs/{job.pk}/definition/" if job else "/admin/jobs/new/"
    based_on = {"based_on": job.latest_version.number} if job is not None and job.latest_version else {}
    return client.post(path, {"text": text.replace("\n", "\r\n"), "action": action, **based_on, **fields})


def test_a_job_is_made_of_a_text_which_is_kept_as_it_was_written(admin_client: Client) -> None:
    default_tenant()

    answer = send(admin_client, None, VALID, comment="first")

    version = JobVersion.objects.select_related("job").get()
    assert answer["Location"] == f"/admin/orchestrator/job/{version.job_id}/change/"
    assert (version.job.name, version.source, version.comment, version.author) == (
        "nightly", VALID, "first", "user:admin",
    )  # fmt: skip
    assert VALID in admin_client.get(f"/admin/jobs/{version.job_id}/definition/").content.decode()


def test_each_problem_stands_at_its_line_and_nothing_is_stored(admin_client: Client) -> None:
    wrong = VALID.replace("type: shell", "type: shel").replace("command: echo 1", "retry: {max_attempts: many}")

    answer = send(admin_client, nightly(), wrong)

    assert answer.status_code == 200
    assert [(at.line, at.excerpt, at.problem.path) for at in answer.context["problems"]] == [
        (6, "    type: shel", "tasks[0].type"),
        (7, "    retry: {max_attempts: many}", "tasks[0].retry.max_attempts"),
    ]
    shown = answer.content.decode()
    assert 'data-line="6"' in shown
    assert '--line:6;--length:14"' in shown
    assert "type: shel\n" in shown.replace("\r", "")
    assert JobVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the file is empty"),
        ("kind: Job\nname: [", 2, ""),
        ("kind: Lock\nname: gate\ncapacity: 2\n", 1, "no job"),
        (text_of("a", name="other"), 2, "a job keeps its name"),
        (text_of("a") + "---\n" + text_of("b", name="second"), 6, "more than one definition"),
    ],
)
def test_what_is_no_definition_of_this_job_is_refused_at_its_line(
    admin_client: Client, text: str, line: int, words: str
) -> None:
    answer = send(admin_client, nightly(), text)

    assert answer.status_code == 200
    assert [at.line for at in answer.context["problems"]] == [line]
    assert words in answer.content.decode()
    assert JobVersion.objects.count() == 1


def test_a_check_says_what_saving_would_change_and_stores_nothing(admin_client: Client) -> None:
    answer = send(admin_client, nightly(), text_of("a -> b -> c"), action="check")

    assert "add task c (noop) after b" in answer.content.decode()
    assert JobVersion.objects.count() == 1


def test_a_check_while_somebody_types_answers_with_the_findings_alone(admin_client: Client) -> None:
    job = nightly()

    answer = admin_client.post(
        f"/admin/jobs/{job.pk}/definition/", {"text": "kind: Job", "action": "check"}, headers={"HX-Request": "true"}
    )

    shown = answer.content.decode()
    assert shown.lstrip().startswith('<section class="e-findings"')
    assert 'id="marks"' in shown
    assert "<html" not in shown


def test_a_save_makes_a_version_and_an_equal_one_makes_none(admin_client: Client) -> None:
    job = nightly()

    send(admin_client, job, text_of("a -> c"))
    job.refresh_from_db()
    assert [version.number for version in JobVersion.objects.all()] == [1, 2]

    answer = admin_client.post(
        f"/admin/jobs/{job.pk}/definition/",
        {"text": "# more\n" + text_of("a -> c"), "action": "save", "based_on": 2},
        follow=True,
    )
    assert "Nothing was stored: the content is that of version 2." in answer.content.decode()
    assert JobVersion.objects.count() == 2


def test_an_older_version_is_opened_and_becomes_the_latest_again(admin_client: Client) -> None:
    job = nightly()
    job_of("a -> c", name="nightly")
    page = admin_client.get(f"/admin/jobs/{job.pk}/definition/?version=1")
    assert (page.context["based_on"], "name: b" in page.content.decode()) == (2, True)

    answer = admin_client.post(
        f"/admin/jobs/{job.pk}/definition/?version=1",
        {"text": page.context["text"], "action": "save", "based_on": 2},
        follow=True,
    )

    assert "version 1, which had this content before, is the latest again" in answer.content.decode()
    assert Job.objects.select_related("latest_version").get(pk=job.pk).latest_version.number == 1


def test_a_change_that_came_between_is_not_overwritten_unseen(admin_client: Client) -> None:
    job = nightly()
    job_of("a -> b; z", name="nightly")
    mine = text_of("a -> b -> mine")

    answer = send(admin_client, job, mine)

    assert answer.status_code == 200
    assert "has got version 2 by ada since version 1" in answer.content.decode()
    assert answer.context["text"] == mine
    assert JobVersion.objects.count() == 2

    send(admin_client, job, mine, based_on=answer.context["based_on"])
    assert JobVersion.objects.count() == 3


def test_a_name_that_is_taken_makes_no_second_job(admin_client: Client) -> None:
    nightly()

    answer = send(admin_client, None, VALID)

    assert answer.status_code == 200
    assert [(at.line, at.problem.message) for at in answer.context["problems"]] == [(3, "there is a job of this name")]
    assert JobVersion.objects.count() == 1


def test_archived_and_hidden_jobs_are_here_to_read(admin_client: Client) -> None:
    archived = nightly()
    archive_job(archived, by="ada")
    hidden = apply_definition(
        tenant=default_tenant(), spec=drawn("a", name="rule-r1"), source="", author="ada", managed_by="rule:r1"
    ).job

    for job, words in ((archived, "The job is archived"), (hidden, "belongs to the rule r1")):
        page = admin_client.get(f"/admin/jobs/{job.pk}/definition/").content.decode()
        assert words in page
        assert "readonly" in page
        assert 'value="save"' not in page
        assert send(admin_client, job, text_of("a -> x", name=job.name)).status_code == 200
    assert JobVersion.objects.count() == 2


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 403), ("editor", 302)])
def test_who_may_define_is_decided_by_the_role_in_the_tenant(
    client: Client, django_user_model: Any, role: str, status: int
) -> None:
    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    RoleGrant.objects.create(user=person, tenant=default_tenant(), role=role)
    foreign = Tenant.objects.create(slug="foreign", name="Foreign")
    theirs = apply_definition(tenant=foreign, spec=drawn("a", name="theirs"), source="", author="ada").job
    client.force_login(person)
    job = nightly()

    assert client.get(f"/admin/jobs/{job.pk}/definition/").status_code == 200
    assert send(client, job, text_of("a -> x")).status_code == status
    assert client.get("/admin/jobs/new/").status_code == (200 if role == "editor" else 403)
    assert client.get(f"/admin/jobs/{theirs.pk}/definition/").status_code == 404
    assert send(client, theirs, text_of("x", name="theirs")).status_code == 404
    if role == "editor":
        assert send(client, None, VALID.replace("nightly", "mine"), tenant=foreign.pk).status_code == 404
        assert send(client, None, VALID.replace("nightly", "mine"), tenant=default_tenant().pk).status_code == 302


def test_markup_in_a_text_stays_text(admin_client: Client) -> None:
    answer = send(admin_client, nightly(), 'kind: Job\nname: "</textarea><script>x</script>"\n')

    assert "<script>x" not in answer.content.decode()
    assert "&lt;/textarea&gt;" in answer.content.decode()


def test_a_text_of_a_larger_file_is_edited_as_exported(admin_client: Client) -> None:
    spec = drawn("a -> b", name="nightly")
    job = apply_definition(tenant=default_tenant(), spec=spec, source=VALID, author="ada").job

    text = admin_client.get(f"/admin/jobs/{job.pk}/definition/").context["text"]

    assert text == export_yaml(JobSpec.from_canonical(spec.canonical()))


def test_a_new_job_may_begin_with_another_one(admin_client: Client) -> None:
    job = nightly()

    assert "name: nightly" in admin_client.get(f"/admin/jobs/new/?copy={job.pk}").context["text"]
    assert "name: my-job" in admin_client.get("/admin/jobs/new/?copy=0").context["text"]
