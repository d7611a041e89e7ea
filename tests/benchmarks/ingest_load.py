"""What the ingest benchmarks send: the same events of 500 bytes and the same three rules, whatever brings them."""

from __future__ import annotations

from typing import Any

import orjson

EVENTS = 40_000
BYTES = 500
#: Of these one starts a run for every second event, if events are to fire; else none does.
CONDITIONS = ("payload.amount > 1000", "payload.amount > 5000", "payload.currency == 'EUR'")


def body(place: str, number: int, event_type: str, fires: bool, now: str) -> bytes:
    form: dict[str, Any] = {
        "messageId": f"{place}-{number}",
        "eventType": event_type,
        "timestamp": now,
        "source": "order-service",
        "destination": "schedule-platform",
        "priority": "HIGH",
        "payload": {
            "orderId": f"order-{number}",
            "customerId": f"customer-{number % 1000}",
            "amount": 2000.5 if fires and number % 2 else 10,
            "currency": "CNY",
            "note": "",
        },
        "metadata": {"traceId": f"trace-{number}", "version": "1.0", "schema": "order.created.v1"},
    }
    form["payload"]["note"] = "x" * max(0, BYTES - len(orjson.dumps(form)))
    return orjson.dumps(form)
