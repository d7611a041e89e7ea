"""How tokens look in answers: never with their text, but for the one answer that makes them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.models import ApiToken
from orchestrator.services.tokens import SCOPES


class TokenAnswer(serializers.Serializer):
    """A token of the tenant."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="The first characters of its text.")
    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES))
    jobs = serializers.ListField(child=serializers.CharField(), help_text="What it is good for; empty: all jobs.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True, help_text="null: never.")
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")


class NewTokenAnswer(TokenAnswer):
    """A token that was just made, with its text, which is shown this once."""

    token = serializers.CharField()


class TokenCall(serializers.Serializer):
    """A token to make. It can do no more than the one that makes it."""

    name = serializers.CharField(max_length=200, help_text="Whose token it is; tells tokens apart.")
    scopes = serializers.ListField(
        child=serializers.ChoiceField(SCOPES), required=False, help_text="Default: trigger and read."
    )
    jobs = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Names of the jobs it is good for; none: all."
    )
    expires_at = serializers.DateTimeField(required=False, help_text="Default: never.")


def token_answer(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.pk,
        "name": token.name,
        "prefix": token.prefix,
        "scopes": token.scopes,
        "jobs": token.job_names,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }
