"""Methods of Celery and kombu that we replace: an upgrade that renames one must fail here, not slow production down."""

from __future__ import annotations

import inspect

import kombu
from celery.fixups.django import DjangoWorkerFixup
from kombu.transport import redis

from orchestrator import celery


def test_the_fixup_closes_connections_by_the_method_that_is_replaced():
    assert DjangoWorkerFixup.close_database is celery._close_unusable
    assert "self.close_database()" in inspect.getsource(DjangoWorkerFixup.on_task_prerun)


def test_the_redis_transport_takes_its_clients_from_the_method_that_is_replaced():
    assert redis.Channel.conn_or_acquire is celery._one_client
    assert "self.channel.conn_or_acquire(" in inspect.getsource(redis.QoS.pipe_or_acquire)
    assert callable(redis.Channel._create_client)


def test_a_channel_keeps_one_client_until_its_pool_is_replaced(redis_url):
    with kombu.Connection(redis_url) as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second

        channel._disconnect_pools()

        with channel.conn_or_acquire() as after:
            assert after is not first
            assert after.ping()
