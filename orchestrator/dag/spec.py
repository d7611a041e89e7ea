"""The frozen specification of a job: what a validated definition means, with every default filled in.

A spec is built by `dag.parse` from a definition and stored with its version in canonical form
(`JobSpec.canonical`), of which the content hash is the version's identity: same content, same version.
Durations are seconds; sizes are bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

JoinMode = Literal["all", "any"]
WhenFull = Literal["queue", "skip", "cancel_running"]
Backoff = Literal["none", "fixed", "exponential"]
DependencyStatus = Literal["success", "failed", "done", "skipped"]


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """When and how often an attempt is followed by another. `max_attempts` counts every attempt."""

    max_attempts: int = 1
    delay: float = 10.0
    backoff: Backoff = "fixed"
    max_delay: float = 3600.0
    jitter: bool = False
    on: tuple[str, ...] = ("failed",)  # failed | timeout | lost | unknown | exit:N | exit:N-M


@dataclass(frozen=True, slots=True)
class DependencySpec:
    """An edge: opens when the upstream task ends as `status` says and `when` (CEL), if given, is true."""

    task: str
    status: DependencyStatus = "success"
    when: str | None = None
    recovers: bool = False


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task. `config` holds the fields of its type, as its executor's schema defines them."""

    name: str
    type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[DependencySpec, ...] = ()
    join: JoinMode = "all"
    retry: RetrySpec = RetrySpec()
    timeout: float = 3600.0
    queue_timeout: float | None = None
    allow_failure: bool = False
    idempotent: bool = False
    locks: tuple[str, ...] = ()  # sorted, no doubles
    pool: str = "default"
    priority: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    #: Who set `timeout` where the type has a default of its own: the same seconds may be either's.
    timeout_from: Literal["", "type", "task"] = ""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A parameter of the job. A secret's value is `{"secret": name}`, never the secret itself."""

    name: str
    type: str  # string integer number boolean date datetime path enum secret list object
    default: Any = None
    has_default: bool = False
    required: bool = False
    values: tuple[Any, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class ConcurrencySpec:
    """How many runs of the job may run at once (None: any number), and what a further one does."""

    limit: int | None = None
    when_full: WhenFull = "queue"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A whole job. Tasks keep the order of the definition; `dag.graph` gives each its position."""

    name: str
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    priority: str = "P2"
    timeout: float | None = None
    concurrency: ConcurrencySpec = ConcurrencySpec()
    parameters: tuple[ParameterSpec, ...] = ()
    schedules: tuple[Mapping[str, Any], ...] = ()
    tasks: tuple[TaskSpec, ...] = ()

    def canonical(self) -> dict[str, Any]:
        """Return the spec as plain JSON data: only what differs from the defaults, in a fixed order."""
        return cast(dict[str, Any], _plain(self))

    def content_hash(self) -> str:
        """Return the SHA-256 of the canonical form, as 64 hex digits."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_canonical(cls, data: Mapping[str, Any]) -> JobSpec:
        """Build the spec from its canonical form; the inverse of `canonical`."""
        return cls(
            **{
                **data,
                "tags": tuple(data.get("tags", ())),
                "concurrency": ConcurrencySpec(**data.get("concurrency", {})),
                "parameters": tuple(
                    ParameterSpec(**{**p, "values": tuple(p.get("values", ()))}) for p in data.get("parameters", ())
                ),
                "schedules": tuple(data.get("schedules", ())),
                "tasks": tuple(_task(t) for t in data.get("tasks", ())),
            }
        )


def _task(data: Mapping[str, Any]) -> TaskSpec:
    retry = data.get("retry", {})
    return TaskSpec(
        **{
            **data,
            "depends_on": tuple(DependencySpec(**d) for d in data.get("depends_on", ())),
            "retry": RetrySpec(**{**retry, "on": tuple(retry.get("on", ("failed",)))}),
            "locks": tuple(data.get("locks", ())),
        }
    )


def canonical_data(value: Any) -> dict[str, Any]:
    """Return a frozen spec as plain JSON data: only what differs from the defaults."""
    return cast(dict[str, Any], _plain(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        plain = {}
        for name, spec in value.__dataclass_fields__.items():
            item = getattr(value, name)
            if _is_default(item, spec):
                continue
            plain[name] = _plain(item)
        return plain
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_default(item: Any, spec: Any) -> bool:
    default = spec.default
    if callable(spec.default_factory):
        default = spec.default_factory()
    # 1 == True and 1 == 1.0 in Python, but not in a definition.
    return type(item) is type(default) and bool(item == default)
