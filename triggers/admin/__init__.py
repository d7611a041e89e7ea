"""Pages for operators: where events come from, what rules made of them, what could not be used."""

from __future__ import annotations

from triggers.admin import dead_letters, events, firings, rules, sources

__all__ = ["dead_letters", "events", "firings", "rules", "sources"]
