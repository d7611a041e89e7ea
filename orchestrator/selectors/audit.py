"""Who changed and commanded what, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from orchestrator.errors import NotFound
from orchestrator.models import AuditRecord
from orchestrator.selectors.pages import Page, page_of


class UnknownAuditRecord(NotFound):
    """There is no such audit record."""

    code = "unknown_audit_record"


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records a list shows; what is empty or None does not matter."""

    action: str | None = None
    #: The kind of what was changed, its number and its name.
    subject: str | None = None
    subject_id: str | None = None
    name: str | None = None
    by: str | None = None
    surface: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def records_of(tenant_id: int, chosen: AuditFilter, *, before: int | None = None, limit: int = 50) -> Page[AuditRecord]:
    """Return a page of a tenant's records, newest first."""
    rows = chosen_records(AuditRecord.objects.filter(tenant_id=tenant_id), chosen).order_by("-pk")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.pk)


def chosen_records(rows: QuerySet[AuditRecord, AuditRecord], chosen: AuditFilter) -> QuerySet[AuditRecord, AuditRecord]:
    """Leave the records that a filter chooses; `action` may end in `.*`: all that was done to jobs is `job.*`."""
    if chosen.action is not None:
        kind, star, _ = chosen.action.partition(".*")
        rows = rows.filter(action__startswith=f"{kind}.") if star else rows.filter(action=chosen.action)
    if chosen.subject is not None:
        rows = rows.filter(subject=chosen.subject)
    if chosen.subject_id is not None:
        rows = rows.filter(subject_id=chosen.subject_id)
    if chosen.name is not None:
        rows = rows.filter(subject_name=chosen.name)
    if chosen.by is not None:
        rows = rows.filter(by=chosen.by)
    if chosen.surface is not None:
        rows = rows.filter(surface=chosen.surface)
    if chosen.since is not None:
        rows = rows.filter(at__gte=chosen.since)
    if chosen.until is not None:
        rows = rows.filter(at__lt=chosen.until)
    return rows


def record_of(tenant_id: int, record_id: int) -> AuditRecord:
    """Return one record of a tenant; raises UnknownAuditRecord."""
    row = AuditRecord.objects.filter(tenant_id=tenant_id, pk=record_id).first()
    if row is None:
        raise UnknownAuditRecord(f"There is no audit record {record_id}.")
    return row
