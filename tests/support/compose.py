"""Debian's docker-compose for the test of the compose file: it reads and checks, and needs no engine for that."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.services import program

#: Names an installed one; set, nothing is installed.
VARIABLE = "UPBEAT_TEST_COMPOSE"
PACKAGES = ("docker-compose",)


@dataclass(frozen=True, slots=True)
class Compose:
    """An installed docker-compose."""

    url: str

    def close(self) -> None:
        """Do nothing: nothing runs."""


def find() -> Compose:
    """Return the installed docker-compose; raise MissingProgram."""
    return Compose(program("docker-compose"))
