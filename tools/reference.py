"""Write docs/reference.md: the tables of options, commands, errors and metrics, produced from the code.

python tools/reference.py          write it
python tools/reference.py --check  exit 1 if it is not what the code says
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator.settings.test")

PAGE = ROOT / "docs" / "reference.md"


def page() -> str:
    """Return the page as the code stands."""
    import django

    django.setup()
    return "\n".join(["# Reference", "", _INTRODUCTION, *_options(), *_errors(), *_metrics(), *_checks(), ""])


_INTRODUCTION = "Produced from the code by `python tools/reference.py`; a test holds it to the code."


def _options() -> list[str]:
    from orchestrator.conf import OPTIONS

    lines = ["", "## Environment", "", "A secret may also come from a file: `…_FILE` names it.", ""]
    lines += ["| variable | default | meaning |", "|---|---|---|"]
    for option in OPTIONS:
        default = "" if option.default in ("", ()) else f"`{option.default}`"
        name = f"`{option.name}`" + (" (secret)" if option.secret else "")
        lines.append(f"| {name} | {default} | {_cell(option.meaning)} |")
    return lines


def _errors() -> list[str]:
    import orchestrator.urls  # noqa: F401  imports all that defines errors of its own
    from orchestrator.errors import UpbeatError

    def below(kind: type[UpbeatError]) -> list[type[UpbeatError]]:
        return [kind, *(inner for child in kind.__subclasses__() for inner in below(child))]

    lines = ["", "## Error codes of the API", "", "| status | code | meaning |", "|---|---|---|"]
    # One code may have a meaning at each kind of thing: a job or a rule without such a version.
    meanings: dict[tuple[int, str], list[str]] = {}
    for kind in below(UpbeatError):
        meanings.setdefault((kind.status, kind.code), []).append((kind.__doc__ or "").strip().splitlines()[0])
    for (status, code), texts in sorted(meanings.items()):
        lines.append(f"| {status} | `{code}` | {_cell(' '.join(dict.fromkeys(texts)))} |")
    return lines


def _metrics() -> list[str]:
    from orchestrator.metrics import METRICS
    from triggers.collectors import GAUGES
    from triggers.metrics import METRICS as EVENT_METRICS

    lines = ["", "## Metrics", "", "| name | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in (*METRICS, *EVENT_METRICS):
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(metric._labelnames)
        lines.append(f"| `{name}` | {family.type} | {labels} | {_cell(family.documentation)} |")
    lines += [
        f"| `{name}` | gauge | {labels} | {meaning} |"
        for name, labels, meaning in (
            ("upbeat_ledger_reachable", "", "1 if the ledger's database answered this scrape, else 0."),
            ("upbeat_oldest_ready_task_seconds", "", "Seconds that the oldest ready task has waited for a worker."),
            ("upbeat_ready_tasks", "", "Tasks that may be claimed."),
            ("upbeat_running_tasks", "", "Tasks that an attempt holds."),
            ("upbeat_open_runs", "state", "Runs that have not ended."),
        )
    ]
    lines += [f"| `{name}` | gauge | {', '.join(labels)} | {_cell(meaning)} |" for name, meaning, labels in GAUGES]
    return lines


def _checks() -> list[str]:
    import inspect
    import re

    from orchestrator import checks

    lines = ["", "## System checks", "", "`python manage.py check` and `doctor` name contradictory settings.", ""]
    lines += ["| id | what it found |", "|---|---|"]
    source = inspect.getsource(checks)
    for message, identity in re.findall(
        r'(?:Error|Warning|severe)\(\s*f?"([^"]+)",.*?id="(upbeat\.\w+)"', source, re.DOTALL
    ):
        lines.append(f"| `{identity}` | {_cell(re.sub(r'{[^}]*}', '…', message))} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.read_text() == text else "docs/reference.md is out of date: python tools/reference.py")
    PAGE.write_text(text)
