"""A listener in a process of its own, as production runs it, that may be told where to die.

    python -m tests.support.listening SLUG [--crash POINT:NTH] [--set MODULE.NAME=NUMBER]

`--crash` sends SIGKILL to itself at the n-th pass of a point of `triggers.ingest.crash`; `--set` gives a constant
another value, such as a time that no test could wait for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from typing import Any


def main(arguments: list[str]) -> int:
    """Read a source until SIGTERM; returns the listener's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slug")
    parser.add_argument("--crash", default="")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)

    import django

    django.setup()

    from triggers.ingest import crash
    from triggers.ingest.memory import settle
    from triggers.listeners.health import Health
    from triggers.models import EventSource

    for each in given.set:
        path, _, value = each.partition("=")
        module, _, name = path.rpartition(".")
        holder = importlib.import_module(module)
        setattr(holder, name, type(getattr(holder, name))(value))
    if given.crash:
        point, _, nth = given.crash.partition(":")
        left = [int(nth or 1)]

        def die(**_: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        getattr(crash, point).connect(die, weak=False)
    settle()
    stop = threading.Event()

    def leave(*_: object) -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    signal.signal(signal.SIGTERM, leave)
    source = EventSource.objects.select_related("tenant").get(slug=given.slug)
    health = Health(source.kind, source)
    code = importlib.import_module(f"triggers.listeners.{source.kind}").run(source, stop=stop, health=health)
    health.close()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
