from __future__ import annotations

import json
import subprocess

import jsonschema_rs
import pytest
import yaml

from orchestrator.dag.spec import JobSpec
from orchestrator.models import Job, Template, Transition
from orchestrator.services.tokens import DEFAULT_SCOPES
from tests.support.api import Api, problems
from tests.support.records import new_job, token_text

pytestmark = pytest.mark.django_db
PATH = "/api/v1/templates"
#: As the contract has it.
BACKUP = """\
template_name: database_backup
description: 数据库备份任务标准模板
parameters:
  - {name: database_host, type: string, required: true}
  - {name: backup_path, type: path, default: /data/backup}
  - {name: retention_days, type: integer, default: 7}
task_definition:
  schedule: "0 2 * * *"
  timeout: 7200
  retry_times: 2
  command: |
    mysqldump -h ${database_host} -u backup_user --single-transaction --routines --triggers --all-databases > ${backup_path}/backup_$(date +%Y%m%d).sql
"""


@pytest.fixture
def api() -> Api:
    return Api(token_text("admin"))


def make(api: Api, **values: object):
    return api.send(f"{PATH}/database_backup/jobs", {"name": "backup-db1", "parameters": values})


def test_the_template_of_the_contract_is_stored_and_shown_word_for_word(api):
    made = api.put_text(f"{PATH}/database_backup", BACKUP)

    shown = api.get(f"{PATH}/database_backup").json()
    assert made.status_code == 201
    written = yaml.safe_load(BACKUP)
    assert {key: shown[key] for key in written} == written
    assert [item["template_name"] for item in api.get(PATH).json()["items"]] == ["database_backup"]


def test_storing_again_changes_nothing_and_a_change_is_kept_with_who_made_it(api):
    answers = [
        api.send(PATH, BACKUP),
        api.send(PATH, json.dumps(yaml.safe_load(BACKUP))),
        api.send(PATH, BACKUP.replace("retry_times: 2", "retry_times: 3")),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 200]
    facts = Transition.objects.filter(subject="template").order_by("pk")
    assert list(facts.values_list("from_state", "to_state", "by")) == [
        ("", "defined", "token:ci"),
        ("defined", "defined", "token:ci"),
    ]


def test_an_exported_template_is_the_same_template(api):
    api.send(PATH, BACKUP)

    text = api.get(f"{PATH}/database_backup/export").content.decode()

    assert text.startswith("template_name: database_backup\n")
    assert api.put_text(f"{PATH}/database_backup", text).status_code == 200
    assert Transition.objects.filter(subject="template").count() == 1


def test_a_deleted_template_leaves_its_jobs(api):
    api.send(PATH, BACKUP)
    make(api, database_host="db1")

    assert api.delete(f"{PATH}/database_backup").status_code == 204
    assert api.get(f"{PATH}/database_backup").json()["code"] == "unknown_template"
    assert api.delete(f"{PATH}/database_backup").status_code == 404
    assert Job.objects.get().name == "backup-db1"


def test_what_is_no_template_is_refused(api):
    wrong_name = api.put_text(f"{PATH}/other", BACKUP)
    a_job = api.send(PATH, {"kind": "Job", "name": "a", "tasks": [{"name": "a", "type": "noop"}]})
    broken = api.send(PATH, BACKUP.replace("type: path", "type: folder"))

    assert problems(wrong_name) == {"template_name": "other, the template of this path"}
    assert (a_job.status_code, a_job.json()["code"]) == (400, "invalid_definition")
    assert list(problems(broken)) == ["parameters[1].type"]
    assert not Template.objects.exists()


def test_a_job_is_made_from_a_template_with_its_values_as_defaults(api):
    api.send(PATH, BACKUP)

    made, again = make(api, database_host="db1"), make(api, database_host="db1")
    other = make(api, database_host="db2")

    spec = JobSpec.from_canonical(Job.objects.get().latest_version.spec)
    assert (made.status_code, again.status_code, again.json()["id"]) == (201, 200, made.json()["id"])
    assert (other.status_code, other.json()["code"]) == (409, "job_exists")
    assert {each.name: each.default for each in spec.parameters} == {
        "database_host": "db1",
        "backup_path": "/data/backup",
        "retention_days": 7,
    }
    assert spec.schedules == ({"cron": "0 2 * * *"},)
    assert (spec.tasks[0].timeout, spec.tasks[0].retry.max_attempts) == (7200.0, 3)


def test_every_value_that_does_not_fit_is_named(api):
    api.send(PATH, BACKUP)

    answer = make(api, backup_path="", retention_days="7", databse_host="x")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameters")
    assert set(problems(answer)) == {
        "parameters.databse_host",
        "parameters.database_host",
        "parameters.backup_path",
        "parameters.retention_days",
    }
    bad_name = api.send(f"{PATH}/database_backup/jobs", {"name": "Backup DB", "parameters": {"database_host": "x"}})
    assert list(problems(bad_name)) == ["name"]
    assert not Job.objects.exists()


def test_a_value_reaches_the_command_as_a_variable_and_never_as_its_text(api):
    hostile = "$(touch /tmp/owned); `id` ${HOME} '\""
    api.send(
        PATH,
        {
            "template_name": "echo",
            "parameters": [{"name": "words", "type": "string", "required": True}],
            "task_definition": {"command": 'printf %s "${words}"'},
        },
    )
    api.send(f"{PATH}/echo/jobs", {"name": "echo-job", "parameters": {"words": hostile}})
    run = Api(token_text(*DEFAULT_SCOPES)).send("/v1/jobs/trigger", {"jobName": "echo-job"}).json()

    given = api.get(f"/api/v1/runs/{run['id']}").json()["parameters"]
    (task,) = JobSpec.from_canonical(Job.objects.get().latest_version.spec).tasks
    said = subprocess.run(
        ["/bin/sh", "-c", task.config["command"]], env={"words": given["words"]}, capture_output=True, check=True
    )

    assert task.config == {"command": 'printf %s "${words}"', "env": {"words": "${params.words}"}}
    assert given == {"words": hostile}
    assert said.stdout.decode() == hostile


def test_a_run_may_override_a_value_and_is_checked_by_its_type(api):
    api.send(PATH, BACKUP)
    make(api, database_host="db1")
    trigger = "/v1/jobs/trigger"

    run = api.send(trigger, {"jobName": "backup-db1", "parameters": {"retention_days": 30}}).json()
    refused = api.send(trigger, {"jobName": "backup-db1", "parameters": {"retention_days": "long"}})

    assert api.get(f"/api/v1/runs/{run['id']}").json()["parameters"] == {
        "database_host": "db1",
        "backup_path": "/data/backup",
        "retention_days": 30,
    }
    assert list(problems(refused)) == ["parameters.retention_days"]


def test_the_schema_of_a_template_says_what_its_jobs_need(api):
    api.send(PATH, BACKUP)

    answer = api.get(f"{PATH}/database_backup/parameters")

    schema = answer.json()
    assert answer["Content-Type"] == "application/schema+json"
    assert schema["required"] == ["database_host"]
    assert schema["properties"]["backup_path"]["default"] == "/data/backup"
    jsonschema_rs.meta.validate(schema)


def test_the_schema_of_a_job_is_what_a_call_may_send(api):
    api.send(
        "/api/v1/jobs",
        {
            "kind": "Job",
            "name": "nightly-etl",
            "description": "Load orders.",
            "parameters": [
                {"name": "region", "type": "enum", "values": ["cn", "us"], "default": "cn"},
                {"name": "day", "type": "date", "required": True},
            ],
            "tasks": [{"name": "a", "type": "noop"}],
        },
    )

    schema = api.get("/api/v1/jobs/nightly-etl/parameters").json()

    assert (schema["title"], schema["description"], schema["required"]) == ("nightly-etl", "Load orders.", ["day"])
    assert api.get("/api/v1/jobs/nightly-etl/parameters?version=1").json() == schema
    assert api.get("/api/v1/jobs/nightly-etl/parameters?version=2").status_code == 404
    validator = jsonschema_rs.Draft202012Validator(schema)
    for values in ({"day": "2026-12-01"}, {"day": "2026-13-01"}, {}, {"day": "2026-12-01", "region": "eu"}):
        status = api.send("/v1/jobs/trigger", {"jobName": "nightly-etl", "parameters": values}).status_code
        assert validator.is_valid(values) == (status == 202)


def test_a_job_without_parameters_takes_none(api):
    new_job("plain")

    schema = api.get("/api/v1/jobs/plain/parameters").json()

    assert (schema["properties"], schema["additionalProperties"]) == ({}, False)


def test_only_an_administrator_writes_templates(api):
    api.send(PATH, BACKUP)
    operator = Api(token_text("operate", "read", "trigger"))

    answers = [
        operator.send(PATH, BACKUP),
        operator.put_text(f"{PATH}/database_backup", BACKUP),
        operator.delete(f"{PATH}/database_backup"),
        operator.send(f"{PATH}/database_backup/jobs", {"name": "x"}),
        Api(token_text("admin", jobs=(new_job("mine").name,))).send(f"{PATH}/database_backup/jobs", {"name": "x"}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 5
    assert operator.get(f"{PATH}/database_backup").status_code == 200


def test_the_admin_lists_a_template_with_its_schedule(api, admin_client):
    api.send(PATH, BACKUP)

    shown = admin_client.get("/admin/orchestrator/template/").content.decode()

    assert "database_backup" in shown
    assert "0 2 * * *" in shown
