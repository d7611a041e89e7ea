"""Fragments → Celery's messages: the only place that touches Celery's canvas and publishes.

A message carries ids only. Its id and its group are derived from the ledger's ids, so that what the reconciler
publishes again meets the chord's own set of counted parts instead of corrupting its count.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4, uuid5

from amqp.exceptions import AMQPError, ChannelError
from celery import Task, current_app
from celery.canvas import Signature
from django.conf import settings
from kombu import Exchange, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from orchestrator.contracts import ADVANCE, CONTROL_LANE, EXECUTE, EXPAND, LABEL_BYTES, LAUNCH_RUNS
from orchestrator.errors import UpbeatError
from orchestrator.settings.celery import is_amqp

logger = logging.getLogger(__name__)

NAMESPACE = UUID("5f0c7c2e-6b1d-4f3b-9a57-6f2a0d1c8e44")
#: Headers published by one process; a wider chord is spread over workers by `expand`.
SLICE = 500
#: A message body above this means that something other than ids travels in it.
BODY_BYTES = 6 * 1024
#: Redis lists per priority step, 0 first; P0 … P3.
REDIS_PRIORITIES = (0, 3, 6, 9)
#: Quorum queues before RabbitMQ 4.3 know two levels: above 4 is high.
AMQP_PRIORITIES = (9, 5, 4, 0)


#: What a broker or chord counter that is away may raise.
BROKER_ERRORS = (KombuError, RedisError, AMQPError, OSError)


#: Where RabbitMQ puts what was delivered too often; the ledger has published it again long since, so a week is plenty.
DEAD_LETTERS = "upbeat.dead"
DEAD_LETTER_LIFE = {"x-message-ttl": 7 * 86_400_000}


class MessageTooLarge(UpbeatError):
    """A canvas grew beyond what a message may carry."""

    code = "message_too_large"


@dataclass(frozen=True, slots=True)
class Message:
    """The hint to run one task run."""

    run_id: int
    task_run_id: int
    pool: str
    priority: int
    #: `job #run task`, what Flower shows.
    label: str
    #: The rest of a chain, in order.
    chain: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class ChordMessages:
    """The headers of a fragment, from index `low` on; `size` is the whole fragment's."""

    run_id: int
    fragment_id: int
    size: int
    headers: tuple[Message, ...]
    low: int = 0
    #: Whether the counter is set first: always, except by a slice of a chord that another publisher opened.
    opens: bool = True


Hint = Message | ChordMessages


def task_message_id(task_run_id: int) -> str:
    return str(uuid5(NAMESPACE, f"task_run:{task_run_id}"))


def group_id(fragment_id: int) -> str:
    return str(uuid5(NAMESPACE, f"fragment:{fragment_id}"))


def label_of(job: str, run_id: int, task: str) -> str:
    return f"{job} #{run_id} {task}"[:LABEL_BYTES]


def chords_are_counted() -> bool:
    """Whether a backend counts chord parts; without one the compiler falls back to single tasks."""
    return bool(settings.RESULT_URL)


def message_priority(priority: int) -> int:
    """Map P0 … P3 to the transport's scale: on Redis 0 is highest, on RabbitMQ high is."""
    scale = AMQP_PRIORITIES if is_amqp(settings.CELERY["broker_url"]) else REDIS_PRIORITIES
    return scale[priority]


def publish(hints: Sequence[Hint]) -> bool:
    """Publish hints; call after commit. Returns False if the broker refused: the reconciler publishes them again.

    Never raises for a broker that is away. Calling twice is harmless.
    """
    if not hints:
        return True
    try:
        _declare_once()
        with current_app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=SLICE):
            for hint in hints:
                if isinstance(hint, ChordMessages):
                    _publish_chord(hint, producer)
                else:
                    _publish_task(hint, producer)
    except BROKER_ERRORS as error:
        # What was not sent counts as a lost hint.
        _declared.clear()
        logger.warning("hints not published", extra={"count": len(hints), "error": str(error)})
        return False
    return True


def publish_launch(run_ids: Sequence[int]) -> bool:
    """Ask a control worker to admit pending runs."""
    return _publish_control(LAUNCH_RUNS, [list(run_ids)])


def lane_depth(pool: str) -> int:
    """Return the messages waiting in a lane, without those that a worker has taken.

    Raises one of BROKER_ERRORS if the broker is away.
    """
    with current_app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        channel = connection.default_channel
        if not is_amqp(settings.CELERY["broker_url"]):
            # Not a passive declaration: kombu looks for its key without our prefix, and would never find it.
            return int(channel.queue_declare(pool).message_count)
        try:
            return int(channel.queue_declare(pool, passive=True).message_count)
        except ChannelError:
            return 0  # no worker has declared it yet


def declare_queues() -> None:
    """Declare the lanes, and on RabbitMQ the exchange and queue of dead letters. Safe to call twice.

    A message to a queue that no worker has declared yet would be dropped by RabbitMQ without a word. Raises one of
    BROKER_ERRORS if the broker is away.
    """
    with current_app.connection_for_write() as connection:
        # A broker that is away is the reconciler's business: nobody waits six seconds for it here.
        connection.ensure_connection(max_retries=1, interval_start=0)
        channel = connection.default_channel
        for lane in current_app.amqp.queues.values():
            lane(channel).declare()
        if is_amqp(settings.CELERY["broker_url"]):
            Queue(DEAD_LETTERS, Exchange("upbeat.dlx", type="fanout"), queue_arguments=DEAD_LETTER_LIFE)(
                channel
            ).declare()


#: Set once this process has declared the queues; cleared when the broker was away.
_declared = threading.Event()


def _declare_once() -> None:
    # Redis needs no declaration: a queue is a list that comes into being with its first message.
    if not _declared.is_set() and is_amqp(settings.CELERY["broker_url"]):
        declare_queues()
    _declared.set()


def _publish_control(name: str, args: list[Any]) -> bool:
    try:
        _declare_once()
        with current_app.producer_pool.acquire(block=True) as producer:
            _send(name, args, producer, task_id=str(uuid4()), **_CONTROL)
    except BROKER_ERRORS as error:
        logger.warning("hint not published", extra={"task": name, "error": str(error)})
        return False
    return True


#: `saferepr` of arguments costs more than the message.
_CONTROL: dict[str, Any] = {"queue": CONTROL_LANE, "argsrepr": "-", "kwargsrepr": "-"}


def _send(name: str, args: Sequence[Any], producer: Any, *, queue: str, priority: int = 0, **message: Any) -> None:
    """Publish one message as `apply_async` does, without what it does besides.

    Routes, the parent's trail, an AsyncResult and its subscription cost as much again as the message.
    """
    amqp = current_app.amqp
    amqp.send_task_message(
        producer,
        name,
        amqp.create_task_message(name=name, args=args, ignore_result=True, **message),
        queue=queue,
        # Queues are declared once, at the worker's start.
        declare=[],
        priority=priority,
    )


def _task(name: str) -> Task:
    """Return a registered Celery task; the first call in a process that is no worker loads their modules."""
    if name not in current_app.tasks:
        current_app.loader.import_default_modules()
    return current_app.tasks[name]


def _options(message: Message) -> dict[str, Any]:
    return {
        "task_id": task_message_id(message.task_run_id),
        "queue": message.pool,
        "priority": message_priority(message.priority),
        "argsrepr": message.label,
        "kwargsrepr": "-",
    }


def _signature(message: Message) -> Signature:
    return _task(EXECUTE).si(message.run_id, message.task_run_id).set(**_options(message))


def _publish_task(message: Message, producer: Any) -> None:
    options = _options(message)
    if message.chain:
        rest = [dict(_signature(link)) for link in reversed(message.chain)]
        _refuse_oversize(rest)
        options["chain"] = rest
    _send(EXECUTE, (message.run_id, message.task_run_id), producer, **options)


def _publish_chord(chord: ChordMessages, producer: Any) -> None:
    group = group_id(chord.fragment_id)
    body = dict(
        _task(ADVANCE)
        .si(chord.run_id)
        .set(task_id=str(uuid5(NAMESPACE, f"fragment:{chord.fragment_id}:body")), **_CONTROL)
    )
    if chord.opens:
        # Before any header: a publisher that dies half-way leaves a chord that completes once its missing headers
        # are published again. Celery itself sets the size last, and such a chord would hang for ever.
        current_app.backend.set_chord_size(group, chord.size)
    for index, message in enumerate(chord.headers, start=chord.low):
        _send(
            EXECUTE,
            (message.run_id, message.task_run_id),
            producer,
            group_id=group,
            group_index=index,
            chord=body,
            **_options(message),
        )
    published = chord.low + len(chord.headers)
    if chord.opens and published < chord.size:
        for low in range(published, chord.size, SLICE):
            slice_ = (chord.fragment_id, low, min(low + SLICE, chord.size))
            _send(EXPAND, slice_, producer, task_id=str(uuid4()), **_CONTROL)


def _refuse_oversize(chain: list[dict[str, Any]]) -> None:
    # Counted without serializing: a link is about 330 bytes plus its label, and all else in it is of fixed length.
    size = sum(330 + len(link["options"]["argsrepr"]) for link in chain)
    if size > BODY_BYTES:
        raise MessageTooLarge(
            f"a chain of {len(chain)} links needs about {size} bytes, at most {BODY_BYTES} are allowed"
        )
