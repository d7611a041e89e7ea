"""The pages of events as an operator uses them: lists of any length, rows that lead to one another, bytes shown as text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.models import JobRun, Transition
from tests.support.event_records import (
    new_event,
    new_firing,
    new_letter,
    new_listener,
    new_replay,
    new_rule,
    new_source,
)
from tests.support.records import default_tenant, new_job, new_run
from triggers.models import DeadLetter, Event, Firing, Listener, Replay, RuleVersion

pytestmark = pytest.mark.django_db

LEDGER = ("event", "firing", "deadletter", "replay", "listener", "ruleversion")
MARKUP = "<script>alert(1)</script>"


def path(model: str, rest: str = "") -> str:
    return f"/admin/triggers/{model}/{rest}"


def fill(rows: int) -> None:
    rule, source = new_rule(), new_source()
    for number in range(rows):
        event = new_event(event_source=source)
        new_firing(rule, event, ("fired", "held", "error")[number % 3])
        new_letter(event_source=source)
        new_replay(event)
        new_listener(source)
        RuleVersion.objects.create(rule=rule, number=number + 2, spec=rule.spec)


def text_of(response: Any) -> str:
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def act(client: Client, model: str, action: str, *rows: int, reason: str = "") -> list[str]:
    """Choose rows, confirm, and return what is said of them."""
    asked = {"action": action, "_selected_action": list(rows)}
    page = text_of(client.post(path(model), asked))
    assert "Yes, do it" in page
    answer = client.post(path(model), {**asked, "confirmed": "yes", "reason": reason}, follow=True)
    return [str(message) for message in answer.context["messages"]]


# --- lists


@pytest.mark.parametrize("rows", [0, 10])
@pytest.mark.parametrize("model", [*LEDGER, "triggerrule", "eventsource"])
def test_every_list_opens_empty_and_full(admin_client: Client, model: str, rows: int) -> None:
    if rows:
        fill(rows)

    assert admin_client.get(path(model)).status_code == 200


@pytest.mark.parametrize("model", LEDGER)
def test_a_list_never_counts_and_costs_the_same_for_any_length(admin_client: Client, model: str) -> None:
    fill(2)
    admin_client.get(path(model))
    costs = []
    for rows in (0, 20):
        if rows:
            fill(rows)
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(path(model))
        costs.append(len(captured))
        table = f"triggers_{model}"
        assert not [q for q in captured if q["sql"].upper().startswith("SELECT COUNT(") and table in q["sql"]]
        assert not [q for q in captured if "DISTINCT" in q["sql"].upper() and table in q["sql"]]

    assert costs[0] == costs[1]


@pytest.mark.parametrize("model", LEDGER)
def test_nobody_adds_changes_or_deletes_what_was_recorded(admin_client: Client, model: str) -> None:
    fill(1)
    row = {"event": Event, "firing": Firing, "deadletter": DeadLetter, "replay": Replay, "listener": Listener}.get(
        model, RuleVersion
    ).objects.first()
    assert row is not None

    assert admin_client.get(path(model, "add/")).status_code == 403
    assert admin_client.get(path(model, f"{row.pk}/change/")).status_code == 200
    assert admin_client.post(path(model, f"{row.pk}/change/"), {}).status_code == 403
    assert admin_client.post(path(model, f"{row.pk}/delete/"), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize(
    ("model", "query", "found"),
    [
        ("event", "q=order.paid", 1),
        ("event", "q=the-id", 1),
        ("event", "q=the-i", 0),
        ("event", "state=no_match", 1),
        ("event", "event_type__exact=order.paid", 1),
        ("event", "q=99999999", 0),
        ("firing", "outcome=held", 1),
        ("firing", "q=the-rule", 2),
        ("firing", "q=the-rul", 0),
        ("deadletter", "state=discarded", 1),
        ("deadletter", "reason=no_id", 1),
        ("deadletter", "q=the-letter", 1),
    ],
)
def test_a_filter_is_an_address(admin_client: Client, model: str, query: str, found: int) -> None:
    rule = new_rule(ruleId="the-rule")
    event = new_event(message_id="the-id", event_type="order.paid", state="no_match")
    new_firing(rule, event, "held")
    new_firing(rule, new_event(), "fired")
    new_letter(message_id="the-letter", state="discarded", reason="no_id")
    new_letter()

    answer = admin_client.get(path(model, f"?{query}"))

    assert answer.status_code == 200
    assert len(answer.context["cl"].result_list) == found


@pytest.mark.parametrize(
    ("model", "query"), [(Event, "state=no_match"), (Firing, "outcome=held"), (DeadLetter, "reason=no_id")]
)
def test_a_filter_without_an_index_looks_at_the_newest_rows_and_says_so(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, model: type[Model], query: str
) -> None:
    rule = new_rule()
    for number in range(4):
        event = new_event(state="no_match" if number != 1 else "matched")
        new_firing(rule, event, "held")
        new_letter(reason="no_id")
    monkeypatch.setattr(admin.site.get_model_admin(model), "looked_at", 2)
    name = model.__name__.lower()

    bounded = admin_client.get(path(name, f"?{query}"))

    assert len(bounded.context["cl"].result_list) == 2
    assert "Only the newest 2 rows" in bounded.content.decode()
    assert len(admin_client.get(path(name)).context["cl"].result_list) == 4


# --- from an event to its rules, its runs, and back


def test_an_event_leads_to_its_firings_its_run_and_back(admin_client: Client) -> None:
    rule, silent = new_rule(), new_rule(condition="payload.amount > 9999")
    version = RuleVersion.objects.get(rule=silent)
    event = new_event(not_fired=[version.pk])
    run = new_run(new_job("other"), event_id=event.pk)
    firing = new_firing(rule, event, job_run_id=run.pk)

    page = text_of(admin_client.get(path("event", f"{event.pk}/change/")))
    of_firing = text_of(admin_client.get(path("firing", f"{firing.pk}/change/")))
    of_run = text_of(admin_client.get(f"/admin/orchestrator/jobrun/{run.pk}/change/"))
    why = text_of(admin_client.get(path("triggerrule", f"{silent.pk}/test/?event={event.pk}")))

    for address in (
        path("firing", f"{firing.pk}/change/"),
        path("triggerrule", f"{rule.pk}/change/"),
        path("triggerrule", f"{silent.pk}/test/?event={event.pk}"),
        f"/admin/runs/{run.pk}/",
    ):
        assert address in page
    assert path("event", f"{event.pk}/change/") in of_firing
    assert f"/admin/runs/{run.pk}/" in of_firing
    assert path("event", f"{event.pk}/change/") in of_run
    assert path("firing", f"?job_run_id__exact={run.pk}") in of_run
    assert event.message_id in why


def test_a_firing_tells_step_by_step_why_it_fired(admin_client: Client) -> None:
    rule = new_rule(parameters={"missing": "${payload.none}"})
    firing = new_firing(rule, new_event(), "error", reason="parameter_error: ${payload.none}")

    page = text_of(admin_client.get(path("firing", f"{firing.pk}/change/")))

    assert "condition: passed · payload.amount &gt; 1000" in page
    assert "parameters: error · parameter_error" in page


def test_a_firing_whose_rule_and_event_are_gone_still_has_a_page(admin_client: Client) -> None:
    firing = Firing.objects.create(
        tenant=default_tenant(), rule_id=4711, rule_version=3, event_id=815, outcome="error", reason="rule_gone: x",
        created_at=timezone.now(),
    )  # fmt: skip

    assert "rule 4711 (gone)" in text_of(admin_client.get(path("firing")))
    assert "rule_gone: x" in text_of(admin_client.get(path("firing", f"{firing.pk}/change/")))


def test_what_events_and_letters_say_is_shown_and_never_run(admin_client: Client) -> None:
    event = new_event(event_type=MARKUP, message_id=MARKUP, source=MARKUP, channel=MARKUP, metadata={MARKUP: MARKUP})
    letter = new_letter(MARKUP.encode(), error=MARKUP, message_id=MARKUP, channel=MARKUP, headers={MARKUP: MARKUP})
    firing = new_firing(new_rule(ruleName=MARKUP, description=MARKUP), event, "error", reason=MARKUP)

    for model, row in (("event", event), ("deadletter", letter), ("firing", firing)):
        for address in (path(model), path(model, f"{row.pk}/change/")):
            page = text_of(admin_client.get(address))
            assert MARKUP not in page
            assert "&lt;script&gt;alert(1)" in page


# --- dead letters


def test_bytes_that_are_no_text_are_shown_as_text_and_as_hex(admin_client: Client) -> None:
    letter = new_letter(b'{"a": \xff\x00\x1b[31m "\xe4\xb8\xad"', error="not JSON \x1b[2J")

    page = text_of(admin_client.get(path("deadletter", f"{letter.pk}/change/")))

    assert "\\xff\\u0000\\u001b[31m" in page
    assert "中" in page
    assert "000000  7b 22 61 22 3a 20 ff 00 1b" in page
    assert "\x1b" not in page


def test_a_message_of_megabytes_is_shown_in_part(admin_client: Client) -> None:
    letter = new_letter(b"x" * 2_000_000)

    page = text_of(admin_client.get(path("deadletter", f"{letter.pk}/change/")))

    assert len(page) < 200_000
    assert "2,000,000 bytes in all" in page


def test_letters_are_discarded_after_a_question_with_a_reason(admin_client: Client) -> None:
    letter, replayed, other = new_letter(), new_letter(state="replayed", event_id=7), new_letter()

    said = act(admin_client, "deadletter", "discard", letter.pk, replayed.pk, reason="a test of theirs")

    assert [DeadLetter.objects.get(pk=each.pk).state for each in (letter, replayed, other)] == [
        "discarded", "replayed", "open",
    ]  # fmt: skip
    assert "discarded" in said[0]
    assert "was replayed: it is event 7" in said[1]
    fact = Transition.objects.get(subject="dead_letter", subject_id=letter.pk)
    assert (fact.to_state, fact.by, fact.reason) == ("discarded", "user:admin", "a test of theirs")


def test_a_letter_is_read_again_and_leads_to_its_replay(admin_client: Client) -> None:
    body = b'{"messageId": "m-1", "eventType": "order.created", "payload": {"amount": 5}}'
    letter = new_letter(body, reason="db_rejected")

    said = act(admin_client, "deadletter", "replay", letter.pk)

    replay = Replay.objects.get()
    assert path("replay", f"{replay.pk}/change/") in said[0]
    assert replay.selection == {"dead_letters": [letter.pk]}
    assert replay.by == "user:admin"


def test_an_event_is_given_to_the_rules_again(admin_client: Client) -> None:
    new_rule()
    event = new_event()

    act(admin_client, "event", "replay", event.pk)

    replay = Replay.objects.get()
    assert Firing.objects.get(event_id=event.pk).replay_no == replay.pk
    assert JobRun.objects.get().event_id == event.pk
    assert f"replay_no__exact={replay.pk}" in text_of(admin_client.get(path("replay", f"{replay.pk}/change/")))


# --- listeners


def test_a_listener_that_has_not_looped_for_a_minute_is_silent(admin_client: Client) -> None:
    now = timezone.now()
    for name, seconds in (("alive", 5), ("hung", 90)):
        new_listener(instance=name, last_loop_at=now - timedelta(seconds=seconds), state="ok")

    page = text_of(admin_client.get(path("listener")))

    assert page.index("hung") < page.index("silent")
    assert page.count("silent") == 1


# --- who may


@pytest.mark.parametrize(
    ("model", "action", "make"),
    [
        ("deadletter", "discard", new_letter),
        ("deadletter", "replay", new_letter),
        ("event", "replay", new_event),
        ("triggerrule", "disable", new_rule),
        ("triggerrule", "delete_chosen", new_rule),
        ("eventsource", "disable", new_source),
        ("eventsource", "delete_chosen", new_source),
    ],
)
def test_who_may_only_look_does_nothing(
    client: Client, django_user_model: Any, model: str, action: str, make: Any
) -> None:
    row = make()
    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename=f"view_{model}"))
    client.force_login(person)
    before = Transition.objects.count()

    assert client.get(path(model)).status_code == 200
    assert client.get(path(model, f"{row.pk}/change/")).status_code == 200
    client.post(path(model), {"action": action, "_selected_action": [row.pk], "confirmed": "yes"}, follow=True)

    assert Transition.objects.count() == before
    assert not Replay.objects.exists()


@pytest.mark.parametrize("model", [*LEDGER, "triggerrule", "eventsource"])
def test_who_may_not_look_sees_nothing_and_has_no_way_there(client: Client, django_user_model: Any, model: str) -> None:
    client.force_login(django_user_model.objects.create_user("eve", password="x", is_staff=True))

    assert client.get(path(model)).status_code == 403
    assert path(model) not in text_of(client.get("/admin/"))
