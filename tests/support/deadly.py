"""Settings of a process that a message can kill, as a defect in a native library would let it."""

from __future__ import annotations

import os
import signal
from datetime import datetime

from orchestrator.settings.test import *  # noqa: F403  settings are layered by import, as Django documents
from tests.support.deadly_words import DEADLY, ENDLESS, GREEDY
from triggers import envelope

_read = envelope.read


def _dying_read(
    received: envelope.Received, policy: envelope.Policy, now: datetime
) -> list[envelope.Envelope] | envelope.Problem:
    body = received.body or b""
    if DEADLY in body:
        os.kill(os.getpid(), signal.SIGSEGV)
    while ENDLESS in body:
        pass
    if GREEDY in body:
        taken = []
        while True:
            taken.append(bytes(16 << 20))
    return _read(received, policy, now)


envelope.read = _dying_read
