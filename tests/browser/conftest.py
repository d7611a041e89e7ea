"""A browser for each process of tests, and sites with no, ten and a thousand rows in every table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection
from playwright.sync_api import Browser
from pytest_django.plugin import DjangoDbBlocker

from tests.support.browsing import launched
from tests.support.sites import own_database


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def migrated(database_url: str, django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """A database of ours with empty tables, to be copied; these tests own whole databases, nothing is rolled back."""
    with django_db_blocker.unblock(), own_database("migrated") as name:
        call_command("migrate", verbosity=0)
        connection.close()
        yield name
