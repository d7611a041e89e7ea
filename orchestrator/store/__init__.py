"""Logs of attempts and large results: what is too big for the ledger.

Logs grow while others read them; results are written once, named by their digest. Everything of a run lies
together, so that it goes with its run. A store is a local directory, which several hosts may mount, or a bucket.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.conf import options
from orchestrator.errors import Misconfigured
from orchestrator.store.base import (
    BlobDamaged,
    BlobMissing,
    LogCut,
    Store,
    StoreError,
    StoreFull,
    log_key,
)
from orchestrator.store.local import LocalStore
from orchestrator.store.results import (
    INLINE_BYTES,
    RESULT_BYTES,
    KeptResult,
    ResultRefused,
    keep_result,
    load_result,
)

__all__ = [
    "INLINE_BYTES",
    "RESULT_BYTES",
    "BlobDamaged",
    "BlobMissing",
    "KeptResult",
    "LocalStore",
    "LogCut",
    "ResultRefused",
    "Store",
    "StoreError",
    "StoreFull",
    "check_location",
    "keep_result",
    "load_result",
    "log_key",
    "open_store",
    "store_of_process",
]


def open_store(url: str) -> Store:
    """Open the store that `UPBEAT_STORE_URL` names: a directory, a `file://` URL of one, or `s3://bucket/prefix`.

    Touches nothing yet: a store that cannot be used is found by `probe` and by the first write. Raises Misconfigured.
    """
    parts = urlsplit(url)
    if not parts.scheme:
        return LocalStore(Path(url))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        # The client takes a second to import, which an installation with a directory need not pay.
        from orchestrator.store.s3 import open_bucket

        return open_bucket(url)
    raise Misconfigured(
        f"UPBEAT_STORE_URL: {parts.scheme}:// is not a directory, a file:// URL of one, or s3://bucket/prefix"
    )


@lru_cache(maxsize=1)
def store_of_process() -> Store:
    """The store of this process, opened once. Raises Misconfigured."""
    return open_store(options().store_location)


def check_location(url: str) -> None:
    """Raise Misconfigured for a URL that names no store; imports no client and touches nothing."""
    if urlsplit(url).scheme == "s3":
        from orchestrator.store.s3 import read_bucket_url

        read_bucket_url(url)
    else:
        open_store(url)
