"""How secrets and connections look in answers: names, who changed them, never what they hide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rest_framework import serializers

from orchestrator.models import Connection, Secret


class SecretAnswer(serializers.Serializer):
    """A stored secret, without its value, which nobody can read again."""

    name = serializers.CharField()
    updated_at = serializers.DateTimeField()
    updated_by = serializers.CharField()


class SecretWithUsersAnswer(SecretAnswer):
    """A secret and what names it; it can be deleted when nothing does."""

    used_by = serializers.ListField(child=serializers.CharField())


class SecretCall(serializers.Serializer):
    """A value to keep."""

    value = serializers.CharField(help_text="1 byte to 64 KiB.")
    reason = serializers.CharField(required=False, max_length=500)


class ConnectionAnswer(serializers.Serializer):
    """A stored connection; its password can be read nowhere again."""

    name = serializers.CharField()
    shown_url = serializers.CharField(help_text="The URL with stars for its password.")
    description = serializers.CharField()
    updated_at = serializers.DateTimeField()
    updated_by = serializers.CharField()


class ConnectionWithUsersAnswer(ConnectionAnswer):
    """A connection and what names it; it can be deleted when nothing does."""

    used_by = serializers.ListField(child=serializers.CharField())


class ConnectionCall(serializers.Serializer):
    """A way into a database."""

    url = serializers.CharField(
        help_text="`postgresql://user:password@host:5432/database` or `sqlite:////absolute/path`."
    )
    description = serializers.CharField(required=False, max_length=500)
    reason = serializers.CharField(required=False, max_length=500)


def secret_answer(secret: Secret) -> dict[str, Any]:
    return {"name": secret.name, "updated_at": secret.updated_at, "updated_by": secret.updated_by}


def secret_with_users_answer(secret: Secret, users: Sequence[str]) -> dict[str, Any]:
    return {**secret_answer(secret), "used_by": list(users)}


def connection_answer(connection: Connection) -> dict[str, Any]:
    return {
        "name": connection.name,
        "shown_url": connection.shown_url,
        "description": connection.description,
        "updated_at": connection.updated_at,
        "updated_by": connection.updated_by,
    }


def connection_with_users_answer(connection: Connection, users: Sequence[str]) -> dict[str, Any]:
    return {**connection_answer(connection), "used_by": list(users)}
