"""Replays: by events, filter, time and dead letters; today's rules; no run twice, whatever is repeated or killed."""

from __future__ import annotations

import os
import sys
import uuid
from base64 import b64decode
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.models import JobRun, Tenant
from tests.support.api import Api, problems
from tests.support.contract_events import EVENT
from tests.support.processes import Process
from tests.support.records import default_tenant, new_job, token_text
from tests.support.waiting import eventually
from triggers import rules_cache
from triggers.models import DeadLetter, Event, EventSource, Firing, Replay, RuleState
from triggers.services import replay_steps, replays

pytestmark = pytest.mark.django_db
RULES, EVENTS, REPLAYS = "/api/v1/task-trigger-rules", "/api/v1/events", "/api/v1/replays"
LETTERS = "/api/v1/dead-letters"


@pytest.fixture
def api(broker: Any) -> Api:
    new_job("sync")
    return Api(token_text("admin", name="ada"))


def rule(api: Api, **fields: Any) -> str:
    form = {"ruleId": "sync", "eventType": "order.created", "taskName": "sync", **fields}
    answered = api.send(RULES, form)
    assert answered.status_code == 201, answered.json()
    rules_cache.shared.forget()
    return form["ruleId"]


def send(api: Api, number: int, **fields: Any) -> int:
    body = {**EVENT, "messageId": f"msg-{number}", "payload": {"orderId": f"o-{number}", "amount": number}, **fields}
    answered = api.send(EVENTS, body)
    assert answered.status_code == 202, answered.json()
    return answered.json()["eventId"]


def replay(api: Api, body: dict[str, Any], *, key: str = "once") -> dict[str, Any]:
    answered = api.send(REPLAYS, body, **{"Idempotency-Key": key})
    assert answered.status_code in (200, 201), answered.json()
    return answered.json()


def test_events_that_came_before_the_rule_are_given_to_it(api: Api):
    ids = [send(api, number) for number in range(1, 4)]
    rule(api, condition="payload.amount > 1")

    done = replay(api, {"events": ids})

    assert (done["state"], done["counts"]) == ("done", {"events": 3, "fired": 2, "not_fired": 1})
    firings = Firing.objects.filter(replay_no=done["id"]).order_by("event_id")
    assert [(each.event_id, each.outcome) for each in firings] == [(ids[1], "fired"), (ids[2], "fired")]
    keys = set(JobRun.objects.values_list("trigger_key", flat=True))
    assert keys == {f"rule:{firings[0].rule_id}:{event}:{done['id']}" for event in ids[1:]}
    assert [each["replay_no"] for each in api.get(f"/api/v1/firings?replay={done['id']}").json()["items"]] == [
        done["id"]
    ] * 2


def test_the_same_key_is_the_same_replay_and_another_is_another(api: Api):
    rule(api)
    event = send(api, 1)

    first, again = replay(api, {"events": [event]}), replay(api, {"events": [event]})
    other = replay(api, {"events": [event]}, key="twice")

    assert (again["id"], again["counts"]) == (first["id"], {"events": 1, "fired": 1})
    assert other["id"] != first["id"]
    assert JobRun.objects.count() == 3  # the event's own, and one for each replay
    mismatch = api.send(REPLAYS, {"events": [event], "dry_run": True}, **{"Idempotency-Key": "once"})
    assert (mismatch.status_code, mismatch.json()["code"]) == (422, "idempotency_mismatch")


def test_a_dry_run_counts_shows_and_starts_nothing(api: Api):
    ids = [send(api, number) for number in range(1, 31)]
    rule(api, condition="payload.amount > 2", parameters={})

    tried = replay(api, {"filter": {"type": "order.*", "state": "no_match"}, "dry_run": True})

    assert tried["counts"] == {"events": 30, "fired": 28, "not_fired": 2}
    assert len(tried["samples"]) == 20
    assert tried["samples"][0] == {
        "event_id": ids[2], "rule": "sync", "rule_version": 1, "parameters": {}, "outcome": "fired",
    }  # fmt: skip
    assert (Firing.objects.count(), JobRun.objects.count(), RuleState.objects.count()) == (0, 0, 0)


def test_a_replay_by_time_takes_what_was_received_then(api: Api):
    rule(api)
    old, new = send(api, 1), send(api, 2)
    yesterday = timezone.now() - timedelta(days=1)
    Event.objects.filter(pk=old).update(received_at=yesterday)

    done = replay(
        api,
        {"from": (yesterday - timedelta(hours=1)).isoformat(), "to": (yesterday + timedelta(hours=1)).isoformat()},
    )

    assert done["counts"] == {"events": 1, "fired": 1}
    assert [each.event_id for each in Firing.objects.filter(replay_no=done["id"])] == [old]
    assert new > old


def test_a_replay_does_not_chase_what_comes_in_behind_it(api: Api, monkeypatch: pytest.MonkeyPatch):
    rule(api)
    send(api, 1)
    monkeypatch.setattr(replays, "AT_ONCE_SECONDS", 0)
    monkeypatch.setattr(replay_steps, "STEP", 1)
    begun = replay(api, {"filter": {"type": "order.created"}})
    send(api, 2)

    assert replay_steps.advance_replays(seconds=5) == 0

    assert Replay.objects.get(pk=begun["id"]).counts["events"] == 1


def test_a_replay_that_is_killed_between_and_within_its_steps_doubles_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    rule(api)
    ids = [send(api, number) for number in range(1, 8)]
    monkeypatch.setattr(replay_steps, "STEP", 2)
    monkeypatch.setattr(replays, "AT_ONCE_SECONDS", 0)
    monkeypatch.setattr(replay_steps, "publish_launch", lambda run_ids: True)
    begun = replay(api, {"events": ids})
    assert (begun["state"], begun["counts"]) == ("running", {"events": 2, "fired": 2})
    kept = replay_steps._keep

    def die(*args: Any) -> None:
        kept(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_steps, "_keep", die)
    with pytest.raises(KeyboardInterrupt):
        replay_steps.advance_replays(seconds=1)
    monkeypatch.setattr(replay_steps, "_keep", kept)

    assert Replay.objects.get().position == ids[1]
    assert replay_steps.advance_replays(seconds=5) == 0

    done = api.get(f"{REPLAYS}/{begun['id']}").json()
    assert (done["state"], done["counts"], done["position"]) == ("done", {"events": 7, "fired": 7}, ids[6])
    assert Firing.objects.filter(replay_no=begun["id"]).count() == 7
    assert JobRun.objects.filter(trigger_key__endswith=f":{begun['id']}").count() == 7


_STEPS = """
import sys
import time
import django
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
django.setup()
from triggers.services import replay_steps
replay_steps.STEP = 3
replay_steps.publish_launch = lambda run_ids: True
keep = replay_steps._keep
# Most of a step's time lies inside its transaction: there it is killed.
replay_steps._keep = lambda *given: (time.sleep(0.1), keep(*given))
replay_steps.advance_replays(seconds=60)
"""


@pytest.mark.kill
@pytest.mark.django_db(transaction=True)
def test_a_replay_whose_process_is_killed_goes_on_in_another(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rule(api)
    ids = [send(api, number) for number in range(1, 61)]
    monkeypatch.setattr(replays, "AT_ONCE_SECONDS", 0)
    monkeypatch.setattr(replay_steps, "STEP", 3)
    monkeypatch.setattr(replay_steps, "publish_launch", lambda run_ids: True)
    begun = replay(api, {"events": ids})
    killed = []

    for _ in range(3):
        before = Replay.objects.get().position
        process = Process(
            "replays", [sys.executable, "-c", _STEPS, str(connection.settings_dict["NAME"])],
            environ={"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"]}, log=tmp_path / "replays.log",
        ).start()  # fmt: skip
        try:
            eventually(lambda before=before: Replay.objects.get().position > before, within=60)
        finally:
            process.kill()
        killed.append(Replay.objects.get().position)
    replay_steps.advance_replays(seconds=60)

    assert killed == sorted(killed)
    done = api.get(f"{REPLAYS}/{begun['id']}").json()
    assert (done["state"], done["counts"]) == ("done", {"events": 60, "fired": 60})
    assert sorted(Firing.objects.filter(replay_no=begun["id"]).values_list("event_id", flat=True)) == ids
    keys = [key for key in JobRun.objects.values_list("trigger_key", flat=True) if key.endswith(f":{begun['id']}")]
    assert len(keys) == len(set(keys)) == 60


def test_dedupe_and_throttle_do_not_stand_in_the_way_of_a_replay(api: Api):
    rule(api, dedupe={"key": "payload.shop", "window": "1h"}, throttle={"limit": 1, "per": "1h", "onExceed": "drop"})
    ids = [send(api, number, payload={"shop": "a"}) for number in range(1, 4)]
    assert JobRun.objects.count() == 1
    before = list(RuleState.objects.order_by("pk").values_list("stage", "count"))

    done = replay(api, {"events": ids})

    assert done["counts"] == {"events": 3, "fired": 3}
    assert list(RuleState.objects.order_by("pk").values_list("stage", "count")) == before


def test_a_disabled_rule_fires_only_in_a_replay_that_names_it(api: Api):
    rule(api)
    api.send(f"{RULES}/sync/disable")
    rules_cache.shared.forget()
    event = send(api, 1)

    unnamed = replay(api, {"events": [event]}, key="all")
    named = replay(api, {"events": [event], "rules": ["sync"]}, key="named")

    assert (unnamed["counts"], named["counts"]) == ({"events": 1, "no_rule": 1}, {"events": 1, "fired": 1})
    assert problems(api.send(REPLAYS, {"events": [event], "rules": ["gone"]})) == {"rules[0]": "the id of a rule"}


def test_a_replay_keeps_how_deep_a_loop_is(api: Api):
    rule(api)
    event = send(api, 1, metadata={"causation": {"depth": 5, "ruleChain": [77], "rootEventId": 3}})

    done = replay(api, {"events": [event]})

    run = JobRun.objects.get(trigger_key__endswith=f":{done['id']}")
    assert (run.depth, run.rule_chain[0], run.root_event_id) == (6, 77, 3)


def test_a_replayed_event_may_be_held_as_any_other(api: Api):
    rule(api, delay="1h")
    event = send(api, 1)

    done = replay(api, {"events": [event]})

    assert done["counts"] == {"events": 1, "held": 1}
    held = Firing.objects.get(replay_no=done["id"])
    assert (held.outcome, held.stage) == ("held", "delay")


def test_exactly_one_selection_is_asked_for(api: Api):
    assert "" in problems(api.send(REPLAYS, {}))
    assert "" in problems(api.send(REPLAYS, {"events": [1], "dead_letters": [1]}))
    assert "filter.colour" in problems(api.send(REPLAYS, {"filter": {"colour": "red"}}))
    assert "filter.state" in problems(api.send(REPLAYS, {"filter": {"state": "lost"}}))
    assert "events" in problems(api.send(REPLAYS, {"events": []}))
    assert not Replay.objects.exists()


def test_a_stranger_replays_and_sees_nothing_of_ours(api: Api):
    rule(api)
    event = send(api, 1)
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))

    theirs = replay(stranger, {"events": [event]})

    assert theirs["counts"] == {}
    assert api.get(f"{REPLAYS}/{theirs['id']}").status_code == 404


# --- dead letters


def letter(reason: str, raw: bytes, **fields: Any) -> DeadLetter:
    now = timezone.now()
    source = EventSource.objects.filter(slug="orders").first() or EventSource.objects.create(
        tenant=default_tenant(),
        slug="orders",
        kind="kafka",
        config={"topics": ["business-events"]},
        id_policy="require",
    )
    return DeadLetter.objects.create(
        **{
            "tenant": default_tenant(), "event_source": source, "identity": uuid.uuid4(),
            "channel": "kafka:business-events", "part": "business-events/0", "off": 7, "reason": reason, "raw": raw,
            "first_seen": now, "last_seen": now, **fields,
        }
    )  # fmt: skip


BODY = {"eventType": "order.created", "payload": {"orderId": "o-1"}}


def test_a_letter_without_an_id_gets_the_one_of_its_letter(api: Api):
    rule(api)
    row = letter("no_id", orjson.dumps(BODY))

    done = replay(api, {"dead_letters": [row.pk]})

    assert done["counts"] == {"dead_letters": 1, "matched": 1}
    event = Event.objects.get()
    assert (event.message_id, event.channel) == (f"dead-letter:{row.pk}", "kafka:business-events")
    row.refresh_from_db()
    assert (row.state, row.event_id, row.resolved_by) == ("replayed", event.pk, "token:ada")
    assert JobRun.objects.count() == 1
    again = replay(api, {"dead_letters": [row.pk]}, key="again")
    assert again["counts"] == {"dead_letters": 1, "resolved": 1}
    assert JobRun.objects.count() == 1


def test_a_conflicting_letter_becomes_an_event_of_its_own(api: Api):
    rule(api)
    send(api, 1)
    row = letter("conflict", orjson.dumps({**BODY, "messageId": "msg-1", "source": EVENT["source"]}))

    replay(api, {"dead_letters": [row.pk]})

    assert set(Event.objects.values_list("message_id", flat=True)) == {"msg-1", f"dead-letter:{row.pk}"}


def test_a_letter_that_still_cannot_be_used_stays_open_and_says_so_once_more(api: Api):
    row = letter("malformed", b"{not json")

    done = replay(api, {"dead_letters": [row.pk]})

    assert done["counts"] == {"dead_letters": 1, "dead_letter": 1}
    row.refresh_from_db()
    assert row.state == "open"
    assert not Event.objects.exists()


def test_a_letter_that_was_repaired_on_our_side_fires_by_todays_rules(api: Api):
    row = letter("too_large", orjson.dumps({**BODY, "messageId": "big"}))
    tried = replay(api, {"dead_letters": [row.pk], "dry_run": True}, key="dry")
    assert (tried["counts"], DeadLetter.objects.get().state) == ({"dead_letters": 1, "no_match": 1}, "open")
    rule(api)

    replay(api, {"dead_letters": [row.pk, 10**9]})

    assert Event.objects.get().message_id == "big"
    assert JobRun.objects.count() == 1
    assert Replay.objects.latest("pk").counts == {"dead_letters": 2, "matched": 1, "unknown": 1}


def test_what_killed_its_readers_is_not_read_by_a_replay(api: Api):
    row = letter("crash_loop", orjson.dumps({**BODY, "messageId": "deadly"}))

    done = replay(api, {"dead_letters": [row.pk]})

    assert done["counts"] == {"dead_letters": 1, "refused": 1}
    assert DeadLetter.objects.get().state == "open"


def test_letters_are_listed_cut_read_whole_and_discarded(api: Api):
    row = letter("too_large", b"x" * 20_000, message_id="big")
    letter("malformed", b"{", off=8)

    (listed,) = api.get(f"{LETTERS}?reason=too_large&state=open&source=orders").json()["items"]
    whole = api.get(f"{LETTERS}/{row.pk}").json()

    assert (len(b64decode(listed["raw_base64"])), listed["raw_size"]) == (16 * 1024, 20_000)
    assert b64decode(whole["raw_base64"]) == b"x" * 20_000
    discarded = api.send(f"{LETTERS}/{row.pk}/discard", {"reason": "a test"}).json()
    assert (discarded["state"], discarded["resolved_by"]) == ("discarded", "token:ada")
    assert api.send(f"{LETTERS}/{row.pk}/discard").status_code == 200
    assert len(api.get(f"{LETTERS}?state=open").json()["items"]) == 1
    assert replay(api, {"dead_letters": [row.pk]})["counts"] == {"dead_letters": 1, "resolved": 1}
    replayed = letter("no_id", b"{}", off=9, state="replayed", event_id=4)
    refused = api.send(f"{LETTERS}/{replayed.pk}/discard")
    assert (refused.status_code, refused.json()["code"]) == (409, "dead_letter_resolved")


def test_reading_is_for_readers_and_replaying_for_operators(api: Api):
    row = letter("malformed", b"{")
    reader, operator = Api(token_text("read")), Api(token_text("operate"))

    assert reader.get(LETTERS).status_code == 200
    assert reader.send(f"{LETTERS}/{row.pk}/discard").status_code == 403
    assert reader.send(REPLAYS, {"events": [1]}).status_code == 403
    assert operator.send(REPLAYS, {"events": [1]}).status_code == 201
