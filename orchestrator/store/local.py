"""A directory as a store. One process appends to a log, any number read it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from orchestrator.store.base import RUNS_PER_SHARD, BlobDamaged, BlobMissing, StoreError, StoreFull, parts_of

KINDS = ("logs", "results")


class LocalStore:
    """A store in a directory, made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __str__(self) -> str:
        return str(self.root)

    def append(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            try:
                fd = _open_log(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
                fd = _open_log(path)
            try:
                _write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._failure(error) from error

    def finish(self, key: str) -> None:
        """Nothing waits: what was appended is in its file."""

    def read(self, key: str, offset: int = 0, limit: int | None = None) -> bytes:
        try:
            with self._path(key).open("rb") as log:
                log.seek(offset)
                return log.read(-1 if limit is None else limit)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._failure(error) from error

    def size(self, key: str) -> int:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._failure(error) from error

    def put(self, run_id: int, data: bytes) -> str:
        key = f"results/{run_id}/{hashlib.sha256(data).hexdigest()}"
        path = self._path(key)
        try:
            if path.exists():
                return key
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            fd, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
            try:
                try:
                    _write(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                # Whoever finds the name finds the whole blob, and finds it after a power cut too.
                os.rename(draft, path)
            except OSError:
                with suppress(OSError):
                    os.unlink(draft)
                raise
            _sync_directory(path.parent)
        except OSError as error:
            raise self._failure(error) from error
        return key

    def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise BlobMissing(f"the store {self} has no {key}") from None
        except OSError as error:
            raise self._failure(error) from error
        if hashlib.sha256(data).hexdigest() != path.name:
            raise BlobDamaged(f"{key} in the store {self} is damaged")
        return data

    def delete_runs(self, run_ids: Iterable[int]) -> None:
        for run_id in run_ids:
            for kind in KINDS:
                try:
                    shutil.rmtree(self._run_directory(kind, run_id))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise self._failure(error) from error

    def run_ids(self) -> Iterator[list[int]]:
        for kind in KINDS:
            for shard in self._numbers_in(self.root / kind):
                if found := self._numbers_in(self.root / kind / str(shard)):
                    yield found

    def probe(self) -> None:
        path = self.root / f".probe-{uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(b"probe")
                path.read_bytes()
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error) from error

    def _numbers_in(self, directory: Path) -> list[int]:
        try:
            return sorted(int(entry.name) for entry in os.scandir(directory) if entry.name.isdigit())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failure(error) from error

    def _path(self, key: str) -> Path:
        kind, run_id, name = parts_of(key)
        return self._run_directory(kind, run_id) / name

    def _run_directory(self, kind: str, run_id: int) -> Path:
        return self.root / kind / str(run_id // RUNS_PER_SHARD) / str(run_id)

    def _failure(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(f"the store {self} is full: {error.strerror}")
        return StoreError(f"the store {self} failed: {error.strerror}")


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
