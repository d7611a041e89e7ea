"""Endpoints of webhooks: found, verified, and what is remembered of those whose calls prove nothing."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

import orjson
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from orchestrator.errors import UpbeatError
from orchestrator.services.secrets import UnknownSecret, reveal_secrets
from orchestrator.services.transitions import record_transition
from triggers.envelope import Received
from triggers.ingest.batch import LARGEST_MESSAGE, SourceView
from triggers.metrics import SIGNATURE_FAILURES
from triggers.models import EventSource
from triggers.sources.providers import PROVIDERS, Provider
from triggers.sources.providers.base import BadSignature, Delivery, Verdict
from triggers.sources.webhook import CURRENT, PREVIOUS

log = logging.getLogger(__name__)

PREFIX: Final = "/api/v1/hooks/"
#: Seconds for which an endpoint is taken for current without a look: as long as the rules are.
LOOKS_EVERY: Final = 1.0
#: Endpoints that are remembered; more are looked up each time.
_REMEMBERED: Final = 10_000
#: Calls a minute without a right signature, of one address to one endpoint, that are told so.
FAILURES_PER_MINUTE: Final = 60
#: The media type of what was mapped: no CloudEvent any more, and not to be mapped again, whatever its headers say.
MAPPED: Final = "application/vnd.upbeat.event+json"
#: An envelope may be larger than what it was made of.
_ENVELOPE_BYTES: Final = 64 * 1024


class Unverified(UpbeatError):
    """The call does not prove who sent it."""

    code = "unauthenticated"
    status = 401


class TooManyFailures(UpbeatError):
    """Too many calls that do not prove who sent them."""

    code = "too_many_calls"
    status = 429

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook as it was at most a second ago."""

    source: SourceView
    provider: Provider
    config: Mapping[str, Any]
    #: The current secret and, while it is replaced, the previous one. Empty: nothing can be verified.
    secrets: tuple[str, ...]
    enabled: bool
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    max_bytes: int

    @property
    def channel(self) -> str:
        return f"webhook:{self.source.slug}"

    def allows(self, address: str) -> bool:
        """Say whether calls may come from this address."""
        if not self.networks:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None) or found
        return any(mapped in network for network in self.networks if network.version == mapped.version)


_known: dict[str, tuple[float, Endpoint | None]] = {}
_lock = threading.Lock()


def endpoint_of(name: str) -> Endpoint | None:
    """Return an endpoint as it was at most a second ago, None if there is none. Raises what the database raises."""
    found = _known.get(name)
    # The moment before the look: what changes during it is seen a second after it began.
    now = time.monotonic()
    if found is not None and now - found[0] < LOOKS_EVERY:
        return found[1]
    endpoint = _on_a_living_connection(lambda: _load(name))
    with _lock:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        if endpoint is not None:
            _known[name] = (now, endpoint)
        else:
            # Names that are nobody's are as many as somebody cares to invent.
            _known.pop(name, None)
    return endpoint


def forget_endpoints() -> None:
    """Look every endpoint up anew."""
    with _lock:
        _known.clear()


def body_limit(path: str) -> int:
    """Return how large a body of a call to this path may be."""
    endpoint = endpoint_of(path.removeprefix(PREFIX))
    return endpoint.max_bytes if endpoint is not None else LARGEST_MESSAGE


def verify(endpoint: Endpoint, delivery: Delivery, *, address: str, now: datetime) -> None:
    """Return if one of the endpoint's secrets proves the sender. Raises Unverified, TooManyFailures.

    Whoever has the right secret is let in, however many others have failed from the same address.
    """
    try:
        if not endpoint.secrets:
            raise BadSignature("the source has no secret that could be read")
        endpoint.provider.verify(delivery, endpoint.secrets, endpoint.config, now)
    except BadSignature as error:
        SIGNATURE_FAILURES.labels(endpoint.source.slug).inc()
        failures, first = _failures.count(endpoint.source.id or 0, address)
        if first:
            _record_failure(endpoint, address, str(error))
        if failures > FAILURES_PER_MINUTE:
            raise TooManyFailures(_failures.seconds_left()) from None
        raise Unverified from None


def message_of(
    endpoint: Endpoint, delivery: Delivery, headers: Mapping[str, str], body: bytes | None = None
) -> Received:
    """Return the message that ingest reads: the body itself, or the envelope that was made of it."""
    header = endpoint.provider.id_header or endpoint.config.get("hmac", {}).get("id_header", "").lower()
    message_id = delivery.header(header)[:500] if header else ""
    if body is None:
        return Received(endpoint.channel, delivery.body, delivery.content_type, headers, message_id=message_id)
    # A header of CloudEvents that somebody wants to keep must not make one of what was mapped.
    kept = {name: value for name, value in headers.items() if not name.startswith("ce-")}
    return Received(endpoint.channel, body, MAPPED, {**kept, "content-type": MAPPED}, message_id=message_id)


def message_again(source: EventSource, message: Received) -> Received:
    """Return the message of a dead letter as it is to be read today: mapped, if it could not be mapped then.

    A call that has become several events, or is still none, stays as it is.
    """
    provider = PROVIDERS.get(source.config.get("provider", "")) if source.kind == "webhook" else None
    if provider is None or message.content_type == MAPPED:
        return message
    delivery = Delivery(message.body or b"", message.headers, message.content_type)
    try:
        found = provider.events(delivery, source.config)
        if isinstance(found, Verdict) or len(found) != 1:
            return message
        return message._replace(body=envelope_text(found[0]), content_type=MAPPED)
    except Exception as error:  # it was refused before, for the same reason or another; ingest says which
        log.info("a dead letter of a webhook is still no event", extra={"source": source.slug, "reason": str(error)})
        return message


def envelope_text(form: Mapping[str, Any]) -> bytes:
    """Return an event that was mapped, as ingest reads it."""
    return orjson.dumps(form, option=orjson.OPT_NON_STR_KEYS)


def _load(name: str) -> Endpoint | None:
    row = EventSource.objects.filter(endpoint=name, kind="webhook").first()
    if row is None:
        return None
    provider = PROVIDERS.get(row.config.get("provider", ""))
    if provider is None:
        log.error("a webhook has no known provider", extra={"source": row.slug})
        return None
    view = SourceView.of(row)
    most = int(row.config.get("max_bytes") or LARGEST_MESSAGE)
    return Endpoint(
        source=replace(view, policy=replace(view.policy, max_bytes=most + _ENVELOPE_BYTES)),
        provider=provider,
        config=row.config,
        secrets=_secrets_of(row),
        enabled=row.enabled,
        networks=tuple(ipaddress.ip_network(network) for network in row.config.get("allowed_networks", ())),
        max_bytes=most,
    )


def _secrets_of(row: EventSource) -> tuple[str, ...]:
    found = []
    for role in (CURRENT, PREVIOUS):
        name = row.secrets.get(role)
        if not name:
            continue
        try:
            found.append(reveal_secrets(row.tenant_id, [name])[name])
        except UnknownSecret:
            # The other one may still verify.
            log.error("a webhook names a secret that there is not", extra={"source": row.slug, "secret": name})
    return tuple(found)


class _Failures:
    """How often addresses failed in this minute, in this process."""

    _MOST: Final = 10_000

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[tuple[int, str], int] = {}
        self._seen: set[int] = set()

    def count(self, source_id: int, address: str) -> tuple[int, bool]:
        """Count one more; return how many there are of this address, and whether it is the source's first."""
        minute = int(self._clock() // 60)
        with self._lock:
            if minute != self._minute:
                self._seen = set()
            if minute != self._minute or len(self._counts) >= self._MOST:
                self._minute = minute
                self._counts = {}
            first = source_id not in self._seen
            self._seen.add(source_id)
            found = self._counts[source_id, address] = self._counts.get((source_id, address), 0) + 1
            return found, first

    def seconds_left(self) -> int:
        return 60 - int(self._clock()) % 60


_failures = _Failures()


def _record_failure(endpoint: Endpoint, address: str, why: str) -> None:
    """Write down that a call was refused: the first of a minute, so that nobody can fill the ledger."""
    log.warning(
        "a webhook's call is refused", extra={"source": endpoint.source.slug, "address": address, "reason": why}
    )
    try:
        record_transition(
            subject="event_source",
            subject_id=endpoint.source.id or 0,
            to_state="unverified",
            reason=f"webhook {endpoint.source.slug}: a call from {address} was refused: {why}"[:500],
            cause="webhook",
            by=address[:200],
        )
    except (DatabaseError, InterfaceError) as error:
        # It is refused in any case.
        log.warning("a refused call is not written down", extra={"reason": str(error).strip()})


Found = TypeVar("Found")


def _on_a_living_connection(look: Callable[[], Found]) -> Found:
    """Look, once more on a fresh connection if this one has died while nobody used it."""
    try:
        return look()
    except (OperationalError, InterfaceError):
        if connection.in_atomic_block:
            raise
        connection.close()
        return look()
