"""Templates by file: the commands on definitions know them, with and without their kind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from orchestrator.models import Job, Template

pytestmark = pytest.mark.django_db

BACKUP = """\
template_name: database_backup
parameters:
  - {name: database_host, type: string, required: true}
task_definition:
  schedule: "0 2 * * *"
  timeout: 7200
  retry_times: 2
  command: dump "${database_host}"
"""
JOB = "kind: Job\nname: nightly-etl\ntasks: [{name: a, type: noop}]\n"


def run(command: str, *arguments: str) -> tuple[int, str]:
    """Exit code and what the command printed."""
    out = io.StringIO()
    try:
        call_command(command, *arguments, stdout=out, stderr=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backup.yaml"
    path.write_text(BACKUP)
    return path


def test_a_template_file_is_validated_planned_applied_and_exported(file: Path, tmp_path: Path):
    validated = run("validate", str(file))
    planned = run("plan", str(file))
    applied, again = run("apply", str(file)), run("apply", str(file))
    exported = run("export", "database_backup", "--kind", "Template")

    assert validated == (0, f"{file}: template database_backup is valid (1 parameter)\n")
    assert planned == (3, "template database_backup:\n  create template database_backup\n")
    assert applied == (0, "template database_backup created\n")
    assert again == (0, "template database_backup unchanged\n")
    (tmp_path / "again.yaml").write_text(exported[1])
    assert run("plan", str(tmp_path / "again.yaml")) == (0, "template database_backup: no changes\n")


def test_a_change_is_planned_in_words(file: Path):
    run("apply", str(file))
    file.write_text(BACKUP.replace("retry_times: 2", "retry_times: 5") + "description: dumps\n")

    code, said = run("plan", "--json", str(file))

    assert code == 3
    assert json.loads(said)["plans"][0]["changes"] == [
        "change task_definition.retry_times from 2 to 5",
        'set description to "dumps"',
    ]


def test_a_file_may_hold_jobs_and_templates_and_applies_all_or_none(file: Path):
    file.write_text(JOB + "---\n" + BACKUP.replace("type: string", "type: list"))
    with pytest.raises(CommandError, match="1 problem; nothing was changed"):
        run("apply", str(file))
    assert (Job.objects.count(), Template.objects.count()) == (0, 0)

    file.write_text(JOB + "---\n" + BACKUP)
    assert run("apply", str(file)) == (0, "nightly-etl version 1 created\ntemplate database_backup created\n")


def test_a_problem_names_its_line_and_place(file: Path):
    file.write_text(BACKUP.replace("timeout: 7200", "timeout: never"))

    code, said = run("validate", str(file))

    assert code == 1
    assert said.startswith(f"{file}:6:12: task_definition.timeout: not a duration")
