from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from orchestrator.contracts import BUILT_IN_POOLS
from orchestrator.dag.export import export_yaml, form_as_yaml
from orchestrator.dag.parameters import ParameterContext
from orchestrator.dag.parse import Definition, parse_definition
from orchestrator.dag.templates import MadeJob, TemplateSpec, job_of_template, read_template, template_form
from tests.support.definitions import TASK_TYPES, spec_of

CONTEXT = ParameterContext(execution_date=date(2026, 12, 2), env="test")
BACKUP = """
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
    mysqldump -h ${database_host} > ${backup_path}/backup_$(date +%Y%m%d).sql
"""


def parse(text: str) -> Definition:
    (definition,) = parse_definition(
        text, task_types=TASK_TYPES, pools=BUILT_IN_POOLS, kinds={"Template": read_template}
    )
    return definition


def template(text: str = BACKUP) -> TemplateSpec:
    found = parse(text)
    assert isinstance(found.other, TemplateSpec), [str(problem) for problem in found.problems]
    return found.other


def problems(text: str) -> dict[str, str]:
    return {problem.path: problem.expected for problem in parse(text).problems}


def made(values: dict[str, Any], text: str = BACKUP) -> MadeJob:
    return job_of_template(template(text), name="nightly-backup", values=values, context=CONTEXT)


def test_a_template_is_recognised_with_and_without_its_kind():
    assert parse(BACKUP).kind == parse("kind: Template" + BACKUP).kind == "Template"
    assert template("kind: Template" + BACKUP) == template()


def test_a_template_exported_is_the_same_template():
    spec = template()

    assert template(form_as_yaml(template_form(spec))) == spec


def test_every_problem_of_a_template_is_named():
    found = problems("""
template_name: Database Backup
parameters:
  - {name: hosts, type: list}
  - {name: port, type: integer, default: many}
  - {name: path, type: path, default: null}
task_definition:
  schedule: "0 99 * * *"
  timeout: 0
  retry_times: -1
  retries: 2
  command: echo ${params.port}
""")

    assert set(found) == {
        "template_name",
        "parameters[0].type",
        "parameters[1].default",
        "parameters[2].default",
        "task_definition.schedule",
        "task_definition.timeout",
        "task_definition.retry_times",
        "task_definition.retries",
        "task_definition.command",
    }


@pytest.mark.parametrize(
    "text", ["template_name: x\n", "template_name: x\ntask_definition: {}\n", "template_name: x\ntask_definition: 5\n"]
)
def test_a_template_needs_a_command(text: str):
    assert any(path.startswith("task_definition") for path in problems(text))


def test_parameters_reach_the_command_as_environment_variables_of_their_names():
    spec = made({"database_host": "db1"}).spec

    assert spec is not None
    (task,) = spec.tasks
    assert task.config["command"] == template().command
    assert task.config["env"] == {
        "database_host": "${params.database_host}",
        "backup_path": "${params.backup_path}",
        "retention_days": "${params.retention_days}",
    }
    assert (task.timeout, task.retry.max_attempts) == (7200.0, 3)
    assert spec.schedules == ({"cron": "0 2 * * *"},)
    assert [(each.name, each.type, each.default) for each in spec.parameters] == [
        ("database_host", "string", "db1"),
        ("backup_path", "path", "/data/backup"),
        ("retention_days", "integer", 7),
    ]


def test_the_job_of_a_template_is_a_valid_definition():
    spec = made({"database_host": "db1; rm -rf ${HOME} $${x} ${params.y}"}).spec

    assert spec is not None
    assert spec_of(export_yaml(spec)) == spec


def test_a_value_is_data_and_comes_out_as_it_went_in():
    from orchestrator.dag.parameters import resolve_parameters

    value = "a ${env} b $${x} $$${y} ${"
    spec = made({"database_host": value}).spec

    assert spec is not None
    resolved = resolve_parameters(spec.parameters, trigger={}, tenant={}, environment={}, context=CONTEXT)
    assert resolved.values["database_host"] == value


def test_values_are_checked_by_type_and_what_is_required_must_be_given():
    found = {
        problem.path: problem.expected
        for problem in made({"retention_days": "7", "backup_path": " ", "port": 1}).problems
    }

    assert found["parameters.retention_days"] == "an integer of at most 64 bits"
    assert found["parameters.backup_path"] == "a path, not empty"
    assert found["parameters.database_host"].startswith("a value: the parameter is required")
    assert "parameters.port" in found


def test_a_parameter_without_a_value_is_an_empty_variable():
    text = BACKUP.replace("required: true", "required: false")
    spec = made({}, text).spec

    assert spec is not None
    assert spec.tasks[0].config["env"]["database_host"] == "${params.database_host:-}"
