"""Where a task's result goes: into the ledger while it is small, into the store above that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import UpbeatError
from orchestrator.store.base import Store

#: Results up to this size stay in the ledger.
INLINE_BYTES: Final = 16 * 1024
#: Results above this size are refused.
RESULT_BYTES = 64 * 1024 * 1024
#: Nesting that every reader of a result can still follow.
RESULT_DEPTH: Final = 200


class ResultRefused(UpbeatError):
    """The result cannot be kept."""

    code = "result_refused"


@dataclass(frozen=True, slots=True)
class KeptResult:
    """Where a result lies: in the ledger (`inline`) or, above 16 KiB, in the store (`ref`)."""

    inline: Any = None
    ref: str = ""


def keep_result(store: Store, run_id: int, value: Any) -> KeptResult:
    """Keep a task's result and return where. Raises ResultRefused for what no task may return, StoreError."""
    if value is None:
        return KeptResult()
    problem = _unstorable(value)
    if problem:
        raise ResultRefused(f"the result {problem}")
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultRefused(f"the result is not JSON: {error}") from None
    data = text.encode()
    if len(data) <= INLINE_BYTES:
        return KeptResult(inline=value)
    if len(data) > RESULT_BYTES:
        raise ResultRefused(f"the result has {len(data)} bytes, more than {RESULT_BYTES}")
    return KeptResult(ref=store.put(run_id, data))


def load_result(store: Store, kept: KeptResult) -> Any:
    """Return a result wherever it lies."""
    return json.loads(store.get(kept.ref)) if kept.ref else kept.inline


def _unstorable(value: Any) -> str:
    """Say what PostgreSQL would refuse in a JSON column: settling must not fail over it again and again."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > RESULT_DEPTH:
            return f"is nested deeper than {RESULT_DEPTH} levels"
        if isinstance(item, str):
            if "\0" in item:
                return "holds a NUL character"
            if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                return "holds half of a surrogate pair"
        elif isinstance(item, dict):
            pending.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, (list, tuple)):
            pending.extend((part, depth + 1) for part in item)
    return ""
