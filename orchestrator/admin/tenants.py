"""What people configure here: tenants and tokens. Leases are to look at."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectMultipleWidget, UnfoldAdminTextareaWidget

from orchestrator.admin.mixins import (
    NOT_YOURS,
    ReadOnlyAdmin,
    TenantFilter,
    TenantScoped,
    by_person,
    clipped,
    list_link,
    moment,
    roomy,
)
from orchestrator.errors import UpbeatError
from orchestrator.models import ApiToken, Job, Lease, Tenant
from orchestrator.services import access
from orchestrator.services.tenants import allow_networks, checked_networks, save_tenant
from orchestrator.services.tokens import DEFAULT_SCOPES, SCOPES, create_token, revoke_token


class TenantForm(forms.ModelForm):
    allowed_networks = forms.CharField(
        required=False,
        widget=UnfoldAdminTextareaWidget,
        help_text="Private networks that `http` tasks may reach, one a line, such as 10.1.0.0/16. "
        "Without one, loopback, private and link-local addresses are refused.",
    )

    class Meta:
        model = Tenant
        fields = ("slug", "name", "timezone", "parameters", "allowed_networks")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["allowed_networks"] = "\n".join(map(str, self.instance.allowed_networks or ()))

    def clean_allowed_networks(self) -> list[str]:
        try:
            return checked_networks(self.cleaned_data["allowed_networks"].split())
        except UpbeatError as error:
            raise ValidationError([f"{each.value}: expected {each.expected}" for each in error.details]) from None


@admin.register(Tenant)
class TenantAdmin(TenantScoped):
    form = TenantForm
    list_display = ("slug", "name", "timezone", "networks", "created", "jobs")
    search_fields = ("slug", "name")
    ordering = ("slug",)
    readonly_fields = ("created_at",)

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: Tenant) -> str:
        return moment(row.created_at)

    @admin.display(description="Jobs")
    def jobs(self, row: Tenant) -> str:
        return list_link(Job, "Show", tenant__id__exact=row.pk)

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        networks = obj.allowed_networks
        save_tenant(obj, by=by_person(request))
        # By a service of its own; a line break more or less in the field is no change.
        allow_networks(obj, networks=networks, by=by_person(request))

    @admin.display(description="Private networks")
    def networks(self, row: Tenant) -> str:
        return ", ".join(map(str, row.allowed_networks)) or "none"

    def has_delete_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        return False


class TokenForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES],
        initial=list(DEFAULT_SCOPES),
        widget=UnfoldAdminSelectMultipleWidget,
        help_text="`admin` includes the others.",
    )
    job_names = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelectMultipleWidget,
        help_text="The jobs it is good for; none: all.",
    )

    request: HttpRequest

    class Meta:
        model = ApiToken
        fields = ("tenant", "name", "scopes", "job_names", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("job_names")
        if isinstance(field, forms.MultipleChoiceField):
            tenants = access.tenants_by_permission(self.request.user, "orchestrator.add_apitoken")
            jobs = access.scoped(Job.objects.all(), tenants)
            names = jobs.order_by("name").values_list("name", flat=True).distinct()
            field.choices = [(name, name) for name in names]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        expires_at = cleaned.get("expires_at")
        if expires_at is not None and expires_at <= timezone.now():
            self.add_error("expires_at", "This moment is past.")
        foreign = set(cleaned.get("job_names", ())) - set(
            Job.objects.filter(tenant=cleaned.get("tenant")).values_list("name", flat=True)
        )
        if foreign:
            self.add_error("job_names", "No jobs of this tenant: " + ", ".join(sorted(foreign)))
        return cleaned


@admin.register(ApiToken)
class ApiTokenAdmin(TenantScoped):
    form = TokenForm
    list_display = (
        "name_shown",
        "tenant",
        "prefix_shown",
        "standing",
        "scopes_shown",
        "jobs_shown",
        "last_used",
        "expires",
    )
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), TenantFilter)
    empty_says = "A token lets a program call the API. Add one here, or use `manage.py create_token`; it is shown once."
    search_fields = ("name", "prefix", "=tenant__slug")
    search_help_text = "Part of a name, the beginning of a token, or the whole name of a tenant"
    list_select_related = ("tenant",)
    ordering = ("-pk",)
    actions = ("revoke",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"request": request})

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        # Runs name the token that started them: it is revoked and stays.
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return self.allows(request, "change")

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        token, plaintext = create_token(
            tenant=obj.tenant,
            name=obj.name,
            scopes=form.cleaned_data["scopes"],
            job_names=form.cleaned_data["job_names"],
            expires_at=obj.expires_at,
            by=by_person(request),
        )
        obj.pk = token.pk
        self.message_user(request, f"The token, shown only now: {plaintext}", messages.WARNING)

    @admin.display(description="Name")
    def name_shown(self, row: ApiToken) -> str:
        return roomy(row.name)

    @admin.display(description="Token")
    def prefix_shown(self, row: ApiToken) -> str:
        return f"{row.prefix}…"

    @display(description="State", label={"valid": "success", "expired": "warning", "revoked": "danger"})
    def standing(self, row: ApiToken) -> str:
        if row.revoked_at:
            return "revoked"
        return "expired" if row.expires_at and row.expires_at <= timezone.now() else "valid"

    @admin.display(description="Scopes")
    def scopes_shown(self, row: ApiToken) -> str:
        return roomy(", ".join(row.scopes))

    @admin.display(description="Jobs")
    def jobs_shown(self, row: ApiToken) -> str:
        return clipped(", ".join(row.job_names) or "all", rem=8)

    @admin.display(description="Last used")
    def last_used(self, row: ApiToken) -> str:
        return moment(row.last_used_at)

    @admin.display(description="Expires")
    def expires(self, row: ApiToken) -> str:
        return moment(row.expires_at) if row.expires_at else "never"

    @admin.action(description="Revoke the chosen tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiToken]) -> None:
        allowed, refused = self.split(request, chosen, "orchestrator.change_apitoken")
        for token in refused:
            self.message_user(request, f"{token}: {NOT_YOURS}", messages.WARNING)
        for token in allowed:
            revoke_token(token, by=by_person(request))
            self.message_user(request, f"{token}: revoked", messages.SUCCESS)


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    list_display = ("name", "holder", "epoch", "expires", "standing")
    ordering = ("name",)

    @admin.display(description="Expires")
    def expires(self, row: Lease) -> str:
        return moment(row.expires_at)

    @display(description="State", label={"held": "success", "free": "warning"})
    def standing(self, row: Lease) -> str:
        return "held" if row.expires_at > timezone.now() else "free"
