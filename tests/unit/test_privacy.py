"""A command runs as the worker's user, and must not read what the worker knows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator import privacy
from orchestrator.embedded import trees

NOBODY = 65534

#: A process as a worker's user runs it, which then does what the commands of its tasks do.
HOST = f"""
import ctypes, os, subprocess, sys
from orchestrator.privacy import keep_to_itself

if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after an exec: a change of user alone would hide it too
if sys.argv[1] == "private":
    assert keep_to_itself()
spy = "cat /proc/{{0}}/environ; : < /proc/{{0}}/mem && echo memory".format(os.getpid())
sys.stdout.write(subprocess.run(["/bin/sh", "-c", spy], cwd="/", env={{}}, capture_output=True, text=True).stdout)
"""


def seen_by_a_command(how: str, **environ: str) -> str:
    given = {name: value for name, value in os.environ.items() if name != "UPBEAT_SUPERVISED"}
    done = subprocess.run(
        [sys.executable, "-c", HOST, how],
        env={**given, "UPBEAT_SECRET_KEY": "known-to-the-worker", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_command_reads_neither_environment_nor_memory_of_its_worker() -> None:
    assert seen_by_a_command("private") == ""


def test_it_could_if_the_worker_did_not_keep_to_itself() -> None:
    assert "known-to-the-worker" in seen_by_a_command("open")


#: Pools, metrics and what reads the process's own books, as a user who is not root. Imported before the change of
#: user, who may not be allowed to read where they lie.
AT_WORK = f"""
import ctypes, os, subprocess
import billiard, billiard.heap, billiard.pool, billiard.popen_fork, billiard.synchronize
import prometheus_client, psutil
from orchestrator.privacy import keep_to_itself

if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
assert keep_to_itself()
os.chdir("/")
pool = billiard.Pool(1)
assert pool.map(abs, [-1, -2]) == [1, 2]
pool.close()
pool.join()
assert b"process_resident_memory_bytes" in prometheus_client.generate_latest()
assert psutil.Process().memory_info().rss and psutil.Process().num_fds()
assert subprocess.run(["/bin/echo", "started"], capture_output=True).stdout == b"started\\n"
"""


def test_a_process_that_keeps_to_itself_works_as_before() -> None:
    given = {
        name: value
        for name, value in os.environ.items()
        if name not in ("UPBEAT_SUPERVISED", "PROMETHEUS_MULTIPROC_DIR")
    }

    done = subprocess.run([sys.executable, "-c", AT_WORK], env=given, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


STARTED = """
import ctypes, os
os.environ["DJANGO_SETTINGS_MODULE"] = "orchestrator.settings.test"
import django
django.setup()
from celery import signals
import orchestrator.celery
signals.{signal}.send(sender=None)
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


@pytest.mark.parametrize(
    ("signal", "environ", "dumpable"),
    [
        ("worker_init", {}, "0"),
        ("beat_init", {}, "0"),
        ("beat_embedded_init", {}, "1"),
        ("worker_init", {"UPBEAT_SUPERVISED": "demo:1"}, "1"),
    ],
)
def test_workers_and_beat_keep_to_themselves_once_they_start(
    signal: str, environ: dict[str, str], dumpable: str
) -> None:
    given = {name: value for name, value in os.environ.items() if name != "UPBEAT_SUPERVISED"}

    done = subprocess.run(
        [sys.executable, "-c", STARTED.format(signal=signal)],
        env={**given, **environ},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split()[-1] == dumpable


def test_the_supervisors_mark_is_known_by_its_name() -> None:
    assert privacy.SUPERVISED == trees.MARK
