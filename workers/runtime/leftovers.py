"""Finds and ends what is left of an attempt whose runner was killed.

Slow and sure: nobody is the parent of these processes any more, so all there is are marks that they carry.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

#: Name of the variable that marks every process of an attempt.
MARKER = "UPBEAT_ATTEMPT_KEY"
#: Seconds after which what survives SIGKILL is given up: another user's process, or one in the kernel.
GIVE_UP = 10.0
#: Seconds that a process without any marks may take to show them; then it is one that erased them.
UNMARKED = 1.0
PAUSE = 0.01
#: From the kernel's `include/linux/sched.h`: a thread of the kernel itself.
KERNEL_THREAD = 0x00200000

#: A process: its id, and when it started, as ids are used again.
Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many processes were ended, and how many are still alive."""

    ended: int = 0
    survivors: int = 0


def end_marked(marker: str, *, session: int) -> Swept:
    """End every process of an attempt and return when none is alive, or after `GIVE_UP` seconds; safe to call twice.

    They are found by the marker in their environment or by the command's session: all but a process that both
    cleared its environment and left the session.
    """
    began = time.monotonic()
    ended: set[Identity] = set()
    found: set[Identity] = set()
    quiet = 0
    # Twice, for a child that was forked behind the scan's back is seen by the next one.
    while quiet < 2 and time.monotonic() - began < GIVE_UP:
        found, unmarked = _scan(marker.encode(), session, ended)
        # Stopped first and killed when a round finds nobody new, so that none forks while others are looked for.
        new = found - ended
        _send(new or found, signal.SIGSTOP if new else signal.SIGKILL)
        ended |= found
        nobody = not found and not (unmarked and time.monotonic() - began < UNMARKED)
        quiet = quiet + 1 if nobody else 0
        if not new:
            time.sleep(PAUSE)
    return Swept(len(ended), len(found))


def _send(processes: set[Identity], number: int) -> None:
    for pid, _ in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _scan(marker: bytes, session: int, known: set[Identity]) -> tuple[set[Identity], bool]:
    """Return the living processes that are known or marked, and whether there is one whose marks cannot be seen yet."""
    found: set[Identity] = set()
    unmarked = False
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        fields = _stat(name)
        if not fields or not _lives_in_user_space(fields):
            continue
        identity = int(name), int(fields[19])
        environ = _read(_speaker(name, fields), "environ")
        # Known is enough, and so is the mark's value alone: a shell that starts cuts each of its variables in two for
        # a moment, and one that was stopped just then stays so.
        if identity in known or (session and int(fields[3]) == session) or marker in environ:
            found.add(identity)
        # In the middle of an exec a process has neither arguments nor environment for a moment, and under load
        # that moment may be long.
        unmarked = unmarked or not (environ or _read(name, "cmdline"))
    return found, unmarked


def _stat(pid: str) -> list[bytes]:
    """Return what the kernel says of a process, from its state on; empty if it ended."""
    text = _read(pid, "stat")
    # The name in parentheses before it may itself hold spaces and parentheses.
    return text[text.rindex(b")") + 2 :].split() if text else []


def _lives_in_user_space(fields: list[bytes]) -> bool:
    # A zombie with more than one thread is a process whose first thread has ended, and it alone.
    dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return not dead and not int(fields[6]) & KERNEL_THREAD


def _speaker(pid: str, fields: list[bytes]) -> str:
    """Return the thread that can be asked about a process: the first, unless that one has ended."""
    if fields[0] != b"Z":
        return pid
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            if thread != pid:
                return f"{pid}/task/{thread}"
    return pid


def _read(pid: str, name: str) -> bytes:
    """Return a file of a process; empty if it ended, or is another user's."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except OSError:
        return b""
    finally:
        os.close(fd)
    return data
