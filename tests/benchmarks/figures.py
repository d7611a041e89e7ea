"""What a benchmark found: its file, its row, and whether it reached what it must."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COLUMNS = "{:<19} {:>9} {:<9} {:<22} {:>9} {:>6} {:>9} {:>12}   {}"


@dataclass(frozen=True, slots=True)
class Required:
    """A bound of one figure: `value`, or one of the extra figures by name."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return bound if self.figure == "value" else f"{self.figure} {bound}"


@dataclass(frozen=True, slots=True)
class Figures:
    """The result of a benchmark. `value` is the median of `repeats`, `ratio` is value : baseline."""

    name: str
    unit: str
    repeats: Sequence[float]
    required: Sequence[Required]
    baselines: Sequence[float] = ()
    cpu_ms_per_task: float | None = None
    server_ms_per_task: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.repeats)

    @property
    def baseline(self) -> float | None:
        return statistics.median(self.baselines) if self.baselines else None

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def missed(self) -> list[Required]:
        return [r for r in self.required if not r.met(self.value if r.figure == "value" else self.extra[r.figure])]

    @property
    def reached(self) -> bool:
        return not self.missed

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "unit": self.unit,
            "value": _rounded(self.value),
            "baseline": _rounded(self.baseline),
            "ratio": _rounded(self.ratio),
            "cpu_ms_per_task": _rounded(self.cpu_ms_per_task),
            "server_ms_per_task": _rounded(self.server_ms_per_task),
            "repeats": [_rounded(value) for value in self.repeats],
            "settings": self.settings,
            "required": [str(required) for required in self.required],
            "reached": self.reached,
            **{name: _rounded(value) for name, value in self.extra.items()},
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def row(self) -> str:
        verdict = "reached" if self.reached else f"MISSED {', '.join(map(str, self.missed))}"
        bound = next((str(r) for r in self.required if r.figure == "value"), "")
        extra = "  ".join(f"{name} {_shown(value)}" for name, value in self.extra.items())
        return _COLUMNS.format(
            self.name, _shown(self.value), self.unit, f"{bound} {verdict}", _shown(self.baseline), _shown(self.ratio),
            _shown(self.cpu_ms_per_task), _shown(self.server_ms_per_task), extra,
        ).rstrip()  # fmt: skip


def header() -> str:
    return _COLUMNS.format(
        "benchmark", "value", "unit", "must reach", "raw", "ratio", "cpu ms/t", "server ms/t", ""
    ).rstrip()


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
