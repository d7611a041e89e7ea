"""Seconds from the navigation to the page of a run until its DAG is drawn, in Chromium; and what one refresh costs.

The value is of a run of 500 tasks whose layout was never computed before, so that it is the first look of the first
person; `tasks_2000_s` the same of 2,000. A refresh is of a running run of 1,000 tasks, of which 40 moved since the
last one: milliseconds in the server's own process, and the bytes of its body.
"""

from __future__ import annotations

import os
import time
from statistics import median

from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import Page, sync_playwright

from orchestrator.models import JobRun, TaskRun, Transition, VersionLayout
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, Required
from tests.support.chromium import VARIABLE
from tests.support.large_runs import large_run

PASSWORD = "bench"
MOVED = 40
REFRESHES = 30


def measure(bench: Bench) -> Figures:
    get_user_model().objects.create_superuser("bench", password=PASSWORD)
    runs = {size: large_run(bench.tenant, size) for size in (500, 1_000, 2_000)}
    milliseconds, size = _refreshes(runs[1_000])
    bench.start(web=True)
    drawn = _drawn(bench, runs)
    return Figures(
        "run_page",
        "s",
        drawn[500],
        [
            Required("value", at_most=1.5),
            Required("tasks_2000_s", at_most=4),
            Required("refresh_ms", at_most=150),
            Required("refresh_kb", at_most=30),
        ],
        settings=bench.settings | {"moved": MOVED, "value": "navigation to drawn, 500 tasks, layout not stored"},
        extra={"tasks_2000_s": median(drawn[2_000]), "refresh_ms": milliseconds, "refresh_kb": size / 1000},
    )


def _drawn(bench: Bench, runs: dict[int, JobRun]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {500: [], 2_000: []}
    site = f"http://127.0.0.1:{bench.web_port}"
    # Playwright keeps an event loop in this thread, beside which nothing of ours runs.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ[VARIABLE], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{site}/admin/login/?next=/admin/")
        page.fill("#id_username", "bench")
        page.fill("#id_password", PASSWORD)
        page.press("#id_password", "Enter")
        page.wait_for_url(f"{site}/admin/")
        # Nothing is taken from the browser's cache: the first look of the day.
        devices = page.context.new_cdp_session(page)
        for _ in range(bench.repeat):
            for size, seconds in found.items():
                VersionLayout.objects.all().delete()
                devices.send("Network.clearBrowserCache")
                seconds.append(_look(page, f"{site}/admin/runs/{runs[size].pk}/"))
        browser.close()
    return found


def _look(page: Page, url: str) -> float:
    page.goto(url)
    page.wait_for_selector("#dag[data-drawn]", timeout=60_000)
    milliseconds: float = page.evaluate("performance.getEntriesByName('dag-drawn')[0].startTime")
    return milliseconds / 1000


def _refreshes(run: JobRun) -> tuple[float, int]:
    """Return the median milliseconds of a refresh, and the bytes of the largest."""
    client = Client(SERVER_NAME="localhost")
    client.force_login(get_user_model().objects.get(username="bench"))
    path = f"/admin/runs/{run.pk}/"
    rows = list(TaskRun.objects.filter(run=run).order_by("position"))
    took, size = [], 0
    for number in range(REFRESHES):
        cursor = Transition.objects.filter(run_id=run.pk).order_by("-id").values_list("id", flat=True)[0]
        for row in rows[number * 20 % 900 :][:MOVED]:
            Transition.objects.create(
                at=run.created_at, subject="task_run", subject_id=row.pk, run_id=run.pk, from_state="ready",
                to_state="running", cause="claim",
            )  # fmt: skip
        began = time.perf_counter()
        answer = client.get(path, {"cursor": cursor}, headers={"HX-Request": "true"})
        if number:  # the first one compiles the templates
            took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.status_code
        size = max(size, len(answer.content))
    return median(took), size
