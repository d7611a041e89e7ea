from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core import checks
from django.core.management.base import BaseCommand, CommandParser
from kombu import Connection

from orchestrator.api.health import readiness
from orchestrator.celery import app
from orchestrator.conf import options as settings
from orchestrator.errors import Misconfigured
from orchestrator.models import Lease, Tenant
from orchestrator.registry import Finding, diagnoses
from orchestrator.selectors.overview import overview, silent_lanes
from orchestrator.services.secrets import encrypt

#: A ready task that no worker took for so long: either none runs, or all are busy.
STALE_READY_SECONDS = 60
LEAST_FREE_BYTES = 256 * 2**20
LEAST_REDIS = (6, 2)
LEAST_RABBITMQ = (3, 12)


class Command(BaseCommand):
    help = "Check everything that can be reached; exit 0, or 1 with what is wrong and what to do about it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--tenant", default="default", metavar="SLUG", help="Tenant; default: %(default)s.")

    def handle(self, *args: Any, **options: Any) -> None:
        found = [*_settings(), *readiness()]
        database = all(each.ok for each in found if each.name in ("database", "migrations"))
        if database:
            found += [_tenant(options["tenant"]), _leases(), _lanes(), _ready_tasks()]
            found += [finding for diagnose in diagnoses for finding in diagnose()]
        if all(each.ok for each in found if each.name == "broker"):
            found += [_versions(), _workers()]
        found += [_encryption(), _disk()]
        if options["json"]:
            self.stdout.write(
                json.dumps({"ok": all(f.ok for f in found), "checks": [asdict(f) for f in found]}, ensure_ascii=False)
            )
        else:
            for each in found:
                out = self.stdout if each.ok else self.stderr
                out.write(f"{'ok   ' if each.ok else 'WRONG'} {each.name}{': ' + each.detail if each.detail else ''}")
                if each.hint and not each.ok:
                    out.write(f"      → {each.hint}")
        if not all(each.ok for each in found):
            sys.exit(1)


def _settings() -> list[Finding]:
    """The system checks: contradictory and unsafe settings. A warning is worth a line, not an exit code."""
    found = [
        Finding(
            f"settings {message.id}",
            ok=message.level < checks.ERROR,
            detail=message.msg if message.level >= checks.ERROR else f"{message.msg} {message.hint or ''}".strip(),
            hint=message.hint or "",
        )
        for message in checks.run_checks()
        if message.level >= checks.WARNING
    ]
    return found or [Finding("settings", ok=True, detail=f"profile {settings().profile}")]


def _tenant(slug: str) -> Finding:
    if Tenant.objects.filter(slug=slug).exists():
        return Finding("tenant", ok=True, detail=slug)
    return Finding("tenant", ok=False, detail=f"there is no tenant {slug!r}", hint="Add it in the admin.")


def _leases() -> Finding:
    from django.utils import timezone

    held = [lease.name for lease in Lease.objects.all() if lease.expires_at > timezone.now()]
    if held:
        return Finding("leaders", ok=True, detail=", ".join(sorted(held)))
    return Finding(
        "leaders",
        ok=False,
        detail="nobody leads: no beat with its reconciler runs",
        hint="Start beat; in the embedded profile, `make demo`.",
    )


def _lanes() -> Finding:
    silent = silent_lanes()
    if not silent:
        return Finding("lanes", ok=True, detail="every lane that jobs use has a live worker")
    named = ", ".join(f"{lane} ({count} {'job' if count == 1 else 'jobs'})" for lane, count in silent.items())
    return Finding(
        "lanes",
        ok=False,
        detail=f"no live worker takes from: {named}",
        hint="Start a worker with `-Q` and the lane; it reports itself at once.",
    )


def _ready_tasks() -> Finding:
    now = overview()
    detail = f"{now.ready_tasks} ready, {now.running_tasks} running"
    if now.oldest_ready_seconds < STALE_READY_SECONDS:
        return Finding("tasks", ok=True, detail=detail)
    return Finding(
        "tasks",
        ok=False,
        detail=f"{detail}; the oldest ready task has waited {now.oldest_ready_seconds:.0f} s",
        hint="Start workers for its pool, or look at its locks in the admin.",
    )


def _workers() -> Finding:
    try:
        answers = app.control.ping(timeout=1.0) or []
    except Exception as error:  # whatever the transport throws, the workers were not reached
        return Finding("workers", ok=False, detail=f"{type(error).__name__}", hint="Start the broker.")
    names = sorted(name for answer in answers for name in answer)
    if names:
        return Finding("workers", ok=True, detail=", ".join(names))
    return Finding("workers", ok=False, detail="no worker answers", hint="Start a worker and a control worker.")


def _versions() -> Finding:
    """The broker's version: one that is too old works, until it does not."""
    url = django_settings.CELERY["broker_url"]
    if url.startswith("redis"):
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            product, version = "Redis", str(client.info("server")["redis_version"])
        least, why = LEAST_REDIS, "kombu asks it in a way that older ones do not know"
    else:
        with Connection(url, connect_timeout=2) as connection:
            connection.connect()
            product, version = "RabbitMQ", str(connection.connection.server_properties.get("version", "0"))
        least, why = LEAST_RABBITMQ, "older ones close the channel of a task that runs for more than half an hour"
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found >= least:
        return Finding("broker version", ok=True, detail=f"{product} {version}")
    wanted = ".".join(map(str, least))
    # The ledger survives what the old version does, so this is a warning and no fault.
    return Finding("broker version", ok=True, detail=f"{product} {version} is older than {wanted}: {why}")


def _encryption() -> Finding:
    try:
        encrypt("probe")
    except Misconfigured as error:
        return Finding("encryption", ok=False, detail=error.message, hint="Secrets cannot be used until it is set.")
    return Finding("encryption", ok=True)


def _disk() -> Finding:
    path = settings().home_path
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    detail = f"{free // 2**20} MiB free under {path}"
    if free >= LEAST_FREE_BYTES:
        return Finding("disk", ok=True, detail=detail)
    return Finding("disk", ok=False, detail=detail, hint="Free some space, or move UPBEAT_HOME.")
