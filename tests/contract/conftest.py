"""Fixtures of the executors that talk to servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.http_server import Server, serve


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on loopback that answers as the test says."""
    with serve() as running:
        yield running
