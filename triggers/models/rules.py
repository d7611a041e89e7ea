from __future__ import annotations

from django.db import models
from django.db.models import Q

from orchestrator.models import Job, Tenant


class TriggerRule(models.Model):
    """Match, condition and parameters → job. Deleted softly: its firings keep their rule."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="trigger_rules")
    #: `ruleId` of the contract; never changes.
    slug = models.CharField(max_length=58)
    name = models.CharField(max_length=200, blank=True, default="")
    description = models.TextField(blank=True, default="")
    enabled = models.BooleanField(default=True)
    #: The number of the latest version.
    version = models.PositiveIntegerField(default=1)
    #: The canonical rule of the latest version.
    spec = models.JSONField()
    #: The hidden job of one task that a rule with a `taskType` owns.
    own_job = models.ForeignKey(Job, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    #: Set when its condition exceeded its budgets too often; a rule in quarantine is disabled.
    quarantined_at = models.DateTimeField(null=True, blank=True)
    quarantine_reason = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=200, blank=True, default="")
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "slug"], condition=Q(deleted_at__isnull=True), name="trigger_rule_slug_unique"
            )
        ]

    def __str__(self) -> str:
        return self.slug


class RuleVersion(models.Model):
    """An immutable version of a rule. Events name versions by id: those whose condition was false."""

    rule = models.ForeignKey(TriggerRule, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    spec = models.JSONField()
    comment = models.CharField(max_length=500, blank=True, default="")
    author = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["rule", "number"], name="rule_version_number_unique")]

    def __str__(self) -> str:
        return f"{self.rule.slug} v{self.number}"


class RuleEpoch(models.Model):
    """One row, whose number grows in the transaction of each change of a rule or a source: caches compare it."""

    value = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.value)


class RuleState(models.Model):
    """What a stage remembers of a rule and a key: dedupe, throttle, debounce, batch. Decided under its row lock."""

    rule = models.ForeignKey(TriggerRule, on_delete=models.CASCADE, related_name="+", db_index=False)
    stage = models.CharField(max_length=10)
    #: BLAKE2b-128 of the stage's key.
    key_hash = models.UUIDField()
    #: When the open window opened and when it ends; the latter may move while it is open.
    opened_at = models.DateTimeField(null=True)
    window_until = models.DateTimeField(null=True, db_index=True)
    count = models.PositiveIntegerField(default=0)
    #: Grows with each group that a debounce or a batch has released.
    generation = models.PositiveIntegerField(default=0)
    #: The held firing that stands for the open group.
    firing_id = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["rule", "stage", "key_hash"], name="rule_state_unique")]

    def __str__(self) -> str:
        return f"{self.stage} of rule {self.rule_id}"
