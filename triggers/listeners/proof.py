"""The throw-away process of `poison.py`: decodes and matches the messages that its parent sends, one at a time.

Run as a module with the id of the source and an inherited socket. It writes nothing: what it is good for is to die.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Final

#: Of the processor, for one message; on a crowded machine the clock would condemn the innocent.
CPU_SECONDS: Final = 2.0
#: Beside what the process needs before its first message.
MEMORY_BYTES: Final = 512 << 20
OUT_OF_MEMORY: Final = 70

READY: Final = b"+ready"
READING: Final = b"+reading"
DONE: Final = b"+done"


def main(source_id: int, pipe: Connection) -> None:
    """Answer each message with READING and DONE, or with a text: then it could not even be tried."""
    # The parent's Ctrl-C is the parent's: it closes the pipe, which ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    import django

    django.setup()

    from django.utils import timezone

    from triggers.ingest import Pipeline, SourceView
    from triggers.models import EventSource
    from triggers.rules_cache import RuleCache

    try:
        cache = RuleCache()
        pipeline = Pipeline(SourceView.of(EventSource.objects.get(pk=source_id)), cache=cache)
        cache.current()
    except Exception as error:  # a process border: the parent waits for the database, as it would itself
        pipe.send_bytes(f"the child that proves messages did not start: {error}".encode()[:1000])
        return
    _limit_memory()
    pipe.send_bytes(READY)
    while True:
        try:
            received = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            # What the message is not to blame for comes first.
            cache.current()
        except Exception as error:
            pipe.send_bytes(f"the rules could not be read: {error}".encode()[:1000])
            continue
        pipe.send_bytes(READING)
        # Ends the process, even inside of native code.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            pipeline.prepare([received], timezone.now())
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(DONE)


def _limit_memory() -> None:
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))


if __name__ == "__main__":
    main(int(sys.argv[1]), Connection(int(sys.argv[2])))
