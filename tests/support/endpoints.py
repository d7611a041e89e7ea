"""Webhooks of a test: the source with its secret, and a caller of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.test import Client

from orchestrator.services.secrets import set_secret
from tests.support.records import default_tenant
from tests.support.webhooks import SECRET
from triggers.models import EventSource
from triggers.services.sources import SourceSpec, create_source


@dataclass
class Endpoint:
    """A webhook that exists."""

    source: EventSource

    @property
    def path(self) -> str:
        return f"/api/v1/hooks/{self.source.endpoint}"

    def call(self, body: bytes, headers: dict[str, str], **extra: Any) -> Any:
        """Deliver a body as a provider would, within this process."""
        content_type = headers.get("content-type", "application/json")
        rest = {name: value for name, value in headers.items() if name != "content-type"}
        client = Client(raise_request_exception=False)
        return client.post(self.path, body, content_type=content_type, headers=rest, **extra)


def new_endpoint(
    provider: str,
    *,
    slug: str = "",
    secret: str = SECRET,
    previous: str | None = None,
    enabled: bool = True,
    **config: Any,
) -> Endpoint:
    """Make a webhook with its secrets."""
    tenant = default_tenant()
    slug = slug or provider.replace("_", "-")
    secrets = {"current": f"{slug}-secret"}
    set_secret(tenant=tenant, name=secrets["current"], value=secret, by="ada")
    if previous is not None:
        secrets["previous"] = f"{slug}-previous"
        set_secret(tenant=tenant, name=secrets["previous"], value=previous, by="ada")
    spec = SourceSpec(slug, "webhook", {"provider": provider, **config}, secrets, enabled=enabled)
    return Endpoint(create_source(tenant=tenant, spec=spec, by="ada"))
