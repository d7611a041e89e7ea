"""Redis as the counter of chords, asked by each slot over a connection of its own.

Counting is one script for each header. Celery's client gives every call a connection from its pool, looks whether it still
lives, and gives it back: that cost more than the script.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from celery import Celery
from celery.backends.redis import CHORD_PART_RETURN_LUA, RedisBackend
from redis import Redis
from redis.exceptions import NoScriptError, RedisError


class Script:
    """A script of Redis, called over the connection of the calling thread."""

    def __init__(self, client: Redis, text: str) -> None:
        self._client = client
        self._script = client.register_script(text)
        self._threads = threading.local()

    def __call__(self, *, keys: Sequence[Any], args: Sequence[Any], client: Redis) -> Any:
        connection = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = self._client.connection_pool.get_connection()
        try:
            connection.send_command("EVALSHA", self._script.sha, len(keys), *keys, *args)
            return connection.read_response()
        except NoScriptError:
            return self._script(keys=keys, args=args, client=client)
        except (RedisError, OSError):
            # The client's own way, with its patience for a server that is away. Counting twice counts once.
            connection.disconnect()
            return self._script(keys=keys, args=args, client=client)


class ChordCounter(RedisBackend):
    """Celery's Redis backend, but for the way to its most frequent script."""

    @cached_property
    def _chord_part_return_script(self) -> Script:
        return Script(self.client, CHORD_PART_RETURN_LUA)


def use(app: Celery) -> None:
    """Let an app count its chords so where Redis is its result backend."""
    schemes = ("redis", "rediss")
    app.loader.override_backends = dict.fromkeys(schemes, f"{__name__}:ChordCounter")
