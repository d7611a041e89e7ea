"""The broker of the embedded profile: a real server, its data, its password, its port."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.embedded import provider as providers
from orchestrator.embedded.home import Home, adopt_home
from orchestrator.embedded.provider import GivenUrl, OwnServer, choose_provider
from tests.support.waiting import eventually


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "with space" / "home")
    home.prepare()
    return home


@contextlib.contextmanager
def running(server: OwnServer) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(server.command(), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            eventually(server.answers, within=20)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("find", providers.PROGRAMS, ids=lambda find: find.__name__)
def test_each_server_keeps_its_data_over_a_kill(home: Home, find) -> None:
    program = find()
    if program is None:
        pytest.skip(f"no {find.__name__} on this machine")
    server = OwnServer(home, program)
    with running(server), redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)

    again = OwnServer(home, program)

    assert again.url == server.url
    with running(again), redis.Redis.from_url(again.url) as client:
        assert client.get("kept") == b"yes"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_nobody_without_the_password_gets_in(home: Home) -> None:
    server = choose_provider({}, home)
    assert isinstance(server, OwnServer)

    with running(server), redis.Redis(port=int(server.url.rpartition(":")[2].partition("/")[0])) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_a_port_that_somebody_else_took_is_left_to_him(home: Home) -> None:
    first = OwnServer(home, "unused")
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", providers._port(first.url)))
        somebody.listen()

        second = OwnServer(home, "unused")

    assert second.url != first.url
    assert home.broker_url.read_text().strip() == second.url


def test_a_url_that_is_given_is_used_as_it_is_and_nothing_is_started(home: Home) -> None:
    given = choose_provider({"UPBEAT_BROKER_URL": "redis://127.0.0.1:1/0"}, home)

    assert isinstance(given, GivenUrl)
    assert given.command() is None
    assert not given.answers()


def test_a_url_in_a_file_counts_as_given(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "broker"
    file.write_text("amqp://guest@127.0.0.1//\n")

    given = choose_provider({"UPBEAT_BROKER_URL_FILE": str(file)}, home)

    assert given.url == "amqp://guest@127.0.0.1//"
    assert given.backlog(["default"]) == 0


def test_our_own_url_file_is_not_taken_for_somebody_elses_server(home: Home) -> None:
    OwnServer(home, "unused")

    assert isinstance(choose_provider({"UPBEAT_BROKER_URL_FILE": str(home.broker_url)}, home), OwnServer)


def test_without_any_server_it_says_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "PROGRAMS", (lambda: None, lambda: "/bin/false"))

    with pytest.raises(LookupError, match=r"install redis-server or set UPBEAT_BROKER_URL"):
        choose_provider({}, home)


def test_the_backlog_counts_every_priority_of_every_queue(home: Home) -> None:
    server = choose_provider({}, home)
    assert isinstance(server, OwnServer)

    with running(server), redis.Redis.from_url(server.url) as client:
        client.rpush("upbeat:default", "a", "b")
        client.rpush("upbeat:bulk\x06\x166", "c")
        client.rpush("upbeat:control", "d")

        assert server.backlog(["default", "bulk"]) == 3


def test_generated_secrets_are_for_their_owner_alone_and_stay(home: Home) -> None:
    before = home.secret_key.read_text()

    home.prepare()

    assert home.secret_key.read_text() == before
    for file in (home.secret_key, home.encryption_keys):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_a_command_in_another_terminal_finds_keys_and_broker_by_the_home_alone(home: Home) -> None:
    OwnServer(home, "unused")
    environ = {"UPBEAT_HOME": str(home.path), "UPBEAT_SECRET_KEY": "given"}

    adopt_home(environ)

    assert environ == {
        "UPBEAT_HOME": str(home.path),
        "UPBEAT_SECRET_KEY": "given",
        "UPBEAT_ENCRYPTION_KEYS_FILE": str(home.encryption_keys),
        "UPBEAT_BROKER_URL_FILE": str(home.broker_url),
    }
