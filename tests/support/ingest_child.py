"""A listener whose transport is a file: reads on behind what it has acknowledged, and may be told where to die.

    python -m tests.support.ingest_child SLUG MESSAGES POSITION [--crash POINT:NTH]

MESSAGES: one JSON array a line, `[part, off, key, body]`. POSITION: how many lines are acknowledged.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

import orjson

BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slug")
    parser.add_argument("messages", type=Path)
    parser.add_argument("position", type=Path)
    parser.add_argument("--crash", default="")
    given = parser.parse_args()

    import django

    django.setup()

    from django.utils import timezone

    from triggers.envelope import Received
    from triggers.ingest import Infrastructure, Launcher, Pipeline, SourceView, crash
    from triggers.models import EventSource
    from triggers.rules_cache import RuleCache

    if given.crash:
        point, _, nth = given.crash.partition(":")
        left = [int(nth)]

        def die(**_: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        getattr(crash, point).connect(die, weak=False)

    lines = [orjson.loads(line) for line in given.messages.read_bytes().splitlines()]
    position = int(given.position.read_text()) if given.position.exists() else 0
    pipeline = Pipeline(SourceView.of(EventSource.objects.get(slug=given.slug)), cache=RuleCache())
    launcher = Launcher()
    while batch := lines[position : position + BATCH]:
        crash.reached(crash.after_poll)
        received = [
            Received(
                "kafka:business-events", body.encode(), part=part, off=off, key=key, message_id=f"file/{part}/{off}"
            )
            for part, off, key, body in batch
        ]
        prepared = pipeline.prepare(received, timezone.now())
        while True:
            try:
                written = pipeline.write(prepared)
                break
            except Infrastructure:
                time.sleep(0.1)
        position += len(batch)
        # As a broker does: the new position is there as a whole, or the old one.
        new = given.position.with_suffix(".new")
        new.write_text(str(position))
        new.rename(given.position)
        launcher.offer(written.run_ids)
    launcher.close()


if __name__ == "__main__":
    main()
