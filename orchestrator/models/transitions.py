from __future__ import annotations

from django.db import models
from django.db.models import Q


class Transition(models.Model):
    """An appended fact of the ledger: who moved what from which state to which, and why.

    Written in the transaction that moves the state. Without foreign keys: the fact outlives its subject, and the
    hot path pays for no check. An increasing id is not the order of commits; readers by cursor must not step over a
    gap that a slow transaction may still fill.
    """

    at = models.DateTimeField()
    subject = models.CharField(max_length=16)
    subject_id = models.BigIntegerField()
    run_id = models.BigIntegerField(null=True)
    from_state = models.CharField(max_length=16, blank=True, default="")
    to_state = models.CharField(max_length=16)
    reason = models.CharField(max_length=500, blank=True, default="")
    cause = models.CharField(max_length=100, blank=True, default="")
    by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        indexes = [
            models.Index(fields=["run_id", "id"], name="transition_of_run"),
            # What happened to a job, a lock, a secret; facts of runs, which are nearly all, are not written here.
            models.Index(
                fields=["subject", "subject_id", "id"], condition=Q(run_id__isnull=True), name="transition_of_others"
            ),
            # Lists by time. On PostgreSQL a summary of blocks, which costs next to nothing: facts lie in their order.
            models.Index(fields=["at"], name="transition_at"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.subject_id}: {self.from_state} → {self.to_state}"
