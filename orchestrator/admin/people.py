"""People and their roles, on the theme's classes: else their inputs have no borders."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from orchestrator.admin.audited import Audited
from orchestrator.admin.mixins import NOT_YOURS, TenantFilter, TenantScoped, by_person, clipped, moment
from orchestrator.errors import UpbeatError
from orchestrator.models import RoleGrant, Tenant
from orchestrator.services import access, people

for _model in (User, Group):
    admin.site.unregister(_model)


class GrantInline(TabularInline):
    """The roles of a person, on the person's page. Rows are written by the service, which records them."""

    model = RoleGrant
    fields = ("tenant", "role")
    extra = 0
    tab = False
    verbose_name = "role"
    verbose_name_plural = "roles"

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleGrant]:
        return super().get_queryset(request).select_related("tenant", "user")

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "tenant" and field is not None:
            field.empty_label = "every tenant"
            # In a row of the table no label stands beside it.
            field.widget.attrs["aria-label"] = "Tenant"
        return field

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_choice_field(db_field, request, **kwargs)
        if field is not None:
            field.widget.attrs["aria-label"] = "Role"
        return field


@admin.register(User)
class UserAdmin(auth_admin.UserAdmin, ModelAdmin):
    """People. Superusers are made and changed by superusers alone; others may not lift anybody to one."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "full_name", "roles", "standing", "last_seen")
    list_filter = ("is_active", "is_superuser")
    inlines = (GrantInline,)
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": (("first_name", "last_name"), "email")}),
        ("Signing in", {"fields": (("is_active", "is_staff"), ("last_login", "date_joined"))}),
    )
    #: What gives rights past the roles: for superusers.
    beyond_roles = (
        "Beyond roles",
        {
            "classes": ("collapse",),
            "fields": ("is_superuser", "groups", "user_permissions"),
            "description": "A superuser may do everything. Permissions count in every tenant; roles are the better way.",
        },
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("role_grants__tenant")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        return (*self.fieldsets, self.beyond_roles) if request.user.is_superuser else self.fieldsets

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        # Of somebody who is not there yet no role can be stored.
        return self.inlines if obj is not None else ()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_touch(request, obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_touch(request, obj) and obj != request.user and super().has_delete_permission(request, obj)

    @admin.display(description="Name")
    def full_name(self, row: User) -> str:
        return clipped(row.get_full_name())

    @admin.display(description="Roles")
    def roles(self, row: User) -> str:
        if row.is_superuser:
            return "superuser"
        grants = sorted(f"{grant.role} in {grant.tenant or 'every tenant'}" for grant in row.role_grants.all())
        return clipped(", ".join(grants) or "none")

    @display(description="State", label={"active": "success", "switched off": "danger", "cannot sign in": "warning"})
    def standing(self, row: User) -> str:
        return "switched off" if not row.is_active else "active" if row.is_staff else "cannot sign in"

    @admin.display(description="Last signed in")
    def last_seen(self, row: User) -> str:
        return moment(row.last_login)

    # --- every change is recorded

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        with transaction.atomic():
            before = people.shown_of(User.objects.get(pk=obj.pk)) if change else None
            if not change:
                # Who is added here is to sign in here; what there is to see, a role says.
                obj.is_staff = True
            super().save_model(request, obj, form, change)
            people.record_person(obj, before=before, by=by_person(request))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        if formset.model is not RoleGrant:
            super().save_formset(request, form, formset, change)
            return
        with transaction.atomic():
            formset.save(commit=False)
            gone = [(grant.user, grant.tenant) for grant in formset.deleted_objects]
            # A row that names another tenant now is a role taken away there.
            for grant, fields in formset.changed_objects:
                if "tenant" in fields:
                    gone.append((grant.user, Tenant.objects.filter(role_grants=grant.pk).first()))
            for user, tenant in gone:
                people.revoke_role(user=user, tenant=tenant, by=by_person(request))
            for grant in (*(grant for grant, _ in formset.changed_objects), *formset.new_objects):
                people.grant_role(user=grant.user, role=grant.role, tenant=grant.tenant, by=by_person(request))

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        answer: HttpResponse = super().user_change_password(request, id, form_url)
        # Only what was stored leads on to another page.
        if request.method == "POST" and answer.status_code == 302:
            people.record_password(User.objects.get(pk=id), by=by_person(request))
        return answer

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        with transaction.atomic():
            people.record_person_deleted(obj, by=by_person(request))
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for row in queryset:
            if self.has_delete_permission(request, row):
                self.delete_model(request, row)
            else:
                self.message_user(request, f"{row}: only a superuser may delete this account.", messages.WARNING)


def _may_touch(request: HttpRequest, obj: Any) -> bool:
    return obj is None or request.user.is_superuser or not obj.is_superuser


class GrantForm(forms.ModelForm):
    """A role for a person who is named, not chosen: who manages one tenant need not see everybody."""

    username = forms.CharField(
        max_length=150,
        widget=UnfoldAdminTextInputWidget,
        help_text="The whole name with which the person signs in. Whoever runs the installation adds people.",
    )

    class Meta:
        model = RoleGrant
        fields = ("tenant", "role")

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"].strip()
        try:
            self.instance.user = people.person_named(username)
        except UpbeatError as error:
            raise ValidationError(error.message) from None
        return username


@admin.register(RoleGrant)
class RoleGrantAdmin(TenantScoped):
    """Who has which role: for those who manage a tenant and not the whole installation."""

    form = GrantForm
    list_display = ("person", "role", "where", "since")
    list_filter = ("role", TenantFilter)
    search_fields = ("user__username", "=tenant__slug")
    search_help_text = "Part of a person's name, or the whole name of a tenant"
    list_select_related = ("user", "tenant")
    ordering = ("user__username", "tenant__slug")
    list_per_page = 50

    def get_fields(self, request: HttpRequest, obj: RoleGrant | None = None) -> Any:
        return ("username", "tenant", "role") if obj is None else ("person", "where", "role", "since")

    def get_readonly_fields(self, request: HttpRequest, obj: RoleGrant | None = None) -> Any:
        return () if obj is None else ("person", "where", "since")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            kwargs.setdefault("form", forms.ModelForm)
        form = super().get_form(request, obj, change=change, **kwargs)
        tenant = form.base_fields.get("tenant")
        if tenant is not None and access.tenants_by_permission(request.user, "orchestrator.add_rolegrant") is not None:
            # Every tenant is not theirs to give.
            tenant.required = True
        return form

    @admin.display(description="Person", ordering="user__username")
    def person(self, row: RoleGrant) -> str:
        return row.user.get_username()

    @admin.display(description="Tenant", ordering="tenant__slug")
    def where(self, row: RoleGrant) -> str:
        return str(row.tenant) if row.tenant else "every tenant"

    @admin.display(description="Since", ordering="created_at")
    def since(self, row: RoleGrant) -> str:
        return moment(row.created_at)

    def save_model(self, request: HttpRequest, obj: RoleGrant, form: Any, change: bool) -> None:
        stored = people.grant_role(user=obj.user, role=obj.role, tenant=obj.tenant, by=by_person(request))
        obj.pk = stored.pk

    def delete_model(self, request: HttpRequest, obj: RoleGrant) -> None:
        people.revoke_role(user=obj.user, tenant=obj.tenant, by=by_person(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[RoleGrant]) -> None:
        allowed, refused = self.split(
            request, queryset.select_related("user", "tenant"), "orchestrator.delete_rolegrant"
        )
        for row in allowed:
            self.delete_model(request, row)
        for row in refused:
            self.message_user(request, f"{row}: {NOT_YOURS}", messages.WARNING)


@admin.register(Group)
class GroupAdmin(auth_admin.GroupAdmin, Audited):
    pass
