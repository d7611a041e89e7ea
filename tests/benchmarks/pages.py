"""Milliseconds of the server until a page is written, at 100,000 runs of ten tasks each; the p95 of the slowest.

Every list of the admin with each choice of its filters, searches and a far page; every page of a row; the overview, the
run page and whatever else the site has: found from its addresses. Asked for by one who may see everything, by one who
may look into a tenant with thousands of runs, and by one whose tenant has hardly any. In this process, through all
middleware, from the request to the last byte of the answer.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from orchestrator.models import RoleGrant, Tenant
from tests.benchmarks import history
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, Required
from tests.support.long_lists import Address, addresses

RUNS = int(os.environ.get("UPBEAT_BENCH_RUNS", "100000"))
MOST_MS = 300
#: Times that each address is asked for after a first; one that comes near the bound more often.
TIMES, TIMES_NEAR = 4, 20
SLOWEST_SHOWN = 12


def measure(bench: Bench) -> Figures:
    settings.ALLOWED_HOSTS = ["testserver"]
    sizes = history.fill(runs=RUNS)
    took: dict[tuple[str, Address], float] = {}
    for who, user in people().items():
        client = Client()
        client.force_login(user)
        for address in addresses(user):
            took[who, address] = p95_of(client, address)
    slowest = sorted(took.items(), key=lambda item: -item[1])
    for (who, address), milliseconds in slowest[:SLOWEST_SHOWN]:
        print(f"  {milliseconds:6.0f} ms  {address.url}  ({who})", flush=True)
    by_page: dict[str, float] = defaultdict(float)
    for (_, address), milliseconds in took.items():
        by_page[address.page] = max(by_page[address.page], milliseconds)
    shown = {"overview": "index", "run_page": "console_run", "runs": "orchestrator_jobrun_changelist",
             "task_runs": "orchestrator_taskrun_changelist", "transitions": "orchestrator_transition_changelist"}  # fmt: skip
    return Figures(
        "pages",
        "ms",
        [slowest[0][1]],
        [Required("value", at_most=MOST_MS)],
        settings=bench.settings | {"runs": RUNS, "addresses": len(took), "slowest": slowest[0][0][1].url,
                                   "value": "p95 of the slowest page", "pages": dict(sorted(by_page.items())),
                                   "database_mb": round(sum(sizes.values()))},
        extra={name: by_page[page] for name, page in shown.items() if page in by_page},
    )  # fmt: skip


def people() -> dict[str, User]:
    """Make those who look: one who may see everything, and one of a tenant each."""
    found = {"superuser": User.objects.create_superuser("bench-root")}
    for slug in ("lab", "guest"):
        user = User.objects.create(username=f"bench-{slug}", is_staff=True)
        RoleGrant.objects.create(user=user, tenant=Tenant.objects.get(slug=slug), role="viewer")
        found[f"viewer of {slug}"] = user
    return found


def p95_of(client: Client, address: Address) -> float:
    """Return milliseconds. An address that does not open ends the benchmark: its figure would mean nothing."""
    _ask(client, address)
    took = [_ask(client, address) for _ in range(TIMES)]
    if max(took) > MOST_MS / 2:
        took += [_ask(client, address) for _ in range(TIMES_NEAR - TIMES)]
    return percentile_95(took)


def percentile_95(values: Sequence[float]) -> float:
    """Return the smallest value that at least 95 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 95 // 100) - 1]


def _ask(client: Client, address: Address) -> float:
    began = time.perf_counter()
    answer = client.get(address.url, headers=address.headers)
    if answer.streaming:
        for _ in answer.streaming_content:
            pass
    milliseconds = (time.perf_counter() - began) * 1e3
    # A list that is shorter than the page that is asked for leads back to its first; viewers are refused commands.
    assert answer.status_code in (200, 302, 403), f"{address.url}: {answer.status_code}"
    return milliseconds
