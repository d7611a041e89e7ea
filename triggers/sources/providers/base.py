"""What a provider of webhooks is: how its calls prove who sent them, and which events they are. Pure.

Everything is judged on the raw body: a body that was parsed and written again has another signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from triggers.cloud_events import Unreadable, media_type

FORM: Final = "application/x-www-form-urlencoded"
TOLERANCE_SECONDS: Final = 300


class BadSignature(Exception):
    """The call does not prove who sent it. The text is for the audit, never for the caller."""


class Verdict(Enum):
    """What a call is, when it is no event that the provider maps."""

    #: A test of the connection: answered, not stored.
    PING = "ping"
    #: The body is an envelope, or a CloudEvent, itself.
    AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call as it came in. Nothing in it is checked."""

    body: bytes
    #: Lower-case names; values of a header that came twice are joined by a comma, which no signature survives.
    headers: Mapping[str, str]
    content_type: str = ""

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


Config = Mapping[str, Any]
#: Events in the contract's form, or what the call is instead.
Mapped = list[dict[str, Any]] | Verdict


@dataclass(frozen=True, slots=True)
class Provider:
    """How the calls of one provider are verified and read."""

    name: str
    label: str
    #: (delivery, secrets, config, now): raises BadSignature unless one of the secrets proves the sender.
    verify: Callable[[Delivery, Sequence[str], Config, datetime], None]
    #: (delivery, config): raises Unreadable for an authentic call that is no event.
    events: Callable[[Delivery, Config], Mapped]
    #: Beginnings of the names of headers that are kept with an event; names that tell secrets never are.
    keeps: tuple[str, ...] = ()
    #: Whether bodies may be forms with the JSON in their field `payload`.
    forms: bool = False
    #: Whether any media type is data.
    any_type: bool = False
    #: Where the call's own id is, for a body that is taken as it is.
    id_header: str = ""
    #: What is wrong with a secret as it is stored, for whom it may concern; None: nothing.
    secret_problem: Callable[[str], str | None] = field(default=lambda secret: None)


#: Parts of the names of headers that are never stored: what proves the sender would prove it again.
_TELLING: Final = ("authorization", "cookie", "signature", "token", "secret", "password", "api-key", "apikey")
_ALWAYS_KEPT: Final = ("content-type", "user-agent", "traceparent", "tracestate", "x-request-id", "x-correlation-id")


def kept_headers(delivery: Delivery, provider: Provider, config: Config) -> dict[str, str]:
    """Return the headers that an event is stored with: a list of names, so that no secret is kept by oversight."""
    own = {str(name).lower() for name in config.get("keep_headers", ())}
    return {
        name: value
        for name, value in delivery.headers.items()
        if (name in _ALWAYS_KEPT or name in own or name.startswith(provider.keeps or ("\0",)))
        and not any(part in name for part in _TELLING)
    }


def accepts(delivery: Delivery, provider: Provider) -> bool:
    """Say whether the media type is one that the provider's bodies have."""
    kind = media_type(delivery.content_type)
    if not kind or provider.any_type:
        return True
    return kind in ("application/json", "text/json") or kind.endswith("+json") or (provider.forms and kind == FORM)


def form_of(delivery: Delivery) -> Any:
    """Return the JSON value of a body that may be a form; raises Unreadable."""
    return parse(form_payload(delivery) if media_type(delivery.content_type) == FORM else delivery.body)


def form_payload(delivery: Delivery) -> bytes:
    """Return the field `payload` of a form; raises Unreadable."""
    try:
        fields = parse_qs(delivery.body.decode("ascii"), strict_parsing=True, max_num_fields=100)
        (payload,) = fields["payload"]
        return payload.encode()
    except (ValueError, KeyError):
        raise Unreadable("malformed", "a form with one field payload") from None


def parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable("malformed", f"not JSON: {error}"[:500]) from None


def parse_object(delivery: Delivery) -> dict[str, Any]:
    """Return the body's object, of JSON or of a form; raises Unreadable."""
    found = form_of(delivery)
    if not isinstance(found, dict):
        raise Unreadable("not_object", "the body is a JSON object")
    return found


_HEX: Final = re.compile(r"[0-9a-fA-F]+")


def check_hex(given: str, secrets: Sequence[str], signed: bytes, algorithm: str = "sha256") -> None:
    """Raise BadSignature unless the hexadecimal digest, in either case, is that of `signed` under one of the secrets."""
    if not _HEX.fullmatch(given) or len(given) % 2:
        raise BadSignature("the signature is missing" if not given else "the signature is not hexadecimal")
    check_digest(bytes.fromhex(given), secrets, signed, algorithm)


def check_base64(given: str, secrets: Sequence[str], signed: bytes, algorithm: str = "sha256") -> None:
    """Raise BadSignature unless the digest in base64 is that of `signed` under one of the secrets."""
    try:
        digest = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("the signature is not base64") from None
    check_digest(digest, secrets, signed, algorithm)


def check_digest(digest: bytes, secrets: Sequence[str | bytes], signed: bytes, algorithm: str) -> None:
    right = False
    for secret in secrets:
        key = secret.encode() if isinstance(secret, str) else secret
        # No early exit: how long it takes says nothing of which secret it was.
        right |= hmac.compare_digest(hmac.digest(key, signed, algorithm), digest)
    if not right:
        raise BadSignature("the signature is wrong")


def check_text(given: str, secrets: Sequence[str], *, what: str) -> None:
    """Raise BadSignature unless the text is one of the secrets. Compares digests, so that no length is told either."""
    if not given:
        raise BadSignature(f"the {what} is missing")
    found = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    right = False
    for secret in secrets:
        right |= hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), found)
    if not right:
        raise BadSignature(f"the {what} is wrong")


def check_bearer(delivery: Delivery, secrets: Sequence[str]) -> None:
    """Raise BadSignature unless the call carries one of the secrets as a bearer token."""
    scheme, _, token = delivery.header("authorization").partition(" ")
    check_text(token.strip() if scheme.lower() == "bearer" else "", secrets, what="bearer token")


def check_basic(delivery: Delivery, secrets: Sequence[str]) -> None:
    """Raise BadSignature unless the call carries one of the secrets, `user:password`, as basic authentication."""
    scheme, _, encoded = delivery.header("authorization").partition(" ")
    if scheme.lower() != "basic":
        raise BadSignature("the user and password are missing")
    try:
        given = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadSignature("the user and password are not base64") from None
    check_text(given, secrets, what="user or password")


def check_moment(given: str, now: datetime, tolerance: float) -> None:
    """Raise BadSignature unless the Unix time in seconds is close to now: what was overheard is not good for ever."""
    if not (given.isascii() and given.isdigit() and len(given) < 13):
        raise BadSignature("the timestamp is missing" if not given else "the timestamp is no Unix time")
    if abs(now.timestamp() - int(given)) > tolerance:
        raise BadSignature(f"the timestamp is more than {tolerance:.0f} s away from now")


def tolerance_of(config: Config) -> float:
    return float(config.get("tolerance_seconds", TOLERANCE_SECONDS))


def word(value: Any) -> str:
    """Return a text of the provider's as a part of an event's type: lower-case, without separators of its own."""
    return re.sub(r"[^a-z0-9_]+", "_", str(value).lower()).strip("_")[:60] if isinstance(value, (str, int)) else ""


def at(value: Any, *path: str | int) -> Any:
    """Return what lies at a path of a JSON value, None where there is nothing."""
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value
