"""Redis as the broker of a worker, with one round trip for each message that is waited for by nobody.

kombu pops a message, writes it down as reserved, and takes it off that list when it is acknowledged: three round trips,
two of which the consuming thread waits for while it holds up every slot of its process. Together they were half of what a
no-op cost. Here an acknowledgement travels with the question for the next message: one script takes the old one off the
list, pops the new one and writes it down. That also closes kombu's gap between popping and writing down, in which a
worker that is killed loses a message.

What is in Redis is what kombu writes, so its own consumers, its restoring of what a dead worker held and its queues are
the same. A worker with nothing to acknowledge asks as kombu does, with a BRPOP that waits.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

import orjson
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import loads
from redis.exceptions import NoScriptError, RedisError

logger = logging.getLogger(__name__)

JSON = "application/json"

# An item that is no message of kombu's is handed over as it is: whoever reads it complains as ever.
TAKE = """
local unacked, index = KEYS[1], KEYS[2]
local room = tonumber(ARGV[2])
for i = 3, #ARGV do
    redis.call('ZREM', index, ARGV[i])
    redis.call('HDEL', unacked, ARGV[i])
end
local taken = {}
for i = 3, #KEYS do
    while room > 0 do
        local item = redis.call('RPOP', KEYS[i])
        if not item then break end
        local read, message = pcall(cjson.decode, item)
        if read and type(message) == 'table' and message.properties then
            local properties = message.properties
            local from = properties.delivery_info or {}
            redis.call('ZADD', index, ARGV[1], properties.delivery_tag)
            redis.call('HSET', unacked, properties.delivery_tag,
                '[' .. item .. ', ' .. cjson.encode(from.exchange) .. ', ' .. cjson.encode(from.routing_key) .. ']')
        end
        taken[#taken + 1] = KEYS[i]
        taken[#taken + 1] = item
        room = room - 1
    end
end
return taken
"""
DIGEST = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()


class QoS(redis.QoS):
    """Which messages are reserved, and which of them are done with but still written down as reserved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: To be taken off the list with the next question, or by `flush`.
        self.done: list[str] = []
        #: Written down by the script that popped them.
        self.reserved: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag in self.reserved:
            self.reserved.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if self.channel.connection.cycle.turning:
            self.done.append(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def flush(self) -> None:
        """Take what is done with off the list now, and wait for it."""
        done, self.done = self.done, []
        if not done:
            return
        try:
            with self.channel.conn_or_acquire() as client:
                client.pipeline().zrem(self.unacked_index_key, *done).hdel(self.unacked_key, *done).execute()
        except (RedisError, OSError) as error:
            # They come again, and then their claims find nothing to do.
            logger.warning("acknowledgements not written", extra={"count": len(done), "error": str(error)})


class Message(virtual.Message):
    """kombu's message, whose body is read on the consuming thread only to see of which protocol it is."""

    def _decode(self) -> Any:
        if self.content_type == JSON and self.content_encoding == "utf-8" and self.accept and JSON in self.accept:
            return _json(self.body)
        return super()._decode()


class Channel(redis.Channel):
    """kombu's channel, but for how it asks for messages."""

    QoS = QoS
    Message = Message
    #: The queues that it asks, kept by `_update_queue_cycle`: kombu makes this list anew at each turn of the loop.
    active_queues: Sequence[str] = ()
    #: What the pending question acknowledges; None while it is a BRPOP, or while none is pending.
    _carried: list[str] | None = None
    _script_is_known = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: What the script is told to look at, for the queues in their latest order.
        self._keys: dict[tuple[str, ...], list[str]] = {}
        super().__init__(*args, **kwargs)

    def _update_queue_cycle(self) -> None:
        self.active_queues = redis.Channel.active_queues.fget(self)
        super()._update_queue_cycle()

    @property
    def is_waiting(self) -> bool:
        """Whether all that it could ask is asked."""
        asked = not self.active_queues or (self._in_poll and self.qos.can_consume())
        return bool(asked and (self._in_listen or not self.active_fanout_queues) and not self.qos.done)

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._carried = None  # also of a question that died with its connection
        if not self.qos.done:
            super()._brpop_start(timeout)
            return
        queues = tuple(self._queue_cycle.consume(len(self.active_queues)))
        if not queues:
            return
        keys = self._keys.get(queues)
        if keys is None:
            names = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
            keys = [self.global_keyprefix + name for name in (self.unacked_key, self.unacked_index_key, *names)]
            self._keys = {queues: keys}
        room = self.qos.can_consume_max_estimate() or 1
        self._carried, self.qos.done = self.qos.done, []
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        script = ("EVALSHA", DIGEST) if self._script_is_known else ("EVAL", TAKE)
        self._in_poll.send_command(*script, len(keys), *keys, time.time(), room, *self._carried)

    def _brpop_read(self, **options: Any) -> bool:
        if self._carried is None:
            return bool(super()._brpop_read(**options))
        carried, self._carried = self._carried, None
        connection = self.client.connection
        try:
            taken = connection.read_response()
            self._script_is_known = True
        except NoScriptError:
            # The server was restarted. Nothing was done, and the next question brings the script along.
            self._script_is_known = False
            self.qos.done = carried + self.qos.done
            raise Empty from None
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not taken:
            raise Empty
        messages = [(self._queue_of(key), _json(item)) for key, item in zip(taken[::2], taken[1::2], strict=True)]
        # All of them before the first is handed over, which may raise.
        self.qos.reserved.update(message["properties"]["delivery_tag"] for _, message in messages)
        for queue, message in messages:
            self._queue_cycle.rotate(queue)
            self.connection._deliver(message, queue)
        return True

    def _queue_of(self, key: bytes) -> str:
        return key.decode()[len(self.global_keyprefix) :].rsplit(self.sep, 1)[0]

    def flush(self) -> None:
        """Write the acknowledgements that no question will carry."""
        # Only a BRPOP may take long; a script's answer is there in a moment, and then they go with the next one.
        if not self._in_poll or self._carried is None:
            self.qos.flush()

    def close(self) -> None:
        self.qos.flush()
        super().close()


class Poller(redis.MultiChannelPoller):
    """kombu's poller; it knows whether a loop turns that will see to what was put off."""

    turning = False

    def on_poll_start(self) -> None:
        # The loop turns three times for each message, and at two of the turns there is nothing to ask.
        if not self._paused_brpop and all(channel.is_waiting for channel in self._channels):
            return
        super().on_poll_start()
        for channel in self._channels:
            channel.flush()


class Transport(redis.Transport):
    """kombu's transport, with this channel and this poller."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, _Loop(loop))
        cycle = self.cycle
        cycle.turning = True

        def stand_still(hub: Any) -> None:
            hub.on_close.discard(stand_still)
            cycle.turning = False
            for channel in cycle._channels:
                channel.qos.flush()

        loop.on_close.add(stand_still)


class _Loop:
    """A loop that is told of a socket once. kombu tells it at each turn, and the kernel answers with an error."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        if fd not in self._loop.readers:
            self._loop.add_reader(fd, callback, *args)


def _json(text: bytes | str) -> Any:
    # kombu's reader calls a function for each object, to find those of types that JSON does not know.
    mark: Any = b'"__type__"' if isinstance(text, bytes) else '"__type__"'
    return loads(text) if mark in text else orjson.loads(text)


def use() -> None:
    """Let every connection of this process to Redis as a broker go by this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
