"""`manage.py emit_events` to a web server that listens, with the endpoints' own verification behind it."""

from __future__ import annotations

import base64
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from orchestrator.conf import options
from orchestrator.services.tokens import create_token
from tests.support.endpoints import new_endpoint
from tests.support.records import default_tenant
from triggers.models import Event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (key,)})


def emit(*arguments: Any) -> str:
    out = StringIO()
    call_command("emit_events", *map(str, arguments), stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("provider", ["generic", "standard_webhooks"])
def test_a_webhook_takes_what_was_signed_for_it(provider: str, live_server: LiveServer) -> None:
    new_endpoint(provider, slug="caller", secret=f"whsec_{base64.b64encode(b's' * 32).decode()}")

    said = emit("--to", "webhook", "--source", "caller", "--url", live_server.url, "--count", 3)

    assert said.startswith("3 events sent")
    events = list(Event.objects.all())
    assert len({event.message_id for event in events}) == 3
    assert {event.event_type for event in events} == {"order.created"}
    assert all(0 < event.payload["amount"] <= 3000 for event in events)


def test_the_api_takes_the_events_of_a_file_with_a_token(live_server: LiveServer, tmp_path: Path) -> None:
    _, token = create_token(tenant=default_tenant(), name="t", scopes=("trigger",))
    file = tmp_path / "events.jsonl"
    rows = [{"messageId": f"m{n}", "eventType": "a.b", "payload": {"n": n}} for n in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)))

    said = emit("--to", "api", "--url", live_server.url, "--token", token, "--file", file, "--json")

    assert json.loads(said)["sent"] == 3
    assert sorted(Event.objects.values_list("message_id", flat=True)) == ["m0", "m1", "m2"]


def test_a_refused_event_is_told_with_the_answer(live_server: LiveServer) -> None:
    with pytest.raises(CommandError, match=r"answered 401.* 0 sent before"):
        emit("--to", "api", "--url", live_server.url, "--token", "wrong")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--to", "webhook"), "Name the webhook"),
        (("--to", "webhook", "--source", "none"), "no event source 'none'"),
        (("--to", "api"), "Give a token"),
        (("--to", "kafka", "--payload", "[1]"), "a JSON object is expected"),
        (("--to", "kafka", "--file", "/no/such/file"), "No such file"),
    ],
)
def test_a_call_that_cannot_work_is_refused_with_the_reason(
    arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPBEAT_TOKEN", raising=False)
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_KAFKA_BOOTSTRAP": "127.0.0.1:1"})

    with pytest.raises(CommandError, match=problem):
        emit(*arguments)


def test_the_rate_is_kept(live_server: LiveServer) -> None:
    new_endpoint("generic")

    said = emit(
        "--to", "webhook", "--source", "generic", "--url", live_server.url, "--count", 5, "--rate", 10, "--json"
    )

    assert json.loads(said)["seconds"] >= 0.4
