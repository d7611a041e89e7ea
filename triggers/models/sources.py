from __future__ import annotations

from django.db import models
from django.db.models import Q

from orchestrator.models import Tenant

KINDS = ("kafka", "rabbitmq", "webhook")
ID_POLICIES = ("transport", "require", "bodyhash")


class EventSource(models.Model):
    """Where events come from: a consumer group's topics, a queue, a webhook's endpoint."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="event_sources")
    slug = models.SlugField(max_length=63)
    kind = models.CharField(max_length=16)
    #: The typed fields of its kind, checked before they are stored.
    config = models.JSONField(default=dict, blank=True)
    #: What a secret is for → the name of a stored Secret.
    secrets = models.JSONField(default=dict, blank=True)
    #: Where the id of a message comes from that has none of its own.
    id_policy = models.CharField(max_length=16)
    #: A webhook's path: random, but no secret.
    endpoint = models.CharField(max_length=63, null=True, blank=True, unique=True)
    enabled = models.BooleanField(default=True)
    #: Grows with each change; a listener with another one starts anew.
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "slug"], name="event_source_slug_unique_in_tenant"),
            models.CheckConstraint(condition=Q(kind__in=KINDS), name="event_source_kind_known"),
            models.CheckConstraint(condition=Q(id_policy__in=ID_POLICIES), name="event_source_id_policy_known"),
        ]

    def __str__(self) -> str:
        return self.slug


class Listener(models.Model):
    """A process that hosts the consumer of one source, or one role, as its own loop last reported it."""

    instance = models.CharField(max_length=200)
    source = models.ForeignKey(EventSource, on_delete=models.CASCADE, null=True, related_name="listeners")
    #: `kafka`, `rabbitmq`, or a role: `timers`, `dlx-import`.
    kind = models.CharField(max_length=16)
    #: `topic/partition` or queue → messages not yet read, null when unknown.
    assigned = models.JSONField(default=dict)
    last_loop_at = models.DateTimeField()
    #: `ok`, `paused`, `degraded` or `failing`, and why.
    state = models.CharField(max_length=16, default="ok")
    reason = models.CharField(max_length=500, blank=True, default="")
    started_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance"], name="listener_instance_unique")]

    def __str__(self) -> str:
        return self.instance


class UncleanExit(models.Model):
    """Written where a listener begins to read, removed when it ends in order: what is left tells of a death."""

    source = models.ForeignKey(EventSource, on_delete=models.CASCADE, related_name="+", db_index=False)
    #: `topic/partition` or the queue.
    part = models.CharField(max_length=300)
    instance = models.CharField(max_length=200)
    marked_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["source", "part", "instance"], name="unclean_exit_unique")]

    def __str__(self) -> str:
        return f"{self.part} ({self.instance})"
