"""How rules look: the contract's flat fields at the top level, extensions beside them, all in its spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from triggers.models import RuleVersion, TriggerRule
from triggers.services.rules import spec_of_rule

RULE_FIELDS = (
    "ruleId", "ruleName", "eventType", "condition", "taskName", "taskType", "parameters", "priority", "enabled",
    "description",
)  # fmt: skip


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
class OneOrMore(serializers.JSONField):
    """A text, or a list of texts."""


class RuleFields(serializers.Serializer):
    """What a rule says."""

    ruleName = serializers.CharField(required=False, help_text="For people.")
    eventType = OneOrMore(required=False, help_text="`order.created`; `order.*` for one level, `order.#` for the rest.")
    condition = serializers.CharField(
        required=False, help_text="CEL over payload, metadata, headers, timestamp, now …; empty: always."
    )
    taskName = serializers.CharField(
        required=False, help_text="Without taskType: the job to start. With it: what people call the task."
    )
    taskType = serializers.CharField(
        required=False, allow_null=True, help_text="The rule carries its own task of this type."
    )
    parameters = serializers.DictField(required=False)
    priority = serializers.CharField(required=False, allow_null=True, help_text="HIGH, MEDIUM, LOW, or P0 … P3.")
    enabled = serializers.BooleanField(required=False)
    description = serializers.CharField(required=False)
    match = serializers.DictField(required=False, help_text="eventType, source, channel, headers.")
    timeout = serializers.FloatField(required=False, help_text="Seconds.")
    dedupe = serializers.DictField(required=False, help_text="key, window.")
    throttle = serializers.DictField(required=False, help_text="limit, per, onExceed: hold or drop.")
    debounce = serializers.DictField(required=False, help_text="key, quiet, maxWait.")
    batch = serializers.DictField(required=False, help_text="key, maxEvents, maxWait.")
    concurrency = serializers.DictField(required=False, help_text="key, max, onExceed: queue or drop.")
    delay = serializers.JSONField(required=False, help_text="Seconds, or a text such as 5m.")
    window = serializers.DictField(required=False, help_text="tz, allow, onClosed: hold or drop.")
    expiresAfter = serializers.JSONField(required=False, help_text="Seconds, or a text such as 24h.")
    whenJobPaused = serializers.CharField(required=False, help_text="hold or drop.")


class RuleCall(RuleFields):
    """A rule as it is sent. What only an answer has, such as `version`, is read over."""

    ruleId = serializers.CharField()


class RuleAnswer(RuleFields):
    """A rule with what the server knows of it."""

    ruleId = serializers.CharField()
    id = serializers.IntegerField()
    url = serializers.CharField()
    version = serializers.IntegerField(help_text="Grows with every change; the ETag.")
    job = serializers.CharField(help_text="The job that it starts: the named one, or the hidden one of its task.")
    createdAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()
    updatedBy = serializers.CharField()
    quarantinedAt = serializers.DateTimeField(allow_null=True)
    quarantineReason = serializers.CharField()
    warnings = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="After a change: what is allowed but looks wrong."
    )


class RulePageAnswer(serializers.Serializer):
    """The page object, by `?view=page`."""

    content = RuleAnswer(many=True)
    page = serializers.IntegerField()
    size = serializers.IntegerField()
    totalElements = serializers.IntegerField()
    totalPages = serializers.IntegerField()


class RuleVersionAnswer(serializers.Serializer):
    """A version of a rule: what it said then."""

    version = serializers.IntegerField()
    createdAt = serializers.DateTimeField()
    author = serializers.CharField()
    comment = serializers.CharField()
    rule = serializers.DictField()


class RollbackCall(serializers.Serializer):
    """Which version to go back to."""

    version = serializers.IntegerField(min_value=1)
    comment = serializers.CharField(required=False, max_length=500)


@extend_schema_field({"oneOf": [{"type": "object", "additionalProperties": {}}, {"type": "string"}]})
class RuleOrId(serializers.JSONField):
    """A rule, or the id of one that is stored."""


class RuleTestCall(serializers.Serializer):
    """What would a rule do with an event?"""

    rule = RuleOrId()
    eventMessage = serializers.DictField(help_text="An event in the envelope of `POST /api/v1/events`.")
    channel = serializers.CharField(required=False, help_text="Such as kafka:business-events; default: api.")
    headers = serializers.DictField(child=serializers.CharField(), required=False)


class TestStepAnswer(serializers.Serializer):
    """One step of the way from the event to a run."""

    step = serializers.CharField()
    outcome = serializers.CharField()
    detail = serializers.JSONField()


class RuleTestAnswer(serializers.Serializer):
    """What would happen, step by step; nothing was stored."""

    outcome = serializers.CharField()
    reason = serializers.CharField()
    steps = TestStepAnswer(many=True)


def rule_answer(rule: TriggerRule, base_url: str, *, warnings: Sequence[str] | None = None) -> dict[str, Any]:
    spec = spec_of_rule(rule)
    return {
        **spec.to_form(),
        "id": rule.pk,
        "url": rule_url(rule.slug, base_url),
        "version": rule.version,
        "job": spec.job_name if spec.job_name is not None else rule.own_job.name if rule.own_job else "",
        "createdAt": rule.created_at,
        "updatedAt": rule.updated_at,
        "updatedBy": rule.updated_by,
        "quarantinedAt": rule.quarantined_at,
        "quarantineReason": rule.quarantine_reason,
        **({} if warnings is None else {"warnings": list(warnings)}),
    }


def rule_url(slug: str, base_url: str) -> str:
    return f"{base_url}/api/v1/task-trigger-rules/{slug}"


def rule_version_answer(row: RuleVersion, form: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": row.number,
        "createdAt": row.created_at,
        "author": row.author,
        "comment": row.comment,
        "rule": form,
    }
