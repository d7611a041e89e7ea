"""What is counted of messages, rules and listeners. Gauges come from the ledger: `collectors.py`.

Names without the prefix `upbeat_` are a contract with those who scrape them. Counted by the batch, never by the message.
"""

from __future__ import annotations

from typing import Final

from orchestrator.metrics import OURS, Counter, Histogram

#: From the event's moment to durable, and to its run: seconds.
_LATENCY = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_BATCH_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500)

PROCESSED = Counter(
    "message_processed_total",
    "Messages that became durable, by outcome: matched, no_match, expired, duplicate, dead_letter, trigger_call, ignored.",
    ["channel", "topic", "outcome"],
    registry=OURS,
)
ERRORS = Counter(
    "message_errors_total", "Messages that became dead letters, by reason.", ["channel", "reason"], registry=OURS
)
PROCESSING = Histogram(
    "message_processing_time_seconds",
    "Seconds from the event's own moment until it was durable.",
    ["channel"],
    buckets=_LATENCY,
    registry=OURS,
)
DUPLICATES = Counter("message_duplicates_total", "Messages that were known already.", ["channel"], registry=OURS)
REDELIVERIES = Counter(
    "message_redeliveries_total", "Messages that their transport delivered again.", ["channel"], registry=OURS
)
CONFLICTS = Counter(
    "message_conflicts_total", "Messages with the id of another and a different body.", ["channel"], registry=OURS
)
TRIGGERED = Counter(
    "task_triggered_total",
    "Firings, by rule and outcome: fired, error, suppressed, held, expired.",
    ["rule", "outcome"],
    registry=OURS,
)
TRIGGER_LATENCY = Histogram(
    "trigger_latency_seconds",
    "Seconds from the event's own moment until its run was recorded.",
    buckets=_LATENCY,
    registry=OURS,
)
LAUNCH_LATENCY = Histogram(
    "run_launch_latency_seconds",
    "Seconds from a run that was recorded by an event until it was launched.",
    buckets=_LATENCY,
    registry=OURS,
)
LAUNCH_FAILURES = Counter(
    "launch_failures_total", "Launches that failed and were left to the reconciler, by cause.", ["cause"], registry=OURS
)
RULE_ERRORS = Counter(
    "rule_evaluation_errors_total", "Conditions and parameters that could not be evaluated.", ["rule"], registry=OURS
)
REBALANCES = Counter(
    "consumer_rebalances_total", "Assignments of partitions that changed, by source.", ["source"], registry=OURS
)
COMMIT_ERRORS = Counter(
    "consumer_commit_errors_total", "Offset commits that were refused, by Kafka's name of the error.", ["code"],
    registry=OURS,
)  # fmt: skip
INGEST_SECONDS = Histogram(
    "ingest_batch_seconds", "Seconds to write one batch of messages.", buckets=_BATCH_SECONDS, registry=OURS
)
INGEST_SIZE = Histogram("ingest_batch_size", "Messages in a batch.", buckets=_BATCH_SIZES, registry=OURS)
WEBHOOK_REQUESTS = Counter(
    "webhook_requests_total",
    "Calls to webhooks, by endpoint (its source's slug, `unknown` for none) and status.",
    ["endpoint", "status"],
    registry=OURS,
)
SIGNATURE_FAILURES = Counter(
    "webhook_signature_failures_total", "Webhook calls with a bad or missing signature.", ["endpoint"], registry=OURS
)
METRICS: Final = (
    *(PROCESSED, ERRORS, PROCESSING, DUPLICATES, REDELIVERIES, CONFLICTS),
    *(TRIGGERED, TRIGGER_LATENCY, LAUNCH_LATENCY, LAUNCH_FAILURES, RULE_ERRORS),
    *(REBALANCES, COMMIT_ERRORS, INGEST_SECONDS, INGEST_SIZE, WEBHOOK_REQUESTS, SIGNATURE_FAILURES),
)
