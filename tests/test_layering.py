"""Who may import whom, and what must stay pure: every import of every module, with its file and line.

The rules are those of the table in CONTRIBUTING.md. Imports inside functions count: a late import is still one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("orchestrator", "workers", "triggers", "alerts")
SIBLINGS = ("workers", "triggers", "alerts")

#: No Django, no Celery, no clock, no random.
PURE = (
    "orchestrator.dag",
    "orchestrator.planning",
    "orchestrator.expressions",
    "orchestrator.canvas.compile",
    "orchestrator.states",
    "orchestrator.roles",
    "orchestrator.units",
    "orchestrator.contracts",
    "orchestrator.console.layout",
    "triggers.cloud_events",
    "triggers.envelope",
    "triggers.rules",
    "triggers.sources.providers",
    "triggers.timetable",
    "alerts.pipeline",
)
#: What a pure module may import beside the standard library and other pure modules.
PURE_LIBRARIES = ("cel_expr_python", "cryptography", "jsonschema_rs", "orjson", "yaml")
#: The clock, randomness and everything that reaches out of the process.
IMPURE_STANDARD = (
    "time", "random", "secrets", "uuid", "os", "socket", "subprocess", "threading", "asyncio", "multiprocessing", "tempfile",
    "urllib.request", "http",
)  # fmt: skip
#: Types of such modules, which read nothing.
PURE_NAMES = ("uuid.UUID",)
#: Names that read the clock, as attributes of what may be imported.
CLOCK_CALLS = ("now", "utcnow", "today")

#: The orchestrator's open side: all that siblings may import of it.
OPEN_SIDE = (
    "orchestrator.services",
    "orchestrator.selectors",
    "orchestrator.contracts",
    "orchestrator.registry",
    "orchestrator.roles",
    "orchestrator.expressions",
    "orchestrator.states",
    "orchestrator.units",
    "orchestrator.models",
    "orchestrator.errors",
    "orchestrator.endings",
    "orchestrator.diagnosis.versions",
    "orchestrator.conf",
    "orchestrator.logs",
    "orchestrator.metrics",
    "orchestrator.store",
    "orchestrator.celery",
    "orchestrator.admin.mixins",
    "orchestrator.admin.lists",
    "orchestrator.admin.filters",
    "orchestrator.api.bases",
    "orchestrator.console.pages",
)
#: The one thing of the embedded profile that a process of another package reports to.
OPEN_SIDE_OF_EMBEDDED = ("orchestrator.embedded.progress",)

#: Reached through services alone.
PRIVATE = "orchestrator.ledger"
MAY_USE_LEDGER = ("orchestrator.ledger", "orchestrator.services")
#: Edges know services, selectors and models; nothing below imports an edge.
EDGES = (
    "orchestrator.api",
    "orchestrator.admin",
    "orchestrator.console",
    "orchestrator.templatetags",
    "orchestrator.tasks",
    "orchestrator.management",
    "orchestrator.diagnosis",
    "orchestrator.embedded",
)
#: Composition: these name edges, and siblings only as strings.
COMPOSITION = (
    "orchestrator.settings",
    "orchestrator.urls",
    "orchestrator.asgi",
    "orchestrator.wsgi",
    "orchestrator.apps",
)
CANVAS_LIBRARIES = ("celery.canvas", "celery.chord", "celery.group", "celery.chain", "celery.signature")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: by whom, what, where."""

    importer: str
    imported: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def within(module: str, *packages: str) -> bool:
    """Say whether a module is, or lies in, one of `packages`."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """Yield every import of a file, `from a import b` as `a.b`, relative ones resolved."""
    importer, shown = module_name(path), str(path.relative_to(ROOT))
    package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), filename=shown)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, shown, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield Import(importer, f"{base}.{alias.name}", shown, node.lineno)


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def all_imports() -> list[Import]:
    return [found for path in sources() for found in imports_of(path)]


# --- the rules: each says what it forbids, and returns True for an import that breaks it


def sibling_imports_sibling(found: Import) -> bool:
    """Workers, triggers and alerts never import one another."""
    return any(
        within(found.importer, one) and within(found.imported, *(other for other in SIBLINGS if other != one))
        for one in SIBLINGS
    )


def orchestrator_imports_sibling(found: Import) -> bool:
    """The orchestrator imports no sibling: it names them in strings."""
    return within(found.importer, "orchestrator") and within(found.imported, *SIBLINGS)


def sibling_reaches_past_the_open_side(found: Import) -> bool:
    """Siblings see only the orchestrator's open side; their pure modules also what is pure beside it."""
    return (
        within(found.importer, *SIBLINGS)
        and within(found.imported, "orchestrator")
        and not within(found.imported, *OPEN_SIDE, *OPEN_SIDE_OF_EMBEDDED)
        and not (within(found.importer, *PURE) and within(found.imported, *PURE))
    )


def ledger_is_reached_past_services(found: Import) -> bool:
    """Only services use the ledger."""
    return within(found.imported, PRIVATE) and not within(found.importer, *MAY_USE_LEDGER)


def inner_module_imports_edge(found: Import) -> bool:
    """Nothing below the edges imports one of them; edges and the composition do."""
    return (
        within(found.importer, "orchestrator")
        and within(found.imported, *EDGES)
        and not within(found.importer, *EDGES, *COMPOSITION)
        and not within(found.imported, *OPEN_SIDE_OF_EMBEDDED)
    )


def pure_module_imports_the_world(found: Import) -> bool:
    """A pure module imports pure modules, a few pure libraries and the quiet part of the standard library."""
    if not within(found.importer, *PURE):
        return False
    if within(found.imported, *PACKAGES):
        return not (within(found.imported, *PURE) or within(found.imported, "orchestrator.errors"))
    if within(found.imported, *IMPURE_STANDARD):
        return found.imported not in PURE_NAMES
    top = found.imported.partition(".")[0]
    return top not in STANDARD and top not in PURE_LIBRARIES


def canvas_class_used_elsewhere(found: Import) -> bool:
    """`canvas/binding.py` is the only place that touches Celery's canvas classes."""
    return within(found.imported, *CANVAS_LIBRARIES) and found.importer != "orchestrator.canvas.binding"


def product_imports_tests(found: Import) -> bool:
    """Nothing that ships imports the tests."""
    return within(found.imported, "tests")


STANDARD = sys.stdlib_module_names
RULES = (
    sibling_imports_sibling,
    orchestrator_imports_sibling,
    sibling_reaches_past_the_open_side,
    ledger_is_reached_past_services,
    inner_module_imports_edge,
    pure_module_imports_the_world,
    canvas_class_used_elsewhere,
    product_imports_tests,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks(rule) -> None:
    broken = [str(found) for found in all_imports() if rule(found)]

    assert not broken, "\n".join([f"{rule.__doc__}", *broken])


def test_pure_modules_read_no_clock() -> None:
    broken = []
    for path in sources():
        if not within(module_name(path), *PURE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
                broken.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}() in a pure module")

    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "importer", "imported"),
    [
        (sibling_imports_sibling, "workers.tasks", "triggers.models.Event"),
        (orchestrator_imports_sibling, "orchestrator.services.runs", "workers.executors"),
        (sibling_reaches_past_the_open_side, "alerts.reader", "orchestrator.ledger.transitions"),
        (sibling_reaches_past_the_open_side, "workers.tasks", "orchestrator.settings"),
        (ledger_is_reached_past_services, "orchestrator.api.views.runs", "orchestrator.ledger.claims"),
        (inner_module_imports_edge, "orchestrator.services.runs", "orchestrator.api.exceptions"),
        (pure_module_imports_the_world, "orchestrator.planning.plan", "django.utils.timezone"),
        (pure_module_imports_the_world, "orchestrator.dag.graph", "orchestrator.models"),
        (pure_module_imports_the_world, "orchestrator.planning.retry", "random.random"),
        (canvas_class_used_elsewhere, "orchestrator.ledger.advance", "celery.chord"),
        (product_imports_tests, "workers.tasks", "tests.support.graphs"),
    ],
)
def test_each_rule_catches_what_it_forbids(rule, importer: str, imported: str) -> None:
    assert rule(Import(importer, imported, "a.py", 1))


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("workers.runtime.attempt", "orchestrator.services.attempts"),
        ("orchestrator.services.runs", "orchestrator.ledger.transitions"),
        ("orchestrator.planning.plan", "orchestrator.states.TaskState"),
        ("orchestrator.planning.plan", "dataclasses.dataclass"),
        ("orchestrator.api.views.runs", "orchestrator.services.runs"),
        ("orchestrator.canvas.binding", "celery.chord"),
    ],
)
def test_what_is_allowed_breaks_no_rule(importer: str, imported: str) -> None:
    assert not [rule.__name__ for rule in RULES if rule(Import(importer, imported, "a.py", 1))]


def test_relative_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_layering.ROOT", tmp_path)
    module = tmp_path / "alerts" / "intake.py"
    module.parent.mkdir()
    module.write_text("from . import models\nfrom .pipeline.group import fold\n\n\ndef late():\n    import workers\n")

    assert [(i.imported, i.line) for i in imports_of(module)] == [
        ("alerts.models", 1),
        ("alerts.pipeline.group.fold", 2),
        ("workers", 6),
    ]
