"""Rules and their versions, as one tenant sees them."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q

from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownRule
from triggers.models import RuleVersion, TriggerRule


@dataclass(frozen=True, slots=True)
class NumberedPage:
    """A page by its number, counted from 0, and how many rules there are in all."""

    rules: list[TriggerRule]
    page: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.size)


def rules_of(
    tenant_id: int, *, page: int, size: int, enabled: bool | None = None, search: str | None = None
) -> NumberedPage:
    """Return a page of the rules by their id. People keep hundreds of rules, so they are counted."""
    rows = TriggerRule.objects.filter(tenant_id=tenant_id, deleted_at=None)
    if enabled is not None:
        rows = rows.filter(enabled=enabled)
    if search:
        rows = rows.filter(Q(slug__icontains=search) | Q(name__icontains=search) | Q(description__icontains=search))
    total = rows.count()
    found = rows.select_related("own_job").order_by("slug")[page * size : (page + 1) * size]
    return NumberedPage(list(found), page, size, total)


def rule_of(tenant_id: int, slug: str) -> TriggerRule:
    """Return a rule by its id; raises UnknownRule for one that is not there or was deleted."""
    rule = TriggerRule.objects.select_related("own_job").filter(tenant_id=tenant_id, slug=slug, deleted_at=None).first()
    if rule is None:
        raise UnknownRule(f"There is no rule {slug}.")
    return rule


def rule_numbers(tenant_id: int, reference: str) -> list[int]:
    """Return the ids of the rows of a rule, those of deleted ones too; raises UnknownRule if there is none.

    A rule is named by its id; one that was deleted, or that another of the same name followed, by its number too.
    """
    chosen = Q(slug=reference)
    if reference.isascii() and reference.isdigit() and len(reference) < 19:
        chosen |= Q(pk=int(reference))
    found = list(TriggerRule.objects.filter(chosen, tenant_id=tenant_id).values_list("pk", flat=True))
    if not found:
        raise UnknownRule(f"There is no rule {reference}.")
    return found


def versions_of(rule: TriggerRule, *, before: int | None = None, limit: int = 50) -> Page[RuleVersion]:
    """Return a page of a rule's versions, newest first."""
    rows = RuleVersion.objects.filter(rule=rule).order_by("-number")
    if before is not None:
        rows = rows.filter(number__lt=before)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.number)
