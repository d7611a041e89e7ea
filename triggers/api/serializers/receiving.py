"""What is answered to those who send events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpResponse
from rest_framework import serializers

from orchestrator.api.bases import answer, error_answer
from triggers.envelope import Problem
from triggers.services.receiving import Receipt


class ReceiptAnswer(serializers.Serializer):
    """An event that is stored."""

    eventId = serializers.IntegerField(help_text="Of a duplicate, the id of the event that was first.")
    duplicate = serializers.BooleanField(help_text="The event was known already; nothing is started twice.")


class EnvelopeCall(serializers.Serializer):
    """An event of the contract."""

    eventType = serializers.CharField(max_length=200)
    payload = serializers.DictField()
    messageId = serializers.CharField(max_length=500, required=False, help_text="What makes a repeat a duplicate.")
    timestamp = serializers.DateTimeField(required=False)
    source = serializers.CharField(max_length=200, required=False)  # type: ignore[assignment]  # a field named so
    destination = serializers.CharField(max_length=200, required=False)
    priority = serializers.ChoiceField(["HIGH", "MEDIUM", "LOW"], required=False)
    metadata = serializers.DictField(required=False)


def receipts_answer(receipts: Sequence[Receipt], *, batch: bool) -> HttpResponse:
    """Answer 202 for what is new, 200 where nothing was, an error where nothing could be stored.

    Nothing is said of rules: who may send events need not know what they start.
    """
    refused = [receipt.problem for receipt in receipts if receipt.problem is not None]
    if refused and len(refused) == len(receipts):
        return problem_answer(refused[0])
    status = 202 if any(receipt.event_id is not None and not receipt.duplicate for receipt in receipts) else 200
    if not batch and len(receipts) == 1:
        return answer(_shown(receipts[0]), status=status)
    return answer({"events": [_shown(receipt) for receipt in receipts]}, status=status)


def problem_answer(problem: Problem) -> HttpResponse:
    """Answer why a message is no event; it is a dead letter, too."""
    status = {"conflict": 409, "too_large": 413, "reserved_source": 403, "source_not_allowed": 403}.get(
        problem.reason, 400
    )
    return error_answer(status, problem.reason, f"This is no event: {problem.error}.", _details(problem))


def _shown(receipt: Receipt) -> dict[str, Any]:
    shown: dict[str, Any] = {"eventId": receipt.event_id, "duplicate": receipt.duplicate}
    if (problem := receipt.problem) is not None:
        shown["error"] = {
            "code": problem.reason,
            "message": f"This is no event: {problem.error}.",
            "details": _details(problem),
        }
    return shown


def _details(problem: Problem) -> list[Mapping[str, Any]]:
    path, colon, expected = problem.error.partition(": ")
    if colon and path.replace(".", "").replace("_", "").isalnum():
        return [{"path": path, "value": None, "expected": expected}]
    return []
