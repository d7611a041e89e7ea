"""A store of objects, through fsspec: what can only be written whole and is found by listing.

A log is a row of objects, each named by the offset at which it begins, so a reader needs one listing and the objects
that it reads. Only the last one is ever written again, see `tails.py`: what a killed worker wrote stays readable as it
is, and nothing has to be put together in the end.

    <root>/<run id // 1000>/<run id>/logs/<attempt>.log/000000000000
    <root>/<run id // 1000>/<run id>/results/<SHA-256>
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from orchestrator.logs import masked
from orchestrator.store.base import RUNS_PER_SHARD, BlobDamaged, BlobMissing, StoreError, parts_of
from orchestrator.store.tails import Tail

#: Runs that are deleted at once: each costs a listing and a deletion.
DELETES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Segment:
    path: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class ObjectStore:
    """A store in a file system of fsspec, below `root`. Made anew in each process that is forked."""

    def __init__(self, connect: Callable[[], Any], root: str, *, shown: str) -> None:
        self._connect = connect
        self._root = root
        self._shown = shown
        self._lock = threading.Lock()
        self._connected: tuple[int, Any] | None = None
        self._tails: dict[str, Tail] = {}

    def __str__(self) -> str:
        return self._shown

    def append(self, key: str, data: bytes) -> None:
        prefix = self._path(key)
        with self._lock:
            self._forget_parent()
            tail = self._tails.get(key)
            if tail is None:
                tail = self._tails[key] = Tail(
                    find_end=lambda: self._end(prefix),
                    write=lambda start, content: self._write(f"{prefix}/{start:012d}", content),
                    name=key,
                )
        tail.append(data)

    def finish(self, key: str) -> None:
        with self._lock:
            self._forget_parent()
            tail = self._tails.pop(key, None)
        if tail is not None:
            tail.close()

    def read(self, key: str, offset: int = 0, limit: int | None = None) -> bytes:
        segments = self._segments(self._path(key))
        end = segments[-1].end if segments else 0
        if limit is not None:
            end = min(end, offset + limit)
        wanted = [segment for segment in segments if segment.end > offset and segment.start < end]
        if not wanted:
            return b""
        with self._translated():
            pieces = self._fs().cat_ranges(
                [segment.path for segment in wanted],
                [max(0, offset - segment.start) for segment in wanted],
                # Up to the size that was listed: the last one may grow meanwhile.
                [min(segment.size, end - segment.start) for segment in wanted],
                on_error="raise",
            )
        return b"".join(pieces)

    def size(self, key: str) -> int:
        return self._end(self._path(key))

    def put(self, run_id: int, data: bytes) -> str:
        key = f"results/{run_id}/{hashlib.sha256(data).hexdigest()}"
        self._write(self._path(key), data)
        return key

    def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            with self._translated(missing=True):
                data: bytes = self._fs().cat_file(path)
        except FileNotFoundError:
            raise BlobMissing(f"the store {self} has no {key}") from None
        if hashlib.sha256(data).hexdigest() != path.rpartition("/")[2]:
            raise BlobDamaged(f"{key} in the store {self} is damaged")
        return data

    def delete_runs(self, run_ids: Iterable[int]) -> None:
        with ThreadPoolExecutor(DELETES_AT_ONCE, "store-delete") as threads:
            for done in [threads.submit(self._delete_run, run_id) for run_id in run_ids]:
                done.result()

    def run_ids(self) -> Iterator[list[int]]:
        for shard in self._numbers_in(self._root):
            if found := self._numbers_in(f"{self._root}/{shard}"):
                yield found

    def probe(self) -> None:
        path = f"{self._root}/.probe-{uuid4().hex}"
        self._write(path, b"probe")
        with self._translated():
            self._fs().cat_file(path)
            self._fs().rm_file(path)

    def _fs(self) -> Any:
        # A client's threads and connections do not survive a fork.
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), self._connect())
        return self._connected[1]

    def _forget_parent(self) -> None:
        if self._connected is not None and self._connected[0] != os.getpid():
            self._tails.clear()

    def _path(self, key: str) -> str:
        kind, run_id, name = parts_of(key)
        return f"{self._run_path(run_id)}/{kind}/{name}"

    def _run_path(self, run_id: int) -> str:
        return f"{self._root}/{run_id // RUNS_PER_SHARD}/{run_id}"

    def _write(self, path: str, data: bytes) -> None:
        with self._translated():
            self._fs().pipe_file(path, data)

    def _segments(self, prefix: str) -> list[_Segment]:
        found = [
            _Segment(entry["name"], int(name), int(entry["size"]))
            for entry in self._listed(prefix)
            if (name := entry["name"].rpartition("/")[2]).isdigit()
        ]
        return sorted(found, key=lambda segment: segment.start)

    def _end(self, prefix: str) -> int:
        segments = self._segments(prefix)
        return segments[-1].end if segments else 0

    def _numbers_in(self, path: str) -> list[int]:
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in self._listed(path))
        return sorted(int(name) for name in names if name.isdigit())

    def _listed(self, path: str) -> list[dict[str, Any]]:
        try:
            with self._translated(missing=True):
                listed: list[dict[str, Any]] = self._fs().ls(path, detail=True)
                return listed
        except FileNotFoundError:
            return []

    def _delete_run(self, run_id: int) -> None:
        try:
            with self._translated(missing=True):
                self._fs().rm(self._run_path(run_id), recursive=True)
        except FileNotFoundError:
            return

    @contextmanager
    def _translated(self, *, missing: bool = False) -> Iterator[None]:
        """Turn whatever a client throws into a StoreError with its words; `missing` lets FileNotFoundError through."""
        try:
            yield
        except FileNotFoundError as error:
            if missing and "bucket does not exist" not in str(error):
                raise
            raise StoreError(f"the store {self} failed: {_words(error)}") from error
        except Exception as error:
            raise StoreError(f"the store {self} failed: {_words(error)}") from error


def _words(error: Exception) -> str:
    text = str(error) or repr(error)
    return masked(f"{type(error).__name__}: {text.splitlines()[0]}")
