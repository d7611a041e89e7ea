"""Jobs and their versions, as one tenant sees them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import OuterRef, Subquery

from orchestrator.dag.spec import JobSpec
from orchestrator.errors import UnknownJob, UnknownVersion
from orchestrator.models import Job, JobRun, JobVersion
from orchestrator.selectors.pages import Page, page_of
from orchestrator.states import RUN_FINAL

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
    managed: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """Return a page of jobs by name; `names`, if any, are all that the caller may see.

    `managed`: the hidden jobs that rules own, instead of the others.
    """
    jobs = Job.objects.filter(tenant_id=tenant_id, archived_at__isnull=not archived)
    jobs = jobs.exclude(managed_by="") if managed else jobs.filter(managed_by="")
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


def single_tasks_of(
    tenant_id: int, *, names: Collection[str] = (), after: str | None = None, limit: int = 50
) -> Page[Job]:
    """Return a page of the jobs of one shell command, by name, each with its content and its newest run's state."""
    newest = JobRun.objects.filter(job=OuterRef("pk")).order_by("-pk").values("state")[:1]
    jobs = Job.objects.filter(
        tenant_id=tenant_id,
        archived_at=None,
        managed_by="",
        latest_version__task_count=1,
        latest_version__tasks__type="shell",
    )
    if names:
        jobs = jobs.filter(name__in=names)
    if after is not None:
        jobs = jobs.filter(name__gt=after)
    jobs = jobs.select_related("latest_version").defer("latest_version__source").annotate(run_state=Subquery(newest))
    return page_of(jobs.order_by("name"), limit=limit, cursor_of=lambda job: job.name)


def spec_of_job(job: Job) -> JobSpec:
    """Return the content that the job's next run takes; raises UnknownVersion for a job without any."""
    if job.latest_version is None:
        raise UnknownVersion(f"The job {job.name} has no version.")
    return JobSpec.from_canonical(job.latest_version.spec)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job's runs stand."""

    newest: JobRun | None
    open_runs: int


def status_of(job: Job) -> JobStatus:
    runs = JobRun.objects.filter(job=job)
    heavy = ("version__spec", "version__source", "event")
    newest = runs.select_related("job", "version").defer(*heavy).order_by("-pk").first()
    return JobStatus(newest, runs.exclude(state__in=RUN_FINAL).count())
