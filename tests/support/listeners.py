"""Listeners of a test's sources, as processes of their own on the test's own database."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from django.db import connection

from tests.support.processes import Process, python


def environment(**more: str) -> dict[str, str]:
    """What a process needs to work on the database of this test, which is on a server."""
    name = connection.settings_dict["NAME"]
    return {
        "UPBEAT_TEST_DATABASE_URL": f"{os.environ['UPBEAT_TEST_DATABASE_URL'].rpartition('/')[0]}/{name}",
        "UPBEAT_RABBITMQ_URL": os.environ.get("UPBEAT_TEST_RABBITMQ_URL", ""),
        **more,
    }


def listener(
    slug: str,
    *,
    log: Path,
    crash: str = "",
    constants: Mapping[str, float] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Process:
    """A listener, not yet started. `crash`: `point:nth`, see `listening`; `constants`: values by dotted names."""
    options = ["--crash", crash] if crash else []
    for name, value in (constants or {}).items():
        options += ["--set", f"{name}={value}"]
    command = ("-m", "tests.support.listening", slug, *options)
    return python(f"listener {slug}", *command, environ={**environment(), **(environ or {})}, log=log)
