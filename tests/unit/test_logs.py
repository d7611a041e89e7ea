from __future__ import annotations

import json
import logging
import threading

import pytest

from orchestrator import logs


@pytest.fixture
def written():
    """What a logger writes, one object a line."""
    lines: list[dict] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(self.format(record)))

    handler = Keep()
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("upbeat.test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, lines
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_line_has_time_level_logger_message_and_its_fields(written):
    logger, lines = written

    with logs.bound(job="nightly-etl", run=7), logs.bound(task="load"):
        logger.info("attempt ended", extra={"reason": "exit code 2"})
    logger.warning("outside")

    assert lines[0].pop("time").endswith("Z")
    assert lines[0] == {
        "level": "INFO",
        "logger": "upbeat.test",
        "message": "attempt ended",
        "job": "nightly-etl",
        "run": 7,
        "task": "load",
        "reason": "exit code 2",
    }
    assert "run" not in lines[1]


def test_threads_have_fields_of_their_own(written):
    logger, lines = written

    with logs.bound(run=1):
        thread = threading.Thread(target=lambda: logger.info("elsewhere"))
        thread.start()
        thread.join()

    assert "run" not in lines[0]


def test_an_exception_is_one_line(written):
    logger, lines = written

    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logger.exception("failed")

    assert "RuntimeError: broken" in lines[0]["exception"]


@pytest.mark.parametrize(
    "text",
    [
        "token upb_abcdefghijklmnop refused",
        "cannot reach redis://:topsecret@host/0",
        "cannot reach amqp://user:topsecret@host//",
        "header Bearer abcdefgh.ijkl",
    ],
)
def test_secrets_in_texts_are_masked(written, text):
    logger, lines = written

    logger.info("%s", text, extra={"quoted": text})

    assert "topsecret" not in str(lines)
    assert "abcdefgh" not in str(lines)
    assert str(lines).count("***") == 2


def test_fields_named_like_a_secret_are_masked(written):
    logger, lines = written

    logger.info("x", extra={"api_key": "topsecret", "db_password": "topsecret", "token": "topsecret"})

    assert "topsecret" not in str(lines)


@pytest.mark.parametrize("value", [object(), 2**70, {1: {2, 3}}, "\ud800", float("nan"), b"\xff"])
def test_whatever_is_logged_makes_a_line(written, value):
    logger, lines = written

    logger.info("odd", extra={"value": value})

    assert [line["message"] for line in lines] == ["odd"]


def test_a_wrong_placeholder_does_not_lose_the_line():
    record = logging.LogRecord("upbeat", logging.INFO, __file__, 1, "wrong %d", ("placeholder",), None)

    assert "placeholder" in json.loads(logs.JsonFormatter().format(record))["message"]
