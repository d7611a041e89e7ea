"""Reads queues of RabbitMQ: batch → one transaction → acknowledgement → launch.

What reached the database is acknowledged, nothing else is; a message is never given back because of what it says. All
waiting is done inside of the client library, which would otherwise miss its heartbeats.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import orjson
import pika
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPChannelError, AMQPError, ChannelClosedByBroker

from orchestrator.errors import UpbeatError
from orchestrator.services.secrets import reveal_secrets
from triggers.envelope import Received, header_text
from triggers.ingest import Infrastructure, Launcher, Pipeline, Prepared, SourceView, crash, stall_reason
from triggers.ingest.batch import Written
from triggers.listeners.health import Health, State
from triggers.listeners.poison import Marks, ProofChild, ProofUnavailable, condemned
from triggers.listeners.writer import AHEAD_SECONDS, Writer
from triggers.models import EventSource
from triggers.rules_cache import RuleCache
from triggers.sources.rabbitmq import RabbitConfig, address_of, parameters

logger = logging.getLogger(__name__)

#: Seconds in which nothing more arrives before a batch is written, and at most from its first message on: a message
#: that comes alone waits for the former, and what comes meanwhile is in the next batch.
QUIET_SECONDS: Final = 0.002
LINGER_SECONDS: Final = 0.02
#: Seconds without a message after which the loop looks at everything else.
IDLE_SECONDS: Final = 0.1
#: Of a wait that is cut into slices, so that the end of the process is seen.
SLICE_SECONDS: Final = 0.5
#: Between two looks at the length of the queues.
LAG_SECONDS: Final = 10.0
#: After this long without a broker or a database, it is no hiccup.
RED_SECONDS: Final = 30.0
#: Messages held for longer are given back: the broker would take them, and the channel, after half an hour.
STALL_SECONDS: Final = 60.0
#: Full jitter between nothing and a bound that doubles, seconds.
RECONNECT: Final = (0.5, 30.0)
RETRY: Final = (0.5, 10.0)
#: While messages are proven: at first each alone; once the suspects are through, a few.
PROOF_PREFETCH: Final = (1, 100)
#: Seconds without a message after which nothing is left to be proven.
PROOF_IDLE_SECONDS: Final = 1.0
#: Seconds for writing what is in hand at the end.
LEAVE_SECONDS: Final = 15.0
#: The broker's own errors and the network's.
_LOST: Final = (AMQPError, OSError)
_NO_DATABASE: Final = (Infrastructure, DatabaseError, InterfaceError)


Done = TypeVar("Done")


class _SteppedAside(Exception):
    """The messages were given back, for what they wait for takes too long. Control flow."""


def run(source: EventSource, *, stop: threading.Event, health: Health) -> int:
    """Read one of the source's queues, by the slot of this process, until `stop` is set; returns the exit code.

    Broker and database may be away at any time and for any while.
    """
    queues = RabbitConfig.of(source.config).queues
    listener = RabbitListener(source, stop=stop, health=health, queues=[queues[health.slot % len(queues)]])
    with contextlib.closing(Launcher()) as launcher:
        return listener.run(launcher)


#: A message as the client hands it over.
Delivery = tuple[Any, Any, bytes]


@dataclass(frozen=True, slots=True)
class Ahead:
    """The batch behind the one that was being written, prepared meanwhile."""

    deliveries: list[Delivery]
    received: list[Received]
    prepared: Prepared
    at: float

    def is_of(self, taken: Sequence[Delivery]) -> bool:
        """Whether it is a batch, and was prepared so lately that its rules are still the rules."""
        return (
            time.monotonic() - self.at < AHEAD_SECONDS
            and len(taken) == len(self.deliveries)
            and taken[0] is self.deliveries[0]
        )


@dataclass(slots=True)
class Lane:
    """One queue: a channel, what came through it and is not acknowledged, and how its messages are to be taken."""

    queue: str
    channel: BlockingChannel | None = None
    consumer: str = ""
    deliveries: list[Delivery] = field(default_factory=list)
    ahead: Ahead | None = None
    first_at: float = 0.0
    #: Deliveries at the last look: no more now means that it is quiet.
    seen: int = 0
    #: None: the length of the queue is not known.
    lag: int | None = None
    cancelled: bool = False
    failures: int = 0
    retry_at: float = 0.0
    problem: str = ""
    #: Messages that are still to be proven, None when none is suspicious.
    unproven: int | None = None
    proof_prefetch: int = PROOF_PREFETCH[0]
    last_at: float = 0.0

    def is_due(self, batch: int, now: float) -> bool:
        """Whether what is there shall be written."""
        count = len(self.deliveries)
        quiet = count == self.seen
        self.seen = count
        return count > 0 and (count >= batch or quiet or now - self.first_at >= LINGER_SECONDS)

    @property
    def consuming(self) -> BlockingChannel:
        assert self.channel is not None
        return self.channel

    def forget(self) -> None:
        """Whatever was delivered is delivered again: its numbers mean nothing on another channel."""
        self.channel, self.consumer = None, ""
        self.deliveries.clear()
        self.ahead = None
        self.seen = 0
        self.cancelled = False

    def on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if not self.deliveries:
            self.first_at = time.monotonic()
        self.deliveries.append((method, properties, body))

    def on_cancel(self, _frame: Any) -> None:
        self.cancelled = True


class RabbitListener:
    """The consumer of one source: one connection, a channel for each queue, one thread."""

    def __init__(
        self, source: EventSource, *, stop: threading.Event, health: Health, queues: Sequence[str] | None = None
    ) -> None:
        """`queues`: which of the source's are read, default all."""
        self.source = source
        self.config = RabbitConfig.of(source.config)
        self.stop = stop
        self.health = health
        self.lanes = [Lane(queue) for queue in (self.config.queues if queues is None else queues)]
        self.connection: pika.BlockingConnection | None = None
        self.marks = Marks(source.pk)
        self.child = ProofChild(source.pk)
        self._cache = RuleCache()
        #: Queues that this process has begun to read, in one connection or another.
        self._begun: set[str] = set()
        self._lag_at = float("-inf")
        self._launcher: Launcher
        self._pipeline: Pipeline
        self._view: SourceView | None = None
        self._writer = Writer()

    def run(self, launcher: Launcher) -> int:
        """Serve until the end is asked for; see the module's function."""
        self._launcher = launcher
        failures, lost_at = 0, 0.0
        try:
            while not self.stop.is_set():
                lost_at = lost_at or time.monotonic()
                try:
                    self._connect()
                    logger.info(
                        "connected to RabbitMQ",
                        extra={"source": self.source.slug, "queues": [lane.queue for lane in self.lanes]},
                    )
                    failures, lost_at = 0, 0.0
                    self._serve()
                except _SteppedAside as error:
                    logger.warning("messages were given back to the broker", extra={"reason": str(error)})
                except (*_LOST, *_NO_DATABASE, UpbeatError) as error:
                    # What was delivered is delivered again, and found to be known where it is.
                    self._disconnect()
                    lost_at = lost_at or time.monotonic()
                    reason = f"no connection: {_words(error)}"
                    logger.warning("no connection to RabbitMQ", extra={"reason": reason})
                    self._wait(_jitter(RECONNECT, failures), reason, since=lost_at)
                    failures += 1
            self._leave()
        finally:
            self._writer.close()
            self.child.close()
        return 0

    # --- the loop

    def _serve(self) -> None:
        while not self.stop.is_set():
            self._open_lanes()
            self._bear_pressure()
            self._beat()
            waiting = max(len(lane.deliveries) for lane in self.lanes)
            self._connected.process_data_events(
                time_limit=0 if waiting >= self.config.batch else QUIET_SECONDS if waiting else IDLE_SECONDS
            )
            now = time.monotonic()
            for lane in self.lanes:
                with self._failing_alone(lane):
                    if lane.is_due(self.config.batch, now):
                        self._take(lane)
                    elif lane.unproven is not None and not lane.deliveries and now - lane.last_at > PROOF_IDLE_SECONDS:
                        self._all_proven(lane)
            self.marks.progress()

    def _take(self, lane: Lane) -> None:
        """Write one batch of a queue, acknowledge it, launch what it started."""
        channel: Any = lane.consuming
        # They stay in the lane until they are acknowledged: an acknowledgement of later ones counts for all before.
        taken = lane.deliveries[: self.config.batch]
        lane.seen = 0
        crash.reached(crash.after_poll)
        ahead, lane.ahead = lane.ahead, None
        if ahead is not None and ahead.is_of(taken) and lane.unproven is None:
            received, prepared = ahead.received, ahead.prepared
        else:
            received, prepared = [received_of(lane.queue, *delivery) for delivery in taken], None
        written = self._written(lane, received, prepared)
        if self.connection is None:
            raise _SteppedAside("the messages were held for too long, and are durable now")
        if lane.channel != channel:
            return  # it ended meanwhile: all is delivered again, and known
        channel.basic_ack(taken[-1][0].delivery_tag, multiple=True)
        del lane.deliveries[: len(taken)]
        self._launcher.offer([run_id for part in written for run_id in part.run_ids])
        lane.last_at = time.monotonic()
        if lane.unproven is not None and not self.stop.is_set():
            self._passed(lane, received)

    def _written(self, lane: Lane, received: Sequence[Received], prepared: Prepared | None) -> list[Written]:
        """Make a batch durable, however long that takes; `prepared` as it is, if it was prepared ahead."""
        written: list[Written] = []
        sound = received
        if lane.unproven is not None:
            sound = []
            for one in received:
                why = self._insist(partial(self.child.prove, one, idle=self._heartbeats))
                if why is None:
                    sound.append(one)
                    continue
                logger.error("a message kills its reader", extra={"queue": lane.queue, "reason": why})
                written.append(self._insist(partial(self._pipeline.write, condemned(one, self.source.tenant_id, why))))
        if sound:
            if prepared is None:
                prepared = self._insist(lambda: self._pipeline.prepare(sound, timezone.now()))
            written.append(self._insist(partial(self._write, lane, prepared, len(received))))
        return written

    def _write(self, lane: Lane, prepared: Prepared, taken: int) -> Written:
        """Write a batch, and meanwhile read and prepare the next. Raises what `Pipeline.write` raises."""
        writing = self._writer.begin(self._pipeline, prepared)
        # What ends the connection shows at the acknowledgement; without rules, it is prepared when its turn comes.
        with contextlib.suppress(*_LOST, *_NO_DATABASE):
            self._look_ahead(lane, taken, writing)
        return writing.result()

    def _look_ahead(self, lane: Lane, taken: int, writing: Future[Written]) -> None:
        while not writing.done() and self.connection is not None and lane.unproven is None and lane.ahead is None:
            following = lane.deliveries[taken : taken + self.config.batch]
            if len(following) < self.config.batch:
                self._connected.process_data_events(time_limit=QUIET_SECONDS)
                continue
            at = time.monotonic()
            received = [received_of(lane.queue, *delivery) for delivery in following]
            lane.ahead = Ahead(following, received, self._pipeline.prepare(received, timezone.now()), at)

    # --- waiting

    def _insist(self, action: Callable[[], Done]) -> Done:
        """Return what `action` gives once the database, or the system, lets it.

        Held for long, the messages are given back, and `connection` is None afterwards: the action is then the probe
        that tells when reading makes sense again. Raises _SteppedAside at the end of the process.
        """
        since, attempt = time.monotonic(), 0
        while True:
            try:
                return action()
            except (*_NO_DATABASE, ProofUnavailable) as error:
                reason = _words(error)
            if self.stop.is_set():
                raise _SteppedAside(reason)
            if attempt == 0:
                logger.warning("a batch is held", extra={"source": self.source.slug, "reason": reason})
            _drop_broken_connections()
            self._wait(_jitter(RETRY, attempt), reason, since=since)
            attempt += 1
            self._give_back_after(since)

    def _bear_pressure(self) -> None:
        """Read nothing while the runs that wait, or the database, are too many or too slow."""
        since = time.monotonic()
        while (reason := stall_reason()) and not self.stop.is_set():
            self._wait(SLICE_SECONDS, reason, since=since, state="paused")
            self._give_back_after(since)
        if self.connection is None:
            raise _SteppedAside("reading was stalled for too long")

    def _wait(self, seconds: float, reason: str, *, since: float, state: State | None = None) -> None:
        """Wait with heartbeats for the broker if there is one; the loop counts as alive meanwhile."""
        until = time.monotonic() + seconds
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            red = time.monotonic() - since > RED_SECONDS
            self._beat(state or ("failing" if red and self.connection is not None else "degraded"), reason)
            if self.connection is not None:
                self.connection.process_data_events(time_limit=min(left, SLICE_SECONDS))
            else:
                self.stop.wait(min(left, SLICE_SECONDS))

    def _give_back_after(self, since: float) -> None:
        if self.connection is None or time.monotonic() - since <= STALL_SECONDS:
            return
        for lane in self.lanes:
            if lane.channel is not None and lane.channel.is_open:
                with contextlib.suppress(*_LOST):
                    lane.channel.basic_cancel(lane.consumer)
                    lane.channel.basic_nack(0, multiple=True, requeue=True)
        self._disconnect()

    def _heartbeats(self) -> None:
        """Keep the connection while a child is waited for. One that is lost shows at the acknowledgement."""
        with contextlib.suppress(*_LOST):
            if self.connection is not None:
                self.connection.process_data_events(time_limit=0)
            self._beat()

    # --- the connection and its channels

    @property
    def _connected(self) -> pika.BlockingConnection:
        assert self.connection is not None
        return self.connection

    def _connect(self) -> None:
        if self._view is None:
            self._view = SourceView.of(self.source)
            self._pipeline = Pipeline(self._view, cache=self._cache)
        # Read for each connection: a secret may have been replaced, and that may be why the last one ended.
        names: Mapping[str, str] = self.source.secrets
        values = reveal_secrets(self.source.tenant_id, names.values())
        secrets = {purpose: values[name] for purpose, name in names.items()}
        heartbeat = self.config.heartbeat_seconds
        name = f"upbeat {self.source.slug} {self.marks.instance}"
        address = address_of(self.config, secrets)
        self.connection = pika.BlockingConnection(parameters(address, secrets, name=name, heartbeat_seconds=heartbeat))

    def _disconnect(self) -> None:
        for lane in self.lanes:
            lane.forget()
        connection, self.connection = self.connection, None
        if connection is not None and connection.is_open:
            with contextlib.suppress(*_LOST):
                connection.close()

    def _open_lanes(self) -> None:
        for lane in self.lanes:
            if lane.channel is not None and (lane.cancelled or not lane.channel.is_open):
                self._fail(lane, "the broker ended the consumer")
            if lane.channel is None and time.monotonic() >= lane.retry_at:
                with self._failing_alone(lane):
                    self._open(lane)

    def _open(self, lane: Lane) -> None:
        lane.channel = self._connected.channel()
        lane.lag = lane.channel.queue_declare(lane.queue, passive=True).method.message_count
        if lane.queue not in self._begun:
            if self._insist(lambda: self.marks.begin([lane.queue])):
                lane.unproven = lane.lag
                logger.warning("a reader died: messages are proven one by one", extra={"queue": lane.queue})
            self._begun.add(lane.queue)
        if self.connection is None:
            raise _SteppedAside("the database was away for too long")
        lane.last_at = time.monotonic()
        self._consume(lane)
        lane.failures, lane.problem = 0, ""

    def _consume(self, lane: Lane) -> None:
        """Begin to read, or go on with another prefetch."""
        channel = lane.consuming
        if lane.consumer:
            channel.basic_cancel(lane.consumer)
        channel.basic_qos(prefetch_count=self.config.prefetch if lane.unproven is None else lane.proof_prefetch)
        lane.consumer = channel.basic_consume(lane.queue, lane.on_message, auto_ack=False)
        channel.add_on_cancel_callback(lane.on_cancel)

    @contextlib.contextmanager
    def _failing_alone(self, lane: Lane) -> Iterator[None]:
        """What ends a channel is this queue's affair; the others are served."""
        try:
            yield
        except ChannelClosedByBroker as error:
            hint = ": `manage.py event_topology` declares it" if error.reply_code == 404 else ""
            self._fail(lane, f"{error.reply_text}{hint}")
        except AMQPChannelError as error:
            self._fail(lane, _words(error))

    def _fail(self, lane: Lane, problem: str) -> None:
        channel = lane.channel
        lane.forget()
        if channel is not None and channel.is_open:
            with contextlib.suppress(AMQPChannelError):
                channel.close()
        lane.problem = f"{lane.queue}: {problem}"
        lane.retry_at = time.monotonic() + _jitter(RECONNECT, lane.failures)
        lane.failures += 1
        logger.warning("a queue cannot be read", extra={"queue": lane.queue, "reason": problem})

    def _leave(self) -> None:
        """Write and acknowledge what is in hand, give back the rest, and leave no mark."""
        until = time.monotonic() + LEAVE_SECONDS
        try:
            for lane in self.lanes:
                if lane.channel is not None and lane.channel.is_open:
                    lane.channel.basic_cancel(lane.consumer)
            for lane in self.lanes:
                while lane.deliveries and time.monotonic() < until:
                    self._take(lane)
        except (*_LOST, *_NO_DATABASE, _SteppedAside) as error:
            logger.warning("messages in hand were left to the broker", extra={"reason": _words(error)})
        self._disconnect()
        self.marks.end()

    # --- proving

    def _passed(self, lane: Lane, received: Sequence[Received]) -> None:
        assert lane.unproven is not None
        lane.unproven -= len(received)
        if received[-1].redelivered or lane.deliveries:
            return
        if lane.unproven <= 0:
            self._all_proven(lane)
        elif lane.proof_prefetch == PROOF_PREFETCH[0]:
            # A message that nobody held before: those that may have killed their reader stood in front of it.
            lane.proof_prefetch = PROOF_PREFETCH[1]
            self._consume(lane)

    def _all_proven(self, lane: Lane) -> None:
        self.marks.proven(lane.queue)
        if lane.queue in self.marks.suspicious:
            return  # the database is away; the next message tries again
        lane.unproven = None
        logger.info("the messages of a reader that died are through", extra={"queue": lane.queue})
        self._consume(lane)
        if all(other.unproven is None for other in self.lanes):
            self.child.close()

    # --- health

    def _beat(self, state: State | None = None, reason: str = "") -> None:
        problems = "; ".join(lane.problem for lane in self.lanes if lane.problem)
        self._measure()
        assigned = {lane.queue: lane.lag for lane in self.lanes if lane.channel is not None}
        self.health.beat(assigned, state or ("degraded" if problems else "ok"), reason or problems)

    def _measure(self) -> None:
        if self.connection is None or time.monotonic() - self._lag_at < LAG_SECONDS:
            return
        self._lag_at = time.monotonic()
        for lane in self.lanes:
            if lane.channel is not None and lane.channel.is_open:
                with self._failing_alone(lane):
                    lane.lag = lane.channel.queue_declare(lane.queue, passive=True).method.message_count


def received_of(queue: str, method: Any, properties: Any, body: bytes) -> Received:
    """Return a delivery as ingest takes it. What AMQP says beside the body is in the headers, as text."""
    headers = {}
    for name, value in (properties.headers or {}).items():
        headers[header_text(name).lower()] = _text(value)
    headers["amqp-exchange"], headers["amqp-routing-key"] = method.exchange, header_text(method.routing_key)
    if properties.type:
        headers["amqp-type"] = header_text(properties.type)
    if properties.app_id:
        headers["amqp-app-id"] = header_text(properties.app_id)
    if method.redelivered:
        headers["redelivered"] = "true"
    return Received(
        channel=f"rabbitmq:{queue}",
        body=body,
        content_type=header_text(properties.content_type),
        headers=headers,
        part=queue,
        message_id=properties.message_id or "",
        sent_at=_moment(properties.timestamp),
        redelivered=method.redelivered,
    )


def _text(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        return header_text(value)
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
    # Numbers, flags, lists, tables: as JSON, in which a table may hold all of these again.
    try:
        return header_text(orjson.dumps(value, default=_inner, option=orjson.OPT_NON_STR_KEYS))
    except orjson.JSONEncodeError:
        return header_text(str(value))


def _inner(value: Any) -> str:
    return header_text(value) if isinstance(value, bytes) else str(value)


def _moment(timestamp: Any) -> datetime | None:
    try:
        return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, OSError, ValueError, TypeError):
        return None  # seconds by the protocol; milliseconds of a careless client lie beyond all calendars


def _jitter(bounds: tuple[float, float], failures: int) -> float:
    """Full jitter: of a thousand listeners no two come back at once."""
    first, most = bounds
    return random.uniform(0, min(most, first * 2 ** min(failures, 16)))


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _drop_broken_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
