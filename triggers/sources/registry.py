"""The kinds of sources that there are, filled by `TriggersConfig.ready()`: one line for each."""

from __future__ import annotations

from orchestrator.registry import Registry
from triggers.sources.base import SourceKind

source_kinds: Registry[SourceKind] = Registry("kind of source")
