"""Dead letters as one tenant sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db.models import BinaryField, F, Func, IntegerField, QuerySet, Value

from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownDeadLetter
from triggers.models import DeadLetter

#: Bytes of a message that a list shows; its detail has all of them.
SHOWN_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters a list shows; what is empty or None does not matter."""

    states: tuple[str, ...] = ()
    reason: str | None = None
    source: str | None = None
    channel: str | None = None


def letters_of(tenant_id: int, chosen: LetterFilter, *, before: int | None = None, limit: int = 50) -> Page[DeadLetter]:
    """Return a page of dead letters, newest first. `shown_raw` has the first bytes of each, `raw_size` its length."""
    rows = chosen_letters(tenant_id, chosen).select_related("event_source").order_by("-pk").defer("raw")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    start = Func(F("raw"), Value(1), Value(SHOWN_BYTES), function="SUBSTR", output_field=BinaryField())
    rows = rows.annotate(shown_raw=start, raw_size=Func(F("raw"), function="LENGTH", output_field=IntegerField()))
    return page_of(rows, limit=limit, cursor_of=lambda row: row.pk)


def chosen_letters(tenant_id: int, chosen: LetterFilter) -> QuerySet[DeadLetter, DeadLetter]:
    """Return the dead letters that a filter chooses, in no order."""
    rows = DeadLetter.objects.filter(tenant_id=tenant_id)
    if chosen.states:
        rows = rows.filter(state__in=chosen.states)
    if chosen.reason is not None:
        rows = rows.filter(reason=chosen.reason)
    if chosen.source is not None:
        rows = rows.filter(event_source__slug=chosen.source)
    if chosen.channel is not None:
        rows = rows.filter(channel=chosen.channel)
    return rows


def letter_of(tenant_id: int, letter_id: int) -> DeadLetter:
    """Return a dead letter with all of its bytes; raises UnknownDeadLetter."""
    row = DeadLetter.objects.select_related("event_source").filter(tenant_id=tenant_id, pk=letter_id).first()
    if row is None:
        raise UnknownDeadLetter(f"There is no dead letter {letter_id}.")
    return row
