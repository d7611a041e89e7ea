"""How jobs and versions look in answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.dag.diff import describe_changes, text_diff
from orchestrator.dag.parse import Definition
from orchestrator.dag.spec import JobSpec
from orchestrator.models import Job, JobVersion
from orchestrator.services.jobs import Applied, Planned


class JobAnswer(serializers.Serializer):
    """A job, with the number of the version that its next run takes."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    owner = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())
    version = serializers.IntegerField(allow_null=True)
    task_count = serializers.IntegerField(allow_null=True)
    concurrency_limit = serializers.IntegerField(allow_null=True, help_text="Runs at once; null: any number.")
    when_full = serializers.CharField(help_text="queue, skip or cancel_running")
    paused_at = serializers.DateTimeField(allow_null=True)
    paused_by = serializers.CharField()
    pause_reason = serializers.CharField()
    archived_at = serializers.DateTimeField(allow_null=True)
    managed_by = serializers.CharField(help_text="Who owns a hidden job, such as `rule:<ruleId>`; empty: nobody.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


def job_answer(job: Job, base_url: str) -> dict[str, Any]:
    version = job.latest_version
    return {
        "id": job.pk,
        "url": f"{base_url}/api/v1/jobs/{job.pk}",
        "name": job.name,
        "description": job.description,
        "owner": job.owner,
        "tags": job.tags,
        "version": version.number if version else None,
        "task_count": version.task_count if version else None,
        "concurrency_limit": job.concurrency_limit,
        "when_full": job.when_full,
        "paused_at": job.paused_at,
        "paused_by": job.paused_by,
        "pause_reason": job.pause_reason,
        "archived_at": job.archived_at,
        "managed_by": job.managed_by,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }


class VersionAnswer(serializers.Serializer):
    """An immutable version of a job."""

    number = serializers.IntegerField()
    content_hash = serializers.CharField()
    task_count = serializers.IntegerField()
    author = serializers.CharField()
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()


class VersionWithSpecAnswer(VersionAnswer):
    """A version with its canonical spec: what differs from the defaults."""

    spec = serializers.DictField()


def version_answer(version: JobVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "content_hash": version.content_hash,
        "task_count": version.task_count,
        "author": version.author,
        "comment": version.comment,
        "created_at": version.created_at,
    }


class AppliedAnswer(serializers.Serializer):
    """What applying a definition did or, in a dry run, would do."""

    kind = serializers.CharField()
    name = serializers.CharField()
    id = serializers.IntegerField(allow_null=True, help_text="null: a dry run of a job that does not exist yet.")
    url = serializers.CharField(allow_null=True)
    version = serializers.IntegerField(allow_null=True, help_text="The latest version; null in a dry run.")
    outcome = serializers.ChoiceField(["created", "updated", "unchanged"])
    changes = serializers.ListField(
        child=serializers.CharField(), help_text="In a dry run: what would change, one sentence each."
    )


class AppliedListAnswer(serializers.Serializer):
    """What applying definitions did, in their order."""

    items = AppliedAnswer(many=True)


def applied_answer(applied: Applied, base_url: str) -> dict[str, Any]:
    return {
        "kind": "Job",
        "name": applied.job.name,
        "id": applied.job.pk,
        "url": f"{base_url}/api/v1/jobs/{applied.job.pk}",
        "version": applied.version.number,
        "outcome": applied.outcome,
        "changes": [],
    }


def planned_answer(planned: Planned) -> dict[str, Any]:
    return {
        "kind": "Job",
        "name": planned.name,
        "id": planned.job_id,
        "url": None,
        "version": None,
        "outcome": planned.outcome,
        "changes": list(planned.changes),
    }


class ProblemAnswer(serializers.Serializer):
    """One problem of a definition."""

    path = serializers.CharField(help_text="Such as `tasks[3].depends_on[0].task`; empty: the whole definition.")
    line = serializers.IntegerField(allow_null=True)
    column = serializers.IntegerField(allow_null=True)
    value = serializers.JSONField()
    expected = serializers.CharField()
    message = serializers.CharField()


class DefinitionAnswer(serializers.Serializer):
    """One definition of the text, and what is wrong with it."""

    kind = serializers.CharField()
    name = serializers.CharField(allow_null=True, help_text="null: it has problems.")
    problems = ProblemAnswer(many=True)


class ValidationAnswer(serializers.Serializer):
    """Whether all definitions are valid."""

    valid = serializers.BooleanField()
    definitions = DefinitionAnswer(many=True)


def validation_answer(definition: Definition) -> dict[str, Any]:
    return {
        "kind": definition.kind,
        "name": definition.content.name if definition.content is not None else None,
        "problems": [problem.as_dict() for problem in definition.problems],
    }


class DiffAnswer(serializers.Serializer):
    """What one version changes against another."""

    version = serializers.IntegerField()
    against = serializers.IntegerField()
    changes = serializers.ListField(child=serializers.CharField(), help_text="One sentence each.")
    text = serializers.CharField(help_text="Unified diff of the two as `export` writes them; empty: the same.")


def diff_answer(old: JobVersion, new: JobVersion) -> dict[str, Any]:
    before, after = JobSpec.from_canonical(old.spec), JobSpec.from_canonical(new.spec)
    return {
        "version": new.number,
        "against": old.number,
        "changes": describe_changes(before, after),
        "text": text_diff(
            before, after, old_label=f"{before.name} v{old.number}", new_label=f"{after.name} v{new.number}"
        ),
    }
