"""The Celery app and the base class of every task that speaks to the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, Task
from celery.fixups.django import DjangoWorkerFixup
from celery.signals import beat_init, task_postrun, worker_init
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from kombu.transport.redis import Channel
from redis import Redis

from orchestrator import privacy
from orchestrator.canvas import chord_counter, redis_transport
from orchestrator.settings import use_profile

use_profile()
redis_transport.use()

app = Celery("upbeat")
# Other threads (web, the threads pool) would otherwise publish through a fresh app named "default".
app.set_default()
chord_counter.use(app)
app.conf.update(settings.CELERY)
app.autodiscover_tasks()


#: A connection is looked at this often; an error on it makes the next look happen at once.
CHECK_SECONDS = 2.0
_checked_at = threading.local()


def _close_unusable(self: DjangoWorkerFixup, **kwargs: Any) -> None:
    # The one connection there is, not `connections.all()`: that alone is a twentieth of what a task costs.
    connection = connections[DEFAULT_DB_ALIAS]
    now = time.monotonic()
    if connection.errors_occurred or now - getattr(_checked_at, "moment", 0.0) > CHECK_SECONDS:
        _checked_at.moment = now
        connection.close_if_unusable_or_obsolete()


# Celery closes every database connection before and after each task: 130 tasks/s. Closing only what no longer
# works gives 1,165 and still survives a restart of the server: whoever meets a dead connection first repeats its
# transaction. A test guards that the attribute exists.
DjangoWorkerFixup.close_database = _close_unusable
_install_fixup = DjangoWorkerFixup.install


def _look_before_only(self: DjangoWorkerFixup) -> DjangoWorkerFixup:
    _install_fixup(self)
    task_postrun.disconnect(self.on_task_postrun)
    return self


# Before each task is enough. What else happens after one is that caches are closed, and no task of ours opens any.
DjangoWorkerFixup.install = _look_before_only


@contextmanager
def _one_client(self: Channel, client: Redis | None = None) -> Iterator[Redis]:
    if client is None:
        client = self.__dict__.get("_kept_client")
        if client is None or client.connection_pool is not self.pool:
            client = self._kept_client = self._create_client()
    yield client


# kombu makes a client for every acknowledgement, reservation and batch: 75 µs each, three for every task. One client
# is as good: it holds no connection of its own, only the channel's pool. A test guards that the method exists.
Channel.conn_or_acquire = _one_client


@worker_init.connect
def _inherit_no_connection(**kwargs: Any) -> None:
    connections.close_all()


@worker_init.connect
@beat_init.connect
def _keep_to_itself(**kwargs: Any) -> None:
    privacy.keep_to_itself()


class LedgerTask(Task):
    """A Celery task whose message is only a hint: ids as arguments, late ack, never raises for business failures."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    track_started = False
    typing = False
