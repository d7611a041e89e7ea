"""Settings by profile: `UPBEAT_PROFILE` chooses the module unless DJANGO_SETTINGS_MODULE already names one."""

from __future__ import annotations

import os

from orchestrator.embedded.home import adopt_home


def use_profile() -> None:
    """Point Django at the settings of the profile. Safe to call twice."""
    profile = os.environ.get("UPBEAT_PROFILE") or "embedded"
    if profile not in ("embedded", "production"):
        raise SystemExit(f"UPBEAT_PROFILE: {profile!r} is not embedded or production")
    module = os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"orchestrator.settings.{profile}")
    if module == "orchestrator.settings.embedded":
        # A command in another terminal has the keys and the broker that the launcher generated.
        adopt_home(os.environ)
