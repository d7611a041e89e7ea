from __future__ import annotations

import json

import pytest

from orchestrator.models import Job, JobVersion
from tests.support.api import Api, problems
from tests.support.records import new_job, token_text

pytestmark = pytest.mark.django_db

PIPELINE = """
pipeline:
  - name: data_extract
    schedule: "0 2 * * *"
  - name: data_load
    dependencies: [data_extract]
"""


def definition(*tasks: str, name: str = "nightly-etl", **more: object) -> dict[str, object]:
    return {"kind": "Job", "name": name, "tasks": [{"name": task, "type": "noop"} for task in tasks], **more}


@pytest.fixture
def api() -> Api:
    return Api(token_text("admin"))


def test_a_definition_in_json_creates_a_job_once(api):
    first = api.send("/api/v1/jobs?comment=first", definition("extract"))
    second = api.send("/api/v1/jobs", definition("extract"))

    job = Job.objects.get()
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["items"] == [
        {
            "kind": "Job",
            "name": "nightly-etl",
            "id": job.pk,
            "url": f"http://testserver/api/v1/jobs/{job.pk}",
            "version": 1,
            "outcome": "created",
            "changes": [],
        }
    ]
    assert second.json()["items"][0]["outcome"] == "unchanged"
    assert (JobVersion.objects.get().author, JobVersion.objects.get().comment) == ("token:ci", "first")


def test_a_definition_in_yaml_is_kept_as_it_was_written(api):
    text = "# ours\nkind: Job\nname: nightly-etl\ntasks: [{name: extract, type: noop}]\n"

    api.put_text("/api/v1/jobs/nightly-etl", text)

    assert api.get("/api/v1/jobs/nightly-etl/versions/1/text").content.decode() == text


def test_several_definitions_are_applied_all_or_none(api):
    both = json.dumps(definition("a", name="one")) + "\n---\n" + json.dumps(definition("b", name="two"))
    broken = both.replace('"b"', '"B"')

    refused = api.send("/api/v1/jobs", broken)
    assert (refused.status_code, Job.objects.count()) == (400, 0)

    applied = api.send("/api/v1/jobs", both)
    assert [item["name"] for item in applied.json()["items"]] == ["one", "two"]


def test_a_refused_definition_names_every_problem_with_its_line(api):
    answer = api.put_text(
        "/api/v1/jobs/nightly-etl",
        "kind: Job\nname: nightly-etl\nowner: 5\ntasks:\n  - {name: a, type: noop, depends_on: [b]}\n",
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_definition")
    assert problems(answer) == {
        "owner": "a text (wrong type on line 3)",
        "tasks[0].depends_on[0].task": "one of a (unknown upstream task on line 5)",
    }
    assert not Job.objects.exists()


def test_a_dry_run_says_in_words_what_would_change_and_stores_nothing(api):
    new_job("nightly-etl")

    changed = api.send("/api/v1/jobs?dry_run=true", definition("extract", "load", owner="data"))
    fresh = api.put_text("/api/v1/jobs/other?dry_run=true", json.dumps(definition("a", name="other")))

    (item,) = changed.json()["items"]
    assert (changed.status_code, item["outcome"]) == (200, "updated")
    assert item["changes"] == ['set owner to "data"', "add task load (noop)"]
    assert (fresh.status_code, fresh.json()["outcome"], fresh.json()["id"]) == (200, "created", None)
    assert (Job.objects.count(), JobVersion.objects.count()) == (1, 1)


def test_a_pipeline_takes_its_name_from_the_path(api):
    answer = api.put_text("/api/v1/jobs/daily-load", PIPELINE)

    assert (answer.status_code, answer.json()["name"]) == (201, "daily-load")
    assert "name" in problems(api.send("/api/v1/jobs", PIPELINE))


def test_a_definition_must_be_of_the_job_of_its_path(api):
    job = new_job("nightly-etl")

    by_name = api.put_text("/api/v1/jobs/other", json.dumps(definition("a")))
    by_id = api.put_text(f"/api/v1/jobs/{job.pk}", json.dumps(definition("a")))
    unknown = api.put_text("/api/v1/jobs/99999", json.dumps(definition("a")))

    assert problems(by_name) == {"name": "other, the job of this path"}
    assert (by_id.status_code, unknown.status_code) == (200, 404)


def test_applying_to_an_archived_job_is_refused(api):
    new_job("nightly-etl")
    api.send("/api/v1/jobs/nightly-etl/archive")

    assert api.send("/api/v1/jobs", definition("a")).json()["code"] == "job_archived"


def test_applying_needs_the_scope_admin_for_that_job():
    bodies = definition("a")

    operator = Api(token_text("operate", "read")).send("/api/v1/jobs", bodies)
    elsewhere = Api(token_text("admin", jobs=(new_job("other").name,))).send("/api/v1/jobs", bodies)

    assert (operator.status_code, elsewhere.status_code) == (403, 403)


def test_validation_names_all_problems_and_stores_nothing():
    reader = Api(token_text("read"))
    text = json.dumps(definition("a")) + "\n---\nkind: Job\nname: X\n"

    answer = reader.send("/api/v1/jobs/validation", text)

    assert (answer.status_code, answer.json()["valid"]) == (200, False)
    first, second = answer.json()["definitions"]
    assert first == {"kind": "Job", "name": "nightly-etl", "problems": []}
    assert [(found["path"], found["line"]) for found in second["problems"]] == [("tasks", 3), ("name", 4)]
    assert not Job.objects.exists()


def test_a_job_may_be_called_validation(api):
    assert api.send("/api/v1/jobs", definition("a", name="validation")).status_code == 201
    assert api.get("/api/v1/jobs/validation").json()["name"] == "validation"


def test_a_definition_may_be_larger_than_other_bodies_but_has_an_end(api):
    large = definition("a", description="x" * 3900)
    large["tasks"] += [{"name": f"t{index}", "type": "shell", "command": "x" * 2000} for index in range(600)]

    assert api.send("/api/v1/jobs", large).status_code == 201
    assert api.send("/api/v1/jobs", "#" * (4 * 2**20 + 1)).status_code == 413


def test_two_versions_are_compared_in_words_and_as_text(api):
    for tasks in (("extract",), ("extract", "load")):
        api.send("/api/v1/jobs", definition(*tasks))

    before = api.get("/api/v1/jobs/nightly-etl/versions/2/diff").json()
    after = api.get("/api/v1/jobs/nightly-etl/versions/1/diff?against=2").json()
    same = api.get("/api/v1/jobs/nightly-etl/versions/2/diff?against=2").json()

    assert (before["against"], before["changes"]) == (1, ["add task load (noop)"])
    assert "--- nightly-etl v1\n+++ nightly-etl v2\n" in before["text"]
    assert "+  - name: load\n" in before["text"]
    assert after["changes"] == ["remove task load"]
    assert (same["changes"], same["text"]) == ([], "")


def test_the_first_version_has_none_before_it(api):
    api.send("/api/v1/jobs", definition("extract"))

    answers = [
        api.get(f"/api/v1/jobs/nightly-etl/versions/1/diff{query}") for query in ("", "?against=9", "?against=x")
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (404, "unknown_version"),
        (404, "unknown_version"),
        (400, "invalid_request"),
    ]


def test_an_exported_version_applied_again_changes_nothing(api):
    api.send("/api/v1/jobs", definition("extract", "load", owner="data"))

    text = api.get("/api/v1/jobs/nightly-etl/versions/1/export")
    again = api.put_text("/api/v1/jobs/nightly-etl", text.content.decode())

    assert text["Content-Type"] == "application/yaml"
    assert text.content.decode().startswith("kind: Job\nname: nightly-etl\n")
    assert again.json()["outcome"] == "unchanged"
