"""A browser that writes down whatever is wrong with the page it shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.support.chromium import VARIABLE, find

#: What a page must look well in.
SCHEMES = ("light", "dark")
WIDTHS = (1440, 400)
HEIGHTS = {1440: 900, 400: 800}

# Colours that are half-way from one scheme to the other are nobody's contrast.
_STILL = "*,*::before,*::after{transition:none!important;animation:none!important;caret-color:transparent!important}"
# Of long lists the first rows and choices: those below are of the same making, and each costs its time.
_AXE = """async (rules) => {
  const below = [["tbody:nth-of-type(n+16)"], ["tbody tr:nth-child(n+16)"], ["option:nth-child(n+16)"]];
  const found = await axe.run({exclude: below.filter(([one]) => document.querySelector(one))}, {
    resultTypes: ["violations"],
    ...(rules.length ? {runOnly: {type: "rule", values: rules}} : {}),
  });
  return found.violations.map(one => ({
    rule: one.id,
    help: one.help,
    nodes: one.nodes.map(node => ({target: node.target.flat().join(" "), html: node.html.slice(0, 300),
      why: [...node.any, ...node.all, ...node.none].map(check => check.message).join("; ").slice(0, 300)})),
  }));
}"""


@contextmanager
def launched() -> Iterator[Browser]:
    """Run Debian's Chromium without a window; end it on leaving."""
    # The driver's loop runs in this thread while the tests ask the database in it.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get(VARIABLE) or find().url,
                # Its sandbox refuses root, and containers give it little shared memory.
                args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
            )
            try:
                yield browser
            finally:
                browser.close()
    finally:
        if before is None:
            os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE")
        else:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@dataclass
class Watch:
    """What went wrong in a page since the last look: errors of scripts, refused or foreign requests."""

    origin: str
    wrong: list[str] = field(default_factory=list)

    def attach(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", self._failed)

    def take(self) -> list[str]:
        """Return what was found, and forget it."""
        found, self.wrong = self.wrong, []
        return found

    def _console(self, message: ConsoleMessage) -> None:
        # A breach of the Content-Security-Policy is said here, too.
        if message.type == "error":
            self.wrong.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.wrong.append(f"request to another host: {request.url}")

    def _failed(self, request: Request) -> None:
        # What a page was still loading when it was left is no failure.
        if request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"failed request: {request.url} {request.failure}")


def watched(context: BrowserContext, origin: str) -> tuple[Page, Watch]:
    """Open a page whose faults are written down."""
    page, watch = context.new_page(), Watch(origin)
    watch.attach(page)
    return page, watch


def show(page: Page, scheme: str, width: int) -> None:
    """Show the open page as it is in one scheme and width, without loading it again."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
    # The theme asks the system only when a page is loaded; this is what its own switch does.
    page.evaluate("scheme => Alpine.$data(document.documentElement).switchTheme(scheme)", scheme)
    page.wait_for_function("dark => document.documentElement.classList.contains('dark') == dark", arg=scheme == "dark")


def settle(page: Page) -> None:
    """Wait until the page's scripts have shown what they show first, and let nothing move."""
    page.wait_for_function("() => !document.querySelector('html[x-cloak]')")
    drawn = "() => { const dag = document.getElementById('dag'); return !dag || dag.hidden || dag.dataset.drawn; }"
    page.wait_for_function(drawn)
    page.add_style_tag(content=_STILL)


def unusable(page: Page, *rules: str) -> list[dict[str, Any]]:
    """Return what axe-core finds, all of its rules or those named."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found: list[dict[str, Any]] = page.evaluate(_AXE, list(rules))
    return found


def too_wide(page: Page) -> str:
    """Return what makes the page scroll sideways, or nothing."""
    found: str = page.evaluate(
        """() => {
          const wide = document.scrollingElement.scrollWidth, room = document.documentElement.clientWidth;
          if (wide <= room) return "";
          const out = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > room + 1);
          const last = out[out.length - 1];
          return `${wide} px in ${room}: ` + (last ? last.outerHTML.slice(0, 200) : "");
        }"""
    )
    return found
