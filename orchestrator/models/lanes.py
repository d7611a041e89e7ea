from __future__ import annotations

from django.db import models


class LaneWorker(models.Model):
    """A worker process that takes work from a lane, as it last reported. Who is silent for long does not live."""

    lane = models.CharField(max_length=63)
    worker = models.CharField(max_length=200)
    slots = models.PositiveIntegerField(default=1)
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["lane", "worker"], name="lane_worker_unique")]

    def __str__(self) -> str:
        return f"{self.worker} on {self.lane}"
