"""How a process that does nothing but ingest looks for garbage, and how it changes between its threads."""

from __future__ import annotations

import gc
import sys
from typing import Final

#: New containers between two looks: a batch of 500 messages makes some 20,000, nearly all of them garbage by counting
#: alone. At the default of 700 the looks cost a quarter of the processor's time.
LOOKS_EVERY: Final = 50_000
#: Seconds for which the thread that writes waits at most for the one that prepares, each time the database answers: at
#: the default of 5 ms a batch would wait longer for the interpreter than for the database.
SWITCH_SECONDS: Final = 0.0003


def settle() -> None:
    """Take what is loaded for what stays, and look for garbage seldom. For a process of its own. Safe to call twice."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(LOOKS_EVERY, 20, 50)
    sys.setswitchinterval(SWITCH_SECONDS)
