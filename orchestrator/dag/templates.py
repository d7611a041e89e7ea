"""Templates: one shell command with typed parameters, from which jobs are made.

Parameters reach the command as environment variables of their names and are never put into its text: the
`${database_host}` in it is the shell's own, so no value is ever parsed as shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator.dag.forms import read_parameters, read_schedule
from orchestrator.dag.parameters import ParameterContext, declared_name, resolve_parameters
from orchestrator.dag.reading import Form, Value
from orchestrator.dag.spec import JobSpec, ParameterSpec, RetrySpec, TaskSpec
from orchestrator.errors import Detail
from orchestrator.expressions.placeholders import ours_in_fixed_text

TEMPLATE_FIELDS: Final = ("kind", "template_name", "description", "parameters", "task_definition")
TASK_DEFINITION_FIELDS: Final = ("schedule", "timeout", "retry_times", "command")
TEMPLATE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
LONGEST_COMMAND: Final = 100_000
#: An environment variable is a text: these have none of their own.
NOT_IN_ENVIRONMENT: Final = ("list", "object")
#: The job's one task.
TASK_NAME: Final = "main"


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """A template. `timeout` is in seconds; `retry_times` further attempts follow a failed one."""

    name: str
    command: str
    description: str = ""
    parameters: tuple[ParameterSpec, ...] = ()
    schedule: Mapping[str, Any] | None = None
    timeout: float = 3600.0
    retry_times: int = 0


@dataclass(frozen=True, slots=True)
class MadeJob:
    """The job of a template, or all that is wrong with the values it was given."""

    spec: JobSpec | None
    problems: tuple[Detail, ...] = ()


def read_template(root: Value) -> TemplateSpec | None:
    """Read a definition of a template; None, with its problems recorded, if it is none."""
    form = root.form(TEMPLATE_FIELDS)
    if form is None:
        return None
    given = form.required("template_name", "the template's name")
    name = given.name(TEMPLATE_NAME, "template name") if given is not None else None
    given = form.get("description")
    description = given.text(longest=4000) if given is not None else ""
    parameters = _parameters(form)
    given = form.required("task_definition", "a mapping with schedule, timeout, retry_times and command")
    task = given.form(TASK_DEFINITION_FIELDS) if given is not None else None
    if task is None:
        return None
    command = _command(task)
    given = task.get("schedule")
    schedule = read_schedule(given) if given is not None else None
    given = task.get("timeout")
    timeout = given.duration() if given is not None else None
    given = task.get("retry_times")
    retry_times = given.integer(0, 999) if given is not None else None
    if name is None or command is None:
        return None
    return TemplateSpec(
        name=name,
        command=command,
        description=description or "",
        parameters=parameters,
        schedule=schedule,
        timeout=timeout or 3600.0,
        retry_times=retry_times or 0,
    )


def template_form(spec: TemplateSpec) -> dict[str, Any]:
    """Return the definition as plain data, as people write it."""
    schedule: Any = spec.schedule
    if schedule is not None and set(schedule) == {"cron"}:
        schedule = schedule["cron"]
    task: dict[str, Any] = {} if schedule is None else {"schedule": schedule}
    if spec.timeout != TemplateSpec.__dataclass_fields__["timeout"].default:
        # Seconds, as templates have always said it.
        task["timeout"] = int(spec.timeout) if spec.timeout.is_integer() else spec.timeout
    if spec.retry_times:
        task["retry_times"] = spec.retry_times
    return {
        "template_name": spec.name,
        **({"description": spec.description} if spec.description else {}),
        **({"parameters": [_parameter_form(each) for each in spec.parameters]} if spec.parameters else {}),
        "task_definition": {**task, "command": spec.command},
    }


def job_of_template(
    template: TemplateSpec, *, name: str, values: Mapping[str, Any], context: ParameterContext
) -> MadeJob:
    """Return the job of a template with these values; they become its defaults, which a run may override.

    A value is data: a `${…}` in it is no placeholder.
    """
    checked = resolve_parameters(template.parameters, trigger=values, tenant={}, environment={}, context=context)
    if checked.problems:
        return MadeJob(None, checked.problems)
    known = {parameter.name for parameter in template.parameters}
    given = {declared_name(key, known): value for key, value in values.items()}
    parameters = tuple(
        replace(parameter, default=_as_data(given[parameter.name]), has_default=True)
        if parameter.name in given
        else parameter
        for parameter in template.parameters
    )
    # One that may have no value is then an empty variable, not an error.
    environment = {
        parameter.name: f"${{params.{parameter.name}}}"
        if parameter.has_default or parameter.required
        else f"${{params.{parameter.name}:-}}"
        for parameter in parameters
    }
    task = TaskSpec(
        name=TASK_NAME,
        type="shell",
        config={"command": template.command, **({"env": environment} if environment else {})},
        retry=RetrySpec(max_attempts=template.retry_times + 1),
        timeout=template.timeout,
    )
    return MadeJob(
        JobSpec(
            name=name,
            description=template.description,
            parameters=parameters,
            schedules=() if template.schedule is None else (template.schedule,),
            tasks=(task,),
        )
    )


def _parameters(form: Form) -> tuple[ParameterSpec, ...]:
    parameters = read_parameters(form)
    given = form.get("parameters")
    if given is None or not isinstance(given.raw, list):
        return parameters
    for index, node in enumerate(given.raw):
        fields = node.value if isinstance(node.value, dict) else {}
        kind, default = fields.get("type"), fields.get("default")
        if kind is not None and kind.value in NOT_IN_ENVIRONMENT:
            form.problems.add(
                ("parameters", index, "type"),
                "a type that no environment variable can hold",
                "string, integer, number, boolean, date, datetime, path, enum or secret",
                kind.value,
            )
        if default is not None and default.value is None:
            form.problems.add(("parameters", index, "default"), "no value", "a value, or no default at all")
    return parameters


def _command(task: Form) -> str | None:
    given = task.required("command", "a shell command")
    command = given.text(shortest=1, longest=LONGEST_COMMAND, expected="a shell command") if given is not None else None
    ours = ours_in_fixed_text(command) if command is not None else None
    if given is not None and ours is not None:
        given.problems.add(
            given.path,
            "placeholder in the fixed text of command",
            "a parameter's name as the shell's own variable, such as ${backup_path}",
            ours,
        )
    return command


def _parameter_form(spec: ParameterSpec) -> dict[str, Any]:
    form: dict[str, Any] = {"name": spec.name, "type": spec.type}
    if spec.values:
        form["values"] = list(spec.values)
    if spec.required:
        form["required"] = True
    if spec.has_default:
        form["default"] = spec.default
    return form | ({"description": spec.description} if spec.description else {})


def _as_data(value: Any) -> Any:
    """Return the value as a default that stands for itself."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    return value
