"""Whole process trees: found however far a grandchild has strayed, and ended for certain."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

#: Every supervised process carries this; its children inherit it, even those that left their parent and session.
MARK = "UPBEAT_SUPERVISED"


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs; a zombie has ended, its parent just has not looked."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it, parents first."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def marked(value: str) -> list[psutil.Process]:
    """Return the living processes whose mark is `value`, or begins with it when it ends in a colon."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.Error):
            for entry in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                if (entry.startswith(wanted) if value.endswith(":") else entry == wanted) and is_alive(process):
                    found.append(process)
                    break
    return found


def kill(processes: Iterable[psutil.Process], *, within: float = 3.0) -> None:
    """SIGKILL to all of them; returns when they are gone, or after `within` seconds."""
    targets = [process for process in processes if is_alive(process)]
    for process in targets:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + within
    while any(is_alive(process) for process in targets) and time.monotonic() < deadline:
        time.sleep(0.02)


def kill_marked(value: str) -> None:
    """Kill what carries the mark until none is left: a process may start another while it is being looked for."""
    for _ in range(5):
        found = marked(value)
        if not found:
            return
        kill(found)
