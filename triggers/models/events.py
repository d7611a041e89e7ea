from __future__ import annotations

from django.db import models
from django.db.models import Q

from orchestrator.models import Tenant
from triggers.models.sources import EventSource

EVENT_STATES = ("received", "matched", "no_match", "expired")
OUTCOMES = ("fired", "error", "suppressed", "held", "expired")
LETTER_STATES = ("open", "replayed", "discarded")


class EventKey(models.Model):
    """What makes one message one event: BLAKE2b-128 of tenant, source and message id, written with the event."""

    key = models.UUIDField(primary_key=True)
    event_id = models.BigIntegerField()
    #: SHA-256 of the type and the canonical payload: the same key with another one is a conflict.
    payload_sha = models.BinaryField()
    received_at = models.DateTimeField()

    class Meta:
        # The deletion of old keys.
        indexes = [models.Index(fields=["received_at"], name="event_key_received")]

    def __str__(self) -> str:
        return str(self.key)


class Event(models.Model):
    """One incoming message, call or tick, in the canonical envelope. On PostgreSQL a partition a day.

    Without foreign keys: written in bulk, dropped by partition, outlived by what it started.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    #: Null: the built-in source `api`.
    event_source = models.ForeignKey(
        EventSource, on_delete=models.DO_NOTHING, null=True, related_name="+", db_constraint=False, db_index=False
    )
    received_at = models.DateTimeField()
    source = models.CharField(max_length=200)
    message_id = models.CharField(max_length=500)
    event_type = models.CharField(max_length=200)
    event_time = models.DateTimeField()
    destination = models.CharField(max_length=200, blank=True, default="")
    priority = models.CharField(max_length=16, blank=True, default="")
    trace_id = models.CharField(max_length=200, blank=True, default="")
    schema = models.CharField(max_length=200, blank=True, default="")
    version = models.CharField(max_length=50, blank=True, default="")
    #: `kafka:<topic>`, `rabbitmq:<queue>`, `webhook:<slug>` or `api`.
    channel = models.CharField(max_length=300)
    #: `topic/partition` and offset on Kafka; the queue on RabbitMQ.
    part = models.CharField(max_length=300, blank=True, default="")
    off = models.BigIntegerField(null=True)
    ordering_key = models.CharField(max_length=300, blank=True, default="")
    #: How many runs and events it descends from.
    depth = models.PositiveSmallIntegerField(default=0)
    payload = models.JSONField()
    metadata = models.JSONField(default=dict)
    headers = models.JSONField(default=dict)
    state = models.CharField(max_length=16)
    #: Ids of the rule versions whose condition was false.
    not_fired = models.JSONField(default=list)

    class Meta:
        indexes = [
            models.Index(fields=["tenant", "event_type", "-id"], name="event_of_type"),
            models.Index(fields=["message_id"], name="event_message_id"),
            # Retention on SQLite, which has no partitions; "from … to …" on both.
            models.Index(fields=["received_at"], name="event_received"),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.message_id}"


class Firing(models.Model):
    """The recorded outcome of a rule on an event: a run, or a named reason. No hard key to the rule: it may vanish."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    rule_id = models.BigIntegerField()
    rule_version = models.PositiveIntegerField()
    event_id = models.BigIntegerField()
    #: 0, or the id of the replay that made it.
    replay_no = models.PositiveBigIntegerField(default=0)
    outcome = models.CharField(max_length=16)
    #: The first word is a name, such as `deduplicated`; the rest is for people.
    reason = models.CharField(max_length=500, blank=True, default="")
    job_run_id = models.BigIntegerField(null=True)
    #: Of a held one: which stage holds it, and the key within the stage.
    stage = models.CharField(max_length=10, blank=True, default="")
    key_hash = models.UUIDField(null=True)
    generation = models.PositiveIntegerField(default=0)
    #: The admission key of its run, where the rule keeps an order: a later one of it waits behind this one.
    order_hash = models.UUIDField(null=True)
    release_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["event_id", "rule_id", "replay_no"], name="firing_unique"),
            models.CheckConstraint(condition=Q(outcome__in=OUTCOMES), name="firing_outcome_known"),
        ]
        indexes = [
            models.Index(fields=["rule_id", "-id"], name="firing_of_rule"),
            # The timers: what is due, and what has waited too long.
            models.Index(fields=["release_at"], condition=Q(outcome="held"), name="firing_release"),
            models.Index(fields=["expires_at"], condition=Q(outcome="held"), name="firing_expiry"),
            # The members of a group, and an older held one of the same key.
            models.Index(
                fields=["rule_id", "key_hash", "generation"],
                condition=Q(key_hash__isnull=False),
                name="firing_of_key",
            ),
            models.Index(
                fields=["rule_id", "order_hash"],
                condition=Q(outcome="held", order_hash__isnull=False),
                name="firing_held_of_order",
            ),
            models.Index(fields=["job_run_id"], condition=Q(job_run_id__isnull=False), name="firing_of_run"),
            # Lists by time; a summary of blocks on PostgreSQL.
            models.Index(fields=["created_at"], name="firing_created"),
        ]

    def __str__(self) -> str:
        return f"firing {self.pk}: {self.outcome}"


class DeadLetter(models.Model):
    """A message that could not be used, with its raw bytes and the reason."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_index=False)
    event_source = models.ForeignKey(EventSource, on_delete=models.SET_NULL, null=True, related_name="dead_letters")
    #: One place of one message: the same again raises `tries`.
    identity = models.UUIDField(unique=True)
    channel = models.CharField(max_length=300)
    part = models.CharField(max_length=300, blank=True, default="")
    off = models.BigIntegerField(null=True)
    message_id = models.CharField(max_length=500, blank=True, default="")
    reason = models.CharField(max_length=32)
    error = models.TextField(blank=True, default="")
    raw = models.BinaryField()
    headers = models.JSONField(default=dict)
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    tries = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=16, default="open")
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=200, blank=True, default="")
    #: What a replay made of it.
    event_id = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(state__in=LETTER_STATES), name="dead_letter_state_known")]
        indexes = [
            models.Index(fields=["tenant", "state", "-id"], name="dead_letter_of_tenant"),
            models.Index(fields=["first_seen"], condition=Q(state="open"), name="dead_letter_open"),
        ]

    def __str__(self) -> str:
        return f"dead letter {self.pk}: {self.reason}"


class Replay(models.Model):
    """Stored events given to the rules once more. Its id is the `replay_no` of its firings, so resuming doubles nothing."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_index=False)
    #: Who asked, and under which key: the same again is the same replay.
    by = models.CharField(max_length=200)
    idempotency_key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64)
    #: `events`, `filter`, `from` and `to`, or `dead_letters`, as it was asked.
    selection = models.JSONField()
    #: ids (slugs) of the rules; empty: all that match.
    rules = models.JSONField(default=list)
    dry_run = models.BooleanField(default=False)
    state = models.CharField(max_length=16, default="running")
    reason = models.CharField(max_length=500, blank=True, default="")
    #: How far it is: the last event or dead letter, and what became of them.
    position = models.BigIntegerField(default=0)
    #: The last event or dead letter that there was when it was asked for: it does not chase what comes in.
    until = models.BigIntegerField(default=0)
    counts = models.JSONField(default=dict)
    #: Of a dry run: some of what would happen.
    samples = models.JSONField(default=list)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "by", "idempotency_key"], name="replay_key_unique"),
            models.CheckConstraint(condition=Q(state__in=["running", "done", "failed"]), name="replay_state_known"),
        ]
        indexes = [models.Index(fields=["tenant", "-id"], name="replay_of_tenant")]

    def __str__(self) -> str:
        return f"replay {self.pk}"
