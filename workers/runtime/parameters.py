"""What an attempt is given: its fields with placeholders replaced, its environment, and what must be masked.

Plain data in, plain data out; which secrets are revealed is decided here, revealing them is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.errors import UpbeatError
from orchestrator.expressions.placeholders import PlaceholderContext, placeholders_in, render
from orchestrator.expressions.problems import InvalidPlaceholder, MissingReference
from orchestrator.store import KeptResult, Store


class CannotRender(UpbeatError):
    """The task's fields cannot be filled in."""

    code = "cannot_render"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the ledger knows of an attempt and its run."""

    run_id: int
    task_run_id: int
    attempt_id: int
    attempt_number: int
    job_name: str
    task_name: str
    task_type: str
    #: The task's own fields as the version has them.
    config: Mapping[str, Any]
    #: Seconds until the attempt's deadline.
    timeout: float
    #: When the run is for, with its zone.
    logical_date: datetime
    resources: Mapping[str, Any] = field(default_factory=dict)
    #: The run's parameters; a secret's value is `{"secret": name}`.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: Names of the parameters that are declared as secrets. Any other value of that shape is only data: whoever
    #: triggers a run must not be able to have a secret revealed by writing its name.
    secret_parameters: Collection[str] = ()
    event: Mapping[str, Any] | None = None
    #: Results of the task's ancestors, by task.
    results: Mapping[str, KeptResult] = field(default_factory=dict)
    #: Zone of the schedule, else of the tenant: decides which day `execution_date` is.
    time_zone: str = "UTC"
    #: Name of the environment, `${env}`.
    env: str = "dev"
    #: Private networks that the tenant may reach, as CIDR.
    allowed_networks: tuple[str, ...] = ()
    #: Seconds since the attempt's first claim, and the moment of the latest, both by the database's clock.
    elapsed: float = 0.0
    claimed_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the executor gets. `secrets` are the values that must never be seen."""

    config: Mapping[str, Any]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]


def secrets_needed(inputs: Inputs, fixed_text: Collection[str] = ()) -> dict[str, str]:
    """Return parameter → name of the stored secret, for those alone that the task's fields name."""
    named = {
        placeholder.path[0]
        for _, placeholder in _placeholders(inputs, fixed_text)
        if placeholder.root == "params" and placeholder.path
    }
    return {
        name: value["secret"]
        for name in sorted(named & set(inputs.secret_parameters))
        if isinstance(value := inputs.parameters.get(name), Mapping) and "secret" in value
    }


def render_inputs(
    inputs: Inputs, *, secrets: Mapping[str, str], store: Store, workdir: Path | None, fixed_text: Collection[str] = ()
) -> Rendered:
    """Fill in the task's fields and write large results of ancestors into files below `workdir`, if there is one.

    `secrets` maps parameters to their revealed values. Fields in `fixed_text` are left alone: a `${HOME}` there is
    the shell's. Raises CannotRender, and StoreError if a result cannot be read.
    """
    missing = secrets_needed(inputs, fixed_text).keys() - secrets.keys()
    if missing:
        raise CannotRender(f"the secret of the parameter {min(missing)!r} does not exist")
    context = PlaceholderContext(
        # An unnamed secret stays out: nothing could render it.
        params={
            **{name: value for name, value in inputs.parameters.items() if name not in inputs.secret_parameters},
            **secrets,
        },
        results={task: kept.inline for task, kept in inputs.results.items() if not kept.ref},
        event=inputs.event,
        run_id=inputs.run_id,
        logical_date=inputs.logical_date.isoformat(),
        execution_date=inputs.logical_date.astimezone(ZoneInfo(inputs.time_zone)).date(),
        env=inputs.env,
    )
    config: dict[str, Any] = {}
    for name, value in inputs.config.items():
        try:
            config[name] = value if name in fixed_text else render(value, context)
        except MissingReference as problem:
            raise CannotRender(f"{name}: {_missing(problem, inputs)}") from problem
        except InvalidPlaceholder as problem:
            raise CannotRender(f"{name}: {problem}") from problem
    return Rendered(config, _environment(inputs, store, workdir), tuple(secrets.values()))


def _placeholders(inputs: Inputs, fixed_text: Collection[str]) -> list[Any]:
    templates = {name: value for name, value in inputs.config.items() if name not in fixed_text}
    try:
        return list(placeholders_in(templates))
    except InvalidPlaceholder as problem:
        raise CannotRender(str(problem)) from problem


def _missing(problem: MissingReference, inputs: Inputs) -> str:
    for task, kept in inputs.results.items():
        if kept.ref and problem.reference.split(".")[:2] == ["results", task]:
            return f"the result of {task} is larger than 16 KiB: read it from the file in $UPBEAT_RESULT_{task.upper()}"
    return str(problem)


def _environment(inputs: Inputs, store: Store, workdir: Path | None) -> dict[str, str]:
    environment = {
        "UPBEAT_RUN_ID": str(inputs.run_id),
        "UPBEAT_TASK_RUN_ID": str(inputs.task_run_id),
        "UPBEAT_ATTEMPT": str(inputs.attempt_number),
        "UPBEAT_JOB": inputs.job_name,
        "UPBEAT_TASK": inputs.task_name,
        "UPBEAT_LOGICAL_DATE": inputs.logical_date.isoformat(),
        "UPBEAT_ENV": inputs.env,
    }
    large = {task: kept.ref for task, kept in inputs.results.items() if kept.ref}
    if large and workdir is not None:
        directory = workdir / "results"
        directory.mkdir(mode=0o700)
        for task, ref in large.items():
            # A copy: the command may write to its files, the store's are for ever.
            path = directory / f"{task}.json"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(store.get(ref))
            environment[f"UPBEAT_RESULT_{task.upper()}"] = str(path)
    return environment
