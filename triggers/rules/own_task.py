"""The task of a rule that carries one: what its parameters become as the fields of a task of a hidden job.

A value of an event reaches a command as an environment variable alone; the command's text is never a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.expressions.placeholders import RULE, Placeholder, parse_template, texts_in
from triggers.rules.fields import Path, Problems

TASK_NAME: Final = "main"
#: Task types whose text is `script` or `command`, and the field that it becomes.
TEXT_FIELD: Final[Mapping[str, str]] = {"shell": "command", "script": "script"}
HTTP_FIELDS: Final = ("url", "method", "headers", "json", "body", "expect")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_-]+")
#: In a fixed text, what looks like a placeholder of ours is a mistake; any other `${X}` is the shell's own.
_OURS: Final = re.compile(rf"(?<!\$)\$\{{(?:headers[.\[]|(?:{'|'.join(sorted(RULE.names))})(?![A-Za-z0-9_]))[^}}]*\}}?")
#: Placeholder of a rule → what a task of a job calls it. A path goes on below `event`.
_JOB_NAMES: Final[Mapping[str, str]] = {
    "eventId": "event.messageId",
    "eventIds": "event.events",
    "eventType": "event.eventType",
    "timestamp": "event.timestamp",
    "source": "event.source",
    "destination": "event.destination",
    "priority": "event.priority",
    "traceId": "event.metadata.traceId",
    "runId": "run.id",
}


def task_fields(task_type: str, parameters: Mapping[str, Any], *, slug: str) -> dict[str, Any]:
    """Return the fields of the task's own type. The parameters have passed `check_task`."""
    given = {name: value for name, value in parameters.items() if name != "timeout"}
    if task_type in TEXT_FIELD:
        text = given.pop("script", None)
        command = given.pop("command", None)
        fields: dict[str, Any] = {TEXT_FIELD[task_type]: command if text is None else text}
        if given:
            fields["env"] = {_variable(name): _env_value(value, slug) for name, value in given.items()}
        return fields
    if task_type == "http":
        fields = {name: given.pop(name) for name in HTTP_FIELDS if name in given}
        if given:
            fields["json"] = {**fields.get("json", {}), **given}
        return {name: value if name == "expect" else job_template(value, slug=slug) for name, value in fields.items()}
    return {name: job_template(value, slug=slug) for name, value in given.items()}


def check_task(task_type: str, parameters: Mapping[str, Any], problems: Problems) -> None:
    """Record what keeps the parameters from being a task; what the task's own type asks for is checked with the job."""
    if task_type in TEXT_FIELD:
        _check_command(task_type, parameters, problems)
    elif task_type == "http":
        _check_http(parameters, problems)
    else:
        for name in ("name", "type", "depends_on", "join"):
            if name in parameters:
                problems.add(
                    ("parameters", name), "a field that the rule decides", "a task without it", parameters[name]
                )


def _check_command(task_type: str, parameters: Mapping[str, Any], problems: Problems) -> None:
    texts = [name for name in ("script", "command") if parameters.get(name) is not None]
    if not texts:
        problems.add(("parameters", "script"), "missing", f"the text of the {task_type} task, as script or command")
    elif len(texts) == 2:
        problems.add(("parameters", "command"), "a second text", "script or command", parameters["command"])
    for name in texts:
        text = parameters[name]
        if not isinstance(text, str) or not text.strip():
            problems.add(("parameters", name), "not a command", "a text", text)
            continue
        refuse_in_fixed(
            ("parameters", name), text, problems, "another parameter, which is its environment's PARAM_<NAME>"
        )
    variables: dict[str, str] = {}
    for name, value in parameters.items():
        if name in ("script", "command", "timeout"):
            continue
        if not _NAME.fullmatch(name):
            problems.add(("parameters", name), "not a name", f"a text that matches {_NAME.pattern}", name)
            continue
        first = variables.setdefault(_variable(name), name)
        if first != name:
            problems.add(("parameters", name), f"the same variable {_variable(name)} as {first}", "another name", name)
        if isinstance(value, (Mapping, list, tuple)) and any(True for _ in texts_in(value)):
            problems.add(
                ("parameters", name),
                "placeholders inside a nested value, which would reach the command as pasted JSON",
                "a text, a nested value without placeholders, or one whole placeholder",
                value,
            )


def _check_http(parameters: Mapping[str, Any], problems: Problems) -> None:
    others = [name for name in parameters if name not in (*HTTP_FIELDS, "timeout")]
    if others and parameters.get("body") is not None:
        problems.add(
            ("parameters", "body"),
            f"a text beside fields of a JSON body: {', '.join(others[:5])}",
            f"either body, or json; an http task itself has {', '.join(HTTP_FIELDS)}",
        )
    body = parameters.get("json")
    if others and body is not None and not isinstance(body, Mapping):
        problems.add(("parameters", "json"), f"no object to add {', '.join(others[:5])} to", "an object", body)
    elif isinstance(body, Mapping):
        for name in others:
            if name in body:
                problems.add(("parameters", name), "given twice in the JSON body", "here or in json", parameters[name])
    for where, text in texts_in(parameters.get("expect")):
        refuse_in_fixed(("parameters", "expect", *where), text, problems, "a fixed text")


def refuse_in_fixed(path: Path, text: str, problems: Problems, expected: str) -> None:
    """Record a placeholder of ours in a text that is never a template."""
    found = _OURS.search(text)
    if found is not None:
        problems.add(path, "a placeholder in a fixed text", f"the value through {expected}", found.group())


def job_template(value: Any, *, slug: str) -> Any:
    """Return a value of a rule with its placeholders as a task of a job writes them."""
    if isinstance(value, str):
        if "${" not in value:
            return value
        return "".join(
            part.replace("${", "$${") if isinstance(part, str) else _in_job(part, slug)
            for part in parse_template(value, RULE)
        )
    if isinstance(value, Mapping):
        return {key: job_template(inner, slug=slug) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [job_template(inner, slug=slug) for inner in value]
    return value


def _in_job(part: Placeholder, slug: str) -> str:
    if part.root == "ruleId":
        return slug
    default = "" if part.default is None else f":-{part.default}"
    if part.root in _JOB_NAMES:
        return f"${{{_JOB_NAMES[part.root]}{default}}}"
    steps = part.path
    if part.root == "headers":
        steps = (steps[0].lower(), *steps[1:])
    return f"${{event.{part.root}{''.join(map(_step, steps))}{default}}}"


def _step(step: str) -> str:
    if _SIMPLE.fullmatch(step):
        return f".{step}"
    escaped = step.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{escaped}']"


def _variable(name: str) -> str:
    return "PARAM_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def _env_value(value: Any, slug: str) -> Any:
    if value is None:
        return ""
    if isinstance(value, (Mapping, list, tuple)):
        # No placeholder is in it, so nothing that an event says becomes part of the JSON text.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return job_template(value, slug=slug)
