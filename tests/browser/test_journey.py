"""What an operator does when a job fails, in a browser and with a real worker: from the form to the green run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Locator, Page, expect

from orchestrator.models import JobRun, RoleGrant
from orchestrator.roles import Role
from orchestrator.services.jobs import apply_definition
from orchestrator.states import TaskState
from tests.support.browsing import watched
from tests.support.definitions import parse
from tests.support.factories import default_tenant
from tests.support.page_rows import MARKUP
from tests.support.processes import worker
from tests.support.sites import Site, own_database, site

PASSWORD = "a-horse-and-a-staple"
#: A worker's start, a task and a refresh, on a machine that has other things to do.
PATIENCE = 60_000
JOB = """
kind: Job
name: import-orders
description: Copies the orders of a table.
parameters:
  - {name: table, type: enum, values: [orders, customers], required: true}
  - {name: note, type: string}
tasks:
  - name: extract
    type: shell
    command: |
      n=0
      until [ -e "$PLACE/go" ]; do n=$((n + 1)); echo "line $n of $TABLE: $NOTE"; sleep 0.3; done
      echo "extract is done"
    env: {PLACE: "%(place)s", TABLE: "${params.table}", NOTE: "${params.note}"}
  - name: load
    type: shell
    command: |
      echo "looking for $PLACE/fixed, $NOTE"
      [ -e "$PLACE/fixed" ] || { echo "relation $TABLE does not exist" >&2; exit 3; }
    env: {PLACE: "%(place)s", TABLE: "${params.table}", NOTE: "${params.note}"}
    depends_on: [extract]
  - name: report
    type: shell
    command: echo reported
    depends_on: [load]
"""


@dataclass
class Stage:
    """A site with workers, a job that fails until it is fixed, and where both are told."""

    site: Site
    place: Path

    def tell(self, word: str) -> None:
        (self.place / word).touch()


@pytest.fixture
def stage(migrated: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    place = tmp_path / "place"
    place.mkdir()
    with ExitStack() as stack:
        stack.enter_context(own_database("journey", like=migrated))
        spec = parse(JOB % {"place": place}).spec
        apply_definition(tenant=default_tenant(), spec=spec, source="", author="ada")
        person = User.objects.create_user("olga", password=PASSWORD, is_staff=True)
        RoleGrant.objects.create(user=person, tenant=default_tenant(), role=Role.OPERATOR)
        found = stack.enter_context(site(tmp_path, UPBEAT_TEST_REDIS_URL=redis_url))
        for name, queues in (("worker", "default,long,bulk"), ("control", "control")):
            process = worker(
                name, "-P", "threads", "-c", "4", queues=queues, environ=found.environ, log=tmp_path / f"{name}.log"
            )
            stack.callback(process.stop)
            process.start()
        yield Stage(found, place)


def test_from_the_form_over_the_failure_to_the_green_run(stage: Stage, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page, watch = watched(context, stage.site.url)

    _sign_in(page, stage.site.url)
    _start_by_form(page)

    # Watched live: the page is never loaded again.
    page.evaluate("() => { window.stillHere = true; }")
    _open(page, "extract")
    log = page.locator("#log")
    expect(log).to_contain_text("line 1 of customers")
    expect(log).to_contain_text(MARKUP)
    seen = log.inner_text().count("line ")
    page.wait_for_function(
        "seen => document.getElementById('log').innerText.split('line ').length - 1 > seen", arg=seen
    )
    expect(_row(page, "extract")).to_contain_text("running")
    expect(_row(page, "load")).to_contain_text("waiting")

    stage.tell("go")
    expect(_row(page, "extract")).to_contain_text("succeeded")
    expect(log).to_contain_text("extract is done")
    expect(_row(page, "load")).to_contain_text("failed")
    expect(_row(page, "report")).to_contain_text("upstream failed")
    head = page.get_by_label("State of the run")
    expect(head).to_contain_text("failed")
    assert page.evaluate("() => window.stillHere === true"), "the page was loaded again"

    # Why: the log of what failed, one click from the head of the page.
    head.get_by_text("See why load failed").click()
    expect(log).to_contain_text("relation customers does not exist")
    expect(page.locator("#task-facts")).to_contain_text("exit code 3")
    failed = JobRun.objects.get()
    _look(page, "failed")

    # Repaired, and run again from what failed.
    stage.tell("fixed")
    head.get_by_role("link", name="Run again from what failed").click()
    expect(page.locator("#preview")).to_contain_text("load")
    page.get_by_label("Reason").fill("the table is there now")
    page.locator("#preview button[type=submit]").click()

    page.wait_for_url(lambda url: url.endswith(f"/admin/runs/{JobRun.objects.latest('pk').pk}/"))
    assert f"/runs/{failed.pk}/" not in page.url
    for name in ("extract", "load", "report"):
        expect(_row(page, name)).to_contain_text("succeeded")
    expect(page.get_by_label("State of the run")).to_contain_text("succeeded")
    _look(page, "green")
    again = JobRun.objects.latest("pk")
    assert again.rerun_of_id == failed.pk
    states = dict(again.task_runs.values_list("task__name", "state"))
    assert states == dict.fromkeys(("extract", "load", "report"), TaskState.SUCCEEDED)
    assert _alive(page) == 0, "markup came to life"
    assert not watch.take()
    context.close()


def _sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/admin/")
    page.get_by_label("Username").fill("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Jobs", exact=True).first.click()
    page.get_by_role("link", name="import-orders").first.click()


def _start_by_form(page: Page) -> None:
    page.get_by_role("link", name="Trigger").first.click()
    page.get_by_label("table").select_option("customers")
    page.get_by_label("note").fill(MARKUP)
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/admin/runs/*/")


def _open(page: Page, task: str) -> None:
    _row(page, task).get_by_role("button", name=task).click()


def _row(page: Page, task: str) -> Locator:
    return page.locator(f"#tasks-body tr[data-task={task}]")


def _alive(page: Page) -> int:
    return page.locator("[onerror]").count()


def _look(page: Page, name: str) -> None:
    page.screenshot(path=Path("build/screenshots/journey") / f"{name}.jpg", type="jpeg", quality=70)
