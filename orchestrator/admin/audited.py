"""Records of other packages, which no service of ours writes: their pages record themselves who changed what."""

from __future__ import annotations

from typing import Any

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from orchestrator.admin.mixins import by_person
from orchestrator.services.audit import changed, record_audit


class Audited(ModelAdmin):
    """A page whose changes are recorded, in the transaction of the change, with what was before and what is after."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        # As it is stored: the form has already written into the row.
        stored = self.model._default_manager.filter(pk=obj.pk).first() if change else None
        form.values_before = values_of(stored) if stored else None
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        before, after = form.values_before, values_of(form.instance)
        if before is None:
            self.record(request, form.instance, "create", None, after)
            return
        old, new = changed(before, after)
        if new:
            self.record(request, form.instance, "update", old, new)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.record(request, obj, "delete", values_of(obj), None)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.record(request, row, "delete", values_of(row), None)
        super().delete_queryset(request, queryset)

    def record(self, request: HttpRequest, row: Model, verb: str, before: Any, after: Any) -> None:
        subject = str(self.opts.verbose_name).replace(" ", "_")
        record_audit(
            action=f"{subject}.{verb}", subject=subject, subject_id=row.pk, subject_name=str(row), by=by_person(request),
            before=before, after=after,
        )  # fmt: skip


def values_of(row: Model) -> dict[str, Any]:
    """Return the fields of a row as plain JSON, what it points at by name."""
    shown: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        value = getattr(row, field.name)
        shown[field.name] = value if value is None or isinstance(value, (bool, int, float)) else str(value)
    for many in row._meta.many_to_many:
        shown[many.name] = sorted(str(each) for each in getattr(row, many.name).all())
    return shown
