"""Who may do what: roles of people and scopes of tokens, both read as sets of actions. Pure; the one place that decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Role(StrEnum):
    """What a person is in a tenant. Each may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    EDITOR = "editor"
    ADMIN = "admin"


class Action(StrEnum):
    """What is asked for. Every page, every call of the API and every button asks for exactly one of them."""

    #: See definitions, runs, logs, events, and what a rule would do; of secrets and connections the names.
    VIEW = "view"
    #: Start runs and send events.
    TRIGGER = "trigger"
    #: Command what exists: cancel, pause, run again, skip, mark, replay, discard, release, enable and disable.
    STEER = "steer"
    #: Read who changed and commanded what.
    AUDIT = "audit"
    #: Change jobs, templates, rules, sources and locks.
    DEFINE = "define"
    #: Store and delete secrets and connections.
    CONFIGURE_SECRETS = "configure_secrets"
    #: Tokens, people's roles, the tenant's own settings.
    MANAGE = "manage"


class Scope(StrEnum):
    """What a token is good for. A scope does not include another, but for `admin`, which includes all."""

    READ = "read"
    TRIGGER = "trigger"
    OPERATE = "operate"
    ADMIN = "admin"


_VIEWER: Final = frozenset({Action.VIEW})
_OPERATOR: Final = _VIEWER | {Action.TRIGGER, Action.STEER, Action.AUDIT}
_EDITOR: Final = _OPERATOR | {Action.DEFINE}

ROLE_ACTIONS: Final[Mapping[Role, frozenset[Action]]] = MappingProxyType(
    {Role.VIEWER: _VIEWER, Role.OPERATOR: _OPERATOR, Role.EDITOR: _EDITOR, Role.ADMIN: frozenset(Action)}
)
SCOPE_ACTIONS: Final[Mapping[Scope, frozenset[Action]]] = MappingProxyType(
    {
        Scope.READ: frozenset({Action.VIEW}),
        Scope.TRIGGER: frozenset({Action.TRIGGER}),
        Scope.OPERATE: frozenset({Action.STEER, Action.AUDIT}),
        Scope.ADMIN: frozenset(Action),
    }
)


def may(role: str, action: Action) -> bool:
    """Whether the role includes the action; a word that is no role includes none."""
    return action in ROLE_ACTIONS.get(role, frozenset())  # type: ignore[call-overload]  # a StrEnum's key is its word


def scopes_allow(scopes: Iterable[str], action: Action) -> bool:
    """Whether a token with these scopes may do it; unknown scopes allow nothing."""
    return any(action in SCOPE_ACTIONS.get(scope, frozenset()) for scope in scopes)  # type: ignore[call-overload]


def scope_for(action: Action) -> Scope:
    """Return the narrowest scope that includes the action."""
    return next(scope for scope, actions in SCOPE_ACTIONS.items() if action in actions)


@dataclass(frozen=True, slots=True)
class Need:
    """What a permission of the admin asks for."""

    action: Action
    #: By a grant for every tenant: for what belongs to none.
    everywhere: bool = False


def _kinds(models: str, verbs: Mapping[str, Need]) -> dict[str, Mapping[str, Need]]:
    return dict.fromkeys(models.split(), verbs)


_VIEWED: Final = Need(Action.VIEW)
_STEERED: Final = Need(Action.STEER)
_DEFINED: Final = Need(Action.DEFINE)
_STORED: Final = Need(Action.CONFIGURE_SECRETS)
_MANAGED: Final = Need(Action.MANAGE)
_RUN_HERE: Final = Need(Action.MANAGE, everywhere=True)

#: Model → verb of a permission → what it needs. What is not listed is for superusers alone.
_NEEDS: Final[Mapping[str, Mapping[str, Need]]] = MappingProxyType(
    {
        **_kinds(
            "orchestrator.job orchestrator.jobversion orchestrator.template orchestrator.lock "
            "triggers.triggerrule triggers.ruleversion triggers.eventsource",
            {
                "view": _VIEWED,
                "trigger": Need(Action.TRIGGER),
                "steer": _STEERED,
                "add": _DEFINED,
                "change": _DEFINED,
                "delete": _DEFINED,
            },
        ),
        **_kinds(
            "orchestrator.jobrun orchestrator.taskrun orchestrator.attempt orchestrator.transition "
            "orchestrator.lockrequest orchestrator.laneworker orchestrator.lease "
            "triggers.event triggers.firing triggers.deadletter triggers.replay triggers.listener",
            {"view": _VIEWED, "steer": _STEERED, "add": _STEERED, "change": _STEERED, "delete": _STEERED},
        ),
        **_kinds(
            "orchestrator.secret orchestrator.connection",
            {"view": _VIEWED, "add": _STORED, "change": _STORED, "delete": _STORED},
        ),
        **_kinds(
            "orchestrator.apitoken orchestrator.rolegrant",
            {"view": _MANAGED, "add": _MANAGED, "change": _MANAGED, "delete": _MANAGED},
        ),
        "orchestrator.tenant": {"view": _VIEWED, "change": _MANAGED, "add": _RUN_HERE, "delete": _RUN_HERE},
        "orchestrator.auditrecord": {"view": Need(Action.AUDIT)},
        "auth.user": {"view": _RUN_HERE, "add": _RUN_HERE, "change": _RUN_HERE, "delete": _RUN_HERE},
        **_kinds(
            "django_celery_beat.periodictask django_celery_beat.intervalschedule django_celery_beat.crontabschedule "
            "django_celery_beat.solarschedule django_celery_beat.clockedschedule",
            {
                "view": Need(Action.VIEW, everywhere=True),
                "add": _RUN_HERE,
                "change": _RUN_HERE,
                "delete": _RUN_HERE,
            },
        ),
    }
)


def need_of(permission: str) -> Need | None:
    """Return what a permission such as `orchestrator.view_jobrun` needs; None for one that no role gives.

    Beside the framework's verbs there are `steer_…` and `trigger_…`.
    """
    app, _, codename = permission.partition(".")
    verb, _, model = codename.partition("_")
    return _NEEDS.get(f"{app}.{model}", {}).get(verb)


def known_apps() -> frozenset[str]:
    """Return the labels of the apps whose pages roles open."""
    return frozenset(model.partition(".")[0] for model in _NEEDS)
