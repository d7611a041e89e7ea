"""Jobs and their versions: plan and apply a definition, pause, resume, archive and restore a job.

A version is its content: applying what is already the latest version changes nothing, and applying the content of
an older one makes that one the latest again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal, TypeVar

from django.db import transaction
from django.db.models import Max, Model

from orchestrator.dag.diff import describe_changes
from orchestrator.dag.graph import Graph
from orchestrator.dag.spec import JobSpec
from orchestrator.errors import Detail, JobArchived, JobManaged, Refused, UnknownJob, UnknownVersion
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now
from orchestrator.models import Dependency, Job, JobVersion, Task, Tenant
from orchestrator.services.audit import record_audit
from orchestrator.services.runs import admit_job
from orchestrator.services.transitions import record_transition

Row = TypeVar("Row", bound=Model)
Outcome = Literal["created", "updated", "unchanged"]


class JobExists(Refused):
    """There is already another job of this name."""

    code = "job_exists"


Standing = Literal["active", "paused", "archived"]

#: Sentences on one change of a definition in its record; the page that compares versions has them all.
CHANGES_KEPT = 50

#: Rows of one INSERT: 10,000 tasks in a few statements, none of them huge.
BATCH = 2000


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a definition did. An update made a new version, or an older one the latest again."""

    job: Job
    version: JobVersion
    outcome: Outcome
    version_created: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """What applying a definition would do."""

    name: str
    job_id: int | None
    outcome: Outcome
    #: One sentence each; empty if nothing changes.
    changes: tuple[str, ...]


def plan_job(*, tenant: Tenant, spec: JobSpec) -> Planned:
    """Return what applying the spec would do; changes nothing."""
    job = Job.objects.select_related("latest_version").filter(tenant=tenant, name=spec.name).first()
    if job is None or job.latest_version is None:
        return Planned(spec.name, job.pk if job else None, "created", tuple(describe_changes(None, spec)))
    changes = tuple(describe_changes(JobSpec.from_canonical(job.latest_version.spec), spec))
    return Planned(spec.name, job.pk, "updated" if changes else "unchanged", changes)


def plan_definition(*, tenant: Tenant, spec: JobSpec) -> list[str]:
    """Return what applying the spec would change, one sentence each; empty if nothing."""
    return list(plan_job(tenant=tenant, spec=spec).changes)


def apply_definition(
    *, tenant: Tenant, spec: JobSpec, source: str, author: str, comment: str = "", managed_by: str = ""
) -> Applied:
    """Make the spec the job's latest version, in one transaction. Safe to call twice, and at the same time.

    `managed_by` names the owner of a hidden job, such as `rule:<ruleId>`: see `apply_within`. Raises JobArchived,
    JobManaged, JobExists.
    """
    return apply_definitions(
        tenant=tenant, definitions=[(spec, source)], author=author, comment=comment, managed_by=managed_by
    )[0]


def apply_definitions(
    *, tenant: Tenant, definitions: Sequence[tuple[JobSpec, str]], author: str, comment: str = "", managed_by: str = ""
) -> list[Applied]:
    """Apply several definitions, each with its source, all or none. Raises JobArchived, JobManaged, JobExists."""

    def work() -> list[Applied]:
        # Jobs are locked by name, so that two callers cannot wait for each other.
        order = sorted(range(len(definitions)), key=lambda index: definitions[index][0].name)
        applied: dict[int, Applied] = {}
        # All or none, inside a caller's transaction too.
        with transaction.atomic():
            for index in order:
                spec, source = definitions[index]
                applied[index] = apply_within(
                    tenant, spec, source=source, author=author, comment=comment, managed_by=managed_by
                )
        return [applied[index] for index in range(len(definitions))]

    results = in_transaction(work)
    for result in results:
        after_apply(result)
    return results


def create_job(*, tenant: Tenant, spec: JobSpec, source: str, author: str, comment: str = "") -> Applied:
    """Make a job that there is none of yet; the same content again changes nothing. Raises JobExists, JobArchived."""

    def work() -> Applied:
        with transaction.atomic():
            applied = apply_within(tenant, spec, source=source, author=author, comment=comment)
            if applied.outcome == "updated":
                raise JobExists(
                    f"There is already another job {spec.name}.",
                    details=(Detail("name", spec.name, "a name that no job has"),),
                )
            return applied

    return in_transaction(work)


def after_apply(applied: Applied) -> None:
    """Do what follows the commit that applied a definition. Safe to call twice."""
    if applied.outcome == "updated":
        # A wider limit lets runs in that wait for admission.
        admit_job(applied.job.pk)


def pause_job(job: Job, *, by: str, reason: str = "", managed_by: str = "") -> Job:
    """Hold the admission of the job's runs; running ones go on. Safe to call twice: the first reason stays.

    A hidden job is paused, resumed, archived and restored by its owner alone, who gives `managed_by`: all four raise
    JobManaged for anyone else.
    """

    def work() -> Job:
        locked = _locked(job.pk, managed_by)
        if locked.paused_at is None:
            _change(locked, by=by, reason=reason or "paused", cause="pause", paused_at=database_now(),
                    paused_by=by[:200], pause_reason=reason[:500])  # fmt: skip
        return locked

    return in_transaction(work)


def resume_job(job: Job, *, by: str, reason: str = "", managed_by: str = "") -> Job:
    """Admit the job's runs again, those that waited too. Safe to call twice."""

    def work() -> Job:
        locked = _locked(job.pk, managed_by)
        if locked.paused_at is not None:
            _change(locked, by=by, reason=reason or "resumed", cause="resume", paused_at=None, paused_by="",
                    pause_reason="")  # fmt: skip
        return locked

    resumed = in_transaction(work)
    admit_job(job.pk)
    return resumed


def archive_job(job: Job, *, by: str, reason: str = "", managed_by: str = "") -> Job:
    """Let the job start no more runs; its versions and runs stay. Safe to call twice."""

    def work() -> Job:
        locked = _locked(job.pk, managed_by)
        if locked.archived_at is None:
            _change(locked, by=by, reason=reason or "archived", cause="archive", archived_at=database_now())
        return locked

    return in_transaction(work)


def restore_job(job: Job, *, by: str, reason: str = "", managed_by: str = "") -> Job:
    """Let an archived job start runs again; one that was paused before is paused still. Safe to call twice."""

    def work() -> Job:
        locked = _locked(job.pk, managed_by)
        if locked.archived_at is not None:
            _change(locked, by=by, reason=reason or "restored", cause="restore", archived_at=None)
        return locked

    return in_transaction(work)


def standing_of(job: Job) -> Standing:
    """Say whether a job is active, paused or archived."""
    return "archived" if job.archived_at else "paused" if job.paused_at else "active"


def version_of_job(*, tenant: Tenant, job_name: str, number: int | None = None) -> JobVersion:
    """Return a version of a job, the latest by default. Raises UnknownJob, UnknownVersion."""
    job = Job.objects.select_related("latest_version").filter(tenant=tenant, name=job_name).first()
    if job is None:
        raise UnknownJob(f"There is no job {job_name!r}.")
    if number is None:
        version = job.latest_version
    else:
        version = JobVersion.objects.filter(job=job, number=number).first()
    if version is None:
        raise UnknownVersion(f"The job {job_name!r} has no version {number}.")
    return version


def apply_within(
    tenant: Tenant, spec: JobSpec, *, source: str, author: str, comment: str, managed_by: str = ""
) -> Applied:
    """Apply one definition inside the caller's transaction; `after_apply` follows its commit.

    With `managed_by` the job is a hidden one of that owner's: made so, and no longer archived if it was. Raises
    JobArchived, JobManaged for a hidden job of somebody else, JobExists for a name that a job of people has.
    """
    # The unique name decides who creates the job; the row lock then lets one caller at a time add a version, so
    # that the second of two equal ones finds the first's.
    created = Job.objects.get_or_create(
        tenant=tenant, name=spec.name, defaults={**_columns(spec), "managed_by": managed_by}
    )[1]
    job = Job.objects.select_for_update().get(tenant=tenant, name=spec.name)
    _check_owner(job, managed_by)
    if job.archived_at is not None and managed_by:
        _change(job, by=author, reason="its owner applies it again", cause="restore", archived_at=None)
    if job.archived_at is not None:
        raise JobArchived(f"The job {spec.name!r} is archived; restore it before a definition is applied.")
    content_hash = spec.content_hash()
    version = JobVersion.objects.filter(job=job, content_hash=content_hash).first()
    if version is not None and version.pk == job.latest_version_id:
        return Applied(job, version, "unchanged", version_created=False)
    is_new = version is None
    if version is None:
        version = _create_version(job, spec, content_hash, source, author, comment)
    for column, value in _columns(spec).items():
        setattr(job, column, value)
    if not managed_by:
        # What a rule owns is recorded with the rule.
        _record_definition(job, spec, version, by=author, comment=comment)
    job.latest_version = version
    job.save(update_fields=[*_columns(spec), "latest_version", "updated_at"])
    outcome: Outcome = "created" if created or (version.number == 1 and is_new) else "updated"
    return Applied(job, version, outcome, version_created=is_new)


def _record_definition(job: Job, spec: JobSpec, version: JobVersion, *, by: str, comment: str) -> None:
    """Record what a definition changes, in words; the whole of it, before and after, is kept by the two versions."""
    earlier = job.latest_version
    said = describe_changes(JobSpec.from_canonical(earlier.spec) if earlier is not None else None, spec)
    record_audit(
        action="job.create" if earlier is None else "job.update", subject="job", subject_id=job.pk,
        subject_name=job.name, tenant_id=job.tenant_id, by=by,
        before=None if earlier is None else {"version": earlier.number},
        after={"version": version.number, "changes": [*said[:CHANGES_KEPT], *(["…"] if len(said) > CHANGES_KEPT else [])]},
        reason=comment,
    )  # fmt: skip


def _columns(spec: JobSpec) -> dict[str, object]:
    return {
        "description": spec.description,
        "owner": spec.owner,
        "tags": list(spec.tags),
        "concurrency_limit": spec.concurrency.limit,
        "when_full": spec.concurrency.when_full,
    }


def _create_version(job: Job, spec: JobSpec, content_hash: str, source: str, author: str, comment: str) -> JobVersion:
    graph = Graph.of(spec)
    latest = JobVersion.objects.filter(job=job).aggregate(Max("number"))["number__max"] or 0
    version = JobVersion.objects.create(
        job=job,
        number=latest + 1,
        content_hash=content_hash,
        spec=spec.canonical(),
        source=source,
        comment=comment[:500],
        author=author[:200],
        task_count=len(graph),
    )
    _insert(
        Task,
        (
            Task(
                version=version,
                position=position,
                name=task.name,
                type=task.type,
                join=task.join,
                upstream_count=len(graph.dependencies[position]),
                downstream_count=len(graph.downstream[position]),
                priority=int((task.priority or spec.priority)[1]),
                pool=task.pool,
                timeout_seconds=task.timeout,
                queue_timeout_seconds=task.queue_timeout,
                lock_count=len(task.locks),
                idempotent=task.idempotent,
            )
            for position, task in enumerate(graph.tasks)
        ),
    )
    _insert(
        Dependency,
        (
            Dependency(
                version=version,
                upstream_position=edge.upstream,
                downstream_position=position,
                status=edge.status,
                when=edge.when or "",
                recovers=edge.recovers,
            )
            for position, edges in enumerate(graph.dependencies)
            for edge in edges
        ),
    )
    return version


def _insert(model: type[Row], rows: Iterable[Row]) -> None:
    """Insert rows batch by batch, made one batch at a time: all at once, 50,000 of them keep the database waiting for
    longer than it lets a transaction be idle.
    """
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        model._default_manager.bulk_create(batch)


def _locked(job_id: int, managed_by: str) -> Job:
    job = Job.objects.select_for_update().get(pk=job_id)
    _check_owner(job, managed_by)
    return job


def _check_owner(job: Job, managed_by: str) -> None:
    if job.managed_by == managed_by:
        return
    if not job.managed_by:
        raise JobExists(
            f"There is already a job {job.name!r} made by hand, and archiving it does not free the name.",
            details=(Detail("name", job.name, "a name that no job has"),),
        )
    kind, _, owner = job.managed_by.partition(":")
    raise JobManaged(
        f"The job {job.name!r} belongs to the {kind} {owner!r}; change that instead.",
        details=(Detail("name", job.name, "a job that nobody owns"),),
    )


def _change(job: Job, *, by: str, reason: str, cause: str, **columns: str | datetime | None) -> None:
    before = standing_of(job)
    for column, value in columns.items():
        setattr(job, column, value)
    job.save(update_fields=[*columns, "updated_at"])
    record_transition(
        subject="job",
        subject_id=job.pk,
        from_state=before,
        to_state=standing_of(job),
        reason=reason,
        cause=cause,
        by=by,
    )
    if not job.managed_by:
        record_audit(
            action=f"job.{cause}", subject="job", subject_id=job.pk, subject_name=job.name, tenant_id=job.tenant_id,
            by=by, before={"state": before}, after={"state": standing_of(job)}, reason=reason,
        )  # fmt: skip
