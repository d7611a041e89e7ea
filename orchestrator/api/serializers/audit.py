"""How audit records look in answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.models import AuditRecord


class AuditRecordAnswer(serializers.Serializer):
    """Who changed or commanded what, with what was before and what is after; never changed, never deleted."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    by = serializers.CharField(help_text="Such as user:anna, token:ci or cli:root.")
    surface = serializers.CharField(help_text="Where it came in: admin, api, command or system.")
    action = serializers.CharField(help_text="Object and verb, such as job.update or run.cancel.")
    subject = serializers.CharField(help_text="The kind of what was changed, such as job, run or rule.")
    subject_id = serializers.CharField()
    subject_name = serializers.CharField(help_text="As it was called then.")
    before = serializers.DictField(allow_null=True, help_text="Of a change only what differs; null: there was nothing.")
    after = serializers.DictField(allow_null=True, help_text="null: there is nothing any more.")
    reason = serializers.CharField()


def audit_record_answer(row: AuditRecord) -> dict[str, Any]:
    return {
        "id": row.pk,
        "at": row.at,
        "by": row.by,
        "surface": row.surface,
        "action": row.action,
        "subject": row.subject,
        "subject_id": row.subject_id,
        "subject_name": row.subject_name,
        "before": row.before,
        "after": row.after,
        "reason": row.reason,
    }
