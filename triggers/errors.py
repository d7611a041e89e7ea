"""What rules, sources, events and replays refuse; each with a stable code."""

from __future__ import annotations

from orchestrator.errors import NotFound, Refused, UpbeatError


class InvalidRule(UpbeatError):
    """The rule has problems."""

    code = "invalid_rule"


class UnknownRuleJob(UpbeatError):
    """The rule names a job that there is not."""

    code = "unknown_job"
    status = 422


class InvalidSource(UpbeatError):
    """The event source has problems."""

    code = "invalid_source"


class UnknownRule(NotFound):
    """There is no such rule."""

    code = "unknown_rule"


class UnknownRuleVersion(NotFound):
    """The rule has no such version."""

    code = "unknown_version"


class UnknownSource(NotFound):
    """There is no such event source."""

    code = "unknown_source"


class UnknownEvent(NotFound):
    """There is no such event."""

    code = "unknown_event"


class UnknownFiring(NotFound):
    """There is no such firing."""

    code = "unknown_firing"


class UnknownDeadLetter(NotFound):
    """There is no such dead letter."""

    code = "unknown_dead_letter"


class UnknownReplay(NotFound):
    """There is no such replay."""

    code = "unknown_replay"


class RuleExists(Refused):
    """There is already a rule of this id."""

    code = "rule_exists"


class SourceExists(Refused):
    """There is already an event source of this name."""

    code = "source_exists"


class SourceInUse(Refused):
    """Another source reads the same messages with the same group."""

    code = "source_in_use"


class LetterResolved(Refused):
    """The dead letter was replayed or discarded before."""

    code = "dead_letter_resolved"


class StaleVersion(Refused):
    """It was changed since it was read: read it again."""

    code = "stale_version"
    status = 412
