"""Real processes for tests: workers, beats and whatever else is started, killed and paused by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parent.parent.parent


class Process:
    """A program in a session of its own, with its output in a file and its whole tree in reach."""

    def __init__(self, name: str, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environ = {**os.environ, **environ}
        self.log = log
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        assert not self.running, f"{self.name} already runs"
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def tree(self) -> list[psutil.Process]:
        """The process and all below it, parents first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            return [top, *top.children(recursive=True)]
        return []

    def children(self) -> list[psutil.Process]:
        return self.tree()[1:]

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_output(self, text: str, *, within: float = 30.0) -> None:
        """Wait until the process has printed `text`; fail at once when it ends before."""

        def said() -> bool:
            if text in self.output():
                return True
            assert self.running, (
                f"{self.name} ended ({self.exit_code}) before saying {text!r}:\n{self.output()[-4000:]}"
            )
            return False

        try:
            eventually(said, within=within)
        except AssertionError:
            pytest.fail(f"{self.name} did not say {text!r} within {within:g} s:\n{self.output()[-4000:]}")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM to the process alone, as a container engine does."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the process alone: its children learn of it as they would in production."""
        self.signal(signal.SIGKILL)
        self._popen.wait()  # type: ignore[union-attr]  # pid above says it was started

    def kill_tree(self) -> None:
        """SIGKILL to the process and all below it."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._popen is not None:
            self._popen.wait()

    def pause(self) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def stop(self, *, within: float = 20.0) -> None:
        """Ask with SIGTERM, insist with SIGKILL; harmless when it has already ended."""
        if self._popen is None:
            return
        self.resume()
        tree = self.tree()
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(within)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def python(name: str, *arguments: str, environ: Mapping[str, str], log: Path) -> Process:
    """A Python process of this virtualenv: `python("web", "-m", "uvicorn", …)`."""
    return Process(name, [sys.executable, *arguments], environ=environ, log=log)


def worker(name: str, *options: str, queues: str, environ: Mapping[str, str], log: Path) -> Process:
    """A Celery worker of ours, not yet started, that consumes `queues`."""
    return python(
        name,
        *("-m", "celery", "-A", "orchestrator", "worker", "-n", f"{name}@%h", "-Q", queues),
        *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
        *options,
        environ=environ,
        log=log,
    )


def beat(name: str, *options: str, environ: Mapping[str, str], log: Path) -> Process:
    """A beat of ours, not yet started; the reconciler is a thread in it."""
    return python(
        name,
        *("-m", "celery", "-A", "orchestrator", "beat", "-S", "triggers.scheduler:LedgerScheduler", "--pidfile="),
        *("--loglevel", "INFO"),
        *options,
        environ=environ,
        log=log,
    )
