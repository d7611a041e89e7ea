"""Whether someone may do something: people by their grants, tokens by their scopes. `orchestrator.roles` decides.

The grants of a person are read once and kept on the user object, which lives as long as its request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from orchestrator.errors import Detail, OutOfScope
from orchestrator.models import ApiToken, JobRun, RoleGrant
from orchestrator.roles import Action, Role, known_apps, need_of, scopes_allow
from orchestrator.roles import may as role_may
from orchestrator.services.tokens import check_action

#: Tenants: None is every one.
Tenants = frozenset[int] | None

#: Where the tenant of a row is found, by its model; what is not listed belongs to no tenant.
TENANT_PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "orchestrator.tenant": "pk",
        "orchestrator.job": "tenant_id",
        "orchestrator.jobversion": "job__tenant_id",
        "orchestrator.jobrun": "tenant_id",
        "orchestrator.taskrun": "run__tenant_id",
        "orchestrator.attempt": "task_run__run__tenant_id",
        "orchestrator.lock": "tenant_id",
        "orchestrator.lockrequest": "lock__tenant_id",
        "orchestrator.secret": "tenant_id",
        "orchestrator.connection": "tenant_id",
        "orchestrator.apitoken": "tenant_id",
        "orchestrator.template": "tenant_id",
        "orchestrator.rolegrant": "tenant_id",
        "orchestrator.auditrecord": "tenant_id",
        "triggers.event": "tenant_id",
        "triggers.firing": "tenant_id",
        "triggers.deadletter": "tenant_id",
        "triggers.replay": "tenant_id",
        "triggers.triggerrule": "tenant_id",
        "triggers.ruleversion": "rule__tenant_id",
        "triggers.eventsource": "tenant_id",
    }
)
#: What facts without a run are about, by the word of their subject.
FACT_SUBJECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "job": "orchestrator.job",
        "lock": "orchestrator.lock",
        "secret": "orchestrator.secret",
        "connection": "orchestrator.connection",
        "token": "orchestrator.apitoken",
        "template": "orchestrator.template",
        "tenant": "orchestrator.tenant",
        "rule": "triggers.triggerrule",
        "event_source": "triggers.eventsource",
        "dead_letter": "triggers.deadletter",
        "replay": "triggers.replay",
    }
)
#: What audit records are about, by the word of their subject.
RECORDED: Final[Mapping[str, str]] = MappingProxyType(
    {**FACT_SUBJECTS, "run": "orchestrator.jobrun", "task_run": "orchestrator.taskrun", "user": "auth.user"}
)


@dataclass(frozen=True, slots=True)
class Rights:
    """What is known of a person: the role in every tenant, if any, and those in single ones."""

    everywhere: str | None = None
    by_tenant: Mapping[int, str] = field(default_factory=dict)
    #: Whether the framework's own permissions, which know no tenant, may have something to add.
    has_permissions: bool = False


def rights_of(user: Any) -> Rights:
    """Return a person's grants; one query for the life of the user object."""
    found = getattr(user, "_upbeat_rights", None)
    if found is None:
        found = user._upbeat_rights = _read(user.pk)
    return found


def forget_rights(user: Any) -> None:
    """Let the next question read the grants anew: after they were changed."""
    if hasattr(user, "_upbeat_rights"):
        del user._upbeat_rights


def _read(user_id: int) -> Rights:
    users = get_user_model()
    # One row even of a person without a grant, so that the other answer comes with it.
    rows = (
        users.objects.filter(pk=user_id)
        .annotate(
            own=Exists(users.user_permissions.through.objects.filter(user_id=OuterRef("pk")))
            | Exists(users.groups.through.objects.filter(user_id=OuterRef("pk")))
        )
        .values_list("role_grants__role", "role_grants__tenant_id", "own")
    )
    everywhere: str | None = None
    by_tenant: dict[int, str] = {}
    own = False
    for role, tenant_id, has_own in rows:
        own = bool(has_own)
        if role is None:
            continue
        if tenant_id is None:
            everywhere = role
        else:
            by_tenant[tenant_id] = role
    return Rights(everywhere, by_tenant, own)


def may(who: Any, action: Action, tenant_id: int | None) -> bool:
    """Whether a person or a token may do this in a tenant; without one: to what belongs to none.

    A superuser may all; someone who is not signed in, or was switched off, nothing.
    """
    if isinstance(who, ApiToken):
        return tenant_id is not None and who.tenant_id == tenant_id and scopes_allow(who.scopes, action)
    if who is None or not getattr(who, "is_active", False) or who.pk is None:
        return False
    if who.is_superuser:
        return True
    rights = rights_of(who)
    if role_may(rights.everywhere or "", action):
        return True
    return tenant_id is not None and role_may(rights.by_tenant.get(tenant_id, ""), action)


def tenants_of(who: Any, action: Action) -> Tenants:
    """Return the tenants in which a person or a token may do this: None for every one, empty for none."""
    if isinstance(who, ApiToken):
        return frozenset({who.tenant_id}) if scopes_allow(who.scopes, action) else frozenset()
    if may(who, action, None):
        return None
    if who is None or not getattr(who, "is_active", False) or who.pk is None:
        return frozenset()
    return frozenset(tenant for tenant, role in rights_of(who).by_tenant.items() if role_may(role, action))


def may_somewhere(who: Any, action: Action) -> bool:
    """Whether there is any tenant in which a person or a token may do this."""
    return tenants_of(who, action) != frozenset()


def has_any_right(user: Any) -> bool:
    """Whether there is anything at all for this person to see."""
    return may_somewhere(user, Action.VIEW) or (user.is_active and rights_of(user).has_permissions)


def require(who: Any, action: Action, tenant_id: int | None) -> None:
    """Raise OutOfScope, the API's 403, unless the person or the token may do this in the tenant."""
    if may(who, action, tenant_id):
        return
    if isinstance(who, ApiToken):
        check_action(who, action)
        raise OutOfScope("The token is of another tenant.", details=(Detail("tenant", None, "a token of this tenant"),))
    raise OutOfScope(
        f"Your role does not include: {action.value.replace('_', ' ')}.",
        details=(Detail("role", None, f"a role that includes {action.value}"),),
    )


# --- permissions, as the framework names them


def tenant_id_of(row: Model) -> int | None:
    """Return the tenant that a row belongs to, None for what belongs to none."""
    path = TENANT_PATHS.get(row._meta.label_lower)
    if path is None:
        return None
    value: Any = row
    for part in path.split("__"):
        value = getattr(value, part, None)
    return value


def may_by_permission(user: Any, permission: str, row: Model | None = None) -> bool:
    """Whether a person has a permission such as `orchestrator.view_jobrun`: for a row in its tenant, else anywhere.

    What the framework itself granted to the person or a group counts in every tenant.
    """
    if not user.is_active or user.pk is None:
        return False
    if user.is_superuser:
        return True
    need = need_of(permission)
    if need is not None:
        if need.everywhere:
            allowed = may(user, need.action, None)
        elif row is None or row._meta.label_lower not in TENANT_PATHS:
            allowed = may_somewhere(user, need.action)
        else:
            allowed = may(user, need.action, tenant_id_of(row))
        if allowed:
            return True
    return _granted_by_framework(user, permission)


def tenants_by_permission(user: Any, permission: str) -> Tenants:
    """Return the tenants in which a person has a permission: None for every one, empty for none."""
    if not user.is_active or user.pk is None:
        return frozenset()
    if user.is_superuser or _granted_by_framework(user, permission):
        return None
    need = need_of(permission)
    if need is None:
        return frozenset()
    tenants = tenants_of(user, need.action)
    return frozenset() if need.everywhere and tenants is not None else tenants


def scoped(rows: QuerySet[Any], tenants: Tenants) -> QuerySet[Any]:
    """Leave only the rows of these tenants, and those of models that belong to none."""
    label = rows.model._meta.label_lower
    if tenants is None:
        return rows
    if label == "orchestrator.transition":
        return rows.filter(_facts_of(sorted(tenants)))
    if label == "triggers.listener":
        # One without a source is a role of the installation, such as the timers.
        return rows.filter(Q(source__isnull=True) | Q(source__tenant_id__in=sorted(tenants)))
    path = TENANT_PATHS.get(label)
    return rows if path is None else rows.filter(**{f"{path}__in": sorted(tenants)})


def _facts_of(tenants: list[int]) -> Q:
    """Return the condition that a fact of the ledger is about something of these tenants.

    It names its subject by word and number alone, and what was deleted can be looked up no more: its facts are for
    those who see every tenant.
    """
    condition = Q(Exists(JobRun.objects.filter(pk=OuterRef("run_id"), tenant_id__in=tenants)))
    for subject, label in FACT_SUBJECTS.items():
        model = apps.get_model(label)
        rows = model._default_manager.filter(pk=OuterRef("subject_id"), **{f"{TENANT_PATHS[label]}__in": tenants})
        condition |= Q(run_id__isnull=True, subject=subject) & Q(Exists(rows))
    return condition


def _granted_by_framework(user: Any, permission: str) -> bool:
    if not rights_of(user).has_permissions:
        return False
    app, _, codename = permission.partition(".")
    verb, _, model = codename.partition("_")
    # The framework has no word for it: who may change may steer and start.
    asked = f"{app}.change_{model}" if verb in ("steer", "trigger") else permission
    return asked in ModelBackend().get_all_permissions(user)


class RolesBackend(ModelBackend):
    """Signs people in by password, and answers `has_perm` by their roles, so that menu and pages obey them."""

    def has_perm(self, user_obj: Any, perm: str, obj: Model | None = None) -> bool:
        return may_by_permission(user_obj, perm, obj)

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        if not user_obj.is_active:
            return False
        if app_label in known_apps() and may_somewhere(user_obj, Action.VIEW):
            return True
        return rights_of(user_obj).has_permissions and super().has_module_perms(user_obj, app_label)


def admins_to_ask(limit: int = 5) -> list[str]:
    """Return names of people who may give roles everywhere, for one who has none."""
    users = get_user_model()
    admins = RoleGrant.objects.filter(tenant=None, role=Role.ADMIN).values("user_id")
    return list(
        users.objects.filter(Q(is_superuser=True) | Q(pk__in=admins), is_active=True)
        .order_by("username")
        .values_list("username", flat=True)[:limit]
    )


def tenant_filter(tenants: Iterable[int] | None, path: str) -> Q:
    """Return the condition that a row found by this path belongs to one of the tenants."""
    return Q() if tenants is None else Q(**{f"{path}__in": sorted(tenants)})
