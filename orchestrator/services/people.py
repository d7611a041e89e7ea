"""People and their roles: granted, changed and taken away. Each change is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction

from orchestrator.errors import Detail, InvalidRequest, NotFound
from orchestrator.models import RoleGrant, Tenant
from orchestrator.roles import Role
from orchestrator.services.access import forget_rights
from orchestrator.services.audit import changed, record_audit

#: What a record says of a person. Never the password, not even as it is stored.
_SHOWN = ("username", "first_name", "last_name", "email", "is_active", "is_staff", "is_superuser")


class UnknownPerson(NotFound):
    """There is no such person."""

    code = "unknown_person"


def grant_role(*, user: Any, role: str, tenant: Tenant | None, by: str, reason: str = "") -> RoleGrant:
    """Give a person a role in a tenant, or without one in every tenant, instead of the one held there. Safe to repeat.

    The person may sign in to the admin from then on. Raises InvalidRequest for a word that is no role.
    """
    if role not in list(Role):
        raise InvalidRequest(
            "There is no such role.", details=(Detail("role", role[:50], "one of " + ", ".join(Role)),)
        )
    with transaction.atomic():
        held = RoleGrant.objects.select_for_update().filter(user=user, tenant=tenant).first()
        if held is not None and held.role == role:
            return held
        before = held.role if held else None
        grant = held or RoleGrant(user=user, tenant=tenant)
        grant.role = role
        grant.save()
        if not user.is_staff:
            user.is_staff = True
            user.save(update_fields=["is_staff"])
        _record_role(grant, before, role, by=by, reason=reason)
    forget_rights(user)
    return grant


def revoke_role(*, user: Any, tenant: Tenant | None, by: str, reason: str = "") -> bool:
    """Take the role away that a person has in a tenant, or without one everywhere; False if there was none."""
    with transaction.atomic():
        held = RoleGrant.objects.select_for_update().filter(user=user, tenant=tenant).first()
        if held is None:
            return False
        _record_role(held, held.role, None, by=by, reason=reason)
        held.delete()
    forget_rights(user)
    return True


def person_named(username: str) -> Any:
    """Return a person by the whole name for signing in. Raises UnknownPerson."""
    users = get_user_model()
    found = users.objects.filter(**{users.USERNAME_FIELD: username}).first()
    if found is None:
        raise UnknownPerson(
            f"There is nobody called {username!r}.",
            details=(Detail("username", username[:150], "the name of a person who can sign in"),),
        )
    return found


def shown_of(user: Any) -> dict[str, Any]:
    """Return what a record says of a person, to be handed to `record_person` as it was before."""
    return {name: getattr(user, name) for name in _SHOWN}


def record_person(user: Any, *, before: Mapping[str, Any] | None, by: str) -> None:
    """Record that a person was created, or changed from what `shown_of` said before; nothing if nothing differs."""
    after = shown_of(user)
    if before is None:
        _record(user, "user.create", None, after, by=by)
        return
    old, new = changed(before, after)
    if new:
        _record(user, "user.update", old, new, by=by)


def record_password(user: Any, *, by: str) -> None:
    """Record that a person's password was set."""
    _record(user, "user.set_password", None, None, by=by)


def record_person_deleted(user: Any, *, by: str) -> None:
    """Record that a person is being deleted: call it before, in the same transaction."""
    roles = {str(grant.tenant or "every tenant"): grant.role for grant in user.role_grants.select_related("tenant")}
    _record(user, "user.delete", {**shown_of(user), "roles": roles}, None, by=by)


def _record(user: Any, action: str, before: Any, after: Any, *, by: str) -> None:
    record_audit(
        action=action, subject="user", subject_id=user.pk, subject_name=user.get_username(), by=by, before=before,
        after=after,
    )  # fmt: skip


def _record_role(grant: RoleGrant, before: str | None, after: str | None, *, by: str, reason: str) -> None:
    record_audit(
        action="role.revoke" if after is None else "role.grant",
        subject="user",
        subject_id=grant.user_id,
        subject_name=grant.user.get_username(),
        tenant_id=grant.tenant_id,
        by=by,
        before=None if before is None else {"role": before},
        after=None if after is None else {"role": after},
        reason=reason,
    )
