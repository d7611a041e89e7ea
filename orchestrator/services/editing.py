"""A job's definition as a person edits it: checked as a whole, and stored only over the version that it was made from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.dag.export import export_yaml
from orchestrator.dag.parse import Definition
from orchestrator.dag.problems import Problem
from orchestrator.dag.spec import JobSpec
from orchestrator.errors import Detail, Refused
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import Job, JobVersion, Tenant
from orchestrator.services.jobs import Applied, Planned, after_apply, apply_within, create_job, plan_job
from orchestrator.services.parsing import read_definitions

#: A definition to begin with: small, valid, and with what most jobs have.
FIRST_DEFINITION: Final = """\
kind: Job
name: my-job
description: What it is for.
parameters:
  - name: region
    type: enum
    values: [eu, us]
    default: eu
tasks:
  - name: extract
    type: shell
    command: echo "extract $REGION"
    env:
      REGION: ${params.region}
  - name: load
    type: shell
    command: echo load
    depends_on: [extract]
"""


class VersionConflict(Refused):
    """The job has got another version meanwhile."""

    code = "version_conflict"


@dataclass(frozen=True, slots=True)
class Review:
    """What is to be said of a text: its problems in the order of their lines, or what storing it would change."""

    problems: tuple[Problem, ...]
    spec: JobSpec | None = None
    planned: Planned | None = None


def text_to_edit(version: JobVersion) -> str:
    """Return the definition as it was written; one that was never text, or belongs to a larger file, as exported."""
    if version.source.strip():
        found = read_definitions(version.source, stem=version.job.name)
        if len(found) == 1 and found[0].spec is not None and found[0].spec.content_hash() == version.content_hash:
            return version.source
    return export_yaml(JobSpec.from_canonical(version.spec))


def review(text: str, *, tenant: Tenant, job: Job | None) -> Review:
    """Say what is wrong with a text that is to become a version of `job`, or a job of its own. Stores nothing."""
    definitions = read_definitions(text, stem=job.name if job is not None else "")
    problems = [problem for definition in definitions for problem in definition.problems]
    spec = definitions[0].spec
    if not problems:
        problems += _misplaced(text, definitions, tenant=tenant, job=job)
    if problems or spec is None:
        return Review(tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))))
    return Review((), spec, plan_job(tenant=tenant, spec=spec))


def _misplaced(text: str, definitions: Sequence[Definition], *, tenant: Tenant, job: Job | None) -> Iterator[Problem]:
    """Yield what keeps valid definitions from being what is edited here: one job, of this name."""
    if len(definitions) > 1:
        found = f"{len(definitions)} definitions"
        yield _at(text, _NEXT_DOCUMENT, "", found, "one job", "more than one definition")
        return
    spec = definitions[0].spec
    if spec is None:
        expected = "Job: other kinds are applied by `manage.py apply` or the API"
        yield _at(text, _KIND, "kind", definitions[0].kind, expected, "no job")
    elif job is not None and spec.name != job.name:
        yield _at(text, _NAME, "name", spec.name, f"{job.name}: a job keeps its name", "another job's name")
    elif job is None and Job.objects.filter(tenant=tenant, name=spec.name).exists():
        expected = "a name that no job of the tenant has"
        yield _at(text, _NAME, "name", spec.name, expected, "there is a job of this name")


def save_new_job(text: str, *, tenant: Tenant, by: str, comment: str) -> tuple[Review, Applied | None]:
    """Make a job of a text, unless there is something wrong with it: then nothing is stored."""
    found = review(text, tenant=tenant, job=None)
    if found.spec is None:
        return found, None
    return found, create_job(tenant=tenant, spec=found.spec, source=text, author=by, comment=comment)


def save_definition(text: str, *, job: Job, based_on: int, by: str, comment: str) -> tuple[Review, Applied | None]:
    """Make a text the job's latest version, unless there is something wrong with it: then nothing is stored.

    `based_on` is the number of the version that was edited. Raises VersionConflict if it is the latest no more, so
    that nobody's change is lost unseen; JobArchived, JobManaged.
    """
    found = review(text, tenant=job.tenant, job=job)
    spec = found.spec
    if spec is None:
        return found, None

    def work() -> Applied:
        locked = Job.objects.select_for_update(of=("self",)).select_related("latest_version").get(pk=job.pk)
        latest = locked.latest_version
        if latest is not None and latest.number != based_on and latest.content_hash != spec.content_hash():
            raise VersionConflict(
                f"The job has got version {latest.number} by {latest.author or 'somebody'} since version {based_on}, "
                "from which you began.",
                details=(Detail("version", based_on, f"{latest.number}, the latest"),),
            )
        return apply_within(job.tenant, spec, source=text, author=by, comment=comment)

    applied = in_transaction(work)
    after_apply(applied)
    return found, applied


_NEXT_DOCUMENT: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_KIND: Final = re.compile(r"^\s{0,2}[\"']?kind[\"']?\s*:", re.MULTILINE)
_NAME: Final = re.compile(r"^\s{0,2}[\"']?name[\"']?\s*:", re.MULTILINE)


def _at(text: str, pattern: re.Pattern[str], path: str, value: str, expected: str, message: str) -> Problem:
    """Return a problem of a definition that is valid by itself, with the line to which it belongs."""
    problem = Problem(path, None, None, value, expected, message)
    found = None
    for found in pattern.finditer(text):
        # The first `---` may open the only document that there should be.
        if pattern is not _NEXT_DOCUMENT or text[: found.start()].strip():
            break
    return problem if found is None else replace(problem, line=text.count("\n", 0, found.start()) + 1, column=1)
