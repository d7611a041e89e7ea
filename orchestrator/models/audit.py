from __future__ import annotations

from django.db import models


class AuditRecord(models.Model):
    """Who changed or commanded what, with what it was before and after. Appended, never changed or deleted.

    Without foreign keys: the record outlives whom and what it names. Secrets' values never appear in it.
    """

    at = models.DateTimeField()
    #: Empty for what belongs to no tenant, such as users.
    tenant_id = models.BigIntegerField(null=True)
    #: `user:anna`, `token:pipeline`, `cli:root`.
    by = models.CharField(max_length=200)
    #: Object and verb, such as `job.update`, `run.cancel`, `token.create`.
    action = models.CharField(max_length=64)
    #: The kind and the primary key of what was changed, and its name at that time.
    subject = models.CharField(max_length=32)
    subject_id = models.CharField(max_length=64, blank=True, default="")
    subject_name = models.CharField(max_length=200, blank=True, default="")
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    #: Where it came in: `admin`, `api`, `command`; `system` for what nobody asked for.
    surface = models.CharField(max_length=16, blank=True, default="")

    class Meta:
        indexes = [
            models.Index(fields=["tenant_id", "-id"], name="audit_of_tenant"),
            models.Index(fields=["subject", "subject_id", "-id"], name="audit_of_subject"),
            models.Index(fields=["by", "-id"], name="audit_of_person"),
            models.Index(fields=["action", "-id"], name="audit_of_action"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject_name or self.subject_id} by {self.by}"
