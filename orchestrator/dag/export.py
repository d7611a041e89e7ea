"""Spec → definition: the YAML that, applied again, gives the same content hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import yaml

from orchestrator.dag.spec import DependencySpec, JobSpec, ParameterSpec, RetrySpec, TaskSpec
from orchestrator.dag.yaml_source import is_like_number
from orchestrator.units import duration_text, size_text

_LINE = 120


def export_yaml(spec: JobSpec) -> str:
    """Return the definition of a spec, every task written out with what differs from the defaults of the format."""
    return form_as_yaml(export_form(spec))


def form_as_yaml(form: Mapping[str, Any]) -> str:
    """Return a definition's plain data as people write it."""
    # No aliases and no sorting: people read and compare it.
    return yaml.dump(
        dict(form),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=_LINE,
        default_flow_style=False,
    )


def export_form(spec: JobSpec) -> dict[str, Any]:
    """Return the definition as plain data, its fields in the order in which people write them."""
    concurrency: dict[str, Any] = {}
    if spec.concurrency.limit is not None:
        concurrency = {"limit": spec.concurrency.limit}
        if spec.concurrency.when_full != "queue":
            concurrency["when_full"] = spec.concurrency.when_full
    schedules = [dict(schedule) for schedule in spec.schedules]
    return {
        "kind": "Job",
        "name": spec.name,
        **_given(
            description=spec.description,
            owner=spec.owner,
            tags=list(spec.tags),
            priority=spec.priority if spec.priority != "P2" else None,
            timeout=_duration(spec.timeout),
            concurrency=concurrency,
            parameters=[_parameter(parameter) for parameter in spec.parameters],
            schedule=schedules[0] if len(schedules) == 1 else schedules,
        ),
        "tasks": [_task(task) for task in spec.tasks],
    }


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, False)}


def _duration(seconds: float | None) -> str | float | int | None:
    return None if seconds is None else duration_text(seconds)


def _parameter(spec: ParameterSpec) -> dict[str, Any]:
    form: dict[str, Any] = {"name": spec.name, "type": spec.type}
    if spec.values:
        form["values"] = list(spec.values)
    if spec.has_default:
        form["default"] = spec.default
    return form | _given(required=spec.required, description=spec.description)


def _task(spec: TaskSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "type": spec.type,
        **spec.config,
        **_given(
            depends_on=[_dependency(dependency) for dependency in spec.depends_on],
            join=spec.join if spec.join != "all" else None,
            retry=_retry(spec.retry),
            timeout=_duration(spec.timeout) if _says_timeout(spec) else None,
            queue_timeout=_duration(spec.queue_timeout),
            allow_failure=spec.allow_failure,
            idempotent=spec.idempotent,
            locks=list(spec.locks),
            pool=spec.pool if spec.pool != "default" else None,
            priority=spec.priority,
            resources=_resources(spec.resources),
        ),
    }


def _says_timeout(spec: TaskSpec) -> bool:
    if spec.timeout_from:
        return spec.timeout_from == "task"
    return spec.timeout != TaskSpec("", "").timeout


def _dependency(spec: DependencySpec) -> str | dict[str, Any]:
    if spec == DependencySpec(spec.task):
        return spec.task
    form: dict[str, Any] = {"task": spec.task}
    if spec.status != "success":
        form["status"] = spec.status
    if spec.when is not None:
        form["when"] = spec.when
    return form | _given(recovers=spec.recovers)


def _retry(spec: RetrySpec) -> dict[str, Any]:
    default = RetrySpec()
    form: dict[str, Any] = {}
    for field in fields(RetrySpec):
        value = getattr(spec, field.name)
        if value == getattr(default, field.name):
            continue
        if field.name in ("delay", "max_delay"):
            value = duration_text(value)
        form[field.name] = list(value) if isinstance(value, tuple) else value
    return form


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {key: size_text(value) if key == "memory" else value for key, value in resources.items()}


class _Dumper(yaml.SafeDumper):
    """Writes texts so that a YAML 1.2 core reader takes them for texts, long ones as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        # List entries stand further in than their key, as in the examples.
        super().increase_indent(flow, False)


#: Line ends of YAML 1.1 beside the newline: anywhere but in double quotes a reader makes a newline or a space of them.
_BREAKS = "\r\x85\u2028\u2029"


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if any(mark in text for mark in _BREAKS):
        style = '"'
    elif "\n" in text:
        style = "|"  # the emitter falls back to quotes where a block cannot hold the text
    elif is_like_number(text):
        # 1.2's numbers are not quite those that the emitter knows: `0o17`, `1e5`.
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
