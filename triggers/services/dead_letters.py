"""Dead letters: put aside for good. What gives one to the rules after all is a replay."""

from __future__ import annotations

from django.db import transaction

from orchestrator.services.audit import record_audit
from orchestrator.services.transactions import database_now, in_transaction
from orchestrator.services.transitions import record_transition
from triggers.errors import LetterResolved, UnknownDeadLetter
from triggers.models import DeadLetter


def discard_letter(*, tenant_id: int, letter_id: int, by: str, reason: str = "") -> DeadLetter:
    """Put a dead letter aside; its bytes stay. Safe to call twice. Raises UnknownDeadLetter, LetterResolved."""

    def work() -> DeadLetter:
        with transaction.atomic():
            row = DeadLetter.objects.select_for_update().filter(tenant_id=tenant_id, pk=letter_id).first()
            if row is None:
                raise UnknownDeadLetter(f"There is no dead letter {letter_id}.")
            if row.state == "replayed":
                raise LetterResolved(f"Dead letter {letter_id} was replayed: it is event {row.event_id}.")
            if row.state == "open":
                resolve_letter(row, "discarded", by=by, reason=reason or "discarded")
                record_audit(
                    action="dead_letter.discard", subject="dead_letter", subject_id=row.pk,
                    subject_name=f"#{row.pk} {row.reason}", tenant_id=tenant_id, by=by, before={"state": "open"},
                    after={"state": "discarded"}, reason=reason,
                )  # fmt: skip
            return row

    return in_transaction(work)


def resolve_letter(row: DeadLetter, state: str, *, by: str, reason: str, event_id: int | None = None) -> None:
    """Close a letter whose row the caller has locked, inside its transaction."""
    row.state = state
    row.resolved_at = database_now()
    row.resolved_by = by[:200]
    row.event_id = event_id
    row.save(update_fields=["state", "resolved_at", "resolved_by", "event_id"])
    record_transition(
        subject="dead_letter",
        subject_id=row.pk,
        from_state="open",
        to_state=state,
        reason=reason[:500],
        cause=state,
        by=by[:200],
    )
