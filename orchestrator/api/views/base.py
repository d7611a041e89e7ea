from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from orchestrator.api.answers import answer
from orchestrator.api.bodies import quoted
from orchestrator.errors import Detail, InvalidRequest, NotFound
from orchestrator.models import ApiToken
from orchestrator.selectors.pages import Page


class ApiView(APIView):
    """Base of the endpoints: a token in `self.token`; answers are plain JSON answers in the one shape."""

    request: Request
    http_method_names = ["get", "post", "put", "patch", "delete", "head", "options"]

    @property
    def token(self) -> ApiToken:
        token = self.request.auth
        assert isinstance(token, ApiToken)  # HasScope let the call in
        return token

    @property
    def tenant_id(self) -> int:
        return self.token.tenant_id or self.token.tenant.pk

    @property
    def by(self) -> str:
        return by_token(self.token)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        # Each endpoint has one form of answer; what `Accept` asks for refuses nothing.
        return super().perform_content_negotiation(request, force=True)

    def options(  # type: ignore[override]  # plain answers, not the framework's
        self, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        allowed = ", ".join(self.allowed_methods)
        answered = answer({"methods": self.allowed_methods})
        answered["Allow"] = allowed
        return answered


def by_token(token: ApiToken) -> str:
    """How transitions name a caller."""
    return f"token:{token.name}"[:200]


def base_url(request: HttpRequest | Request) -> str:
    """Scheme and host as the caller wrote them; raises DisallowedHost for one that is not ours."""
    return f"{request.scheme}://{request.get_host()}"


def page_answer(page: Page[Any], shown: Callable[[Any], Any]) -> HttpResponse:
    return answer({"items": [shown(item) for item in page.items], "next": page.next})


def schema_answer(schema: dict[str, Any]) -> HttpResponse:
    """Answer a JSON schema under its own media type."""
    answered = answer(schema)
    answered["Content-Type"] = "application/schema+json"
    return answered


def number_cursor(text: str | None) -> int | None:
    """Read the cursor of a list by number; raises InvalidRequest."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    raise InvalidRequest(
        "The query has problems.", details=(Detail("cursor", quoted(text), "`next` of the page before"),)
    )


def choices(text: str | None, key: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """Read values separated by commas, each one of `allowed`; raises InvalidRequest."""
    if text is None:
        return ()
    known = sorted(allowed)
    values = tuple(part.strip() for part in text.split(","))
    if problems := [Detail(key, quoted(value), "one of " + ", ".join(known)) for value in values if value not in known]:
        raise InvalidRequest("The query has problems.", details=tuple(problems))
    return values


class UnknownPath(ApiView):
    """Everything under the API's paths that is nothing."""

    authentication_classes = ()
    permission_classes = ()
    schema = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        from orchestrator.api.exceptions import answer_error

        return answer_error(NotFound(f"There is nothing under {quoted(request.path)}."))
