"""Reads the two forms of a definition, `kind: Job` and the plain pipeline, into a draft of the spec.

A draft has every field that could be read; what could not is in the problem list. Rules that look at more than one
field's value are in `validation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from orchestrator.dag.parameters import DEFAULT_ROOTS, TYPES, expected_of, fits
from orchestrator.dag.problems import Path
from orchestrator.dag.reading import JOB_NAME, LOCK_NAME, NAME, Form, Value
from orchestrator.dag.schedules import cron_problem, is_timezone
from orchestrator.dag.spec import (
    Backoff,
    ConcurrencySpec,
    DependencySpec,
    DependencyStatus,
    JobSpec,
    JoinMode,
    ParameterSpec,
    RetrySpec,
    TaskSpec,
    WhenFull,
)
from orchestrator.dag.task_type import TaskType
from orchestrator.expressions.placeholders import EXPECTED, parse_template, texts_in
from orchestrator.expressions.problems import InvalidPlaceholder

PRIORITIES: Final = ("P0", "P1", "P2", "P3")
STATUSES: Final = ("success", "failed", "done", "skipped")
#: Ends of an attempt that say nothing about what it did: repeating them may do it twice.
RISKY_ENDS: Final = ("timeout", "lost", "unknown")
CLASSES: Final = ("cpu", "io", "memory")

JOB_FIELDS: Final = (
    "kind",
    "name",
    "description",
    "owner",
    "tags",
    "priority",
    "timeout",
    "concurrency",
    "parameters",
    "defaults",
    "schedule",
    "tasks",
)
TASK_FIELDS: Final = (
    "name",
    "type",
    "depends_on",
    "join",
    "retry",
    "timeout",
    "queue_timeout",
    "allow_failure",
    "idempotent",
    "locks",
    "pool",
    "priority",
    "resources",
)
PIPELINE_FIELDS: Final = ("name", "pipeline")
PIPELINE_TASK_FIELDS: Final = ("name", "schedule", "dependencies", "timeout", "command", "resources")
DEPENDENCY_FIELDS: Final = ("task", "status", "when", "recovers")
RETRY_FIELDS: Final = ("max_attempts", "delay", "backoff", "max_delay", "jitter", "on")
PARAMETER_FIELDS: Final = ("name", "type", "default", "required", "values", "description")

Read = TypeVar("Read")

_EXIT = re.compile(r"exit:(\d{1,3})(?:-(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Draft:
    """A spec in the making, and the names of its parts in the document."""

    spec: JobSpec
    tasks_field: str = "tasks"
    depends_field: str = "depends_on"

    def dependency_path(self, task: int, dependency: int) -> Path:
        return (self.tasks_field, task, self.depends_field, dependency)


@dataclass(frozen=True, slots=True)
class _Defaults:
    timeout: float = 3600.0
    pool: str = "default"
    retry: Mapping[str, Any] | None = None


def read_job(root: Value, *, task_types: Mapping[str, TaskType], pools: Collection[str]) -> Draft:
    """Read the `kind: Job` form; its problems are in `root.problems`."""
    form = root.form(JOB_FIELDS)
    assert form is not None, "the caller looked"
    name = _read(form.required("name", "the job's name"), job_name)
    concurrency = _concurrency(form)
    parameters = read_parameters(form)
    defaults = _defaults(form, pools)
    spec = JobSpec(
        name=name or "",
        description=_text(form, "description", 4000),
        owner=_text(form, "owner", 200),
        tags=_tags(form),
        priority=_read(form.get("priority"), lambda value: value.choice(PRIORITIES)) or "P2",
        timeout=_read(form.get("timeout"), Value.duration),
        concurrency=concurrency,
        parameters=parameters,
        schedules=_schedules(form),
        tasks=tuple(
            _task(item, defaults, task_types, pools)
            for item in _some_tasks(form.required("tasks", "a list of tasks"), "tasks")
        ),
    )
    return Draft(spec)


def read_pipeline(root: Value, *, stem: str, task_types: Mapping[str, TaskType]) -> Draft:
    """Read the plain form: `stem`, the file's name without its suffix, gives the job its name."""
    form = root.form(PIPELINE_FIELDS)
    assert form is not None, "the caller looked"
    own = form.get("name")
    if own is not None:
        name = job_name(own) or ""
    else:
        name = stem.replace("_", "-")
        if not JOB_NAME.fullmatch(name) or name == "trigger":
            root.problems.add(
                ("name",), "the file's name gives no job name", f"a name that matches {JOB_NAME.pattern}", name
            )
    tasks: list[TaskSpec] = []
    schedules: list[Mapping[str, Any]] = []
    for item in _some_tasks(form.get("pipeline"), "pipeline"):
        fields = item.form(PIPELINE_TASK_FIELDS)
        if fields is None:
            tasks.append(TaskSpec(name="", type="noop"))
            continue
        schedule = fields.get("schedule")
        if schedule is not None:
            if schedules:
                schedule.refuse("a second schedule", "one schedule in the file, which becomes the job's")
            schedules += [read_schedule(schedule)]
        tasks.append(_pipeline_task(fields, task_types))
    return Draft(
        JobSpec(name=name, schedules=tuple(schedules), tasks=tuple(tasks)),
        tasks_field="pipeline",
        depends_field="dependencies",
    )


def job_name(value: Value) -> str | None:
    name = value.name(JOB_NAME, "job name")
    if name == "trigger":
        # POST /v1/jobs/trigger is the call that triggers a job.
        value.refuse("a reserved name", "another name than trigger")
        return None
    return name


def _read(value: Value | None, read: Callable[[Value], Read | None]) -> Read | None:
    return None if value is None else read(value)


def _name(form: Form, what: str) -> str:
    """Read a name; a wrong one is returned too, so that what refers to it is no second problem."""
    value = form.required("name", f"the {what}'s name")
    if value is None:
        return ""
    value.name(NAME, f"{what} name")
    return value.raw if isinstance(value.raw, str) else ""


def _text(form: Form, name: str, longest: int) -> str:
    return _read(form.get(name), lambda value: value.text(longest=longest)) or ""


def _flag(form: Form, name: str) -> bool:
    return _read(form.get(name), Value.boolean) or False


def _tags(form: Form) -> tuple[str, ...]:
    value = form.get("tags")
    if value is None:
        return ()
    tags = [item.text(shortest=1, longest=100) or "" for item in value.items(longest=100, expected="a list of texts")]
    return tuple(dict.fromkeys(tags))


def _concurrency(form: Form) -> ConcurrencySpec:
    fields = _read(form.get("concurrency"), lambda value: value.form(("limit", "when_full")))
    if fields is None:
        return ConcurrencySpec()
    limit = _read(fields.required("limit", "an integer, 1 to 100000"), lambda value: value.integer(1, 100_000))
    when_full = _read(fields.get("when_full"), lambda value: value.choice(("queue", "skip", "cancel_running")))
    return ConcurrencySpec(limit, cast(WhenFull, when_full or "queue"))


def _schedules(form: Form) -> tuple[Mapping[str, Any], ...]:
    value = form.get("schedule")
    if value is None:
        return ()
    if isinstance(value.raw, list):
        return tuple(read_schedule(item) for item in value.items(longest=100))
    return (read_schedule(value),)


def read_schedule(value: Value) -> Mapping[str, Any]:
    """Read a schedule, a cron text or `{cron, timezone}`."""
    if isinstance(value.raw, str):
        return {"cron": _cron(value)}
    fields = value.form(("cron", "timezone"), expected="a cron text or {cron, timezone}")
    if fields is None:
        return {}
    schedule: dict[str, Any] = {"cron": _read(fields.required("cron", 'such as "30 1 * * *"'), _cron)}
    zone = fields.get("timezone")
    if zone is not None:
        name = zone.text(longest=63)
        if name is not None and not is_timezone(name):
            zone.refuse("not a time zone", "an IANA name such as Asia/Shanghai")
        schedule["timezone"] = name
    return schedule


def _cron(value: Value) -> str | None:
    text = value.text(longest=200)
    if text is None:
        return None
    problem = cron_problem(text)
    if problem is not None:
        value.refuse(f"not a cron text: {problem}", 'five fields such as "30 1 * * *"')
    # Spaces mean nothing in it; the same schedule is the same content.
    return " ".join(text.split())


def read_parameters(form: Form) -> tuple[ParameterSpec, ...]:
    """Read the `parameters` of a definition, those that could be read."""
    value = form.get("parameters")
    if value is None:
        return ()
    specs: list[ParameterSpec] = []
    for item in value.items(longest=1000):
        spec = _parameter(item)
        if spec is not None:
            if any(other.name == spec.name for other in specs):
                item.problems.add((*item.path, "name"), "duplicate parameter", "each name once", spec.name)
            specs.append(spec)
    return tuple(specs)


def _parameter(item: Value) -> ParameterSpec | None:
    fields = item.form(PARAMETER_FIELDS)
    if fields is None:
        return None
    name = _name(fields, "parameter")
    kind = _read(fields.required("type", " | ".join(TYPES)), lambda value: value.choice(TYPES))
    values = fields.get("values")
    choices: tuple[Any, ...] = ()
    if kind == "enum":
        choices = _choices(fields.required("values", "the list of its values"))
    elif values is not None and kind is not None:
        values.refuse(f"values of a parameter of type {kind}", "values only with type enum")
    default = fields.get("default")
    spec = ParameterSpec(
        name=name,
        type=kind or "string",
        default=None if default is None else default.plain(),
        has_default=default is not None,
        required=_flag(fields, "required"),
        values=choices,
        description=_text(fields, "description", 1000),
    )
    if default is not None and kind is not None and (kind != "enum" or choices):
        _check_default(default, spec)
    return spec if name else None


def _choices(value: Value | None) -> tuple[Any, ...]:
    choices: list[Any] = []
    for item in value.items(longest=1000) if value is not None else []:
        if not isinstance(item.raw, (str, int, float, bool)):
            item.refuse("wrong type", "a text, a number or a boolean")
        elif any(type(item.raw) is type(choice) and item.raw == choice for choice in choices):
            item.refuse("duplicate value", "each value once")
        else:
            choices.append(item.raw)
    if value is not None and isinstance(value.raw, list) and not value.raw:
        value.refuse("empty", "at least one value")
    return tuple(choices)


def _check_default(default: Value, spec: ParameterSpec) -> None:
    plain = spec.default
    if spec.type == "secret":
        if not fits(spec, plain):
            # Not quoted: someone may have written the secret itself.
            default.problems.add(default.path, "a secret's default is a reference", expected_of(spec), "***")
        return
    dynamic = False
    for where, text in texts_in(plain):
        try:
            parts = parse_template(text)
        except InvalidPlaceholder as error:
            default.problems.add((*default.path, *where), f"bad placeholder: {error}", EXPECTED, error.placeholder)
            return
        for part in parts:
            if not isinstance(part, str):
                dynamic = True
                if part.root not in DEFAULT_ROOTS:
                    default.problems.add(
                        (*default.path, *where),
                        f"a default cannot refer to {part.reference}",
                        f"one of {', '.join(DEFAULT_ROOTS)}",
                        text,
                    )
    if not (dynamic and isinstance(plain, str)) and not fits(spec, plain):
        default.refuse("the default does not fit the type", expected_of(spec))


def _defaults(form: Form, pools: Collection[str]) -> _Defaults:
    fields = _read(form.get("defaults"), lambda value: value.form(("timeout", "retry", "pool")))
    if fields is None:
        return _Defaults()
    return _Defaults(
        timeout=_read(fields.get("timeout"), Value.duration) or 3600.0,
        pool=_pool(fields.get("pool"), pools) or "default",
        retry=_retry(fields.get("retry")),
    )


def _some_tasks(value: Value | None, field: str) -> list[Value]:
    if value is None:
        return []
    items = value.items(expected="a list of tasks")
    if isinstance(value.raw, list) and not items:
        value.refuse("empty", "at least one task")
    return items


def _task(item: Value, defaults: _Defaults, types: Mapping[str, TaskType], pools: Collection[str]) -> TaskSpec:
    if not isinstance(item.raw, dict):
        item.refuse("wrong type", "a mapping that describes a task")
        return TaskSpec(name="", type="")
    fields = Form(item)
    name = _name(fields, "task")
    kind = fields.required("type", f"one of {', '.join(sorted(types))}")
    type_name = _read(kind, lambda value: value.text(longest=63, expected="the name of a task type"))
    task_type = types.get(type_name or "")
    if kind is not None and type_name is not None and task_type is None:
        item.problems.unknown(kind.path, "task type", type_name, types)
    own = () if task_type is None else tuple(task_type.schema.get("properties", ()))
    config: dict[str, Any] = {}
    for field in fields:
        if field in TASK_FIELDS:
            continue
        value = fields.get(field)
        if task_type is not None and value is not None:
            if field in own:
                config[field] = value.plain()
            else:
                item.problems.unknown((*item.path, field), "field", field, (*TASK_FIELDS, *own), at_key=True)
    retry = {**(defaults.retry or {}), **(_retry(fields.get("retry")) or {})}
    timeout = _read(fields.get("timeout"), Value.duration)
    usual = None if task_type is None else task_type.default_timeout
    return TaskSpec(
        name=name,
        type=type_name or "",
        config=config,
        depends_on=_dependencies(fields.get("depends_on")),
        join=cast(JoinMode, _read(fields.get("join"), lambda value: value.choice(("all", "any"))) or "all"),
        retry=RetrySpec(**retry),
        timeout=timeout or usual or defaults.timeout,
        timeout_from="" if usual is None else "task" if timeout else "type",
        queue_timeout=_read(fields.get("queue_timeout"), Value.duration),
        allow_failure=_flag(fields, "allow_failure"),
        idempotent=_flag(fields, "idempotent"),
        locks=_locks(fields.get("locks")),
        pool=_pool(fields.get("pool"), pools) or defaults.pool,
        priority=_read(fields.get("priority"), lambda value: value.choice(PRIORITIES)),
        resources=_resources(fields.get("resources")),
    )


def _pipeline_task(fields: Form, types: Mapping[str, TaskType]) -> TaskSpec:
    name = _name(fields, "task")
    command = fields.get("command")
    kind = "noop" if command is None else "shell"
    resources: dict[str, Any] = {}
    locks: list[str] = []
    given = fields.get("resources")
    if given is not None:
        for entry in given.items() if isinstance(given.raw, list) else [given]:
            resources |= _resources(entry, locks)
    if kind not in types:
        fields.problems.unknown((*fields.path, "command"), "task type", kind, types)
    return TaskSpec(
        name=name,
        type=kind,
        config={} if command is None else {"command": command.plain()},
        depends_on=_dependencies(fields.get("dependencies")),
        timeout=_read(fields.get("timeout"), Value.duration) or 3600.0,
        locks=tuple(sorted(set(locks))),
        resources=resources,
    )


def _dependencies(value: Value | None) -> tuple[DependencySpec, ...]:
    if value is None:
        return ()
    expected = "a list of task names or of {task, status, when, recovers}"
    # One that cannot be read stays, nameless, so that the others keep their places in the document.
    return tuple(_dependency(item) for item in value.items(expected=expected))


def _dependency(item: Value) -> DependencySpec:
    if isinstance(item.raw, str):
        return DependencySpec(item.raw)
    fields = item.form(DEPENDENCY_FIELDS, expected="a task name or {task, status, when, recovers}")
    if fields is None:
        return DependencySpec("")
    task = _read(
        fields.required("task", "the name of a task of the job"),
        lambda value: value.text(longest=1000, expected="the name of a task of the job"),
    )
    status = _read(fields.get("status"), lambda value: value.choice(STATUSES)) or "success"
    when = _read(fields.get("when"), lambda value: value.text(longest=100_000, expected="a CEL expression"))
    recovers = _flag(fields, "recovers")
    if recovers and status != "failed":
        fields.problems.add((*item.path, "recovers"), "recovers without status: failed", "status: failed", True)
    return DependencySpec(task or "", cast(DependencyStatus, status), when, recovers)


def _retry(value: Value | None) -> dict[str, Any] | None:
    """Return only the keys that are given: a task's retry is merged over the defaults' key by key."""
    fields = _read(value, lambda given: given.form(RETRY_FIELDS))
    if fields is None:
        return None
    ends = fields.get("on")
    read: dict[str, Any] = {
        "max_attempts": _read(fields.get("max_attempts"), lambda given: given.integer(1, 1000)),
        "delay": _read(fields.get("delay"), lambda given: given.duration(zero=True)),
        "backoff": cast(
            "Backoff | None",
            _read(fields.get("backoff"), lambda given: given.choice(("none", "fixed", "exponential"))),
        ),
        "max_delay": _read(fields.get("max_delay"), lambda given: given.duration(zero=True)),
        "jitter": _read(fields.get("jitter"), Value.boolean),
        "on": None if ends is None else _retry_ends(ends),
    }
    return {key: item for key, item in read.items() if item is not None}


def _retry_ends(value: Value) -> tuple[str, ...] | None:
    expected = "failed, timeout, lost, unknown, exit:N or exit:N-M"
    ends: list[str] = []
    for item in value.items(longest=300, expected=f"a list of {expected}"):
        text = item.raw
        code = _EXIT.fullmatch(text) if isinstance(text, str) else None
        if code is not None:
            if not int(code[1]) <= int(code[2] or code[1]) <= 255:
                item.refuse("not a range of exit codes", "exit codes from 0 to 255, the lower first")
        elif text not in ("failed", *RISKY_ENDS):
            near = item.problems.nearest(text, ("failed", *RISKY_ENDS)) if isinstance(text, str) else None
            item.refuse("not an end to retry on", expected + (f" ({near}?)" if near else ""))
        if isinstance(text, str):
            ends.append(text)
    if isinstance(value.raw, list) and not value.raw:
        value.refuse("empty", f"at least one of {expected}; max_attempts: 1 means no retry")
    return tuple(dict.fromkeys(ends)) or None


def _locks(value: Value | None) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [item.name(LOCK_NAME, "lock name") for item in value.items(longest=100, expected="a list of lock names")]
    return tuple(sorted({name for name in names if name is not None}))


def _pool(value: Value | None, pools: Collection[str]) -> str | None:
    if value is None:
        return None
    name = value.text(longest=63, expected="the name of a pool")
    if name is not None and name not in pools:
        value.problems.unknown(value.path, "pool", name, pools)
    return name


def _resources(value: Value | None, locks: list[str] | None = None) -> dict[str, Any]:
    """Read resources; in a plain pipeline, whose `locks` list is given, a key that ends in `_lock` is a lock."""
    if value is None:
        return {}
    known = ["cpu", "memory", "class"]
    if locks is not None and isinstance(value.raw, dict):
        known += [key for key in value.raw if key.endswith("_lock")]
    fields = value.form(known)
    if fields is None:
        return {}
    resources: dict[str, Any] = {}
    for key in fields:
        item = fields.get(key)
        if item is None or key not in known:
            continue
        if key == "cpu":
            cpu = item.raw
            if not isinstance(cpu, (int, float)) or isinstance(cpu, bool) or not 0 < cpu <= 1024:
                item.refuse("not a number of CPU cores", "a number, more than 0 to 1024")
            resources[key] = cpu
        elif key == "memory":
            resources[key] = item.size()
        elif key == "class":
            resources[key] = item.choice(CLASSES)
        elif locks is not None:
            name = item.name(LOCK_NAME, "lock name")
            locks += [name] if name is not None else []
    return resources
