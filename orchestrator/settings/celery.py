"""Celery's settings, each with its reason. A message is only a hint, so nothing here guards the truth: these
settings decide throughput and how soon a lost message is seen."""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

from orchestrator.conf import options
from orchestrator.contracts import CONTROL_LANE, DEFAULT_LANE

_options = options()


def is_amqp(url: str) -> bool:
    return url.startswith("amqp")


def _queue(name: str, *, amqp: bool) -> Queue:
    if not amqp:
        return Queue(name, Exchange("upbeat", type="direct"), routing_key=name)
    return Queue(
        name,
        Exchange("upbeat", type="topic"),
        routing_key=name,
        queue_arguments={
            "x-queue-type": "quorum",
            # Losses are counted in the ledger; the broker's limit is only a backstop against a loop.
            "x-delivery-limit": 50,
            # Late acks: a task of hours must not cost its channel.
            "x-consumer-timeout": 86_400_000,
            "x-dead-letter-exchange": "upbeat.dlx",
        },
    )


def celery_settings(broker_url: str, result_url: str) -> dict[str, Any]:
    """Return the Celery configuration for a broker; without `result_url` the engine runs without chords."""
    amqp = is_amqp(broker_url)
    settings: dict[str, Any] = {
        "broker_url": broker_url,
        "result_backend": result_url or None,
        # Results live in the ledger. On Redis a chord needs no stored result to fire.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_extended": False,
        "task_track_started": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_create_missing_queues": False,
        "task_queues": [_queue(name, amqp=amqp) for name in (CONTROL_LANE, *_options.pools)],
        "task_default_queue": DEFAULT_LANE,
        "task_default_exchange": "upbeat",
        "task_default_exchange_type": "topic" if amqp else "direct",
        "task_default_routing_key": DEFAULT_LANE,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Late acks and 1: nothing is reserved beyond the running tasks.
        "worker_prefetch_multiplier": 1,
        "task_send_sent_event": False,
        "worker_send_task_events": _options.worker_events,
        "worker_hijack_root_logger": False,
        "worker_disable_rate_limits": True,
        "worker_proc_alive_timeout": 30,
        # What runs may end within it (workers/ending.py); the embedded supervisor gives all of us 20 s together.
        "worker_soft_shutdown_timeout": _options.worker_stop_seconds or (8 if _options.profile == "embedded" else 25),
        # The token makes a parallel duplicate harmless; killing hours of work is not.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_connection_timeout": 4,
        "broker_pool_limit": 10,
        "task_publish_retry_policy": {
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        "enable_utc": True,
        "timezone": "UTC",
        "beat_max_loop_interval": 0.5,
        # Chord counters.
        "result_expires": 3600,
        "result_chord_expires": 7 * 86_400,
        "result_backend_transport_options": {
            "result_chord_ordered": False,
            "global_keyprefix": "upbeat:",
            # By default whoever opens a chord waits 20 s for a server that is away, and may be a request of the API.
            "retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        },
        "result_backend_thread_safe": True,
        "redis_socket_timeout": 30,
        "redis_socket_connect_timeout": 5,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 25,
    }
    if amqp:
        settings |= {
            "task_default_queue_type": "quorum",
            # Without confirms a killed broker lost 221 of 300 persistent messages, with them none.
            "broker_transport_options": {"confirm_publish": True},
            "broker_heartbeat": 30,
        }
    else:
        settings["broker_transport_options"] = {
            # The same on all workers: the scanning worker's own value decides.
            "visibility_timeout": 7200,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "queue_order_strategy": "priority",
            "global_keyprefix": "upbeat:",
        }
    return settings
