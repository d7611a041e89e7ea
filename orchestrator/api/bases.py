"""What the API's views are made of, for the views of the siblings: the one door into this package for them."""

from __future__ import annotations

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.authentication import token_of
from orchestrator.api.bodies import Field, TooLarge, check_query, quoted, read_body, read_object, read_raw, whole_number
from orchestrator.api.converters import NameConverter
from orchestrator.api.exceptions import answer_error, error_answer
from orchestrator.api.schema import (
    CURSOR,
    ErrorAnswer,
    answered,
    describe,
    example,
    limit,
    page,
    query,
)
from orchestrator.api.serializers.runs import ReasonCall, run_url
from orchestrator.api.views.base import (
    ApiView,
    base_url,
    by_token,
    choices,
    number_cursor,
    page_answer,
    schema_answer,
)
from orchestrator.api.views.jobs import DEFINITION, YAML
from orchestrator.api.views.secrets import TenantWideView
from orchestrator.api.views.trigger import IDEMPOTENCY_KEY

__all__ = [
    "CURSOR",
    "DEFINITION",
    "IDEMPOTENCY_KEY",
    "YAML",
    "ApiView",
    "ErrorAnswer",
    "Field",
    "NameConverter",
    "ReasonCall",
    "TenantWideView",
    "TooLarge",
    "answer",
    "answer_error",
    "answered",
    "base_url",
    "bodies",
    "by_token",
    "check_query",
    "choices",
    "describe",
    "error_answer",
    "example",
    "limit",
    "number_cursor",
    "page",
    "page_answer",
    "query",
    "quoted",
    "read_body",
    "read_object",
    "read_raw",
    "run_url",
    "schema_answer",
    "token_of",
    "whole_number",
]
