"""Faults that no real Kafka shows on demand: librdkafka's mock cluster in a process of its own.

    with MockKafka(topics={"orders": 4}) as mock:
        mock.fail_commits("ILLEGAL_GENERATION", 2)     # the next two commits are refused
        consume(mock.bootstrap)

It keeps messages in memory, drops what exceeds 5 MiB or 100,000 sets a partition, and knows no admin calls but making a
topic: for injected faults only, everything else is shown on the real one.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import confluent_kafka
from confluent_kafka import KafkaError

PRODUCE = 0
OFFSET_COMMIT = 8


class MockKafka:
    """A mock cluster of one broker, served to any process of this machine over loopback."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kafka_mock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().strip()
        assert self.bootstrap, "the mock cluster did not start"
        for name, partitions in topics.items():
            self._do("topic", name, partitions)

    def fail_commits(self, name: str, times: int = 1) -> None:
        """Refuse the next commits of offsets with an error, by Kafka's name for it."""
        self._do("errors", OFFSET_COMMIT, [getattr(KafkaError, name)] * times)

    def fail_produces(self, name: str, times: int = 1) -> None:
        """Refuse the next requests that bring messages."""
        self._do("errors", PRODUCE, [getattr(KafkaError, name)] * times)

    def close(self) -> None:
        """End the cluster, as the end of its input does. Safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, *command: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer == "0", f"the mock cluster answered {answer!r} to {command}"


def _library() -> ctypes.CDLL:
    """The client's own shared library, as its wheel brings it."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("rd_kafka_conf_new", ctypes.c_void_p, []),
        ("rd_kafka_conf_set", ctypes.c_int, [ctypes.c_void_p, *[ctypes.c_char_p] * 3, ctypes.c_size_t]),
        ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
        ("rd_kafka_mock_cluster_destroy", None, [ctypes.c_void_p]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [ctypes.c_void_p, ctypes.c_int32]),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.c_void_p],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def main() -> None:
    """Print where the cluster listens, then obey one JSON list a line until the input ends."""
    library = _library()
    said = ctypes.create_string_buffer(512)
    conf = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(conf, b"log_level", b"0", said, len(said))
    client = library.rd_kafka_new(0, conf, said, len(said))
    assert client, said.value
    cluster = library.rd_kafka_mock_cluster_new(client, 1)
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 200)
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["topic", str(name), int(partitions)]:
                code = library.rd_kafka_mock_topic_create(cluster, name.encode(), partitions, 1)
            case ["errors", int(api), list(codes)]:
                errors = (ctypes.c_int * len(codes))(*codes)
                library.rd_kafka_mock_push_request_errors_array(cluster, api, len(codes), errors)
                code = 0
            case _:
                code = -1
        print(code, flush=True)
    library.rd_kafka_mock_cluster_destroy(cluster)


if __name__ == "__main__":
    main()
