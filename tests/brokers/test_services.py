"""The test servers themselves: what kill tests rely on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support import kafka, services
from tests.support.waiting import eventually

pytestmark = pytest.mark.kill


def test_a_killed_redis_comes_back_on_the_same_port_with_its_data(own_redis: services.RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.set("kept", "yes")
        eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
        url = own_redis.url

        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        own_redis.start()

        assert own_redis.url == url
        assert client.get("kept") == b"yes"


def test_a_killed_postgres_keeps_what_was_committed(own_postgres: services.PostgresServer) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("create table kept as select 1 as n")
        backends = own_postgres.processes

        own_postgres.kill()
        assert not [p for p in backends if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        own_postgres.start()

    with psycopg.connect(own_postgres.url) as connection:
        assert connection.execute("select n from kept").fetchone() == (1,)


def test_a_paused_server_holds_its_connections_and_answers_nothing(own_redis: services.RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.3) as client:
        client.ping()
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own_redis.resume()
        eventually(client.ping, ignoring=(redis.RedisError,))


def test_a_killed_rabbitmq_comes_back_and_leaves_nothing_when_closed() -> None:
    with services.start_rabbitmq() as server:
        server.kill()
        server.start()
        services.ping(server.url)
        marker = str(server.directory)

    assert not [p for p in psutil.process_iter() if marker in _environment(p)]
    assert not server.directory.exists()


def test_a_killed_kafka_comes_back_on_the_same_port_with_its_data(own_kafka: kafka.KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("kept", 3)])["kept"].result(10)

    own_kafka.kill()
    own_kafka.start()

    assert len(admin.list_topics(timeout=10).topics["kept"].partitions) == 3


def _environment(process: psutil.Process) -> str:
    try:
        return "\n".join(process.environ().values())
    except (psutil.Error, OSError):
        return ""


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "failure"])
def test_a_run_stops_all_that_it_started_however_it_ends(ending: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    suite = tmp_path / "test_it.py"
    body = "assert False" if ending == "failure" else "import time; open(path, 'w').close(); time.sleep(60)"
    suite.write_text(f"path = {str(tmp_path / 'reached')!r}\ndef test_it():\n    {body}\n")
    names = [f"UPBEAT_TEST_{name}" for name in ("DATABASE_URL", "REDIS_URL", "RABBITMQ_URL", "KAFKA_URL", "RUN")]
    environ = {key: value for key, value in os.environ.items() if key not in names and not key.startswith("PYTEST_")}
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.support.run", "-c", str(tmp_path / "pytest.ini"), str(suite)],
        env={**environ, "UPBEAT_TEST_SUITE": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if ending != "failure":
            eventually((tmp_path / "reached").exists, within=90)
            os.killpg(run.pid, signal.Signals[ending])
        assert run.wait(90) != 0
    finally:
        run.kill()

    eventually(
        lambda: not [p for p in psutil.process_iter() if str(tmp_path) in _environment(p)],
        within=5,
        saying="all is gone",
    )


@pytest.mark.parametrize(
    "start", ["services.start_postgres", "services.start_redis", "services.start_rabbitmq", "kafka.start_kafka"]
)
def test_a_server_ends_with_the_process_that_started_it_even_by_sigkill(start: str, tmp_path: Path) -> None:
    program = (
        "import time; from tests.support import kafka, services; "
        f"server = {start}(); print(server.directory, *(p.pid for p in server.processes), flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        directory, *pids = starter.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
        starter.kill()

    eventually(
        lambda: not any(services._alive(process) for process in processes) and not Path(directory).exists(),
        within=20,
        saying="server and data are gone",
    )


def test_a_server_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(services.MissingProgram, match="nothing-of-that-name is not installed"):
        services.program("nothing-of-that-name", "/nowhere/*/bin/nothing")


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    assert services.free_port() < first
