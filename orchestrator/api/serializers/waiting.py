"""How the reasons of waiting look in answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rest_framework import serializers

from orchestrator.selectors.waiting import WaitReason


class WaitReasonAnswer(serializers.Serializer):
    """Why something waits; one that runs or has ended says so (`running`, `final`)."""

    code = serializers.CharField(
        help_text="Stable: job_paused, concurrency_key, concurrency, launch, expiry, stop_requested, run_paused, dependency, "
        "dependency_any, planning, lock, lock_free, no_worker, lane_busy, priority, starting, hint_due, hint_lost, retry, deferred, "
        "worker_silent, running, tasks, final."
    )
    text = serializers.CharField(help_text="In plain words.")
    since = serializers.DateTimeField(allow_null=True)
    facts = serializers.DictField(help_text="What the text says, as data.")


class WaitingAnswer(serializers.Serializer):
    """The reasons, the most binding one first."""

    items = WaitReasonAnswer(many=True)


def waiting_answer(reasons: Iterable[WaitReason]) -> dict[str, Any]:
    return {
        "items": [
            {"code": reason.code, "text": reason.text, "since": reason.since, "facts": dict(reason.facts)}
            for reason in reasons
        ]
    }
