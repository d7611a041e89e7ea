"""A listener in a process of its own, which ends where a test likes.

    python -m tests.support.listening orders --kill-at after_transaction --on 3 --set triggers.listeners.rabbitmq.STALL_SECONDS=2

`deadly` is the settings module of processes that a message can kill, their proving children included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import Process, python

POINTS = ("after_poll", "decoded", "in_transaction", "after_transaction", "after_acknowledge", "during_launch")


def listener(
    slug: str,
    *,
    log: Path,
    kill_at: str = "",
    on: int = 1,
    constants: Mapping[str, float] = {},
    environ: Mapping[str, str] = {},
) -> Process:
    """A listener of a source of the test's database, not yet started.

    `kill_at`: the point at which it kills itself with SIGKILL, the `on`th time that it is there. `constants`: values
    of a module, by their dotted names.
    """
    options = ["--kill-at", kill_at, "--on", str(on)] if kill_at else []
    for name, value in constants.items():
        options += ["--set", f"{name}={value}"]
    return python(
        f"listener {slug}",
        "-m",
        "tests.support.listening",
        slug,
        *options,
        environ={**environment(), **environ},
        log=log,
    )


def environment(**more: str) -> dict[str, str]:
    """What processes beside the test need to work on the test's own database, like in production."""
    from django.conf import settings
    from django.db import connection

    found = connection.settings_dict
    assert connection.vendor == "postgresql", "processes of their own need a server"
    where = f"{found['USER']}:{found['PASSWORD']}@{found['HOST']}:{found['PORT']}/{found['NAME']}"
    return {
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.production",
        "UPBEAT_PROFILE": "production",
        "UPBEAT_DATABASE_URL": f"postgresql://{where}",
        "UPBEAT_BROKER_URL": settings.CELERY["broker_url"],
        "UPBEAT_SECRET_KEY": secrets.token_urlsafe(48),
        "UPBEAT_RABBITMQ_URL": os.environ.get("UPBEAT_TEST_RABBITMQ_URL", ""),
        **more,
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("slug")
    parser.add_argument("--kill-at", choices=POINTS)
    parser.add_argument("--on", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)

    import django

    django.setup()
    from triggers.ingest import crash
    from triggers.listeners.health import Health
    from triggers.models import EventSource

    for each in given.set:
        path, _, value = each.partition("=")
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, json.loads(value))
    if given.kill_at:
        left = [given.on]

        def die(**_: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        getattr(crash, given.kill_at).connect(die, weak=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    source = EventSource.objects.get(slug=given.slug)
    run = importlib.import_module(f"triggers.listeners.{source.kind}").run
    print("listening", flush=True)
    return int(run(source, stop=stop, health=Health(source.kind, source)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
