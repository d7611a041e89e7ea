"""requirements.txt against what the code imports: nothing missing, nothing carried along."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions

from tests.support.processes import ROOT
from tests.test_layering import PACKAGES, all_imports

#: Used without an import of ours: the server and the clients' extras that run beside the code.
BY_NAME = {"uvicorn", "flower", "drf-spectacular", "whitenoise", "django-unfold", "kombu"}


#: kombu's own AMQP client, of the version it asks for.
WITH_KOMBU = {"amqp"}


def pinned(file: str) -> set[str]:
    names = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==", (ROOT / file).read_text(), flags=re.MULTILINE)
    return {name.lower() for name in names}


def imported() -> dict[str, str]:
    """Distribution → a line that imports it."""
    distributions = packages_distributions()
    found: dict[str, str] = {}
    for one in all_imports():
        top = one.imported.partition(".")[0]
        if top in sys.stdlib_module_names or top in PACKAGES:
            continue
        for distribution in distributions.get(top, [top]):
            found.setdefault(re.sub(r"[-_.]+", "-", distribution).lower(), str(one))
    return found


def test_every_package_that_the_code_imports_is_pinned() -> None:
    missing = {name: line for name, line in imported().items() if name not in pinned("requirements.txt") | WITH_KOMBU}

    assert not missing


def test_nothing_is_pinned_that_nobody_uses() -> None:
    assert pinned("requirements.txt") - set(imported()) <= BY_NAME


def test_every_pin_says_why_it_is_there() -> None:
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line and line[0] != "#"]

    assert [line for line in pins if "  # " not in line] == []
