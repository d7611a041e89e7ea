"""How event sources look: the fields of `kind: EventSource`, and what is known of them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from triggers.models import EventSource, Listener
from triggers.models.sources import ID_POLICIES, KINDS


class SourceCall(serializers.Serializer):
    """A source as it is sent. What only an answer has, such as `endpoint`, is read over."""

    slug = serializers.CharField(help_text="Its name; in the path of a PUT it need not be repeated.")
    type = serializers.CharField(help_text="One of " + ", ".join(KINDS) + ".")
    config = serializers.DictField(required=False, help_text="The fields of its type.")
    secrets = serializers.DictField(
        child=serializers.CharField(), required=False, help_text="What a secret is for → the name of a stored one."
    )
    id_policy = serializers.CharField(
        required=False,
        help_text="Where a message without an id gets one: " + ", ".join(ID_POLICIES) + "; default: by type.",
    )
    enabled = serializers.BooleanField(required=False)


class SourceAnswer(serializers.Serializer):
    """An event source. Secrets are named, never shown."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    slug = serializers.CharField()
    type = serializers.CharField()
    config = serializers.DictField()
    secrets = serializers.DictField(child=serializers.CharField())
    id_policy = serializers.CharField()
    enabled = serializers.BooleanField()
    endpoint = serializers.CharField(allow_null=True, help_text="The last part of a webhook's path.")
    hook_url = serializers.CharField(allow_null=True, help_text="Where a webhook is to be sent.")
    version = serializers.IntegerField(help_text="Grows with every change; the ETag.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    updated_by = serializers.CharField()


class ListenerAnswer(serializers.Serializer):
    """A process that listens, as it last reported."""

    instance = serializers.CharField()
    state = serializers.CharField(help_text="ok, paused, degraded or failing.")
    reason = serializers.CharField()
    assigned = serializers.DictField(help_text="topic/partition or queue → messages not read yet, null when unknown.")
    last_loop_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField()


class SourceDetailAnswer(SourceAnswer):
    """An event source and who listens to it."""

    listeners = ListenerAnswer(many=True)


def source_answer(row: EventSource, base_url: str) -> dict[str, Any]:
    return {
        "id": row.pk,
        "url": f"{base_url}/api/v1/event-sources/{row.slug}",
        "slug": row.slug,
        "type": row.kind,
        "config": row.config,
        "secrets": row.secrets,
        "id_policy": row.id_policy,
        "enabled": row.enabled,
        "endpoint": row.endpoint,
        "hook_url": f"{base_url}/api/v1/hooks/{row.endpoint}" if row.endpoint else None,
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "updated_by": row.updated_by,
    }


def source_detail_answer(row: EventSource, listeners: list[Listener], base_url: str) -> dict[str, Any]:
    return {
        **source_answer(row, base_url),
        "listeners": [
            {
                "instance": each.instance,
                "state": each.state,
                "reason": each.reason,
                "assigned": each.assigned,
                "last_loop_at": each.last_loop_at,
                "started_at": each.started_at,
            }
            for each in listeners
        ],
    }
