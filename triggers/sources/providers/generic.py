"""Anything else that sends JSON: an HMAC whose place and form are configured, a bearer token, or a password.

Without a mapping a body is the contract's envelope or a CloudEvent. With one, a CEL expression for each field of the
envelope reads the body; `each` names a list in it of which every item becomes an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from orchestrator.expressions.environment import Environment
from orchestrator.expressions.problems import InvalidExpression
from orchestrator.expressions.program import DATA_DEPTH, NotEvaluated, Quantity, compile_quantity, too_deep
from triggers.cloud_events import Unreadable
from triggers.sources.providers.base import (
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    Verdict,
    check_base64,
    check_basic,
    check_bearer,
    check_hex,
    check_moment,
    form_of,
    kept_headers,
    tolerance_of,
)

AUTHENTICATIONS: Final = ("hmac", "bearer", "basic")
FIELDS: Final = (
    "eventType", "messageId", "timestamp", "source", "destination", "priority", "payload", "metadata",
)  # fmt: skip
#: Events that one call may become.
MOST: Final = 500


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    match config.get("auth", "hmac"):
        case "bearer":
            check_bearer(delivery, secrets)
        case "basic":
            check_basic(delivery, secrets)
        case _:
            _check_hmac(delivery, secrets, config, now)


def _check_hmac(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    hmac: Mapping[str, Any] = config.get("hmac", {})
    given = delivery.header(hmac.get("header", "X-Signature-256").lower())
    prefix = hmac.get("prefix", "sha256=" if "header" not in hmac else "")
    if not given.startswith(prefix):
        raise BadSignature("the signature is missing" if not given else f"the signature does not begin with {prefix}")
    moment_header = hmac.get("timestamp_header", "").lower()
    moment = delivery.header(moment_header) if moment_header else ""
    signed = _signed(hmac.get("signed", "{body}"), delivery, moment=moment, hmac=hmac)
    check = check_base64 if hmac.get("encoding") == "base64" else check_hex
    check(given.removeprefix(prefix), secrets, signed, hmac.get("algorithm", "sha256"))
    if moment_header:
        check_moment(moment, now, tolerance_of(config))


def _signed(template: str, delivery: Delivery, *, moment: str, hmac: Mapping[str, Any]) -> bytes:
    message_id = delivery.header(hmac.get("id_header", "").lower()) if hmac.get("id_header") else ""
    # The body last: a body with `{timestamp}` in it must not be filled in.
    before, _, after = template.partition("{body}")

    def filled(part: str) -> bytes:
        return part.replace("{timestamp}", moment).replace("{id}", message_id).encode(errors="replace")

    return filled(before) + delivery.body + filled(after)


def events(delivery: Delivery, config: Config) -> Mapped:
    mapping: Mapping[str, str] = config.get("mapping", {})
    if not mapping:
        return Verdict.AS_IT_IS
    body = form_of(delivery)
    if too_deep(body):
        raise Unreadable("bad_field", f"nested more than {DATA_DEPTH} levels deep")
    headers = kept_headers(delivery, GENERIC, config)
    values: dict[str, Any] = {"payload": body, "headers": headers, "item": body}
    if "each" not in mapping:
        return [_event(mapping, values)]
    items = _evaluate("each", mapping["each"], values)
    if not isinstance(items, list):
        raise Unreadable("bad_field", "mapping.each: not a list")
    if len(items) > MOST:
        raise Unreadable("too_large", f"mapping.each: {len(items)} events, at most {MOST}")
    return [_event(mapping, values | {"item": item}) for item in items]


def _event(mapping: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    form = {
        field: _plain(_evaluate(field, source, values))
        for field, source in mapping.items()
        if field != "each" and source
    }
    if "payload" not in form:
        item = values["item"]
        form["payload"] = item if isinstance(item, dict) else {"data": item}
    elif not isinstance(form["payload"], dict):
        form["payload"] = {"data": form["payload"]}
    return {field: value for field, value in form.items() if value not in (None, "")}


def _evaluate(field: str, source: str, values: Mapping[str, Any]) -> Any:
    program = compiled(source)
    found = program.evaluate_on(_environment().facts(dict(values)))
    if isinstance(found, NotEvaluated):
        raise Unreadable("bad_field", f"mapping.{field}: {found.reason}"[:500])
    return found


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(maps=("headers",), values=("payload", "item"))


@lru_cache(maxsize=1024)
def compiled(source: str) -> Quantity:
    """Return a compiled expression of a mapping; raises InvalidExpression."""
    return compile_quantity(source, _environment())


def mapping_problem(source: str) -> str | None:
    """Return what is wrong with an expression of a mapping, None if it is fine."""
    try:
        compiled(source)
    except InvalidExpression as error:
        return str(error)
    return None


GENERIC = Provider("generic", "Generic", verify, events, forms=False, any_type=False)
