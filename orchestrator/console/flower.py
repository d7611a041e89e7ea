"""Addresses of Flower, the live view of Celery: what a worker does now, not what a run did.

Flower forgets, and may not run at all, so nothing of ours depends on it: these are links beside what the ledger says.
Its own list and pages are made readable, and lead back, by `orchestrator/flower.py`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from django.http import HttpRequest

from orchestrator.canvas.binding import task_message_id
from orchestrator.conf import options
from orchestrator.contracts import EXECUTE
from orchestrator.services import access

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def flower_url(request: HttpRequest) -> str:
    """Return where this person reaches Flower, with a slash at the end; empty if nowhere.

    UPBEAT_FLOWER_URL, or in the embedded profile its port on this machine, for a browser on it. Flower knows no tenants:
    who may look in some only is not sent there.
    """
    if access.tenants_by_permission(request.user, "orchestrator.view_jobrun") is not None:
        return ""
    given: str = options().flower_url
    if given:
        return f"{given.rstrip('/')}/"
    host = urlsplit(f"//{request.get_host()}").hostname or ""
    if options().profile != "embedded" or host not in _LOOPBACK:
        return ""
    return f"http://{'localhost' if host == '::1' else host}:{options().flower_port}/"


def flower_task_url(request: HttpRequest, task_run_id: int) -> str:
    """Return Flower's page of the message of a task run; empty if there is no Flower."""
    base = flower_url(request)
    return base and f"{base}task/{task_message_id(task_run_id)}"


def flower_run_url(request: HttpRequest, job: str, run_id: int) -> str:
    """Return Flower's list of the messages of a run; empty if there is no Flower."""
    base = flower_url(request)
    # The page takes a search by its field `name` alone, and reads on where that ends. The label is `job #run task`: the
    # blank keeps #12 from finding #123.
    search = f'{EXECUTE} args:"{job} #{run_id} "'
    return base and f"{base}tasks?{urlencode({'name': search}, quote_via=quote)}"


def flower_worker_url(request: HttpRequest, worker: str) -> str:
    """Return Flower's page of a worker, by the name under which it reported itself; empty if there is no Flower."""
    base = flower_url(request)
    # What holds an attempt is a slot of a worker: `worker@host/pid.thread`.
    return base and f"{base}worker/{quote(worker.partition('/')[0])}"
