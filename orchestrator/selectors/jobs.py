"""Jobs and their versions, as one tenant sees them."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.errors import UnknownJob, UnknownVersion
from orchestrator.models import Job, JobVersion
from orchestrator.selectors.pages import Page, page_of

#: The spec and the text of a version may be megabytes; lists never load them.
_HEAVY = ("latest_version__spec", "latest_version__source")


def job_of(tenant_id: int, reference: str) -> Job:
    """Return a job by its id or its name, with its latest version; raises UnknownJob.

    All digits are an id: a job whose name is all digits is found by its id alone.
    """
    key = {"pk": int(reference)} if reference.isascii() and reference.isdigit() else {"name": reference}
    jobs = Job.objects.select_related("latest_version").defer(*_HEAVY)
    job = jobs.filter(tenant_id=tenant_id, **key).first()
    if job is None:
        raise UnknownJob(f"There is no job {reference}.")
    return job


def jobs_of(
    tenant_id: int,
    *,
    names: Collection[str] = (),
    name: str | None = None,
    tag: str | None = None,
    archived: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """Return a page of jobs by name; `names`, if any, are all that the caller may see."""
    jobs = Job.objects.filter(tenant_id=tenant_id, archived_at__isnull=not archived)
    if names:
        jobs = jobs.filter(name__in=names)
    if name is not None:
        jobs = jobs.filter(name=name)
    if after is not None:
        jobs = jobs.filter(name__gt=after)
    jobs = jobs.select_related("latest_version").defer(*_HEAVY).order_by("name")
    if tag is None:
        return page_of(jobs, limit=limit, cursor_of=lambda job: job.name)
    # Tags are a JSON list, which SQLite cannot search by an operator; a tenant has hundreds of jobs, not millions.
    tagged = [job for job in jobs.iterator(chunk_size=500) if tag in job.tags]
    return Page(tagged[:limit], tagged[limit - 1].name if len(tagged) > limit else None)


def versions_of(job: Job, *, before: int | None = None, limit: int = 50) -> Page[JobVersion]:
    """Return a page of a job's versions, newest first, without their content."""
    versions = JobVersion.objects.filter(job=job).defer("spec", "source").order_by("-number")
    if before is not None:
        versions = versions.filter(number__lt=before)
    return page_of(versions, limit=limit, cursor_of=lambda version: version.number)


def version_of(job: Job, number: int) -> JobVersion:
    """Return one version with its content; raises UnknownVersion."""
    version = JobVersion.objects.filter(job=job, number=number).first()
    if version is None:
        raise UnknownVersion(f"The job {job.name} has no version {number}.")
    return version
