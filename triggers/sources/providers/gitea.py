"""Gitea and Forgejo. They send GitHub's and Gogs' headers as well: which provider it is says the endpoint, never those.

Of a form they sign the JSON in the field `payload`, where GitHub signs the form itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from triggers.cloud_events import Unreadable, media_type
from triggers.sources.providers import github
from triggers.sources.providers.base import (
    FORM,
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    check_hex,
    form_payload,
    word,
)

#: Forgejo keeps Gitea's names and sends its own beside them.
_SIGNATURES: Final = ("x-gitea-signature", "x-forgejo-signature")


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    given = next((found for name in _SIGNATURES if (found := delivery.header(name))), "")
    try:
        signed = form_payload(delivery) if media_type(delivery.content_type) == FORM else delivery.body
    except Unreadable:
        raise BadSignature("the form has no field payload, which is what is signed") from None
    check_hex(given, secrets, signed)


def events(delivery: Delivery, config: Config) -> Mapped:
    name = word(delivery.header("x-gitea-event")) or word(delivery.header("x-forgejo-event"))
    if not name:
        raise Unreadable("bad_field", "X-Gitea-Event: missing")
    # The finer name, such as issue_label, where there is one.
    kind = word(delivery.header("x-gitea-event-type")) or name
    message_id = delivery.header("x-gitea-delivery") or delivery.header("x-forgejo-delivery")
    return [github.read_event("gitea", kind, message_id, delivery, config)]


GITEA = Provider(
    "gitea",
    "Gitea, Forgejo",
    verify,
    events,
    keeps=("x-gitea-", "x-forgejo-"),
    forms=True,
    id_header="x-gitea-delivery",
)
