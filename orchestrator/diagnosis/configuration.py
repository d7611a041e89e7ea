"""Settings: contradictions, what is unsafe, and whether the keys can be used."""

from __future__ import annotations

from django.core import checks

from orchestrator.conf import options
from orchestrator.errors import Misconfigured
from orchestrator.registry import Finding
from orchestrator.services.secrets import encrypt


def findings() -> list[Finding]:
    """Return a line for each warning, and a wrong for each error, of the system checks; then the keys of secrets."""
    found = [
        Finding(
            f"settings {message.id}",
            ok=message.level < checks.ERROR,
            # A warning is worth a line, not an exit code: so what to do about it stands in the line.
            detail=message.msg if message.level >= checks.ERROR else f"{message.msg} {message.hint or ''}".strip(),
            hint=message.hint or "",
        )
        for message in checks.run_checks()
        if message.level >= checks.WARNING
    ]
    return [*(found or [Finding("settings", ok=True, detail=f"profile {options().profile}")]), _encryption()]


def _encryption() -> Finding:
    try:
        encrypt("probe")
    except Misconfigured as error:
        return Finding("encryption", ok=False, detail=error.message, hint="Secrets cannot be used until it is set.")
    return Finding("encryption", ok=True)
