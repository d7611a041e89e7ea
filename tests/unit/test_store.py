"""Logs that grow while they are read, results that are what was written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import store as store_module
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
    keep_result,
    load_result,
    log_key,
    open_store,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_log_is_read_by_offset_while_it_grows(store: LocalStore) -> None:
    key = log_key(12345, 9)

    store.append(key, b"one\n")
    store.append(key, b"two\n")

    assert store.size(key) == 8
    assert store.read(key) == b"one\ntwo\n"
    assert store.read(key, 4) == b"two\n"
    assert store.read(key, 2, 3) == b"e\nt"
    assert store.read(key, 8) == b""
    assert store.read(key, 100) == b""


def test_a_log_that_nobody_wrote_is_empty(store: LocalStore) -> None:
    assert (store.read(log_key(1, 1)), store.size(log_key(1, 1))) == (b"", 0)


def test_another_process_reads_what_was_appended(store: LocalStore) -> None:
    store.append(log_key(1, 2), b"seen\n")
    code = "import sys; from orchestrator.store import *; print(open_store(sys.argv[1]).read(log_key(1, 2)))"

    seen = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)

    assert seen.stdout == "b'seen\\n'\n"


def test_a_blob_is_kept_once_under_its_digest(store: LocalStore) -> None:
    key = store.put(7, b"data")

    assert key == "results/7/3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert store.put(7, b"data") == key
    assert store.get(key) == b"data"


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


def test_deleting_a_run_takes_its_logs_and_blobs_and_nothing_else(store: LocalStore) -> None:
    for run in (7, 8):
        store.append(log_key(run, 1), b"log")
        store.put(run, b"data")

    store.delete_run(7)
    store.delete_run(7)

    assert store.size(log_key(7, 1)) == 0
    assert store.size(log_key(8, 1)) == 3
    assert [path.name for path in (store.root / "results/0").iterdir()] == ["8"]


@pytest.mark.parametrize(
    "key", ["logs/../../etc/passwd", "logs/1/../2", "logs/1/a/b", "/etc/passwd", "logs/1/.draft", ""]
)
def test_a_key_never_leaves_the_store(store: LocalStore, key: str) -> None:
    with pytest.raises(StoreError, match="no key"):
        store.read(key)


def test_a_full_disk_is_named_with_its_store(monkeypatch: pytest.MonkeyPatch, store: LocalStore) -> None:
    """/dev/full answers every write as a full disk does."""
    monkeypatch.setattr(store_module, "_open_log", lambda path: os.open("/dev/full", os.O_WRONLY))

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
    with pytest.raises(Misconfigured, match="UPBEAT_STORE_URL"):
        open_store("ftp://host/logs")


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

    monkeypatch.setattr(store_module, "RESULT_BYTES", 20_000)
    with pytest.raises(ResultRefused, match="more than 20000"):
        keep_result(store, 7, "x" * 30_000)
