"""Take the pictures of the README: start the demo in a home of its own, let it work, photograph it in Chromium.

python -m tools.pictures [DIRECTORY]     default: docs/images

Everything on them is real: runs that were triggered, events that came in, a worker that is busy.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from tests.support import chromium, packages
from tests.support.services import MissingProgram, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1440, 900
#: The demo makes a virtualenv's worth of imports on a slow machine.
PATIENCE_SECONDS = 180.0
#: How the tasks of the pictured run shall stand.
POSE = {
    "extract_legacy_feed": "failed",
    "use_last_feed": "succeeded",
    "fetch_fx_rates": "retry_waiting",
    "clean_customers": "succeeded",
    "clean_products": "succeeded",
    "clean_orders": "running",
}


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo."""

    url: str
    home: Path

    def call(self, path: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {(self.home / 'token').read_text().strip()}"}
        address = f"{self.url}/api/v1/{path}"
        answer = httpx.post(address, headers=headers, json=body) if body else httpx.get(address, headers=headers)
        return answer.raise_for_status().json()

    def trigger(self, job: str, **parameters: Any) -> int:
        return int(self.call("jobs/trigger", jobName=job, parameters=parameters)["id"])

    def send_order(self, number: int, amount: float) -> None:
        """Let the example's shop send an order, signed as it signs."""
        event = {"messageId": f"order-{number}", "eventType": "order.created"}
        body = json.dumps({**event, "payload": {"orderId": f"o-{number}", "amount": amount}}).encode()
        secret = (self.home / "webhook-secret").read_text().strip()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}
        url = (self.home / "webhook-url").read_text().strip()
        httpx.post(url, content=body, headers=headers).raise_for_status()

    def states(self, run: int) -> dict[str, str]:
        return {each["task"]: each["state"] for each in self.call(f"runs/{run}/task-runs")["items"]}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    browser = find_chromium()
    with tempfile.TemporaryDirectory(prefix="upbeat-pictures-") as home, running_demo(Path(home)) as demo:
        print("the demo runs; it works for a while", flush=True)
        work(demo)
        run = pose(demo)
        with sync_playwright() as playwright:
            shown = playwright.chromium.launch(
                # Its sandbox refuses root, and containers give it little shared memory.
                executable_path=browser,
                args=["--no-sandbox", "--disable-dev-shm-usage"],
            )
            page = shown.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            sign_in(page, demo)
            photograph(page, f"{demo.url}/admin/", directory / "overview.png")
            photograph(page, f"{demo.url}/admin/runs/{run}/", directory / "run-page.png", drawing="#dag canvas")
            shown.close()


def find_chromium() -> str:
    """Return the path of the browser, installed first where that is possible. Raises SystemExit."""
    given = os.environ.get(chromium.VARIABLE)
    if given:
        return given
    try:
        return chromium.find().url
    except MissingProgram:
        if packages.may_install():
            packages.install(list(chromium.PACKAGES))
            return chromium.find().url
    raise SystemExit(
        f"Chromium is not installed. As root: apt-get install {' '.join(chromium.PACKAGES)}; or name one in {chromium.VARIABLE}."
    )


@contextlib.contextmanager
def running_demo(home: Path) -> Iterator[Demo]:
    """Run the demo on free ports; end it on leaving. Raises SystemExit if it does not become ready."""
    port, flower_port = free_port(), free_port()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("UPBEAT_", "DJANGO_"))},
        "UPBEAT_HOME": str(home),
        "UPBEAT_PORT": str(port),
        "UPBEAT_FLOWER_PORT": str(flower_port),
        "PYTHONUNBUFFERED": "1",
    }
    log = home / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "demo"],
            cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: "Upbeat is ready" in log.read_text() or process.poll() is not None, "the demo is ready")
        if process.poll() is not None:
            raise SystemExit(f"The demo did not start:\n{log.read_text()[-2000:]}")
        demo = Demo(f"http://127.0.0.1:{port}", home)
        definition = Path(__file__).parent / "nightly-warehouse.yaml"
        subprocess.run([sys.executable, "manage.py", "apply", str(definition)], cwd=ROOT, env=environ, check=True)
        yield demo
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def work(demo: Demo) -> None:
    """Make a day's work: most of it succeeds."""
    runs = [demo.trigger("word-count", text="to be or not to be " * count) for count in range(1, 25)]
    runs += [demo.trigger("import-with-a-bad-line", attempts_needed=1) for _ in range(3)]
    runs += [demo.trigger("data-sync-after-deployment", version=version) for version in ("v1.2.2", "latest")]
    for number in range(1, 13):
        demo.send_order(number, 260.0 * number)
    for run in runs:
        demo.call(f"runs/{run}?wait=60")


def pose(demo: Demo) -> int:
    """Start the run of the picture, and others that wait; return it once its tasks stand as they shall."""
    run = demo.trigger("nightly-warehouse", region="north")
    wait_for(lambda: POSE.items() <= demo.states(run).items(), f"the run stands as it shall: {POSE}")
    for version in ("v1.3.0", "v1.3.1", "v1.3.2"):
        demo.trigger("data-sync-after-deployment", version=version)
    # The lane is full by now: some tasks are ready and wait.
    wait_for(lambda: "ready" in demo.states(run).values(), "a task waits for a slot")
    return run


def sign_in(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.url}/admin/login/")
    page.fill("[name=username]", "admin")
    page.fill("[name=password]", (demo.home / "admin-password").read_text().strip())
    page.click("[type=submit]")
    page.wait_for_load_state("networkidle")


def photograph(page: Page, url: str, file: Path, *, drawing: str = "") -> None:
    """Write what fits on the screen, once all of it is there."""
    answer = page.goto(url)
    if answer is None or answer.status != 200:
        raise SystemExit(f"{url} answered {answer.status if answer else 'nothing'}:\n{page.inner_text('body')[:2000]}")
    if drawing:
        page.wait_for_selector(drawing)
    # Fonts, and the last frame of a drawing that comes to rest.
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(1500)
    page.screenshot(path=file)
    print(f"{file} ({file.stat().st_size // 1024} kB)", flush=True)


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {PATIENCE_SECONDS:.0f} s in vain until {what}.")
        time.sleep(0.3)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
