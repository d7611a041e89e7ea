"""Gauges of messages, rules and listeners, read from the ledger at each scrape: no process could count them.

Every web process answers with the same figures; whoever adds them up takes the greatest of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from django.db import Error
from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.models import JobRun
from orchestrator.states import RunState
from triggers.models import DeadLetter, Firing, Listener, TriggerRule

logger = logging.getLogger(__name__)

#: Of so many of the newest runs that events started, the share that was executed.
NEWEST: Final = 1000

#: Name, what it says, labels.
GAUGES: Final = (
    ("queue_backlog", "Messages not yet read, as the listeners last said.", ("channel", "topic", "partition")),
    ("consumer_paused", "1 while a listener takes no messages, by the first word of its reason.", ("source", "reason")),
    ("consumer_last_loop_timestamp", "When a listener's loop last came round, in seconds since 1970.",
     ("source", "instance")),
    ("consumer_assigned_partitions", "Partitions or queues that a listener reads.", ("source", "instance")),
    ("dead_letters_open", "Dead letters that nobody has decided on, by reason.", ("reason",)),
    ("dead_letter_oldest_age_seconds", "Age of the oldest open dead letter in seconds; 0 if there is none.", ()),
    ("rule_firings_held", "Firings that wait for their moment, by rule.", ("rule",)),
    ("runs_unlaunched", "Pending runs that nobody has looked at.", ()),
    ("runs_unlaunched_oldest_age_seconds", "Age of the oldest of them in seconds; 0 if there is none.", ()),
    ("triggered_runs_executed_ratio", f"Of the newest {NEWEST} runs that rules started, the share that was executed.",
     ()),
)  # fmt: skip


class EventCollector(Collector):
    """All of GAUGES; nothing while the database is away, which the orchestrator's own gauge says."""

    def collect(self) -> Iterator[Metric]:
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, text, labels in GAUGES}
        try:
            _listeners(gauges)
            _dead_letters(gauges)
            _held(gauges)
            _runs(gauges)
        except Error as error:
            logger.warning("gauges not read", extra={"error": str(error).splitlines()[0]})
            return
        yield from gauges.values()


Gauges = dict[str, GaugeMetricFamily]


def _listeners(gauges: Gauges) -> None:
    backlog: dict[tuple[str, str, str], int] = {}
    for one in Listener.objects.select_related("source"):
        name = one.source.slug if one.source else one.kind
        gauges["consumer_last_loop_timestamp"].add_metric([name, one.instance], one.last_loop_at.timestamp())
        gauges["consumer_assigned_partitions"].add_metric([name, one.instance], len(one.assigned))
        reason = one.reason.split(" ", 1)[0].rstrip(":,") if one.state == "paused" else ""
        gauges["consumer_paused"].add_metric([name, reason], float(one.state == "paused"))
        for part, lag in one.assigned.items():
            if lag is not None:
                topic, _, partition = part.rpartition("/") if one.kind == "kafka" else (part, "", "")
                backlog[f"{one.kind}:{topic}", topic, partition] = lag
    for labels, lag in backlog.items():
        gauges["queue_backlog"].add_metric(labels, lag)


def _dead_letters(gauges: Gauges) -> None:
    oldest = None
    for reason, count, first in (
        DeadLetter.objects.filter(state="open").values_list("reason").annotate(Count("id"), Min("first_seen"))
    ):
        gauges["dead_letters_open"].add_metric([reason], count)
        oldest = first if oldest is None else min(oldest, first)
    gauges["dead_letter_oldest_age_seconds"].add_metric([], _age(oldest))


def _held(gauges: Gauges) -> None:
    counts = dict(Firing.objects.filter(outcome="held").values_list("rule_id").annotate(Count("id")))
    for rule_id, slug in TriggerRule.objects.filter(pk__in=counts).values_list("id", "slug"):
        gauges["rule_firings_held"].add_metric([slug], counts[rule_id])


def _runs(gauges: Gauges) -> None:
    waiting = JobRun.objects.filter(state=RunState.PENDING, reason="").aggregate(n=Count("id"), first=Min("created_at"))
    gauges["runs_unlaunched"].add_metric([], waiting["n"])
    gauges["runs_unlaunched_oldest_age_seconds"].add_metric([], _age(waiting["first"]))
    fired = Firing.objects.filter(outcome="fired", job_run_id__isnull=False).order_by("-id")
    run_ids = {id for id in fired.values_list("job_run_id", flat=True)[:NEWEST] if id is not None}
    if run_ids:
        executed = JobRun.objects.filter(pk__in=run_ids, started_at__isnull=False).count()
        gauges["triggered_runs_executed_ratio"].add_metric([], executed / len(run_ids))


def _age(moment: datetime | None) -> float:
    return max(0.0, (timezone.now() - moment).total_seconds()) if moment else 0.0
