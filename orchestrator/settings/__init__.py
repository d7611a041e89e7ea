"""Settings by profile: `UPBEAT_PROFILE` chooses the module unless DJANGO_SETTINGS_MODULE already names one."""

from __future__ import annotations

import os


def use_profile() -> None:
    """Point Django at the settings of the profile. Safe to call twice."""
    profile = os.environ.get("UPBEAT_PROFILE") or "embedded"
    if profile not in ("embedded", "production"):
        raise SystemExit(f"UPBEAT_PROFILE: {profile!r} is not embedded or production")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"orchestrator.settings.{profile}")
