"""How a worker ends: it takes nothing new, what runs may end, and after its time it ends in any case.

1. The loop that consumes is told to stop consuming. What had been fetched and not begun goes back to its lane.
2. What runs goes on, settles and is acknowledged as ever, for `UPBEAT_WORKER_STOP_SECONDS` at most.
3. Celery's ordinary shutdown, on the main thread and between two messages.
4. Tasks that outlast their time end with the process. Their leases run out, and what is idempotent runs again elsewhere.

A second signal cuts step 2 short.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state

from orchestrator.endings import GRACE_SECONDS, Request, when_asked_to_end

logger = logging.getLogger(__name__)

#: A loop that turns stops consuming within a moment. One that does not turn has no broker, and so nothing to consume.
LOOP_SECONDS = 2.0
LOOK_SECONDS = 0.1
#: For tasks that nobody waits for any more, the process stays no longer than it takes to say goodbye.
CUT_SECONDS = 1.5

_leaving = threading.Event()


def is_leaving() -> bool:
    """Whether this process begins no further attempts: what it has fetched belongs to somebody who stays."""
    return _leaving.is_set()


class OrderlyEnd(bootsteps.StartStopStep):
    """Puts the end of a worker on the signals by which it is asked for, in place of Celery's own handlers."""

    def start(self, worker: Any) -> None:
        # Ctrl-C and QUIT are the same question.
        when_asked_to_end(lambda request: end(worker, request), signals=(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))


def end(worker: Any, request: Request) -> None:
    """End `worker`. Runs beside its main thread, and returns only if the process is about to end."""
    seconds = float(worker.app.conf.worker_soft_shutdown_timeout)
    logger.info("ending: no new tasks", extra={"signal": request.signal.name, "tasks": len(state.active_requests)})
    worker_shutting_down.send(sender=worker.hostname, sig=request.signal.name, how="Warm", exitcode=0)
    _on_the_loop(worker, lambda: _stop_consuming(worker))
    limit = time.monotonic() + seconds
    while state.reserved_requests and time.monotonic() < limit:
        if request.repeated(LOOK_SECONDS):
            break
    left = len(state.reserved_requests)
    if left:
        logger.warning("ending: tasks that still run end here", extra={"tasks": left, "after_seconds": seconds})
    # Behind the acknowledgements that wait for the loop: with them unsent, what is done would be delivered again.
    if not _on_the_loop(worker, lambda: _shut_down(cut=bool(left))):
        _shut_down(cut=bool(left))
    request.insist(after=CUT_SECONDS if left else GRACE_SECONDS)


def _stop_consuming(worker: Any) -> None:
    try:
        if worker.consumer.task_consumer is not None:
            worker.consumer.task_consumer.cancel()
    finally:
        # Not earlier: what is handed back while this worker still consumes would come straight back to it.
        _leaving.set()


def _shut_down(*, cut: bool) -> None:
    if cut:
        state.should_terminate = 1
    else:
        state.should_stop = 0


def _on_the_loop(worker: Any, act: Any) -> bool:
    """Let the thread that consumes do something between two messages; return whether it has, within a moment."""
    hub = getattr(worker.consumer, "hub", None)
    if hub is None:
        return False
    done = threading.Event()

    def turn() -> None:
        try:
            act()
        finally:
            done.set()

    hub.call_soon(turn)
    return done.wait(LOOP_SECONDS)


def end_in_order(app: Celery) -> None:
    """Give every worker of `app` this end."""
    app.steps["worker"].add(OrderlyEnd)
