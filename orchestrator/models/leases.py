from __future__ import annotations

from django.db import models


class Lease(models.Model):
    """Who leads: one row for beat, one for the reconciler. The epoch grows with each change of holder."""

    name = models.CharField(max_length=63, primary_key=True)
    holder = models.CharField(max_length=63, blank=True, default="")
    epoch = models.PositiveBigIntegerField(default=0)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.holder} (epoch {self.epoch})"
