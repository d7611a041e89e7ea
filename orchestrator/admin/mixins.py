"""What the pages of the admin share: a ledger that nobody edits, lists without counts, links between records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from orchestrator.admin.lists import LongList
from orchestrator.console.statuses import theme_labels
from orchestrator.console.words import duration_words
from orchestrator.errors import UpbeatError
from orchestrator.models import Tenant
from orchestrator.services import access
from orchestrator.services.previews import Preview

#: Colours of the theme by the word of a state; the word stands beside, never colour alone.
STATE_COLOURS = theme_labels()

NOT_YOURS = "your role in its tenant does not include this"

Row = TypeVar("Row", bound=Model)
#: What is asked of one row, by whom and why; returns what to say about it.
Ask = Callable[[Row, str, str], "SafeString | str"]
#: What would become of chosen rows; see `services/previews.py`.
Foresee = Callable[[Sequence[Row]], list[tuple[str, Preview]]]

#: Longer names keep their width up to a bound, longer texts get two lines at most.
ROOMY_FROM = 8
CLIPPED_FROM = 22


class TenantScoped(LongList):
    """Pages that know no row of a tenant in which the person may not look, not even by its number.

    Base of every page of the admin. Rows of models without a tenant are seen by all who may see the model.
    """

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return access.scoped(rows, access.tenants_by_permission(request.user, self._named("view")))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.allows(request, "view", obj) or self.allows(request, "change", obj)

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return self.allows(request, "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.allows(request, "change", obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.allows(request, "delete", obj)

    def allows(self, request: HttpRequest, verb: str, obj: Any = None) -> bool:
        """Whether the person may `view`, `add`, `change`, `delete`, `steer` or `trigger`: this row, else any."""
        return access.may_by_permission(request.user, self._named(verb), obj)

    def split(self, request: HttpRequest, rows: Iterable[Row], permission: str) -> tuple[list[Row], list[Row]]:
        """Part chosen rows into those on which the person has a permission and those on which not."""
        allowed: list[Row] = []
        refused: list[Row] = []
        for row in rows:
            (allowed if access.may_by_permission(request.user, permission, row) else refused).append(row)
        return allowed, refused

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        model = db_field.remote_field.model
        if model is Tenant:
            # The tenant to which something is added: one in which the person may add it.
            tenants = access.tenants_by_permission(request.user, self._named("add"))
        else:
            tenants = access.tenants_by_permission(request.user, _permission(model, "view"))
        rows = kwargs.get("queryset")
        kwargs["queryset"] = access.scoped(model._default_manager.all() if rows is None else rows, tenants)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        allowed, refused = self.split(request, queryset, self._named("delete"))
        if refused:
            self.message_user(request, f"Your role does not let you delete {len(refused)} of them.", messages.WARNING)
        super().delete_queryset(request, queryset.filter(pk__in=[row.pk for row in allowed]))

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to what is recorded of this row by page, API and command alike; the framework knows its own pages only."""
        subject = next((word for word, label in access.RECORDED.items() if label == self.opts.label_lower), None)
        if subject is None or not access.may_by_permission(request.user, "orchestrator.view_auditrecord"):
            return super().history_view(request, object_id, extra_context)
        url = reverse("admin:orchestrator_auditrecord_changelist")
        return HttpResponseRedirect(f"{url}?{urlencode({'subject': subject, 'subject_id': object_id})}")

    def _named(self, verb: str) -> str:
        return _permission(self.model, verb)


class TenantFilter(admin.SimpleListFilter):
    """The tenants in which the person may look; no filter at all where that is one."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        tenants = access.tenants_by_permission(request.user, _permission(model_admin.model, "view"))
        rows = access.scoped(Tenant.objects.order_by("slug"), tenants).values_list("slug", flat=True)[:100]
        slugs = [(slug, slug) for slug in rows]
        return slugs if len(slugs) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        found = Tenant.objects.filter(slug=self.value()).values_list("pk", flat=True).first()
        # A tenant that the person may not see gives nothing here: the list was scoped before.
        return access.scoped(queryset, frozenset({found} if found else ()))


class ReadOnlyAdmin(TenantScoped):
    """Rows that only services write. Actions may still ask a service."""

    actions_on_top = True

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class LedgerAdmin(ReadOnlyAdmin):
    """Tables of any size: newest first, pages without a count, nothing sorted without an index."""

    # "All" of a list that was never counted could be a million runs.
    list_disable_select_all = True
    list_per_page = 50
    ordering: tuple[str, ...] = ("-pk",)
    sortable_by = ()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # Where the theme has no switch, it would show the paginator's stand-in for a count.
        return super().changelist_view(request, {"selection_note_all": "", **(extra_context or {})})


class Steers(TenantScoped):
    """Actions that ask a service: a page asks whether and why, then each row says what became of it."""

    #: Who has it may steer; it says nothing about who may edit.
    steering_permission = "orchestrator.steer_jobrun"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.steering_permission)

    def steer(
        self,
        request: HttpRequest,
        rows: Iterable[Row],
        ask: Ask[Row],
        *,
        action: str,
        question: str,
        consequence: str,
        named: Callable[[Row], str],
        permission: str = "",
        foreseen: Foresee[Row] | None = None,
    ) -> HttpResponse | None:
        """Ask for a confirmation and a reason, then do it row by row; a refused row stops no other.

        Rows of tenants in which the person lacks `permission` (default: the page's steering permission) are left out.
        `foreseen` says for chosen rows what would happen: a name and a preview each.
        """
        chosen, refused = self.split(request, rows, permission or self.steering_permission)
        for row in refused:
            self.message_user(request, f"{named(row)}: {NOT_YOURS}", messages.WARNING)
        if not chosen:
            return None
        if "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": question,
                "opts": self.opts,
                "action": action,
                "consequence": consequence,
                "checkbox": ACTION_CHECKBOX_NAME,
                "rows": [(row.pk, named(row)) for row in chosen],
                "foreseen": foreseen(chosen) if foreseen is not None else [],
                "back": request.get_full_path(),
            }
            return render(request, "orchestrator/confirm_command.html", context)
        by = by_person(request)
        reason = request.POST.get("reason", "").strip()[:500]
        for row in chosen:
            try:
                said = ask(row, by, reason)
            except UpbeatError as error:
                self.message_user(request, f"{named(row)}: {error.message}", messages.WARNING)
            else:
                self.message_user(request, format_html("{}: {}", named(row), said), messages.SUCCESS)
        return None


def _permission(model: type[Model], verb: str) -> str:
    return f"{model._meta.app_label}.{verb}_{model._meta.model_name}"


def by_person(request: HttpRequest) -> str:
    """Return who asks, as records name them."""
    return f"user:{request.user.get_username()}"


def state_word(state: str) -> str:
    """Write a state as people read it; STATE_COLOURS knows it by this word."""
    return state.replace("_", " ")


def link(obj: Model | None, text: str | None = None) -> SafeString | str:
    """Link to the page of a record; of a run, to the one in the console that shows it as a whole."""
    if obj is None:
        return "–"
    name = "console_run" if obj._meta.label_lower == "orchestrator.jobrun" else None
    url = reverse(f"admin:{name or f'{obj._meta.app_label}_{obj._meta.model_name}_change'}", args=[obj.pk])
    shown = roomy(text or str(obj))
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, shown)


def roomy(text: str) -> SafeString | str:
    """Give a name the room that keeps it from being broken at every hyphen by the columns beside it."""
    if len(text) <= ROOMY_FROM:
        return text
    return format_html(
        '<span style="display:inline-block;width:max-content;max-width:max(13rem,min(60vw,36rem - 25vw))">{}</span>',
        text,
    )


def clipped(text: str, *, rem: int = 10) -> SafeString | str:
    """Show two lines of a text, so that one long reason does not fill the screen; all of it on hover.

    `rem` is the least width that it claims from the columns beside it.
    """
    if len(text) <= CLIPPED_FROM:
        return text or "–"
    return format_html(
        '<span title="{}" style="display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;'
        'min-width:min({}rem,55vw);max-width:32rem;overflow-wrap:anywhere">{}</span>',
        text,
        rem,
        text,
    )


def list_link(model: type[Model], text: str, **lookups: Any) -> SafeString:
    """Link to the list of the records that the lookups choose."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500 whitespace-nowrap" href="{}?{}">{}</a>',
        url,
        urlencode(lookups),
        text,
    )


def as_json(value: Any) -> SafeString:
    """Show JSON as people read it."""
    return format_html(
        '<pre class="text-xs" style="white-space:pre-wrap;overflow-wrap:anywhere">{}</pre>',
        json.dumps(value, indent=2, ensure_ascii=False),
    )


def as_text(value: str) -> SafeString:
    return format_html('<pre class="text-xs" style="white-space:pre-wrap;overflow-wrap:anywhere">{}</pre>', value)


def moment(value: datetime | None) -> SafeString | str:
    """Show a moment to the second with its zone; the exact value on hover."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    return format_html(
        '<span class="whitespace-nowrap" title="{}">{}</span>', value.isoformat(), f"{local:%Y-%m-%d %H:%M:%S %Z}"
    )


def duration(start: datetime | None, end: datetime | None) -> SafeString | str:
    """Show how long something took, or has taken so far."""
    if start is None:
        return "–"
    seconds = max(0.0, ((end or timezone.now()) - start).total_seconds())
    shown = duration_words(seconds)
    return format_html('<span class="whitespace-nowrap">{}</span>', shown if end else f"{shown} …")
