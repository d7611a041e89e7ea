"""What a batch adds to the metrics: counted once it is committed, by the batch and not by the message."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from triggers import metrics
from triggers.ingest.batch import Item, Prepared, Result

_DURABLE = ("matched", "no_match", "expired", "trigger_call")


def count_results(results: Sequence[tuple[Item, Result]], now: datetime) -> None:
    """Count what became of items; `now` is the moment at which they became durable."""
    outcomes: Counter[tuple[str, str]] = Counter()
    ages: dict[str, list[float]] = {}
    moment = now.timestamp()
    for item, result in results:
        channel, outcome = item.received.channel, result.outcome
        outcomes[channel, outcome] += 1
        if outcome in _DURABLE:
            assert item.envelope is not None
            ages.setdefault(channel, []).append(moment - item.envelope.timestamp.timestamp())
        elif outcome == "dead_letter":
            kind = channel.partition(":")[0]
            metrics.ERRORS.labels(kind, result.reason).inc()
            if result.reason == "conflict":
                metrics.CONFLICTS.labels(kind).inc()
    for (channel, outcome), count in outcomes.items():
        kind, _, topic = channel.partition(":")
        metrics.PROCESSED.labels(kind, topic, outcome).inc(count)
        if outcome == "duplicate":
            metrics.DUPLICATES.labels(kind).inc(count)
    for channel, seconds in ages.items():
        observe(metrics.PROCESSING.labels(channel.partition(":")[0]), seconds)


def count_batch(prepared: Prepared, seconds: float) -> None:
    """Count a batch that is durable as a whole."""
    metrics.INGEST_SECONDS.observe(seconds)
    metrics.INGEST_SIZE.observe(prepared.messages)
    for channel, count in prepared.ignored.items():
        kind, _, topic = channel.partition(":")
        metrics.PROCESSED.labels(kind, topic, "ignored").inc(count)
    for channel, count in prepared.redelivered.items():
        metrics.REDELIVERIES.labels(channel.partition(":")[0]).inc(count)


def observe(histogram: Any, values: Iterable[float]) -> None:
    """Observe many values with one step a bucket: one at a time they cost as much as decoding the messages."""
    bounds = histogram._upper_bounds
    total = 0.0
    buckets: Counter[int] = Counter()
    for value in values:
        # A producer's clock may be ahead of ours.
        value = max(value, 0.0)
        total += value
        buckets[bisect_left(bounds, value)] += 1
    for bucket, count in buckets.items():
        histogram._buckets[bucket].inc(count)
    histogram._sum.inc(total)
