"""API tokens, as one tenant's administrators see them; their texts are stored nowhere."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.models import ApiToken
from orchestrator.selectors.pages import Page


def tokens_of(
    tenant_id: int,
    *,
    shown: Callable[[ApiToken], bool],
    revoked: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> Page[ApiToken]:
    """Return a page of tokens, newest first: those in use, or those that were revoked; only what is `shown`."""
    rows = ApiToken.objects.filter(tenant_id=tenant_id, revoked_at__isnull=not revoked).order_by("-pk")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    # What a token is good for is a JSON list, which SQLite cannot search; a tenant has tens of tokens, not millions.
    found: list[ApiToken] = []
    for row in rows.iterator(chunk_size=500):
        if shown(row):
            found.append(row)
        if len(found) > limit:
            break
    return Page(found[:limit], str(found[limit - 1].pk) if len(found) > limit else None)


def token_of(tenant_id: int, token_id: int) -> ApiToken | None:
    return ApiToken.objects.filter(tenant_id=tenant_id, pk=token_id).first()
