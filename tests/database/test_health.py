from __future__ import annotations

import socket
import time

import pytest
from django.conf import settings
from django.test import Client

from orchestrator.api import health
from orchestrator.store import open_store
from tests.support.waiting import eventually

# The checks run on threads of their own, which see only what is committed.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def silent_server():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.fixture
def own_redis_broker(own_redis, monkeypatch):
    monkeypatch.setitem(settings.CELERY, "broker_url", own_redis.url)
    monkeypatch.setitem(settings.CELERY, "result_backend", own_redis.url)
    return own_redis


def test_liveness_asks_nobody(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert Client().get("/healthz").json() == {"status": "ok"}


def test_readiness_names_each_dependency(own_redis_broker):
    answer = Client().get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "dependencies": dict.fromkeys(("database", "migrations", "broker", "results", "store"), "ok"),
    }


def test_a_broker_that_is_down_is_said_to_be(own_redis_broker):
    own_redis_broker.kill()

    answer = Client().get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["dependencies"]["broker"] == "down"
    assert answer.json()["dependencies"]["database"] == "ok"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/dev/null/store", "the store /dev/null/store failed: Not a directory"),
        ("s3://logs/x?endpoint=http://127.0.0.1:9&region=eu-central-1", "s3://logs/x at http://127.0.0.1:9 failed"),
        ("s3://logs?regoin=eu-central-1", "'regoin' is not known: expected endpoint or region"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_with_what_to_do(own_redis_broker, monkeypatch, url, says):
    monkeypatch.setattr(health, "store_of_process", lambda: open_store(url))

    def found() -> str:
        findings = {finding.name: finding for finding in health.readiness()}
        assert (findings["store"].ok, findings["broker"].ok) == (False, True)
        assert "UPBEAT_STORE_URL" in findings["store"].hint
        return findings["store"].detail

    # A client that tries twice may take longer than one look is given.
    eventually(lambda: says in found(), within=20)


def test_a_broker_that_never_answers_holds_nobody_for_longer_than_two_seconds(silent_server, monkeypatch):
    monkeypatch.setitem(settings.CELERY, "broker_url", silent_server)

    started = time.monotonic()
    findings = {finding.name: finding for finding in health.readiness()}

    assert time.monotonic() - started < health.LONGEST_SECONDS + 0.5
    assert not findings["broker"].ok
    assert findings["database"].ok


def test_a_finding_never_shows_a_password(monkeypatch):
    monkeypatch.setitem(settings.CELERY, "broker_url", "redis://:topsecret@127.0.0.1:1/0")

    assert "topsecret" not in str(health.readiness())
