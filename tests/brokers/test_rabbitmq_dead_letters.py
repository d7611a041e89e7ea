"""What RabbitMQ gives up reaches the dead letters with the broker's account of why, and does not expire unseen."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from orchestrator.models import Tenant
from tests.support import services
from tests.support.rabbitmq import channel_of, declare, event, length, publish
from tests.support.waiting import eventually
from triggers.listeners import dlx_import
from triggers.listeners.dlx_import import Importer
from triggers.listeners.rabbitmq_topology import CONTRACT, DEAD_LETTER_QUEUE, ensure
from triggers.models import DeadLetter, EventSource
from triggers.sources.rabbitmq import Address

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A RabbitMQ of this module, with the contract's queues as we declare them."""
    with services.start_rabbitmq() as server:
        ensure(Address.of_url(server.url), {}, CONTRACT)
        yield server.url


@pytest.fixture
def importer(node: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Importer]:
    broker = dlx_import._Broker(Address.of_url(node), {})

    def found() -> list[dlx_import._Broker]:
        broker.sources = {queue: source for source in EventSource.objects.all() for queue in source.config["queues"]}
        return [broker]

    monkeypatch.setattr(dlx_import, "brokers", found)
    importer = Importer()
    yield importer
    importer.close()


def dying(node: str, name: str, **arguments: object) -> str:
    return declare(node, name, dead_letter_exchange="schedule.dlx", **arguments)


def test_messages_that_the_broker_gave_up_become_dead_letters_with_their_deaths(node: str, importer: Importer) -> None:
    source = EventSource.objects.create(
        tenant=Tenant.objects.get(slug="default"),
        slug="orders",
        kind="rabbitmq",
        config={"queues": ["d.rejected"]},
        id_policy="require",
    )
    publish(node, dying(node, "d.expired", message_ttl=1), [event("expired")])
    publish(node, dying(node, "d.full", max_length=1), [event("dropped"), event("kept")])
    publish(node, dying(node, "d.tired", delivery_limit=1), [event("tired")], message_id="tired")
    publish(node, dying(node, "d.rejected"), [event("rejected")], message_id="rejected")
    with channel_of(node) as channel:
        for _ in range(2):
            method, _, _ = eventually(lambda: found if (found := channel.basic_get("d.tired"))[0] else None)
            channel.basic_nack(method.delivery_tag, requeue=True)
        method, _, _ = channel.basic_get("d.rejected")
        channel.basic_reject(method.delivery_tag, requeue=False)
    eventually(lambda: length(node, DEAD_LETTER_QUEUE) == 4, within=20)

    assert importer.turn(lambda: True) == 4

    letters = {letter.reason: letter for letter in DeadLetter.objects.all()}
    assert set(letters) == {"dlx:expired", "dlx:maxlen", "dlx:delivery_limit", "dlx:rejected"}
    assert orjson.loads(bytes(letters["dlx:maxlen"].raw)) == event("dropped")
    assert letters["dlx:delivery_limit"].message_id == "tired"
    assert letters["dlx:rejected"].event_source_id == source.pk
    assert letters["dlx:expired"].event_source_id is None
    for reason, letter in letters.items():
        [death] = orjson.loads(letter.headers["x-death"])
        assert f"dlx:{death['reason']}" == reason
        assert letter.channel == f"rabbitmq:{death['queue']}"
    assert length(node, DEAD_LETTER_QUEUE) == 0
    assert importer.turn(lambda: True) == 0


def test_who_does_not_lead_any_more_takes_nothing(node: str, importer: Importer) -> None:
    publish(node, dying(node, "d.soon", message_ttl=1), [event(1)])
    eventually(lambda: length(node, DEAD_LETTER_QUEUE) == 1, within=20)

    with pytest.raises(Exception, match="another process imports now"):
        importer.turn(lambda: False)

    assert not DeadLetter.objects.exists()
    # What was taken went back, and is there for whoever leads.
    eventually(lambda: length(node, DEAD_LETTER_QUEUE) == 1, within=5)
    assert importer.turn(lambda: True) == 1
    assert DeadLetter.objects.get().tries == 1


def test_a_broker_that_is_away_costs_a_turn_nothing_but_time(
    node: str, importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dlx_import._Broker(Address("127.0.0.1", services.free_port()), {})
    here = dlx_import._Broker(Address.of_url(node), {})
    monkeypatch.setattr(dlx_import, "brokers", lambda: [away, here])
    publish(node, dying(node, "d.soon", message_ttl=1), [event(2)])
    eventually(lambda: length(node, DEAD_LETTER_QUEUE) == 1, within=20)

    assert importer.turn(lambda: True) == 1
