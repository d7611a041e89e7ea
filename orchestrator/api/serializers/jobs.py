"""How jobs and versions look in answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.models import Job, JobVersion


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
