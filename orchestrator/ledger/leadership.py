"""Who leads: a lease row on the database's clock, with an epoch that grows with each change of holder."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import timedelta

from django.db.models import Case, F, Q, When
from django.db.models.functions import Now

from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now
from orchestrator.models import Lease

LEASE = timedelta(seconds=3)
RENEW_SECONDS = 0.5


@dataclass(slots=True)
class Leadership:
    """One candidate for one role; a new identity for each start of a process."""

    name: str
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    epoch: int | None = None

    def seek(self) -> bool:
        """Take or renew the lease; returns whether this candidate leads. Call every RENEW_SECONDS."""
        self.epoch = in_transaction(self._seek)
        return self.epoch is not None

    def resign(self) -> None:
        """Give the lease up, so that another leads at once. Safe to call when not leading."""
        Lease.objects.filter(name=self.name, holder=self.holder).update(expires_at=Now() - timedelta(seconds=1))
        self.epoch = None

    def still_leads(self) -> bool:
        """Whether this candidate still leads; inside a transaction nobody can take over before its end.

        A transaction begins with this: a leader that was frozen before it finds another epoch and writes nothing. It
        also renews a lease that is half spent, so that a long round does not cost the lead.
        """
        if self.epoch is None:
            return False
        lease = Lease.objects.select_for_update().filter(name=self.name, epoch=self.epoch, holder=self.holder).first()
        now = database_now()
        if lease is None or lease.expires_at <= now:
            return False
        if lease.expires_at - now < LEASE / 2:
            Lease.objects.filter(name=self.name).update(expires_at=now + LEASE)
        return True

    def _seek(self) -> int | None:
        now = database_now()
        # The usual case, twice a second for ever: still the leader of the same epoch.
        if self.epoch is not None:
            mine = Lease.objects.filter(name=self.name, holder=self.holder, epoch=self.epoch)
            if mine.update(expires_at=now + LEASE):
                return self.epoch
        Lease.objects.bulk_create([Lease(name=self.name, expires_at=now - LEASE)], ignore_conflicts=True)
        # Compare-and-set: of two candidates the second finds a lease that has not expired.
        taken = Lease.objects.filter(Q(holder=self.holder) | Q(expires_at__lt=now), name=self.name).update(
            epoch=Case(When(holder=self.holder, then=F("epoch")), default=F("epoch") + 1),
            holder=self.holder,
            expires_at=now + LEASE,
        )
        if not taken:
            return None
        return Lease.objects.values_list("epoch", flat=True).get(name=self.name, holder=self.holder)
