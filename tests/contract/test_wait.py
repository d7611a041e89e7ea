"""`wait` under the executors' contract, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executors import ExecutorContract, context_for
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.registry import executor_for

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


class TestWait(ExecutorContract):
    type = "wait"
    good: Mapping[str, Any] = {"for": "0s"}
    bad = (
        ({"for": -1}, "for"),
        ({"for": ["10m"]}, "for"),
        ({"for": True}, "for"),
        ({"until": 5}, "until"),
        ({"until": None}, "until"),
        ({"for": "1s", "how_long": "2s"}, "how_long"),
    )
    unusable: tuple[tuple[Mapping[str, Any], str], ...] = (
        ({}, "for"),
        ({"for": "1s", "until": "2026-12-01T08:00:00Z"}, "until"),
        ({"for": "soon"}, "for"),
        ({"for": ""}, "for"),
        ({"for": "366d"}, "for"),
        ({"until": "tomorrow"}, "until"),
        ({"until": "2026-12-01"}, "until"),
        ({"until": "2026-12-01T08:00:00"}, "until"),
        ({"until": "2026-02-31T08:00:00Z"}, "until"),
        ({"until": "9999-12-31T23:59:59Z"}, "until"),
    )

    def waited(self, config: Mapping[str, Any], tmp_path: Path, *, elapsed: float = 0.0) -> ExecutionResult:
        context = replace(context_for(config, tmp_path), elapsed=elapsed, claimed_at=NOON)
        return executor_for("wait").execute(context)

    @pytest.mark.parametrize("value", ["10m", 600, 600.0, "600s", "600000ms"])
    def test_it_is_deferred_until_its_time_has_passed(self, value: Any, tmp_path: Path) -> None:
        assert self.waited({"for": value}, tmp_path) == ExecutionResult.deferred(600, "waits 10m")
        assert self.waited({"for": value}, tmp_path, elapsed=400).defer_seconds == pytest.approx(200)
        assert self.waited({"for": value}, tmp_path, elapsed=600) == ExecutionResult.succeeded()
        assert self.waited({"for": value}, tmp_path, elapsed=9000) == ExecutionResult.succeeded()

    @pytest.mark.parametrize(
        "moment",
        [
            "2026-12-01T13:00:00Z",
            "2026-12-01t13:00:00z",
            "2026-12-01 13:00:00+00:00",
            "2026-12-01T21:00:00+08:00",
            "2026-12-01T18:30:00.000000+05:30",
            "2026-12-01T13:00:00.000000000Z",
        ],
    )
    def test_a_moment_is_the_same_in_every_zone_and_judged_by_the_claim(self, moment: str, tmp_path: Path) -> None:
        result = self.waited({"until": moment}, tmp_path)

        assert result.defer_seconds == 3600
        assert result.reason.startswith("waits until 2026-12-01")

    def test_a_moment_in_the_past_succeeds_at_once(self, tmp_path: Path) -> None:
        assert self.waited({"until": "2026-12-01T11:59:59Z"}, tmp_path) == ExecutionResult.succeeded()

    def test_it_does_not_begin_when_asked_to_stop_before(self, tmp_path: Path) -> None:
        stop = StopSignal()
        stop.request("cancelled")

        result = executor_for("wait").execute(context_for({"for": "1h"}, tmp_path, stop=stop))

        assert (result.failure, result.reason) == (FailureKind.STOPPED, "cancelled")
