"""Ending on a signal, in processes of their own: beside the main thread, and never without an end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.endings import INSISTED

ROOT = Path(__file__).resolve().parents[2]

LOCKED = """
import os, signal, sys, threading, time
from orchestrator.endings import when_asked_to_end

lock, ended = threading.Lock(), threading.Event()

def act(request):
    with lock:
        print("ended by", request.signal.name, flush=True)
    ended.set()

when_asked_to_end(act, signals=[signal.SIGTERM])
with lock:
    print("within the lock", flush=True)
    sys.stdin.readline()
ended.wait(10)
"""

STUCK = """
import signal, threading
from orchestrator.endings import when_asked_to_end

when_asked_to_end(lambda request: request.insist(after=0.2), signals=[signal.SIGTERM])

def where_it_is_stuck():
    print("ready", flush=True)
    threading.Lock().acquire() and threading.Event().wait(60)

where_it_is_stuck()
"""

AGAIN = """
import signal, threading
from orchestrator.endings import when_asked_to_end

over = threading.Event()

def act(request):
    print("asked", flush=True)
    print("asked again" if request.repeated(within=20) else "asked once", flush=True)
    over.set()

when_asked_to_end(act, signals=[signal.SIGTERM, signal.SIGINT])
print("ready", flush=True)
over.wait(30)
"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_who_is_asked_while_it_holds_a_lock_ends_once_the_lock_is_free() -> None:
    process = start(LOCKED)
    assert said(process) == "within the lock"

    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate("go on\n", timeout=20)

    assert (process.returncode, out.strip()) == (0, "ended by SIGTERM"), errors


def test_who_does_not_come_to_its_end_is_ended_and_says_where_it_stood() -> None:
    process = start(STUCK)
    assert said(process) == "ready"

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)

    assert process.returncode == INSISTED
    assert "where_it_is_stuck" in errors


def test_asking_again_is_told_from_asking_once() -> None:
    process = start(AGAIN)
    assert said(process) == "ready"

    process.send_signal(signal.SIGTERM)
    assert said(process) == "asked"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)

    assert out.strip() == "asked again"
