"""Standard Webhooks: id, timestamp and body are signed together. https://www.standardwebhooks.com

A secret is `whsec_` and base64 (`v1`, HMAC-SHA256), or `whpk_` and base64 (`v1a`, the sender's ed25519 public key).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from triggers.cloud_events import Unreadable
from triggers.sources.providers.base import (
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    check_digest,
    check_moment,
    parse_object,
    tolerance_of,
)
from triggers.sources.providers.ci import moment_of

SECRET: Final = "whsec_"
PUBLIC_KEY: Final = "whpk_"
#: Signatures of one call that are looked at: more is no rotation.
_SIGNATURES: Final = 16


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    message_id, moment = delivery.header("webhook-id"), delivery.header("webhook-timestamp")
    given = delivery.header("webhook-signature")
    if not message_id or not given:
        raise BadSignature("the signature is missing")
    # The parts are joined by dots: an id with one could be cut elsewhere and would still be signed.
    if "." in message_id or not message_id.isascii():
        raise BadSignature("the id has characters that it must not have")
    signed = b".".join((message_id.encode(), moment.encode(errors="replace"), delivery.body))
    keys = [key for secret in secrets if (key := _key(secret, SECRET)) is not None]
    public = [key for secret in secrets if (key := _key(secret, PUBLIC_KEY)) is not None]
    right = False
    for signature in given.split()[:_SIGNATURES]:
        version, _, encoded = signature.partition(",")
        digest = _decoded(encoded)
        if digest is None:
            continue
        if version == "v1":
            right |= _is_signed(digest, keys, signed)
        elif version == "v1a":
            right |= any(_is_signed_asymmetrically(digest, key, signed) for key in public)
    if not right:
        raise BadSignature("none of the signatures is right")
    check_moment(moment, now, tolerance_of(config))


def events(delivery: Delivery, config: Config) -> Mapped:
    body = parse_object(delivery)
    kind = body.get("type")
    if not isinstance(kind, str):
        raise Unreadable("bad_field", "type: missing")
    data = body.get("data")
    form: dict[str, Any] = {
        "eventType": kind,
        "messageId": delivery.header("webhook-id"),
        "timestamp": moment_of(body.get("timestamp")) or _signed_moment(delivery),
        # What has no `data` is all data, as with senders that are older than the convention.
        "payload": data if isinstance(data, dict) else {"data": data} if "data" in body else body,
    }
    if "data" in body:
        form["metadata"] = {name: value for name, value in body.items() if name not in ("type", "timestamp", "data")}
    return [form]


def _signed_moment(delivery: Delivery) -> str | None:
    """Return the moment that was signed, as RFC 3339."""
    try:
        return datetime.fromtimestamp(int(delivery.header("webhook-timestamp")), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def is_secret(secret: str) -> bool:
    """Whether a secret is one of this scheme, whatever the provider."""
    return secret.startswith((SECRET, PUBLIC_KEY))


def secret_problem(secret: str) -> str | None:
    key = _key(secret, SECRET) or _key(secret, PUBLIC_KEY)
    return None if key else f"a secret that begins with {SECRET} or {PUBLIC_KEY} and goes on in base64"


def _key(secret: str, prefix: str) -> bytes | None:
    return _decoded(secret.removeprefix(prefix)) if secret.startswith(prefix) else None


def _decoded(text: str) -> bytes | None:
    try:
        # Some senders write their secrets without the padding.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _is_signed(digest: bytes, keys: Sequence[bytes], signed: bytes) -> bool:
    try:
        check_digest(digest, keys, signed, "sha256")
    except BadSignature:
        return False
    return True


def _is_signed_asymmetrically(signature: bytes, key: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


STANDARD_WEBHOOKS = Provider(
    "standard_webhooks",
    "Standard Webhooks",
    verify,
    events,
    keeps=("webhook-",),
    id_header="webhook-id",
    secret_problem=secret_problem,
)
