"""Every page of the admin site, empty and full, light and dark, wide and narrow: without a fault that a machine finds.

No error in the browser's console, no request to another host, no breach of the Content-Security-Policy, nothing that
axe-core finds, nothing that scrolls sideways, and markup in names and texts shown as text. `SOAK=1` lets axe-core look at
every view of every page.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.admin_pages import Target, targets
from tests.support.browsing import Watch, settle, show, too_wide, unusable, watched
from tests.support.page_rows import SUPERUSER, address, fill_pages
from tests.support.sites import own_database, site

SCREENSHOTS = Path("build/screenshots")
#: Each view of each page by every rule, which takes minutes more.
SOAK = bool(os.environ.get("SOAK"))


@dataclass
class Opened:
    """A site with that many rows in each table, and a tab in which a superuser is signed in."""

    rows: int
    url: str
    page: Page
    watch: Watch


@pytest.fixture(scope="module", params=[0, 10, 1000])
def opened(
    request: pytest.FixtureRequest, browser: Browser, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    rows = request.param
    with own_database(f"{rows}_rows", like=migrated):
        fill_pages(rows)
        with site(tmp_path_factory.mktemp("site")) as found:
            context = browser.new_context()
            context.add_cookies([found.cookie(SUPERUSER)])
            page, watch = watched(context, found.url)
            yield Opened(rows, found.url, page, watch)
            context.close()


@pytest.mark.parametrize("target", targets(), ids=str)
def test_a_page_has_no_fault_that_a_machine_finds(opened: Opened, target: Target) -> None:
    url = address(target)
    if url is None:
        return
    page = opened.page
    page.set_viewport_size({"width": 1440, "height": 900})
    opened.watch.take()
    answer = page.goto(opened.url + url)
    assert answer is not None
    assert answer.status == 200, page.url
    settle(page)

    wrong = opened.watch.take()
    assert not page.evaluate("() => document.querySelector('[onerror], img[src*=invalid]')"), "markup came to life"
    for scheme, width in (("light", 1440), ("dark", 1440), ("dark", 400), ("light", 400)):
        show(page, scheme, width)
        whole = (scheme, width) in (("light", 1440), ("dark", 400))
        # The other two differ in colours alone, and these not by the number of rows.
        closely = SOAK or whole or opened.rows == 10
        # A form is the same whether lists are empty or long.
        examined = closely and (
            SOAK or opened.rows == 10 or str(target).startswith(("console", "index")) or "list" in str(target)
        )
        for one in unusable(page, *(() if whole or SOAK else ("color-contrast",))) if examined else ():
            wrong += [
                f"{scheme} {width}: {one['rule']}: {node['target']} {node['html']} {node['why']}"
                for node in one["nodes"]
            ]
        if not page.locator("#content").inner_text().strip():
            wrong.append(f"{scheme} {width}: an empty page")
        if wide := too_wide(page):
            wrong.append(f"{scheme} {width}: too wide: {wide}")
        if not closely:
            continue
        where = SCREENSHOTS / str(opened.rows) / f"{target}-{scheme}-{width}.jpg"
        page.screenshot(path=where, type="jpeg", quality=60, timeout=10_000)
    wrong += opened.watch.take()
    assert not wrong, "\n".join(wrong)
