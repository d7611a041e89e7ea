"""Secrets and connections: stored here, never shown again; deleted only when nothing names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.widgets import UnfoldAdminPasswordWidget

from orchestrator.admin.mixins import NOT_YOURS, TenantFilter, TenantScoped, clipped, list_link, moment, roomy
from orchestrator.errors import UpbeatError
from orchestrator.models import Connection, Secret, Transition
from orchestrator.selectors.connections import users_of_connection
from orchestrator.selectors.secrets import users_of_secret
from orchestrator.services.connections import SUPPORTED, check_url, delete_connection, set_connection
from orchestrator.services.encryption import encrypt
from orchestrator.services.secrets import check_secret, delete_secret, set_secret


def _hidden(help_text: str, label: str | None = None) -> forms.CharField:
    return forms.CharField(
        label=label,
        # Never rendered with a value, not even beside an error.
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        strip=False,
        help_text=f"{help_text} Stored encrypted; nobody can read it here again. Saving replaces what was stored.",
    )


class _StoredForm(forms.ModelForm):
    """A form whose refusals come from the service, without the value."""

    hidden = ""
    check_fields: Callable[[str, str], None]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        name = cleaned.get("name") or getattr(self.instance, "name", "")
        value = cleaned.get(self.hidden)
        if not name or value is None:
            return cleaned
        try:
            type(self).check_fields(name, value)
            encrypt("probe")
        except UpbeatError as refused:
            if not refused.details:
                self.add_error(self.hidden, ValidationError(refused.message))
            for detail in refused.details:
                field = detail.path if detail.path in self.fields else self.hidden
                self.add_error(field, ValidationError(f"Expected {detail.expected}."))
        return cleaned


class SecretForm(_StoredForm):
    hidden = "value"
    check_fields = staticmethod(check_secret)
    value = _hidden("Up to 64 KiB.")

    class Meta:
        model = Secret
        fields = ("tenant", "name")


class ConnectionForm(_StoredForm):
    hidden = "url"
    check_fields = staticmethod(check_url)
    url = _hidden(f"{SUPPORTED}.", label="URL")

    class Meta:
        model = Connection
        fields = ("tenant", "name", "description")


class _StoredAdmin(TenantScoped):
    """What both pages share. Every change is a transition."""

    list_select_related = ("tenant",)
    ordering = ("name",)
    search_fields = ("name", "=tenant__slug")
    search_help_text = "Part of a name, or the whole name of a tenant"
    list_filter = (TenantFilter,)
    actions = ("delete_chosen",)
    subject = ""
    users_of: Callable[[Any, str], list[str]]
    delete: Callable[..., None]

    @admin.display(description="Updated", ordering="updated_at")
    def updated(self, row: Any) -> str:
        return moment(row.updated_at)

    @admin.display(description="Used by")
    def used_by(self, row: Any) -> str:
        # Read once for a page, which asks more than once; the row lives no longer than it.
        if not hasattr(row, "users"):
            row.users = type(self).users_of(row.tenant, row.name)
        return ", ".join(row.users) or "nothing"

    @admin.display(description="Changes")
    def changes(self, row: Any) -> str:
        return list_link(Transition, "Show", subject__exact=self.subject, subject_id__exact=row.pk)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("tenant", "name", "updated", "updated_by", "used_by", "changes") if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("ciphertext")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # The framework's would delete rows behind the service's back.
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except UpbeatError as refused:
            self.message_user(request, refused.message, messages.WARNING)
            return HttpResponseRedirect(reverse(f"admin:orchestrator_{self.subject}_change", args=[object_id]))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        type(self).delete(tenant=obj.tenant, name=obj.name, by=_by(request))

    @admin.action(description="Delete the chosen ones", permissions=["delete"])
    def delete_chosen(self, request: HttpRequest, chosen: QuerySet[Any]) -> None:
        rows = chosen.select_related("tenant").order_by("name")
        allowed, refused = self.split(request, rows, f"orchestrator.delete_{self.subject}")
        for row in refused:
            self.message_user(request, f"{row.name}: {NOT_YOURS}", messages.WARNING)
        for row in allowed:
            try:
                self.delete_model(request, row)
            except UpbeatError as refused:
                self.message_user(request, f"{row.name}: {refused.message}", messages.WARNING)
            else:
                self.message_user(request, f"{row.name}: deleted", messages.SUCCESS)


@admin.register(Secret)
class SecretAdmin(_StoredAdmin):
    form = SecretForm
    list_display = ("name", "tenant", "updated", "updated_by")
    subject = "secret"
    empty_says = "A secret is stored here encrypted, under a name that jobs and sources write in its place. Add one, or use `manage.py set_secret`."
    users_of = staticmethod(users_of_secret)
    delete = staticmethod(delete_secret)

    def get_fields(self, request: HttpRequest, obj: Secret | None = None) -> tuple[Any, ...]:
        shown = ("updated", "updated_by", "used_by", "changes") if obj else ()
        return ("tenant", "name", "value", *shown)

    def save_model(self, request: HttpRequest, obj: Secret, form: Any, change: bool) -> None:
        stored = set_secret(tenant=obj.tenant, name=obj.name, value=form.cleaned_data["value"], by=_by(request))
        obj.pk = stored.pk


@admin.register(Connection)
class ConnectionAdmin(_StoredAdmin):
    form = ConnectionForm
    list_display = ("name_shown", "tenant", "url_clipped", "description_clipped", "updated", "updated_by")
    subject = "connection"
    empty_says = "A connection is the way into a database or another system, stored encrypted under a name that tasks write. Add one, or use `manage.py set_connection`."
    users_of = staticmethod(users_of_connection)
    delete = staticmethod(delete_connection)

    @admin.display(description="Name", ordering="name")
    def name_shown(self, row: Connection) -> str:
        return roomy(row.name)

    @admin.display(description="URL")
    def url_clipped(self, row: Connection) -> str:
        return clipped(row.shown_url)

    @admin.display(description="Description")
    def description_clipped(self, row: Connection) -> str:
        return clipped(row.description)

    def get_fields(self, request: HttpRequest, obj: Connection | None = None) -> tuple[Any, ...]:
        shown = ("shown_url", "updated", "updated_by", "used_by", "changes") if obj else ()
        return ("tenant", "name", "url", "description", *shown)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        readonly = super().get_readonly_fields(request, obj)
        return (*readonly, "shown_url") if obj else readonly

    def save_model(self, request: HttpRequest, obj: Connection, form: Any, change: bool) -> None:
        stored = set_connection(
            tenant=obj.tenant,
            name=obj.name,
            url=form.cleaned_data["url"],
            description=form.cleaned_data["description"],
            by=_by(request),
        )
        obj.pk = stored.pk


def _by(request: HttpRequest) -> str:
    return f"user:{request.user.get_username()}"
