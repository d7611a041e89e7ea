"""The one place that decides rights: what each role and each scope includes, written out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from orchestrator.roles import (
    ROLE_ACTIONS,
    SCOPE_ACTIONS,
    Action,
    Role,
    Scope,
    may,
    need_of,
    scope_for,
    scopes_allow,
)

#: viewer, operator, editor, admin.
TABLE = {
    Action.VIEW: "yes yes yes yes",
    Action.TRIGGER: "no yes yes yes",
    Action.STEER: "no yes yes yes",
    Action.AUDIT: "no yes yes yes",
    Action.DEFINE: "no no yes yes",
    Action.CONFIGURE_SECRETS: "no no no yes",
    Action.MANAGE: "no no no yes",
}
#: read, trigger, operate, admin.
SCOPES = {
    Action.VIEW: "yes no no yes",
    Action.TRIGGER: "no yes no yes",
    Action.STEER: "no no yes yes",
    Action.AUDIT: "no no yes yes",
    Action.DEFINE: "no no no yes",
    Action.CONFIGURE_SECRETS: "no no no yes",
    Action.MANAGE: "no no no yes",
}


def test_the_tables_know_every_action():
    assert list(TABLE) == list(SCOPES) == list(Action)


@pytest.mark.parametrize("action", Action)
def test_a_role_includes_what_the_table_says(action: Action):
    assert " ".join("yes" if may(role, action) else "no" for role in Role) == TABLE[action]


@pytest.mark.parametrize("action", Action)
def test_a_scope_includes_what_the_table_says(action: Action):
    assert " ".join("yes" if scopes_allow([scope], action) else "no" for scope in Scope) == SCOPES[action]


def test_each_role_includes_the_one_before():
    roles = [ROLE_ACTIONS[role] for role in Role]

    assert all(less < more for less, more in pairwise(roles))


def test_a_word_that_is_no_role_and_no_scope_allows_nothing():
    assert not any(may("owner", action) or scopes_allow(["write"], action) for action in Action)


@pytest.mark.parametrize("action", Action)
def test_the_narrowest_scope_for_an_action_is_one_that_includes_it(action: Action):
    scope = scope_for(action)

    assert action in SCOPE_ACTIONS[scope]
    assert scope == Scope.ADMIN or len(SCOPE_ACTIONS[scope]) <= 2


@pytest.mark.parametrize(
    ("permission", "action", "everywhere"),
    [
        ("orchestrator.view_jobrun", Action.VIEW, False),
        ("orchestrator.steer_jobrun", Action.STEER, False),
        ("orchestrator.trigger_job", Action.TRIGGER, False),
        ("orchestrator.change_job", Action.DEFINE, False),
        ("orchestrator.add_secret", Action.CONFIGURE_SECRETS, False),
        ("orchestrator.change_tenant", Action.MANAGE, False),
        ("orchestrator.add_tenant", Action.MANAGE, True),
        ("auth.change_user", Action.MANAGE, True),
        ("triggers.steer_triggerrule", Action.STEER, False),
        ("orchestrator.view_auditrecord", Action.AUDIT, False),
    ],
)
def test_a_permission_of_the_admin_asks_for_an_action(permission: str, action: Action, everywhere: bool):
    need = need_of(permission)

    assert need is not None
    assert (need.action, need.everywhere) == (action, everywhere)


@pytest.mark.parametrize(
    "permission",
    ["orchestrator.change_auditrecord", "orchestrator.delete_auditrecord", "auth.change_group", "other.view_thing", ""],
)
def test_no_role_gives_what_is_not_listed(permission: str):
    assert need_of(permission) is None
