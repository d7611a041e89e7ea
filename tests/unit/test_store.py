"""Logs that grow while they are read, results that are what was written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.errors import Misconfigured
from orchestrator.store import (
    INLINE_BYTES,
    BlobDamaged,
    BlobMissing,
    KeptResult,
    LocalStore,
    ResultRefused,
    StoreError,
    StoreFull,
    check_location,
    keep_result,
    load_result,
    local,
    log_key,
    open_store,
    results,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_another_process_reads_what_was_appended(store: LocalStore) -> None:
    store.append(log_key(1, 2), b"seen\n")
    code = "import sys; from orchestrator.store import *; print(open_store(sys.argv[1]).read(log_key(1, 2)))"

    seen = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)

    assert seen.stdout == "b'seen\\n'\n"


def test_many_writers_of_the_same_blob_agree(store: LocalStore) -> None:
    gate = threading.Barrier(8)
    keys: list[str] = []

    def put() -> None:
        gate.wait()
        keys.append(store.put(7, b"x" * 100_000))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(keys)) == 1
    assert store.get(keys[0]) == b"x" * 100_000
    assert len(list((store.root / "results/0/7").iterdir())) == 1


def test_a_damaged_or_missing_blob_is_never_handed_out(store: LocalStore) -> None:
    key = store.put(7, b"data")
    (store.root / "results/0/7" / key.rpartition("/")[2]).write_bytes(b"date")

    with pytest.raises(BlobDamaged):
        store.get(key)
    with pytest.raises(BlobMissing):
        store.get(key.replace("/7/", "/8/"))


def test_a_full_disk_is_named_with_its_store(monkeypatch: pytest.MonkeyPatch, store: LocalStore) -> None:
    """/dev/full answers every write as a full disk does."""
    monkeypatch.setattr(local, "_open_log", lambda path: os.open("/dev/full", os.O_WRONLY))

    with pytest.raises(StoreFull, match=f"the store {store} is full: No space left on device"):
        store.append(log_key(1, 1), b"x")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LocalStore(tmp_path / "file")

    with pytest.raises(StoreError, match="Not a directory"):
        store.append(log_key(1, 1), b"x")
    with pytest.raises(StoreError, match="Not a directory"):
        store.put(1, b"x")


def test_a_store_is_opened_by_path_or_file_url(tmp_path: Path) -> None:
    assert str(open_store(str(tmp_path))) == str(tmp_path)
    assert str(open_store(f"file://{tmp_path}/a%20b")) == f"{tmp_path}/a b"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/logs", "ftp:// is not a directory, a file:// URL of one, or s3://bucket/prefix"),
        ("file://host/logs", "file:// is not a directory"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket?endpont=http://x", "'endpont' is not known: expected endpoint or region"),
        ("s3://bucket?endpoint=minio:9000", "the endpoint 'minio:9000' is not an http"),
        ("s3://id:hunter22@bucket", "credentials do not belong in the URL"),
    ],
)
def test_a_url_of_no_store_is_named_but_never_its_password(url: str, says: str) -> None:
    for ask in (open_store, check_location):
        with pytest.raises(Misconfigured, match=f"UPBEAT_STORE_URL: .*{says}") as problem:
            ask(url)
        assert "hunter22" not in problem.value.message


def test_small_results_stay_in_the_ledger_and_large_ones_go_to_the_store(store: LocalStore) -> None:
    small, large = {"n": 1}, {"rows": ["x" * 100] * 1000}

    kept_small, kept_large = keep_result(store, 7, small), keep_result(store, 7, large)

    assert kept_small == KeptResult(inline=small)
    assert (kept_large.inline, kept_large.ref[:10]) == (None, "results/7/")
    assert load_result(store, kept_small) == small
    assert load_result(store, kept_large) == large
    assert keep_result(store, 7, None) == KeptResult()


def test_the_border_of_inline_results_is_their_size_as_json(store: LocalStore) -> None:
    assert keep_result(store, 7, "x" * (INLINE_BYTES - 2)).ref == ""
    assert keep_result(store, 7, "x" * (INLINE_BYTES - 1)).ref != ""


def test_results_that_no_database_takes_are_refused(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]

    for value, reason in [
        ({"a": ["x\0"]}, "NUL"),
        ({"\ud800": 1}, "surrogate"),
        (float("nan"), "not JSON"),
        (object(), "not JSON"),
        (deep, "200 levels"),
    ]:
        with pytest.raises(ResultRefused, match=reason):
            keep_result(store, 7, value)

    monkeypatch.setattr(results, "RESULT_BYTES", 20_000)
    with pytest.raises(ResultRefused, match="more than 20000"):
        keep_result(store, 7, "x" * 30_000)
