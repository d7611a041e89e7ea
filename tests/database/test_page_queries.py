"""How many statements each page of the admin asks the database: as many as are written down, however long its lists are.

After a change that is meant: `UPBEAT_WRITE_SNAPSHOT=1 make test ARGS="tests/database/test_page_queries.py"`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orchestrator.models import RoleGrant, Tenant
from tests.support.admin_rows import fill
from tests.support.long_lists import addresses

pytestmark = pytest.mark.django_db
SNAPSHOT = Path(__file__).with_name("page_queries.json")


def counts_of(user: User) -> dict[str, int]:
    """Return the statements of each kind of page: the most of its addresses without a filter."""
    client = Client()
    client.force_login(user)
    found: dict[str, int] = {}
    for address in addresses(user):
        if "?" in address.url:
            continue
        if not address.page.startswith("orchestrator_") and not address.page.startswith("triggers_"):
            client.get(address.url, headers=address.headers)  # what is read once for a process, or stored by the first
        with CaptureQueriesContext(connection) as captured:
            answer = client.get(address.url, headers=address.headers)
        # What a viewer may not command is refused.
        assert answer.status_code in (200, 302, 403), address
        found[address.page] = max(found.get(address.page, 0), len(captured))
    return found


@pytest.mark.postgresql
def test_every_page_asks_as_many_statements_as_are_written_down(admin_user: User) -> None:
    fill(0, 4)
    viewer = User.objects.create(username="looks-on", is_staff=True)
    RoleGrant.objects.create(user=viewer, tenant=Tenant.objects.get(slug="team-2"), role="viewer")

    found = {"of one who may all": counts_of(admin_user), "of a viewer": counts_of(viewer)}
    if os.environ.get("UPBEAT_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")

    assert found == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("query", ["", "?state=failed", "?created=24h", "?q=7"])
def test_longer_lists_of_the_ledger_ask_no_more(admin_client: Any, query: str) -> None:
    counts = []
    for first, count in ((0, 2), (2, 5)):
        fill(first, count)
        admin_client.get(f"/admin/orchestrator/taskrun/{query}")
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(f"/admin/orchestrator/taskrun/{query}")
        counts.append(len(captured))

    assert counts[0] == counts[1]
