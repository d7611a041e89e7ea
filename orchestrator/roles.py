"""Who may do what: roles of people and scopes of tokens, both read as sets of actions. Pure; the one place that decides."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a person is in a tenant. Each may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    EDITOR = "editor"
    ADMIN = "admin"
