"""Every metric: its name, labels, buckets and meaning, in one place.

Each process counts in memory-mapped files of its own under UPBEAT_METRICS_DIR, in the format of prometheus_client's
multiprocess mode; `/metrics` adds them up. So a process that is killed loses no count, an increment is a microsecond
without a system call, and workers never import the library (100 ms). A process holds a lock on its files: what is
not locked belongs to a dead process, and a scrape folds it into one file of the dead.

Counting never fails and never waits: where the directory cannot be used, it does nothing, and says so once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import threading
import uuid
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from orchestrator.conf import options

log = logging.getLogger(__name__)

_FIRST_BYTES: Final = 1 << 16
_USED = struct.Struct("i")
_LENGTH = struct.Struct("i")
_VALUE = struct.Struct("d")
_VALUE_AND_TIME = struct.Struct("dd")


def directory() -> Path:
    """Where the processes of this host count."""
    return Path(options().metrics_dir or options().home_path / "metrics")


class _Values:
    """A file of numbers by key, mapped into memory: used bytes, then entries of length, key, value, time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: dict[str, int] = {}
        # Under a name that no scrape looks at until it is locked: an unlocked one would pass for a dead process's.
        new = path.with_suffix(".new") if not path.exists() else path
        self._file = open(new, "a+b")  # noqa: SIM115  open as long as the process lives
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (size := os.fstat(self._file.fileno()).st_size) < _FIRST_BYTES:
            size = _FIRST_BYTES
            # Reserved, not sparse: a full disk is an error here, not a SIGBUS at an increment.
            os.posix_fallocate(self._file.fileno(), 0, size)
        self._map = mmap.mmap(self._file.fileno(), size)
        self._used = _USED.unpack_from(self._map, 0)[0]
        if self._used:
            self._positions = {key: position for key, position, _ in _entries(self._map, self._used)}
        else:
            self._used = 8
            _USED.pack_into(self._map, 0, self._used)
        if new is not path:
            new.rename(path)

    def position(self, key: str) -> int:
        """Return where the value of the key lies, making its entry if it has none."""
        if (known := self._positions.get(key)) is not None:
            return known
        length = len(key.encode())
        text = key.encode().ljust(_padded(length))
        need = _LENGTH.size + len(text) + _VALUE_AND_TIME.size
        if self._used + need > len(self._map):
            size = len(self._map) * 2
            os.posix_fallocate(self._file.fileno(), 0, size)
            self._map.close()
            self._map = mmap.mmap(self._file.fileno(), size)
        at = self._used
        _LENGTH.pack_into(self._map, at, length)
        self._map[at + _LENGTH.size : at + _LENGTH.size + len(text)] = text
        position = at + _LENGTH.size + len(text)
        _VALUE_AND_TIME.pack_into(self._map, position, 0.0, 0.0)
        self._used += need
        # Last: a reader sees whole entries only.
        _USED.pack_into(self._map, 0, self._used)
        self._positions[key] = position
        return position

    def add(self, position: int, amount: float) -> None:
        _VALUE.pack_into(self._map, position, _VALUE.unpack_from(self._map, position)[0] + amount)

    def close(self) -> None:
        self._map.close()
        self._file.close()


def _padded(length: int) -> int:
    """Length of a key with the blanks behind it: values are aligned to 8 bytes."""
    return length + 8 - (length + _LENGTH.size) % 8


def _entries(data: Any, used: int) -> Iterator[tuple[str, int, float]]:
    at = 8
    while at < used:
        length = _LENGTH.unpack_from(data, at)[0]
        text = bytes(data[at + _LENGTH.size : at + _LENGTH.size + length]).decode()
        position = at + _LENGTH.size + _padded(length)
        yield text, position, _VALUE.unpack_from(data, position)[0]
        at = position + _VALUE_AND_TIME.size


class _Process:
    """The files of this process, one for each kind of metric; reopened in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.generation = 0
        self._files: dict[str, _Values] | None = {}

    def values(self, kind: str) -> _Values | None:
        if self._files is None:
            return None
        if (values := self._files.get(kind)) is None:
            try:
                folder = directory()
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{kind}_{os.getpid()}-{uuid.uuid4().hex[:8]}.db"
                values = self._files[kind] = _Values(folder / name)
            except OSError as error:
                self._files = None
                log.warning("metrics are off: their directory cannot be used", extra={"reason": str(error)})
                return None
        return values

    def after_fork(self) -> None:
        """Count in files of this process's own from now on; the parent's stay the parent's."""
        inherited, self._files = self._files, {}
        self.lock = threading.Lock()
        self.generation += 1
        for values in (inherited or {}).values():
            values.close()


_process = _Process()
os.register_at_fork(after_in_child=_process.after_fork)


class _Child:
    """A metric with its labels' values: knows where its numbers lie in this process's file."""

    __slots__ = ("_generation", "_keys", "_kind", "_positions", "_values")

    def __init__(self, kind: str, keys: Sequence[str]) -> None:
        self._kind = kind
        self._keys = keys
        self._generation = -1
        self._positions: list[int] = []
        self._values: _Values | None = None

    def _add(self, *changes: tuple[int, float]) -> None:
        process = _process
        try:
            with process.lock:
                if self._generation != process.generation:
                    self._values = process.values(self._kind)
                    self._positions = [self._values.position(key) for key in self._keys] if self._values else []
                    self._generation = process.generation
                if self._values is not None:
                    for index, amount in changes:
                        self._values.add(self._positions[index], amount)
        except Exception as error:  # a count must never break the work that it counts
            self._values = None
            self._generation = process.generation
            log.warning("a metric is off", extra={"reason": str(error)})


class CounterChild(_Child):
    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add to the counter. About a microsecond."""
        self._add((0, amount))


class HistogramChild(_Child):
    __slots__ = ("_buckets",)

    def __init__(self, kind: str, keys: Sequence[str], buckets: Sequence[float]) -> None:
        super().__init__(kind, keys)
        self._buckets = buckets

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._add((0, value), (1 + bisect_left(self._buckets, value), 1))


class _Metric:
    """What a metric is called, what it means, and its children by their labels' values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(labels)
        self._children: dict[tuple[str, ...], Any] = {}
        METRICS.append(self)

    def _key(self, name: str, suffix: str, values: tuple[str, ...], **more: str) -> str:
        labels = dict(zip(self.label_names, values, strict=True)) | more
        return json.dumps((name, name + suffix, labels, self.help_text), sort_keys=True)


METRICS: list[_Metric] = []


class Counter(_Metric):
    def labels(self, *values: str) -> CounterChild:
        """Return the counter of these labels' values, in the order of their names."""
        try:
            return self._children[values]
        except KeyError:
            key = self._key(self.name.removesuffix("_total"), "_total", tuple(map(str, values)))
            return self._children.setdefault(values, CounterChild("counter", [key]))

    def inc(self, amount: float = 1) -> None:
        self.labels().inc(amount)


class Histogram(_Metric):
    def __init__(self, name: str, help_text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> None:
        super().__init__(name, help_text, labels)
        self._buckets = tuple(float(bucket) for bucket in buckets)

    def labels(self, *values: str) -> HistogramChild:
        """Return the histogram of these labels' values, in the order of their names."""
        try:
            return self._children[values]
        except KeyError:
            texts = tuple(map(str, values))
            bounds = [*map(str, self._buckets), "+Inf"]
            keys = [self._key(self.name, "_sum", texts)]
            keys += [self._key(self.name, "_bucket", texts, le=bound) for bound in bounds]
            return self._children.setdefault(values, HistogramChild("histogram", keys, self._buckets))

    def observe(self, value: float) -> None:
        self.labels().observe(value)


_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_RUNS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)

CLAIMS = Counter(
    "upbeat_claims_total", "Task messages that asked for their task run, by result: claimed, or why not.", ["result"]
)
SETTLES = Counter("upbeat_settles_total", "Attempts that ended, by the state that was written.", ["state"])
QUEUE_WAIT = Histogram("upbeat_queue_wait_seconds", "Seconds from ready to claimed, by pool.", ["pool"], buckets=_WAITS)
TASK_RUN = Histogram(
    "upbeat_task_run_seconds", "Seconds that an attempt ran, by type of its task.", ["type"], buckets=_RUNS
)
HEALS = Counter("upbeat_heals_total", "What the reconciler had to set right, by cause.", ["cause"])
LEASE_LOSSES = Counter(
    "upbeat_lease_losses_total", "Attempts whose lease expired or moved on before their outcome was written."
)
RUNS_STARTED = Counter("upbeat_runs_started_total", "Runs that were recorded, whatever triggered them.")
RUNS_ENDED = Counter("upbeat_runs_ended_total", "Runs that ended, by state.", ["state"])
API_CALLS = Counter("upbeat_api_calls_total", "Calls to the API, by method and status.", ["method", "status"])


@contextmanager
def _scrape_alone(folder: Path) -> Iterator[None]:
    """Keep two scrapes apart: a half folded file would look like a counter that fell."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "scrape.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def exposition(extra_collectors: Sequence[Any] = ()) -> bytes:
    """Return all metrics of this host as Prometheus reads them, with what the collectors add."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    for collector in extra_collectors:
        registry.register(collector)
    folder = directory()
    try:
        with _scrape_alone(folder):
            fold_dead_files(folder)
            MultiProcessCollector(registry, str(folder))
            return generate_latest(registry)
    except OSError as error:
        log.warning("metrics are off: their directory cannot be used", extra={"reason": str(error)})
        registry = CollectorRegistry()
        for collector in extra_collectors:
            registry.register(collector)
        return generate_latest(registry)


def fold_dead_files(folder: Path) -> int:
    """Add the files of processes that are gone to one file of the dead; return how many there were."""
    folded = 0
    for path in folder.glob("*.db"):
        if path.name.endswith("_dead.db"):
            continue
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            data = file.read()
            dead = _Values(folder / f"{path.name.split('_')[0]}_dead.db")
            try:
                # First, so that a crash in between loses the counts of one dead process instead of doubling them.
                path.unlink()
                if len(data) >= 8:
                    for key, _, value in _entries(data, min(_USED.unpack_from(data, 0)[0], len(data))):
                        dead.add(dead.position(key), value)
            finally:
                dead.close()
        folded += 1
    return folded
