"""Whether a failed, timed-out or lost attempt is followed by another, and when."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.dag.spec import RetrySpec

#: Losses after which a task counts as poison: it may be what kills its workers.
POISON_LIMIT = 3

#: The longest wait that another system may ask for (seconds), unless the task's own longest is more.
LONGEST_ASKED = 3600.0

#: Outcomes that nobody saw: repeating them is safe only for an idempotent task.
UNSEEN = frozenset({"timeout", "lost", "unknown"})


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Another attempt, after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt, and why."""

    reason: str


def after_failure(
    retry: RetrySpec,
    *,
    kind: str,
    exit_code: int | None,
    idempotent: bool,
    attempts: int,
    jitter: float,
    asked: float | None = None,
) -> RetryAfter | GiveUp:
    """Decide what follows an attempt that ended by `kind`: retryable, permanent, timeout or unknown.

    `attempts` counts every attempt so far, this one included; `jitter` is a random number in [0, 1); `asked` are the
    seconds that the other side wants to be left alone (Retry-After).
    """
    if kind == "permanent":
        return GiveUp("permanent failures are not repeated")
    if kind in UNSEEN and not idempotent:
        return GiveUp("" if kind == "timeout" else "not repeated: the task is not declared idempotent")
    if not any(_names(rule, kind, exit_code) for rule in retry.on):
        return GiveUp("")
    if attempts >= retry.max_attempts:
        return GiveUp(f"attempt {attempts} of {retry.max_attempts}" if retry.max_attempts > 1 else "")
    least = min(asked or 0.0, max(retry.max_delay, LONGEST_ASKED))
    return RetryAfter(max(delay_before(attempts + 1, retry, jitter=jitter), least))


def after_loss(*, idempotent: bool, losses: int) -> RetryAfter | GiveUp:
    """Decide what follows a loss; `losses` includes it. A loss needs no naming in `retry.on`, only idempotence."""
    if not idempotent:
        return GiveUp("lost: the worker vanished, and the task is not declared idempotent")
    if losses >= POISON_LIMIT:
        return GiveUp(f"lost: {losses} workers vanished while running it")
    return RetryAfter(0)


def delay_before(attempt: int, retry: RetrySpec, *, jitter: float) -> float:
    """Return the seconds to wait before an attempt (the second is the first that waits).

    Full backoff doubles per attempt up to `max_delay`; jitter takes up to half of it away, so that many
    failures of one cause do not come back as one.
    """
    if retry.backoff == "none":
        return 0.0
    delay = retry.delay
    if retry.backoff == "exponential":
        # The exponent is bounded: 2.0 ** 1100 overflows.
        delay = retry.delay * 2.0 ** min(attempt - 2, 64)
    delay = min(delay, retry.max_delay)
    return delay * (1 - jitter / 2) if retry.jitter else delay


def _names(rule: str, kind: str, exit_code: int | None) -> bool:
    if rule == "failed":
        return kind == "retryable"
    if not rule.startswith("exit:"):
        return rule == kind
    if exit_code is None or kind != "retryable":
        return False
    low, _, high = rule.removeprefix("exit:").partition("-")
    return int(low) <= exit_code <= int(high or low)
