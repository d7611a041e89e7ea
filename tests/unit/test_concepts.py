"""The state diagrams of the docs are produced from `states.py`: a failure prints what to paste."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from orchestrator.states import ATTEMPT_ARROWS, RUN_ARROWS, TASK_ARROWS

CONCEPTS = Path(__file__).resolve().parent.parent.parent / "docs" / "concepts.md"


def diagram(arrows: Mapping[StrEnum, frozenset[StrEnum]]) -> str:
    first = next(iter(arrows))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}"]
    for old, following in arrows.items():
        lines += [f"    {old.value} --> {new.value}" for new in sorted(following)]
        if not following:
            lines.append(f"    {old.value} --> [*]")
    return "\n".join([*lines, "```"])


@pytest.mark.parametrize("arrows", [RUN_ARROWS, TASK_ARROWS, ATTEMPT_ARROWS], ids=["run", "task run", "attempt"])
def test_the_docs_draw_the_arrows_that_the_table_has(arrows: Mapping[StrEnum, frozenset[StrEnum]]) -> None:
    expected = diagram(arrows)

    assert expected in CONCEPTS.read_text(), f"docs/concepts.md needs:\n{expected}"
