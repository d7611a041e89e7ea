"""What the tests on events share: nothing that a process remembers survives a test."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from triggers import rules_cache
from triggers.services import receiving, webhooks


class Offered:
    """In place of the launcher's thread, which would look for runs that a test never commits."""

    def __init__(self) -> None:
        self.run_ids: list[int] = []

    def offer(self, run_ids: Sequence[int]) -> bool:
        self.run_ids += run_ids
        return True


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> Offered:
    """The runs that events called for, in order; and every cache of rules and endpoints as in a new process."""
    found = Offered()
    monkeypatch.setattr(receiving, "launcher", lambda: found)
    rules_cache.shared.forget()
    monkeypatch.setattr(rules_cache.shared, "_looks_every", 0.0)
    monkeypatch.setattr(webhooks, "LOOKS_EVERY", 0.0)
    webhooks.forget_endpoints()
    return found
