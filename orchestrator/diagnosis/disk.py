"""Free space, where this process writes: its home, and the store if that is a directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from orchestrator.conf import options
from orchestrator.registry import Finding

LEAST_FREE_BYTES: Final = 256 * 2**20
LEAST_FREE_SHARE: Final = 0.02


def findings() -> list[Finding]:
    """Return one finding for each file system: two folders of one disk are one."""
    found: dict[int, Finding] = {}
    for folder in _folders():
        while not folder.exists():
            folder = folder.parent
        found.setdefault(folder.stat().st_dev, _finding(folder))
    return list(found.values())


def _folders() -> list[Path]:
    store = urlsplit(options().store_location)
    local = [Path(unquote(store.path)).absolute()] if store.scheme in ("", "file") else []
    return [options().home_path, *local]


def _finding(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    return Finding(
        "disk",
        ok=usage.free >= LEAST_FREE_BYTES and usage.free >= usage.total * LEAST_FREE_SHARE,
        detail=f"{usage.free // 2**20} MiB ({usage.free * 100 // max(1, usage.total)} %) free under {folder}",
        hint="Free some space (`manage.py prune_runs`), or move UPBEAT_HOME or UPBEAT_STORE_URL to a larger disk.",
    )
