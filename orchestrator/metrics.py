"""Every metric: its name, labels, buckets and meaning, in one place.

prometheus_client counts, in its multiprocess mode: each process in memory-mapped files of its own under
UPBEAT_METRICS_DIR, which `/metrics` adds up, so a process that is killed loses no count. Processes may share the
directory across containers, where pids say nothing: each locks its files, and files that nobody locks belong to the
dead. Those are folded into one file of each kind.

Counting never fails: where the directory cannot be used, each process counts for itself, and says so once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from orchestrator.conf import options

log = logging.getLogger(__name__)

_KINDS: Final = ("counter", "histogram")
_FIRST_BYTES: Final = 1 << 16
_UNREADABLE: Final = (OSError, RuntimeError, ValueError, struct.error)


def directory() -> Path:
    """Where the processes of this host count."""
    return Path(options().metrics_dir or options().home_path / "metrics")


@contextlib.contextmanager
def _alone(folder: Path, how: int) -> Iterator[None]:
    """Keep two scrapes apart: a half folded file would look like a counter that fell."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "scrape.lock", "w") as lock:
        fcntl.flock(lock, how)
        yield


def fold_dead_files(folder: Path) -> int:
    """Add the files of processes that are gone to one file of the dead; return how many there were."""
    folded = 0
    for path in folder.glob("*.db"):
        kind, _, name = path.stem.partition("_")
        if kind not in _KINDS or name == "dead":
            continue
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            try:
                counted = list(MmapedDict.read_all_values_from_file(path))
            except (RuntimeError, ValueError, struct.error) as error:
                # As a crash of the machine may leave it; one such file must not end all scrapes.
                log.warning("a damaged metrics file is dropped", extra={"file": path.name, "reason": str(error)})
                counted = []
            dead = MmapedDict(str(folder / f"{kind}_dead.db"))
            try:
                # First, so that a crash in between loses the counts of one dead process instead of doubling them.
                path.unlink()
                for key, value, _, _ in counted:
                    dead.write_value(key, dead.read_value(key)[0] + value, 0.0)
            finally:
                dead.close()
        folded += 1
    return folded


class _Off:
    """Says once that metrics are off or incomplete in this process."""

    said = False

    @classmethod
    def say(cls, error: Exception) -> None:
        if not cls.said:
            cls.said = True
            log.warning("metrics are off: their directory cannot be used", extra={"reason": str(error)})


class _Files:
    """The locked files of this process: pid, name, descriptors."""

    pid = 0
    name = ""
    descriptors: list[int] = []

    @classmethod
    def of_this_process(cls) -> str:
        """Return what names this process's files. The library asks at each count; a fork is another process."""
        if cls.pid != os.getpid():
            while cls.descriptors:
                os.close(cls.descriptors.pop())  # inherited: the lock stays the parent's
            cls.name = cls._make(directory())
            cls.pid = os.getpid()
        return cls.name

    @classmethod
    def _make(cls, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        for kind in _KINDS:
            # Under a name that no scrape looks at until it is locked: an unlocked one would pass for a dead process's.
            new = folder / f"{kind}_{name}.new"
            cls.descriptors.append(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
            # Reserved, not sparse: a full disk is an error here, not a SIGBUS at an increment.
            os.posix_fallocate(cls.descriptors[-1], 0, _FIRST_BYTES)
            fcntl.flock(cls.descriptors[-1], fcntl.LOCK_EX)
            new.rename(new.with_suffix(".db"))
        # Also where nobody scrapes, files of the dead must not pile up. A scrape that is at it needs no help.
        with contextlib.suppress(BlockingIOError), _alone(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            fold_dead_files(folder)
        return name


def _value_class() -> Any:
    """Return what holds one number: shared in files, or in this process where the directory cannot be used."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory())
    try:
        shared: Any = values.MultiProcessValue(_Files.of_this_process)
    except _UNREADABLE as error:
        _Off.say(error)
        return values.MutexValue

    class Value(shared):
        """A count must never break the work that it counts: the directory may go away while the process lives."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().__init__(*args, **kwargs)
            except Exception as error:
                _Off.say(error)

        def inc(self, amount: float) -> None:
            try:
                super().inc(amount)
            except Exception as error:
                _Off.say(error)

    return Value


_Value: Final = _value_class()
_making = threading.Lock()


class _Shared(MetricWrapperBase):
    """Counts in the host's files, without the library's switch of the whole process.

    The library reads that one when it is first imported, which Celery's command line does for Flower's sake before
    anything of ours runs; and it would put Flower's metrics among ours.
    """

    def _metric_init(self) -> None:
        with _making:
            kept, values.ValueClass = values.ValueClass, _Value
            try:
                super()._metric_init()
            finally:
                values.ValueClass = kept

    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Any:
        # Asked for several times an attempt: the library takes a lock and makes texts of all values each time.
        known = self.__dict__.setdefault("_known", {})
        child = known.get(labelvalues)
        if child is None:
            child = super().labels(*labelvalues, **labelkwargs)
            if labelvalues:
                known[labelvalues] = child
        return child


class Counter(_Shared, prometheus_client.Counter):
    """The library's counter, in the host's files."""


class Histogram(_Shared, prometheus_client.Histogram):
    """The library's histogram, in the host's files."""


#: Every metric that counts in files, the siblings' too.
OURS: Final = CollectorRegistry()
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_RUNS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)

CLAIMS = Counter(
    "upbeat_claims_total",
    "Task messages that asked for their task run, by result: claimed, or why not.",
    ["result"],
    registry=OURS,
)
SETTLES = Counter(
    "upbeat_settles_total", "Attempts that ended, by the state that was written.", ["state"], registry=OURS
)
QUEUE_WAIT = Histogram(
    "upbeat_queue_wait_seconds", "Seconds from ready to claimed, by pool.", ["pool"], buckets=_WAITS, registry=OURS
)
TASK_RUN = Histogram(
    "upbeat_task_run_seconds",
    "Seconds that an attempt ran, by type of its task.",
    ["type"],
    buckets=_RUNS,
    registry=OURS,
)
HEALS = Counter("upbeat_heals_total", "What the reconciler had to set right, by cause.", ["cause"], registry=OURS)
LEASE_LOSSES = Counter(
    "upbeat_lease_losses_total",
    "Attempts whose lease expired or moved on before their outcome was written.",
    registry=OURS,
)
RUNS_STARTED = Counter("upbeat_runs_started_total", "Runs that were recorded, whatever triggered them.", registry=OURS)
RUNS_ENDED = Counter("upbeat_runs_ended_total", "Runs that ended, by state.", ["state"], registry=OURS)
API_CALLS = Counter(
    "upbeat_api_calls_total", "Calls to the API, by method and status.", ["method", "status"], registry=OURS
)
METRICS: Final = (
    *(CLAIMS, SETTLES, QUEUE_WAIT, TASK_RUN, HEALS, LEASE_LOSSES),
    *(RUNS_STARTED, RUNS_ENDED, API_CALLS),
)


def exposition(extra_collectors: Sequence[Collector] = ()) -> bytes:
    """Return all metrics of this host as Prometheus reads them, with what the collectors add."""
    extra = CollectorRegistry()
    for collector in extra_collectors:
        extra.register(collector)
    if _Value is values.MutexValue:
        return generate_latest(extra) + generate_latest(OURS)
    shared = CollectorRegistry()
    folder = directory()
    try:
        with _alone(folder, fcntl.LOCK_EX):
            fold_dead_files(folder)
            MultiProcessCollector(shared, str(folder))
            return generate_latest(extra) + generate_latest(shared)
    except _UNREADABLE as error:
        _Off.say(error)
        return generate_latest(extra)
