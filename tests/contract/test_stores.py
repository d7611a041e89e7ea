"""What every store must do: a directory and a bucket alike."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import (
    BlobDamaged,
    BlobMissing,
    LogCut,
    Store,
    StoreError,
    keep_result,
    load_result,
    log_key,
    open_store,
    tails,
)
from orchestrator.store.objects import ObjectStore
from tests.contract.executors import inputs_for
from tests.support.object_store import CREDENTIALS, S3Server, start_s3
from tests.support.waiting import eventually
from workers.executors.base import StopSignal
from workers.runtime.execution import execute_attempt
from workers.runtime.output import AttemptLog


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["directory", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3").url()


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def bucket(s3: S3Server) -> ObjectStore:
    store = open_store(s3.url())
    assert isinstance(store, ObjectStore)
    return store


def in_another_process(code: str, *arguments: str) -> str:
    """Run code that has everything of `orchestrator.store` at hand; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from orchestrator.store import *\n{code}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **CREDENTIALS},
    )
    return done.stdout.strip()


def test_a_log_is_read_by_offset_while_it_grows(store: Store) -> None:
    key = log_key(12345, 9)

    store.append(key, b"one\n")
    eventually(lambda: store.size(key) == 4)
    store.append(key, b"two\n")
    eventually(lambda: store.size(key) == 8)

    assert store.read(key) == b"one\ntwo\n"
    assert store.read(key, 4) == b"two\n"
    assert store.read(key, 2, 3) == b"e\nt"
    assert store.read(key, 8) == b""
    assert store.read(key, 100) == b""
    store.finish(key)


def test_what_was_appended_is_there_once_the_log_is_finished(store: Store) -> None:
    key = log_key(1, 1)
    for number in range(50):
        store.append(key, f"line {number}\n".encode())

    store.finish(key)
    store.finish(key)

    assert store.read(key) == b"".join(f"line {number}\n".encode() for number in range(50))


def test_a_line_is_readable_within_a_second(store: Store) -> None:
    key, waited = log_key(1, 2), []
    store.probe()  # a client's first call takes its time
    for seen in range(0, 700, 100):
        store.append(key, b"x" * 100)
        began = time.monotonic()
        eventually(lambda seen=seen: store.size(key) == seen + 100, every=0.01)
        waited.append(time.monotonic() - began)
    store.finish(key)

    # Of the second, the worker's own buffer may take 0.2. The median: a busy machine may hold up any one of them.
    assert statistics.median(waited) < 0.8, waited


def test_a_log_that_nobody_wrote_is_empty(store: Store) -> None:
    store.finish(log_key(1, 1))

    assert (store.read(log_key(1, 1)), store.size(log_key(1, 1))) == (b"", 0)


def test_another_process_goes_on_with_a_log(store: Store, url: str) -> None:
    """An attempt that was put off is continued by whoever claims it next."""
    key = log_key(1, 2)
    store.append(key, b"here\n")
    store.finish(key)

    code = "s = open_store(sys.argv[1]); k = log_key(1, 2); s.append(k, b'there\\n'); s.finish(k); print(s.read(k))"

    assert in_another_process(code, url) == r"b'here\nthere\n'"
    assert store.read(key) == b"here\nthere\n"


def test_the_log_of_a_killed_process_stays_readable(url: str, store: Store) -> None:
    code = (
        "import os, signal, time; s = open_store(sys.argv[1]); k = log_key(3, 4); s.append(k, b'last words\\n');"
        "print('said', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; from orchestrator.store import *\n{code}", url],
        env={**os.environ, **CREDENTIALS},
    )
    try:
        eventually(lambda: store.size(log_key(3, 4)) == 11, within=30)
    finally:
        process.kill()
        process.wait()

    assert store.read(log_key(3, 4)) == b"last words\n"


def test_a_flood_is_kept_whole_and_needs_little_memory(store: Store) -> None:
    key, piece = log_key(5, 1), bytes(range(256)) * 1024
    for _ in range(80):
        store.append(key, piece)
        for tail in getattr(store, "_tails", {}).values():
            assert len(tail._waiting) <= tails.WAITING_BYTES
    store.finish(key)

    assert store.size(key) == 80 * len(piece)
    assert hashlib.sha256(store.read(key)).digest() == hashlib.sha256(piece * 80).digest()
    assert store.read(key, 10 * len(piece) + 5, 9) == piece[5:14]


def test_a_blob_is_kept_once_under_its_digest(store: Store) -> None:
    key = store.put(7, b"data")

    assert key == "results/7/3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert store.put(7, b"data") == key
    assert store.get(key) == b"data"


def test_a_large_result_comes_back_as_it_was(store: Store) -> None:
    value = {"rows": ["ü" * 100] * 20_000}

    kept = keep_result(store, 7, value)

    assert kept.ref.startswith("results/7/")
    assert load_result(store, kept) == value


def test_many_writers_of_the_same_blob_agree(store: Store) -> None:
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

    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert store.get(keys[0]) == b"x" * 100_000


def test_a_missing_blob_is_named(store: Store) -> None:
    store.put(7, b"data")

    with pytest.raises(BlobMissing, match="has no results/8/"):
        store.get(f"results/8/{'0' * 64}")


def test_deleting_runs_takes_their_logs_and_blobs_and_nothing_else(store: Store) -> None:
    for run in (7, 8, 70, 1007):
        store.append(log_key(run, 1), b"log")
        store.finish(log_key(run, 1))
    key = store.put(7, b"data")
    kept = store.put(70, b"data")

    store.delete_runs([7, 8])
    store.delete_runs([7, 8, 9])

    assert store.size(log_key(7, 1)) == store.size(log_key(8, 1)) == 0
    with pytest.raises(BlobMissing):
        store.get(key)
    assert store.read(log_key(70, 1)) == store.read(log_key(1007, 1)) == b"log"
    assert store.get(kept) == b"data"


def test_a_store_names_the_runs_it_holds(store: Store) -> None:
    assert list(store.run_ids()) == []
    for run in (7, 70, 1007):
        store.put(run, b"data")
    store.append(log_key(2007, 1), b"log")
    store.finish(log_key(2007, 1))

    assert sorted(run for some in store.run_ids() for run in some) == [7, 70, 1007, 2007]


def test_a_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe()

    assert list(store.run_ids()) == []


@pytest.mark.parametrize(
    "key", ["logs/../../etc/passwd", "logs/1/../2", "logs/1/a/b", "/etc/passwd", "logs/1/.draft", ""]
)
def test_a_key_never_leaves_the_store(store: Store, key: str) -> None:
    for ask in (store.read, store.get, lambda key: store.append(key, b"x")):
        with pytest.raises(StoreError, match="no key"):
            ask(key)


def test_a_task_leaves_its_log_and_its_large_result_and_reads_that_of_another(store: Store) -> None:
    first = execute_attempt(
        inputs_for("shell", {"command": "echo working; python3 -c 'print([7] * 20000)'", "result": "json"}),
        reveal=lambda names: {},
        store=store,
        stop=StopSignal(),
    )
    second = execute_attempt(
        inputs_for(
            "shell",
            {"command": "wc -c < $UPBEAT_RESULT_EXTRACT"},
            attempt_id=701,
            results={"extract": first.kept},
        ),
        reveal=lambda names: {},
        store=store,
        stop=StopSignal(),
    )

    assert (first.result.failure, first.log_bytes_lost, load_result(store, first.kept)) == (None, 0, [7] * 20_000)
    assert store.read(log_key(7, 700), limit=8) == b"working\n"
    assert (second.result.failure, store.read(log_key(7, 701))) == (None, b"40001\n")


# What only objects can get wrong.


def objects_of(store: ObjectStore, key: str) -> list[int]:
    return [segment.size for segment in store._segments(store._path(key))]


def test_a_slow_log_does_not_become_many_objects(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(tails, "SMALL_BYTES", 1000)
    key = log_key(1, 1)
    for number in range(1, 31):
        bucket.append(key, b"x" * 99 + b"\n")
        eventually(lambda number=number: bucket.size(key) == number * 100, every=0.01)
    bucket.finish(key)

    assert objects_of(bucket, key) == [1000, 1000, 1000]


def test_a_damaged_blob_is_never_handed_out(bucket: ObjectStore) -> None:
    key = bucket.put(7, b"data")
    bucket._write(bucket._path(key), b"date")

    with pytest.raises(BlobDamaged):
        bucket.get(key)


def test_a_bucket_that_is_not_there_is_named_by_every_call(s3: S3Server) -> None:
    store = open_store(s3.url("nobody-made-it"))

    with pytest.raises(StoreError, match=r"the store s3://nobody-made-it/.* failed: .*bucket does not exist"):
        store.probe()
    with pytest.raises(StoreError, match="bucket does not exist"):
        store.put(1, b"x")


def test_a_server_that_is_away_is_named_with_its_address() -> None:
    store = open_store("s3://upbeat/x?endpoint=http://127.0.0.1:9&region=eu-central-1")

    with pytest.raises(StoreError, match=r"the store s3://upbeat/x at http://127.0.0.1:9 failed: .*127\.0\.0\.1:9"):
        store.probe()


def test_credentials_come_from_our_options_and_are_in_no_message(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("kept-to-itself\n")
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG); s = open_store(sys.argv[1]);"
        "print(s._connect().key, s._connect().secret, s)\ntry: s.probe()\nexcept Exception as e: print(e)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "UPBEAT_STORE_ACCESS_KEY_ID": "id-of-the-key",
        "UPBEAT_STORE_SECRET_ACCESS_KEY_FILE": str(tmp_path / "key"),
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from orchestrator.store import *\n{code}", s3.url("nobody-made-it")],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    first, *rest = done.stdout.splitlines()
    assert first.startswith("id-of-the-key kept-to-itself s3://nobody-made-it/")
    assert rest
    assert "kept-to-itself" not in "\n".join(rest)
    assert "kept-to-itself" not in done.stderr


def test_a_log_outlives_a_short_outage_of_its_store() -> None:
    down, written = threading.Event(), bytearray()

    def write(start: int, content: bytes) -> None:
        if down.is_set():
            raise StoreError("away")
        written[start:] = content

    tail = tails.Tail(find_end=lambda: len(written), write=write, name="x")
    tail.append(b"before\n")
    eventually(lambda: bytes(written) == b"before\n")
    down.set()
    tail.append(b"during\n")
    eventually(lambda: tail._problem is not None)
    tail.append(b"after\n")
    down.clear()
    tail.close()

    assert bytes(written) == b"before\nduring\nafter\n"


def test_a_log_whose_store_stays_away_says_what_was_lost_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(tails, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(tails, "WAITING_BYTES", 100)

    def write(start: int, content: bytes) -> None:
        raise StoreError("the store is away")

    tail = tails.Tail(find_end=lambda: 0, write=write, name="x")
    tail.append(b"x" * 80)
    eventually(lambda: tail._problem is not None)

    with pytest.raises(StoreError, match="the store is away"):
        tail.append(b"y" * 80)
    with pytest.raises(LogCut, match="the store is away") as cut:
        tail.close()
    assert cut.value.lost == 80
    eventually(lambda: not tail._thread.is_alive())


def test_an_attempt_counts_what_its_store_lost(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "CLOSE_SECONDS", 2.0)

    def away(path: str, content: bytes) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(bucket, "_write", away)
    log = AttemptLog(bucket, log_key(1, 1))
    log.write(b"hello\n")
    log.close()

    assert (log.lost, log.problem) == (6, "the store is away")


def test_a_local_store_does_not_pay_for_a_client_of_objects(tmp_path: Path) -> None:
    code = "open_store(sys.argv[1]).probe(); print([m for m in ('fsspec', 's3fs', 'botocore') if m in sys.modules])"

    assert in_another_process(code, str(tmp_path)) == "[]"
