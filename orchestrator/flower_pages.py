"""What Flower shows of our messages: a list in which a task is `job #run task`, and links from its pages to ours.

For Flower's own process, through `flowerconfig.py`. Flower has settings for the columns of its list and the text of a
task, and none for a link; so a link is set into its page of a task as that is loaded. Where a newer Flower has another
page, the link is missing and all else works.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Final

from flower.urls import settings
from flower.views.tasks import TASK_COLUMNS
from tornado.template import Loader, Template

from orchestrator.conf import options
from orchestrator.contracts import EXECUTE

#: What a task is comes first; its name is the same for every one, and the last of what helps.
COLUMNS: Final = "args,state,received,runtime,worker,uuid,name"

#: `job #run task`, as `canvas/binding.py` writes it; a long one is cut off at its end.
LABEL: Final = re.compile(r"(?P<job>[a-z0-9-]+) #(?P<run>\d+) (?P<task>\w*)")
#: In Flower's page of a task.
PLACE: Final = '<div class="detail-actions">'
LINK: Final = (
    '{% if upbeat_page(task) %}<a class="btn btn-primary" href="{{ upbeat_page(task) }}">'
    "{{ upbeat_label(task) }} in Upbeat</a>{% end %}"
)


class LinkedPages(Loader):
    """Flower's templates, with a link to its run set into the page of a task."""

    def _create_template(self, name: str) -> Template:
        if name != "task.html":
            return super()._create_template(name)
        with open(os.path.join(self.root, name), encoding="utf-8") as handle:
            return Template(handle.read().replace(PLACE, f"{PLACE}{LINK}", 1), name=name, loader=self)


def run_label(task: Any) -> str:
    """Return `job #run` of a task of ours; empty for any other."""
    found = _found(task)
    return f"{found['job']} #{found['run']}" if found else ""


def run_page(task: Any, host: str) -> str:
    """Return the address of the run of a task: at UPBEAT_PUBLIC_URL, or the admin's port on the host of Flower itself."""
    found = _found(task)
    if found is None:
        return ""
    given: str = options().public_url
    base = given.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{options().port}"
    return f"{base}/admin/runs/{found['run']}/"


def _found(task: Any) -> re.Match[str] | None:
    """Read the label of a task; what is not ours, or was sent by hand, has none."""
    if getattr(task, "name", EXECUTE) != EXECUTE:
        return None
    return LABEL.fullmatch(str(getattr(task, "args", None) or ""))


def install() -> None:
    """Set links and headings into Flower, before it starts. Safe to call twice."""
    settings["template_loader"] = LinkedPages(settings["template_path"])
    settings["ui_methods"] = {
        "upbeat_page": lambda handler, task: run_page(task, handler.request.host_name),
        "upbeat_label": lambda handler, task: run_label(task),
    }
    TASK_COLUMNS["args"] = "Job, run and task"


def refuse_open(basic_auth: Sequence[str] | None, auth: str | None) -> None:
    """Raise SystemExit for a Flower that asks nobody who they are: its buttons stop workers and tasks."""
    if auth or (basic_auth and all(pair.partition(":")[2] for pair in basic_auth)):
        return
    raise SystemExit(
        "Flower needs a password: set FLOWER_BASIC_AUTH=user:password, or one of its sign-ins by FLOWER_AUTH."
    )
