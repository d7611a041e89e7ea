"""What a store must do, its keys and its errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Protocol

from orchestrator.errors import NotFound, UpbeatError

KEY = re.compile(r"(logs|results)/(\d+)/([A-Za-z0-9][A-Za-z0-9._-]*)")
#: Runs that share a directory, so that none grows beyond what a file system likes, or a listing.
RUNS_PER_SHARD = 1000


class StoreError(UpbeatError):
    """The store could not be read or written."""

    code: ClassVar[str] = "store_failed"
    status: ClassVar[int] = 503


class StoreFull(StoreError):
    """The store has no space left."""

    code = "store_full"


class LogCut(StoreError):
    """The end of a log could not be kept; `lost` is how many bytes."""

    code = "log_cut"

    def __init__(self, message: str, *, lost: int) -> None:
        super().__init__(message)
        self.lost = lost


class BlobMissing(NotFound):
    """The store has no such result."""

    code = "result_missing"


class BlobDamaged(StoreError):
    """A stored result is not what was written."""

    code = "result_damaged"


class Store(Protocol):
    """What a store must do. Keys come from `log_key` and `put`. Safe to use from many threads."""

    def append(self, key: str, data: bytes) -> None:
        """Add to a log; readable within a second, by every process. Raises StoreError, StoreFull."""
        ...

    def finish(self, key: str) -> None:
        """Return once all that this process appended can be read; call it after the last `append`.

        Raises LogCut for what could not be kept. Safe to call twice, and for a log that nobody wrote.
        """
        ...

    def read(self, key: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Return a log's bytes from `offset`: `limit` of them, or as many as there are."""
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

    def delete_runs(self, run_ids: Iterable[int]) -> None:
        """Forget the logs and blobs of runs; safe to repeat."""
        ...

    def run_ids(self) -> Iterator[list[int]]:
        """Yield the ids of the runs of which something is stored, a thousand or fewer at a time, in any order."""
        ...

    def probe(self) -> None:
        """Write, read and remove something: raises StoreError if this process cannot work with the store."""
        ...


def log_key(run_id: int, attempt_id: int) -> str:
    """Return the key of an attempt's log."""
    return f"logs/{run_id}/{attempt_id}.log"


def parts_of(key: str) -> tuple[str, int, str]:
    """Return kind, run id and name; raises StoreError for what is no key, so that none ever leaves the store."""
    match = KEY.fullmatch(key)
    if match is None:
        raise StoreError(f"{key!r} is no key of the store")
    kind, run_id, name = match.groups()
    return kind, int(run_id), name
