"""Logs of attempts and large results: what is too big for the ledger.

Logs grow while others read them; results are written once, named by their digest. Everything of a run lies
together, so that it goes with its run. Here the store is a local directory, which several hosts may mount.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

from orchestrator.errors import Misconfigured, NotFound, UpbeatError

#: Results up to this size stay in the ledger.
INLINE_BYTES = 16 * 1024
#: Results above this size are refused.
RESULT_BYTES = 64 * 1024 * 1024
#: Nesting that every reader of a result can still follow.
RESULT_DEPTH = 200

KEY = re.compile(r"(logs|results)/(\d+)/([A-Za-z0-9][A-Za-z0-9._-]*)")
#: Runs that share a directory, so that none grows beyond what a file system likes.
RUNS_PER_SHARD = 1000


class StoreError(UpbeatError):
    """The store could not be read or written."""

    code: ClassVar[str] = "store_failed"
    status: ClassVar[int] = 503


class StoreFull(StoreError):
    """The store has no space left."""

    code = "store_full"


class BlobMissing(NotFound):
    """The store has no such result."""

    code = "result_missing"


class BlobDamaged(StoreError):
    """A stored result is not what was written."""

    code = "result_damaged"


class ResultRefused(UpbeatError):
    """The result cannot be kept."""

    code = "result_refused"


class Store(Protocol):
    """What a store must do. Keys come from `log_key` and `put`."""

    def append(self, key: str, data: bytes) -> None:
        """Add to a log; readable at once. Raises StoreError, StoreFull."""
        ...

    def read(self, key: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Return a log's bytes from `offset`; empty at its end and for a log that nobody wrote."""
        ...

    def size(self, key: str) -> int:
        """Return a log's size, 0 if nobody wrote it."""
        ...

    def put(self, run_id: int, data: bytes) -> str:
        """Keep a blob with its run and return its key, which holds its SHA-256. Durable on return, safe to repeat."""
        ...

    def get(self, key: str) -> bytes:
        """Return a blob, its digest checked. Raises BlobMissing, BlobDamaged."""
        ...

    def delete_run(self, run_id: int) -> None:
        """Forget the logs and blobs of a run; safe to repeat."""
        ...


def open_store(url: str) -> Store:
    """Open the store that `UPBEAT_STORE_URL` names: a directory, or a `file://` URL of one."""
    parts = urlsplit(url)
    if not parts.scheme:
        return LocalStore(Path(url))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalStore(Path(unquote(parts.path)))
    raise Misconfigured(f"UPBEAT_STORE_URL: {parts.scheme}:// is not a directory or a file:// URL")


def log_key(run_id: int, attempt_id: int) -> str:
    """Return the key of an attempt's log."""
    return f"logs/{run_id}/{attempt_id}.log"


class LocalStore:
    """A directory. One process appends to a log, any number read it."""

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

    def delete_run(self, run_id: int) -> None:
        for kind in ("logs", "results"):
            directory = self._run_directory(kind, run_id)
            try:
                shutil.rmtree(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failure(error) from error

    def _path(self, key: str) -> Path:
        match = KEY.fullmatch(key)
        if match is None:
            raise StoreError(f"{key!r} is no key of the store")
        kind, run_id, name = match.groups()
        return self._run_directory(kind, int(run_id)) / name

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


@dataclass(frozen=True, slots=True)
class KeptResult:
    """Where a result lies: in the ledger (`inline`) or, above 16 KiB, in the store (`ref`)."""

    inline: Any = None
    ref: str = ""


def keep_result(store: Store, run_id: int, value: Any) -> KeptResult:
    """Keep a task's result and return where. Raises ResultRefused for what no task may return, StoreError."""
    if value is None:
        return KeptResult()
    problem = _unstorable(value)
    if problem:
        raise ResultRefused(f"the result {problem}")
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultRefused(f"the result is not JSON: {error}") from None
    data = text.encode()
    if len(data) <= INLINE_BYTES:
        return KeptResult(inline=value)
    if len(data) > RESULT_BYTES:
        raise ResultRefused(f"the result has {len(data)} bytes, more than {RESULT_BYTES}")
    return KeptResult(ref=store.put(run_id, data))


def load_result(store: Store, kept: KeptResult) -> Any:
    """Return a result wherever it lies."""
    return json.loads(store.get(kept.ref)) if kept.ref else kept.inline


def _unstorable(value: Any) -> str:
    """Say what PostgreSQL would refuse in a JSON column: settling must not fail over it again and again."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > RESULT_DEPTH:
            return f"is nested deeper than {RESULT_DEPTH} levels"
        if isinstance(item, str):
            if "\0" in item:
                return "holds a NUL character"
            if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                return "holds half of a surrogate pair"
        elif isinstance(item, dict):
            pending.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, (list, tuple)):
            pending.extend((part, depth + 1) for part in item)
    return ""
