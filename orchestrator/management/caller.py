"""Who calls a command, for the record."""

from __future__ import annotations

import getpass
import os


def by_cli() -> str:
    """How transitions name who calls a command: the login name, or the user's number where the system knows none."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:{os.getuid()}"
