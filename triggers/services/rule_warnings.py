"""What is allowed in a rule but looks wrong: told to whoever saves it, and kept from nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.program import compile_condition
from orchestrator.models import Job, Tenant
from triggers.models import TriggerRule
from triggers.rules.match import matches_type
from triggers.rules.spec import RuleSpec, own_job_definition

#: Where an `http` task brings an event back to us.
_OUR_PATHS: Final = ("/api/v1/events", "/api/v1/hooks/")
#: Rules that are followed from one to the next.
_MOST_RULES: Final = 1000


@dataclass(frozen=True, slots=True)
class _Sent:
    """An event that a task sends to us; its type is empty where only the run will know it."""

    task: str
    event_type: str = ""


def warnings_of(tenant: Tenant, spec: RuleSpec) -> list[str]:
    """Return what looks wrong with a rule, one sentence each."""
    warnings = []
    if spec.condition and compile_condition(spec.condition, rule_environment()).program.return_type().name() != "BOOL":
        warnings.append(
            f"Whether {spec.condition!r} is true or false is known only when an event comes; anything else is an error."
        )
    job: Job | None = None
    if spec.job_name is not None:
        job = Job.objects.select_related("latest_version").filter(tenant=tenant, name=spec.job_name).first()
        if job is not None and job.archived_at is not None:
            warnings.append(f"The job {job.name} is archived: until it is restored, firings are suppressed.")
    sent = list(_sent_by(spec, job))
    if (loop := _own_loop(spec, sent)) is not None:
        warnings.append(loop)
    elif any(each.event_type for each in sent) and (way := _way_back(tenant, spec, sent)) is not None:
        warnings.append(
            f"It could trigger itself: {' → '.join([spec.rule_id, *way, spec.rule_id])}. "
            "Such a chain ends after three rounds, with a dead letter."
        )
    return warnings


def _own_loop(spec: RuleSpec, sent: Iterable[_Sent]) -> str | None:
    for each in sent:
        if each.event_type and _concerns(spec, each.event_type):
            return (
                f"It could trigger itself: its task {each.task} sends {each.event_type}, which it matches. "
                "Such a chain ends after three rounds, with a dead letter."
            )
        if not each.event_type:
            return f"It could trigger itself: its task {each.task} sends events of a type that is not known before."
    return None


def _way_back(tenant: Tenant, spec: RuleSpec, sent: list[_Sent]) -> list[str] | None:
    """Return the rules on the way from what a rule sends back to what it matches."""
    others = {
        rule.slug: (RuleSpec.from_canonical(rule.spec), rule.own_job)
        for rule in TriggerRule.objects.select_related("own_job__latest_version")
        .filter(tenant=tenant, deleted_at=None, enabled=True)
        .exclude(slug=spec.rule_id)[:_MOST_RULES]
    }
    names = {other.job_name for other, _ in others.values() if other.job_name is not None}
    jobs = {job.name: job for job in Job.objects.select_related("latest_version").filter(tenant=tenant, name__in=names)}
    paths: list[tuple[list[str], list[_Sent]]] = [([], sent)]
    seen: set[str] = set()
    while paths:
        way, sends = paths.pop(0)
        types = [each.event_type for each in sends if each.event_type]
        if way and any(_concerns(spec, event_type) for event_type in types):
            return way
        for slug, (other, own_job) in others.items():
            if slug not in seen and any(_concerns(other, event_type) for event_type in types):
                seen.add(slug)
                job = jobs.get(other.job_name) if other.job_name is not None else own_job
                paths.append(([*way, slug], list(_sent_by(other, job))))
    return None


def _concerns(spec: RuleSpec, event_type: str) -> bool:
    return any(matches_type(pattern, event_type) for pattern in spec.event_types)


def _sent_by(spec: RuleSpec, job: Job | None) -> Iterator[_Sent]:
    if spec.task_type is not None:
        tasks: Iterable[Mapping[str, Any]] = own_job_definition(spec)["tasks"]
    elif job is not None and job.latest_version is not None:
        tasks = [{**task, **(task.get("config") or {})} for task in job.latest_version.spec.get("tasks", ())]
    else:
        tasks = ()
    for task in tasks:
        url = task.get("url")
        if task.get("type") == "http" and isinstance(url, str) and any(path in url for path in _OUR_PATHS):
            body = task.get("json")
            named = (body.get("eventType") or body.get("type")) if isinstance(body, Mapping) else None
            known = isinstance(named, str) and "${" not in named
            yield _Sent(str(task.get("name")), named if known else "")  # type: ignore[arg-type]
