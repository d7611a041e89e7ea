"""CloudEvents over HTTP, CDEvents among them: a bearer token, and bodies that are events already."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from triggers.sources.providers.base import Config, Delivery, Mapped, Provider, Verdict, check_bearer


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    check_bearer(delivery, secrets)


def events(delivery: Delivery, config: Config) -> Mapped:
    return Verdict.AS_IT_IS


CLOUDEVENTS = Provider("cloudevents", "CloudEvents", verify, events, keeps=("ce-",), any_type=True)
