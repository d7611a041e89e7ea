"""Debian's Chromium for the tests of pages: found, named and installed as the servers are."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.services import program

#: Names an installed browser; set, nothing is installed.
VARIABLE = "UPBEAT_TEST_CHROMIUM"
PACKAGES = ("chromium",)


@dataclass(frozen=True, slots=True)
class Chromium:
    """An installed browser: nothing runs until a test launches it."""

    url: str

    def close(self) -> None:
        """Do nothing: what a test launched, it closes."""


def find() -> Chromium:
    """Return the installed browser; raise MissingProgram."""
    return Chromium(program("chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"))
