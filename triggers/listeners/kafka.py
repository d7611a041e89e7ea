"""Reads topics of Kafka: polls gathered to a batch → one transaction → offsets committed → launch.

One process, one consumer, one thread. An offset is committed when every message below it is durable, dead letters
included; whatever is in doubt is read again and found to be known. All waiting goes on polling, with the partitions
paused, so that the group never takes a slow database for a dead consumer.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from orchestrator.services.secrets import reveal_secrets
from orchestrator.services.transitions import record_transition
from triggers.envelope import Problem, Received, header_text
from triggers.ingest import Infrastructure, Launcher, Pipeline, SourceView, crash, stall_reason
from triggers.ingest.batch import Item, Prepared, Written
from triggers.listeners.health import Health, State
from triggers.listeners.partitions import Gap, Part, Partitions, Reaction, Slice, gap_between, reaction_to
from triggers.listeners.poison import Marks, ProofChild, ProofUnavailable, condemned
from triggers.listeners.writer import AHEAD_SECONDS, Writer
from triggers.metrics import COMMIT_ERRORS, REBALANCES
from triggers.models import EventSource
from triggers.rules_cache import RuleCache
from triggers.sources.kafka import BATCH, POLL_RECORDS, consumer_settings, default_group

logger = logging.getLogger(__name__)

#: Going on cannot help, for example because another process has our place in the group.
FATAL_EXIT: Final = 3
#: Seconds that an idle loop waits for a first message, and a batch for its further ones: so long at most, and less when
#: none comes for a moment, for a message that is alone waits for nothing.
FIRST_SECONDS: Final = 0.5
LINGER_SECONDS: Final = 0.01
QUIET_SECONDS: Final = 0.002
#: Bytes of a batch after which no more are gathered.
BATCH_BYTES: Final = 4 << 20
#: Under load offsets are committed so often: what a crash leaves uncommitted is read again, and found to be known.
COMMIT_SECONDS: Final = 0.2
#: Full jitter between nothing and a bound that doubles, seconds.
RETRY: Final = (0.5, 10.0)
#: After this long without a database, it is no hiccup.
RED_SECONDS: Final = 30.0
#: How long something that happened once is told: an error of the cluster, and a gap.
TELL_SECONDS: Final = 60.0
TELL_GAP_SECONDS: Final = 900.0
#: Seconds for each question to the cluster.
ASK_SECONDS: Final = 5.0
#: A coordinator that moves answers a moment later.
ASK_TIMES: Final = 3
ASK_AGAIN_SECONDS: Final = 0.3

_NO_DATABASE: Final = (Infrastructure, DatabaseError, InterfaceError)
#: Shared by all messages without any, and never written to.
_NO_HEADERS: Final[Mapping[str, str]] = {}


#: A message of the client, whose stubs allow it to have no topic, no partition and no offset.
Message = Any


class _End(Exception):
    """Kafka said that this consumer cannot go on."""


class _Stopped(Exception):
    """The end was asked for while a batch was held: Kafka has it still."""


def run(source: EventSource, *, stop: threading.Event, health: Health) -> int:
    """Read the source's topics until `stop` is set; returns 0, or 3 when Kafka will not have this consumer.

    Broker and database may be away at any time and for any while. Raises Misconfigured and UnknownSecret before it
    begins.
    """
    listener = KafkaListener(source, stop=stop, health=health)
    with contextlib.closing(Launcher()) as launcher:
        return listener.run(launcher)


def group_of(source: EventSource) -> str:
    """Return the consumer group of a source: one query for a source that names none."""
    given = source.config.get("group_id")
    if given:
        return str(given)
    first = not EventSource.objects.filter(kind="kafka", pk__lt=source.pk).exists()
    return default_group(source.slug, first=first)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that was read and prepared while the one before it was written."""

    slices: list[Slice[Message]]
    prepared: list[Prepared]
    #: How many of its messages were ours then.
    messages: int
    at: float


class KafkaListener:
    """The consumer of one source in this process."""

    def __init__(self, source: EventSource, *, stop: threading.Event, health: Health) -> None:
        self.source = source
        self.stop = stop
        self.health = health
        self.batch_size = int(source.config.get("batch_size") or BATCH)
        self.poll_records = int(source.config.get("max_poll_records") or POLL_RECORDS)
        self.parts: Partitions[Message] = Partitions()
        self.marks = Marks(source.pk)
        self.child = ProofChild(source.pk)
        self.view = SourceView.of(source)
        self.pipeline = Pipeline(self.view, cache=RuleCache())
        self.settings = consumer_settings(
            source.config,
            _secrets(source),
            group=group_of(source),
            # With its slot it stays the same when the process is started anew, and is nobody else's meanwhile.
            client=f"{socket.gethostname()}-{source.slug}" + (f"-{health.slot}" if health.slot else ""),
        )
        self.consumer: Consumer
        #: Every wait with paused partitions, whatever it is for.
        self.holding = False
        #: Partitions that nobody has looked at since they were assigned.
        self._fresh: set[Part] = set()
        #: Suspicious partitions → the offset before which each message is proven.
        self._suspects: dict[Part, int] = {}
        #: Proven poison of the batch in hand, so that a held batch costs no further deaths.
        self._verdicts: dict[tuple[Part, int], str] = {}
        self._lag: dict[Part, int | None] = {}
        #: What to tell → until when.
        self._told: dict[str, tuple[str, float]] = {}
        self._gaps: list[Gap] = []
        self._ended: str | None = None
        self._writer = Writer()
        #: What is being written, or was last.
        self._writing: Future[Written] | None = None
        self._ahead: _Ahead | None = None
        self._committed_at = float("-inf")
        #: Of each partition what does not change from message to message.
        self._names: dict[Part, tuple[str, str, str]] = {}

    def run(self, launcher: Launcher) -> int:
        """Serve until the end is asked for; see the module's function."""
        self.consumer = Consumer(
            {
                **self.settings,
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
                "logger": logging.getLogger("triggers.listeners.kafka.client"),
            }
        )
        self.consumer.subscribe(
            list(self.source.config["topics"]),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        code = 0
        try:
            while not self.stop.is_set():
                self._round(launcher)
        except _Stopped:
            pass
        except _End as error:
            logger.error("Kafka ended this consumer", extra={"reason": str(error), "source": self.source.slug})
            self.health.beat(self._assigned(), "failing", str(error))
            code = FATAL_EXIT
        finally:
            self._leave()
        return code

    # --- the loop

    def _round(self, launcher: Launcher) -> None:
        self._beat()
        # Before the wait for messages: whoever asks the database then keeps no message waiting.
        if reason := stall_reason():
            with self._held():
                self._wait(lambda: stall_reason() is None, "paused", reason)
        self._gather()
        if self._ended:
            raise _End(self._ended)
        ahead, self._ahead = self._ahead, None
        slices = self.parts.take(self.batch_size) if ahead is None else ahead.slices
        if slices:
            crash.reached(crash.after_poll)
            for written in self._ingested(slices, ahead):
                launcher.offer(written.run_ids)
        elif self.parts.done:
            self._commit()
        if self._gaps:
            self._report_gaps()
        self.marks.progress()

    def _gather(self) -> None:
        """Poll until a batch is there; what waits already is the head of it."""
        if self._ahead is not None:
            return
        first = FIRST_SECONDS if not self.parts.kept and not self.parts.done else 0.0
        self._receive([message] if (message := self.consumer.poll(first)) is not None else [])
        deadline = time.monotonic() + LINGER_SECONDS
        size = 0
        while (missing := self.batch_size - self.parts.kept) > 0 and self.parts.kept and size < BATCH_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            more = self.consumer.consume(min(missing, self.poll_records), min(left, QUIET_SECONDS))
            if not more:
                break
            size += self._receive(more)

    def _receive(self, messages: Sequence[Message]) -> int:
        """Keep messages, look at errors; returns the bytes of the former."""
        pairs, size = [], 0
        for message in messages:
            if (error := message.error()) is not None:
                self._on_error(error)
                continue
            pairs.append(((message.topic(), message.partition()), message))
            size += len(message)
        self.parts.keep(pairs)
        return size

    def _ingested(self, slices: list[Slice[Message]], ahead: _Ahead | None) -> list[Written]:
        """Make a batch durable, however long the database is away, and tell Kafka. Raises _Stopped."""
        written: list[Written] = []
        with contextlib.ExitStack() as held:
            since: float | None = None
            attempt = 0
            prepared: list[Prepared] = []
            count = -1
            while pairs := self.parts.ours(slices):
                try:
                    self._look_at_fresh()
                    if len(pairs) != count:
                        # The first time, and when partitions left during a wait: theirs are not ours to write.
                        prepared = self._ready(pairs, ahead)
                        count = len(pairs)
                    while prepared:
                        written.append(self._write(prepared[0]))
                        del prepared[0]
                    break
                except (*_NO_DATABASE, ProofUnavailable) as error:
                    reason = _words(error)
                logger.warning("a batch is held", extra={"reason": reason, "messages": len(pairs), "attempt": attempt})
                if since is None:
                    since = time.monotonic()
                    held.enter_context(self._held())
                _drop_broken_connections()
                again = time.monotonic() + random.uniform(0, min(RETRY[1], RETRY[0] * 2**attempt))
                red = time.monotonic() - since > RED_SECONDS
                self._wait(lambda: time.monotonic() >= again, "failing" if red else "degraded", reason)  # noqa: B023
                attempt += 1
        # A wait serves rebalances too: what left meanwhile is durable, and its new owner's to commit.
        for rewind in self.parts.finish(self.parts.ours(slices)):
            self._gaps.append(Gap(rewind.part, rewind.expected, rewind.found, "recreated"))
        self._pass_suspects()
        if self._ahead is None or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()
        crash.reached(crash.after_acknowledge)
        return written

    def _ready(self, pairs: Sequence[tuple[Part, Message]], ahead: _Ahead | None) -> list[Prepared]:
        """Return what is to be written: as it was prepared ahead, if nothing has changed since."""
        if (
            ahead is not None
            and ahead.messages == len(pairs)
            and not self._suspects
            and time.monotonic() - ahead.at < AHEAD_SECONDS
        ):
            # A copy: what is written is taken off it.
            return list(ahead.prepared)
        return list(self._prepared(pairs))

    def _write(self, prepared: Prepared) -> Written:
        """Write a batch, and meanwhile read and prepare the next. Raises what `Pipeline.write` raises."""
        self._writing = self._writer.begin(self.pipeline, prepared)
        if self._ahead is None:
            with contextlib.suppress(*_NO_DATABASE):  # it is prepared when its turn comes
                self._look_ahead(self._writing)
        return self._writing.result()

    def _look_ahead(self, writing: Future[Written]) -> None:
        size = 0
        while not writing.done() and self._is_calm():
            missing = self.batch_size - self.parts.kept
            if missing > 0 and size < BATCH_BYTES:
                size += self._receive(self.consumer.consume(min(missing, self.poll_records), QUIET_SECONDS))
                continue
            slices = self.parts.take(self.batch_size)
            # Taken: whatever becomes of its preparation, it is the next to be written.
            self._ahead = _Ahead(slices, [], -1, 0.0)
            pairs = self.parts.ours(slices)
            at = time.monotonic()
            self._ahead = _Ahead(slices, list(self._prepared(pairs)), len(pairs), at)
            return

    def _is_calm(self) -> bool:
        """Whether nothing is suspicious, held or at its end."""
        return not (self._suspects or self._fresh or self.holding or self._ended or self.stop.is_set())

    def _prepared(self, pairs: Sequence[tuple[Part, Message]]) -> Iterator[Prepared]:
        """Decode and match; what is suspicious is first tried in a process that may die of it."""
        received, unreadable = [], {}
        for part, message in pairs:
            try:
                received.append(self._received(part, message))
            except Exception as error:  # the border of one message: its neighbours are healthy
                received.append(self._bare(part, message))
                unreadable[(part, message.offset())] = f"the record's own fields: {_words(error)}"
        if self._suspects or unreadable:
            healthy = []
            for (part, message), one in zip(pairs, received, strict=True):
                if problem := unreadable.get((part, message.offset())):
                    letter = Item(one, self.view.tenant_id, 0)
                    letter.problem = Problem("malformed", problem)
                    yield Prepared([letter], 1)
                    continue
                why = self._verdicts.get((part, message.offset()))
                if why is None and message.offset() < self._suspects.get(part, 0):
                    why = self.child.prove(one, idle=self._serve)
                if why is None:
                    healthy.append(one)
                else:
                    logger.error("a message kills its reader", extra={"reason": why, "part": one.part, "off": one.off})
                    self._verdicts[(part, message.offset())] = why
                    yield condemned(one, self.view.tenant_id, why)
            received = healthy
        if received:
            yield self.pipeline.prepare(received, timezone.now())

    def _received(self, part: Part, message: Message) -> Received:
        channel, place, prefix = self._names.get(part) or self._named(part)
        kind, millis = message.timestamp()
        offset = message.offset()
        key = message.key()
        headers = message.headers()
        # By position: names cost a tenth of all that a message costs here.
        return Received(
            channel,
            message.value(),
            "",
            {name.lower(): header_text(value) for name, value in headers} if headers else _NO_HEADERS,
            place,
            offset,
            "" if key is None else header_text(key),
            # With its moment: the place alone would come again in a topic that was made anew.
            f"{prefix}{offset}/{millis}",
            _moment(millis) if kind else None,
        )

    def _bare(self, part: Part, message: Message) -> Received:
        """What is left of a record whose headers or key nobody can read."""
        channel, place, prefix = self._names.get(part) or self._named(part)
        return Received(
            channel, message.value(), part=place, off=message.offset(), message_id=f"{prefix}{message.offset()}"
        )

    def _named(self, part: Part) -> tuple[str, str, str]:
        topic, number = part
        names = (f"kafka:{topic}", f"{topic}/{number}", f"{self.source.slug}/{topic}/{number}/")
        self._names[part] = names
        return names

    def _commit(self) -> None:
        """Tell Kafka what is durable. What it refuses stays to be told, or goes away with its partition."""
        if offsets := dict(self.parts.done):
            self._send(offsets)

    def _send(self, offsets: Mapping[Part, int]) -> None:
        self._committed_at = time.monotonic()
        asked = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        try:
            answered = self.consumer.commit(offsets=asked, asynchronous=False)
        except KafkaException as error:
            self._refused(error.args[0])
            return
        except RuntimeError as error:  # the consumer is closed
            logger.warning("offsets were not committed", extra={"reason": str(error)})
            return
        taken = {}
        for each in answered or ():
            if each.error is None:
                taken[(each.topic, each.partition)] = each.offset
            else:
                self._refused(each.error)
        self.parts.committed(taken)

    def _refused(self, error: KafkaError) -> None:
        name = error.name()
        COMMIT_ERRORS.labels(name).inc()
        logger.warning("offsets were not committed", extra={"reason": name, "source": self.source.slug})
        self._on_error(error)

    # --- waiting

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Pause everything that is ours, and what becomes ours meanwhile."""
        self.holding = True
        self._pause_or_resume(self.consumer.pause, self.parts.owned)
        # It may take long: under load not every batch is told at once.
        self._commit()
        try:
            yield
        finally:
            self.holding = False
            self._pause_or_resume(self.consumer.resume, self.parts.owned)

    def _wait(self, over: Callable[[], bool], state: State, reason: str) -> None:
        """Keep our place in the group until something is over. Raises _Stopped, _End."""
        while not over():
            if self.stop.is_set():
                raise _Stopped
            self._receive([message] if (message := self.consumer.poll(0.05)) is not None else [])
            if self._ended:
                raise _End(self._ended)
            self._beat(state, reason)

    def _serve(self) -> None:
        """One look at the group while something else takes its time."""
        self._receive([message] if (message := self.consumer.poll(0)) is not None else [])
        self._beat()

    def _pause_or_resume(self, do: Callable[[list[TopicPartition]], None], parts: Iterable[Part]) -> None:
        for topic, number in parts:
            # One by one: a partition that is on its way out must not keep the others from it.
            with contextlib.suppress(KafkaException):
                do([TopicPartition(topic, number)])

    # --- what Kafka tells, always inside of poll, consume and close

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        parts = {(each.topic, each.partition) for each in partitions}
        consumer.incremental_assign(partitions)
        self.parts.assign(parts)
        self._fresh |= parts
        # A partition keeps its pause from an earlier assignment: say which it is, every time.
        self._pause_or_resume(consumer.pause if self.holding else consumer.resume, parts)
        if parts:
            REBALANCES.labels(self.source.slug).inc()
            logger.info("partitions assigned", extra={"source": self.source.slug, "parts": _shown(parts)})

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        parts = {(each.topic, each.partition) for each in partitions}
        self._written_out()
        if offsets := self.parts.to_commit(parts):
            self._send(offsets)
        self._gone(parts, "partitions revoked")
        self.marks.end([self._name(part) for part in parts])

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        parts = {(each.topic, each.partition) for each in partitions}
        self._written_out()
        # They have a new owner: a commit of ours would set it back.
        self._gone(parts, "partitions lost")
        self.marks.end([self._name(part) for part in parts])

    def _written_out(self) -> None:
        """Wait for what is being written: whoever reads on after us is to find it there, or not at all."""
        if self._writing is not None:
            wait([self._writing])

    def _gone(self, parts: set[Part], what: str) -> None:
        self.parts.forget(parts)
        self._fresh -= parts
        for part in parts:
            self._suspects.pop(part, None)
            self._lag.pop(part, None)
        if parts:
            REBALANCES.labels(self.source.slug).inc()
            logger.info(what, extra={"source": self.source.slug, "parts": _shown(parts)})

    def _on_error(self, error: KafkaError) -> None:
        name = error.name()
        match reaction_to(name, fatal=error.fatal()):
            case Reaction.END:
                self._ended = f"{name}: {error.str()}"
            case Reaction.DEGRADED:
                logger.warning("Kafka reports", extra={"reason": f"{name}: {error.str()}", "source": self.source.slug})
                self._tell(name, f"{name}: {error.str()}", TELL_SECONDS)
            case Reaction.GO_ON:
                logger.info("Kafka reports", extra={"reason": f"{name}: {error.str()}", "source": self.source.slug})

    def _on_statistics(self, text: str) -> None:
        for topic, facts in orjson.loads(text).get("topics", {}).items():
            for number, one in facts.get("partitions", {}).items():
                part = (topic, int(number))
                if part not in self.parts.owned:
                    continue
                high, low = one.get("hi_offset", -1), one.get("lo_offset", -1)
                following = self.parts.expected.get(part, one.get("committed_offset", -1))
                self._lag[part] = max(0, high - following) if high >= 0 and following >= 0 else None
                if 0 <= following < low:
                    self._gaps.append(Gap(part, following, low, "too_old"))
                    self.parts.expected[part] = low

    # --- partitions that are new here

    def _look_at_fresh(self) -> None:
        """Mark them as read by this process and compare them with what was committed. Raises DatabaseError."""
        if not self._fresh:
            return
        parts = set(self._fresh)
        suspects = self.marks.begin([self._name(part) for part in parts])
        ends = self._watermarks(parts)
        for part in parts:
            committed, low, high = ends.get(part, (None, 0, 0))
            if gap := gap_between(part, committed, low, high):
                self._gaps.append(gap)
            if self._name(part) in suspects:
                # Unknown ends: everything is suspicious until they are known.
                self._suspects[part] = high if part in ends else 2**63
                if part in ends and committed is not None and committed >= high:
                    self._suspects[part] = 0
        self._fresh -= parts

    def _watermarks(self, parts: set[Part]) -> dict[Part, tuple[int | None, int, int]]:
        """Ask for what is committed, and for the first and the next offset; without what cannot be had now."""
        asked = [TopicPartition(topic, number) for topic, number in sorted(parts)]
        for left in reversed(range(ASK_TIMES)):
            found: dict[Part, tuple[int | None, int, int]] = {}
            try:
                for each in self.consumer.committed(asked, timeout=ASK_SECONDS):
                    low, high = self.consumer.get_watermark_offsets(each, timeout=ASK_SECONDS)
                    committed = None if each.offset == OFFSET_INVALID or each.error else each.offset
                    found[(each.topic, each.partition)] = (committed, low, high)
                break
            except (KafkaException, TypeError) as error:  # TypeError: None instead of a pair, after the time is up
                logger.warning("offsets could not be compared", extra={"reason": str(error), "left": left})
                time.sleep(ASK_AGAIN_SECONDS if left else 0)
        return found

    def _pass_suspects(self) -> None:
        self._verdicts.clear()
        for part, until in list(self._suspects.items()):
            if self.parts.expected.get(part, 0) >= until:
                del self._suspects[part]
                self.marks.proven(self._name(part))
        if not self._suspects:
            self.child.close()

    def _report_gaps(self) -> None:
        """Say that messages are gone: as a fact, in the log, and for a while in the state of this listener."""
        try:
            while self._gaps:
                gap = self._gaps[0]
                record_transition(
                    subject="event_source",
                    subject_id=self.source.pk,
                    to_state="gap",
                    reason=f"source.gap {gap}"[:500],
                    cause="kafka",
                    by=self.marks.instance[:200],
                )
                logger.error("source.gap", extra={"reason": str(gap), "source": self.source.slug})
                self._tell("source.gap", f"source.gap {gap}", TELL_GAP_SECONDS)
                del self._gaps[0]
        except (DatabaseError, InterfaceError):
            _drop_broken_connections()

    # --- telling

    def _tell(self, what: str, text: str, seconds: float) -> None:
        self._told[what] = (text, time.monotonic() + seconds)

    def _beat(self, state: State = "ok", reason: str = "") -> None:
        if self._told and state == "ok":
            now = time.monotonic()
            self._told = {what: told for what, told in self._told.items() if told[1] > now}
            if self._told:
                state = "failing" if "source.gap" in self._told else "degraded"
                reason = "; ".join(text for text, _ in self._told.values())
        self.health.beat(self._assigned(), state, reason[:500])

    def _assigned(self) -> dict[str, int | None]:
        return {self._name(part): self._lag.get(part) for part in self.parts.owned}

    def _name(self, part: Part) -> str:
        return (self._names.get(part) or self._named(part))[1]

    def _leave(self) -> None:
        """Leave the group in order: what is durable is committed, the rest is read by whoever comes next."""
        self._commit()
        self._writer.close()
        self.child.close()
        try:
            self.consumer.close()
        finally:
            self.marks.end()


def _moment(millis: int) -> datetime | None:
    """A producer may have written anything: what is no moment is told as none."""
    try:
        return datetime.fromtimestamp(millis / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _secrets(source: EventSource) -> dict[str, str]:
    """What each secret of a source is for → its value. Raises UnknownSecret."""
    values = reveal_secrets(source.tenant_id, source.secrets.values())
    return {role: values[name] for role, name in source.secrets.items()}


def _drop_broken_connections() -> None:
    for each in connections.all(initialized_only=True):
        if not each.in_atomic_block:
            each.close_if_unusable_or_obsolete()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()[:500]


def _shown(parts: Iterable[Part]) -> str:
    return ", ".join(f"{topic}/{number}" for topic, number in sorted(parts))
