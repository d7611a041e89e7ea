"""Work beside the sources that exactly one process of all does: each role under a lease, led by whoever holds it.

A role is a function `turn(guard) -> int`: it does what is due, a bounded amount, and returns how much; a transaction of
it that must not be doubled begins with `guard()`, which says whether this process still leads. It is called again at
once after a turn that did something, else after its pause.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from django.db import Error, close_old_connections, connection
from django.db.models.functions import Now

from orchestrator.models import Lease
from orchestrator.services.leadership import RENEW_SECONDS, Leadership
from triggers.listeners.health import Health

logger = logging.getLogger(__name__)

Guard = Callable[[], bool]
Turn = Callable[[Guard], int]


@dataclass(frozen=True, slots=True)
class Role:
    """Where the work of a role is, as `module:function`, and seconds between two looks when nothing is due."""

    turn: str
    pause: float = RENEW_SECONDS

    def load(self) -> Turn:
        module, _, name = self.turn.partition(":")
        work: Turn = getattr(importlib.import_module(module), name)
        return work


ROLES: Final[Mapping[str, Role]] = {
    "timers": Role("triggers.listeners.timers:turn"),
    "dlx-import": Role("triggers.listeners.dlx_import:turn", pause=1.0),
}


def run_role(name: str, *, stop: threading.Event, health: Health) -> int:
    """Host a role until `stop` is set; lead it while its lease is ours. Returns the exit code.

    A database that is away ends nothing; a defect in a turn is logged, told in the health, and tried again.
    """
    role = ROLES[name]
    turn = role.load()
    leadership = Leadership(lease_of(name))
    trouble, pause = "", RENEW_SECONDS
    while not stop.is_set():
        try:
            close_old_connections()
            leads = leadership.seek()
            done = turn(leadership.still_leads) if leads else 0
            trouble = ""
            pause = 0.0 if done else min(role.pause, RENEW_SECONDS)
        except Error as error:
            trouble, pause = f"database: {str(error).splitlines()[0]}", RENEW_SECONDS
            connection.close()
        except Exception as error:
            logger.exception("a turn of a role failed", extra={"role": name})
            trouble, pause = f"{type(error).__name__}: {error}", 5 * RENEW_SECONDS
        health.beat(
            {}, "failing" if trouble else "ok", trouble or ("" if leadership.epoch is not None else "stands by")
        )
        if pause:
            stop.wait(pause)
    try:
        leadership.resign()
    except Error:
        logger.debug("lease not given up: it expires by itself")
    health.close()
    return 0


def is_led(name: str) -> bool:
    """Say whether some process leads the role."""
    return Lease.objects.filter(name=lease_of(name), expires_at__gt=Now()).exists()


def lease_of(name: str) -> str:
    return f"triggers.{name}"
