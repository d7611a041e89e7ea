from __future__ import annotations

import pytest

from orchestrator.dag.spec import RetrySpec
from orchestrator.planning.retry import GiveUp, RetryAfter, after_failure, after_loss, delay_before


def after(
    kind: str,
    *,
    attempts: int = 1,
    idempotent: bool = False,
    exit_code: int | None = None,
    **retry: object,
) -> RetryAfter | GiveUp:
    spec = RetrySpec(**{"max_attempts": 3, **retry})
    return after_failure(spec, kind=kind, exit_code=exit_code, idempotent=idempotent, attempts=attempts, jitter=0.0)


def test_a_retryable_failure_is_repeated_after_the_delay() -> None:
    assert after("retryable") == RetryAfter(10)


def test_every_attempt_counts_and_the_last_one_ends_it() -> None:
    assert after("retryable", attempts=2) == RetryAfter(10)
    assert after("retryable", attempts=3) == GiveUp("attempt 3 of 3")
    assert after("retryable", max_attempts=1) == GiveUp("")


def test_a_permanent_failure_is_never_repeated() -> None:
    assert isinstance(after("permanent", idempotent=True, on=("failed", "timeout", "unknown")), GiveUp)


@pytest.mark.parametrize("kind", ["timeout", "unknown"])
def test_what_nobody_saw_end_is_repeated_only_if_named_and_idempotent(kind: str) -> None:
    assert isinstance(after(kind), GiveUp)
    assert isinstance(after(kind, idempotent=True), GiveUp)
    assert isinstance(after(kind, on=(kind,)), GiveUp)
    assert after(kind, on=(kind,), idempotent=True) == RetryAfter(10)


def test_on_without_failed_does_not_repeat_failures() -> None:
    assert isinstance(after("retryable", on=("timeout",), idempotent=True), GiveUp)


@pytest.mark.parametrize(
    ("rule", "exit_code", "repeated"),
    [("exit:75", 75, True), ("exit:75", 1, False), ("exit:10-20", 10, True), ("exit:10-20", 20, True),
     ("exit:10-20", 21, False), ("exit:75", None, False)],
)  # fmt: skip
def test_an_exit_code_is_repeated_if_it_lies_in_a_named_range(rule: str, exit_code: int | None, repeated: bool) -> None:
    decision = after("retryable", on=(rule,), exit_code=exit_code)

    assert isinstance(decision, RetryAfter) is repeated


class TestLosses:
    def test_a_task_that_is_not_idempotent_is_not_repeated(self) -> None:
        assert isinstance(after_loss(idempotent=False, losses=1), GiveUp)

    def test_an_idempotent_one_runs_again_at_once(self) -> None:
        assert after_loss(idempotent=True, losses=1) == RetryAfter(0)
        assert after_loss(idempotent=True, losses=2) == RetryAfter(0)

    def test_the_third_loss_is_poison(self) -> None:
        assert after_loss(idempotent=True, losses=3) == GiveUp("lost: 3 workers vanished while running it")


class TestDelays:
    def test_fixed_stays(self) -> None:
        assert [delay_before(n, RetrySpec(delay=7), jitter=0) for n in (2, 3, 9)] == [7, 7, 7]

    def test_none_waits_for_nothing(self) -> None:
        assert delay_before(2, RetrySpec(delay=7, backoff="none"), jitter=0) == 0

    def test_exponential_doubles_up_to_its_limit(self) -> None:
        retry = RetrySpec(delay=10, backoff="exponential", max_delay=60)

        assert [delay_before(n, retry, jitter=0) for n in (2, 3, 4, 5, 6)] == [10, 20, 40, 60, 60]

    def test_a_thousand_attempts_overflow_nothing(self) -> None:
        assert delay_before(5000, RetrySpec(delay=10, backoff="exponential"), jitter=0) == 3600

    def test_jitter_takes_up_to_half_away(self) -> None:
        retry = RetrySpec(delay=10, jitter=True)

        assert delay_before(2, retry, jitter=0.0) == 10
        assert delay_before(2, retry, jitter=0.999) == pytest.approx(5, abs=0.01)
        assert delay_before(2, RetrySpec(delay=10), jitter=0.999) == 10


class TestWhatTheOtherSideAsksFor:
    def test_the_next_attempt_waits_at_least_as_long(self) -> None:
        assert self.after(asked=120.0) == RetryAfter(120.0)
        assert self.after(asked=3.0) == RetryAfter(10)
        assert self.after(asked=0.0) == RetryAfter(10)
        assert self.after(asked=120.0, backoff="none") == RetryAfter(120.0)

    def test_nobody_can_ask_for_more_than_an_hour_or_the_tasks_own_longest_wait(self) -> None:
        assert self.after(asked=1e9) == RetryAfter(3600.0)
        assert self.after(asked=1e9, max_delay=7200.0) == RetryAfter(7200.0)
        assert self.after(asked=1e9, max_delay=5.0) == RetryAfter(3600.0)

    def test_asking_makes_no_attempt_out_of_none(self) -> None:
        assert isinstance(self.after(asked=120.0, attempts=3), GiveUp)

    @staticmethod
    def after(*, asked: float, attempts: int = 1, **retry: object) -> RetryAfter | GiveUp:
        spec = RetrySpec(**{"max_attempts": 3, **retry})
        return after_failure(
            spec, kind="retryable", exit_code=None, idempotent=False, attempts=attempts, jitter=0.0, asked=asked
        )
