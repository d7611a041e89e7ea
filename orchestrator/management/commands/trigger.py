from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from orchestrator.celery import app
from orchestrator.conf import options as settings
from orchestrator.errors import UpbeatError
from orchestrator.management.caller import by_cli
from orchestrator.models import JobRun, JobVersion, Tenant
from orchestrator.services.idempotency import start_cli_run_once
from orchestrator.services.runs import StartedRun, start_run
from orchestrator.states import RUN_FINAL, RunState

SUCCEEDED: Final = 0
ENDED_OTHERWISE: Final = 1
REFUSED: Final = 2
STILL_RUNNING: Final = 4
POLL_SECONDS: Final = 0.2


class Command(BaseCommand):
    help = (
        "Start a run of a job and print its id and URL. "
        "With --wait: exit 0 succeeded, 1 any other end, 2 refused, 4 still running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", metavar="JOB")
        parser.add_argument(
            "--param",
            action="append",
            default=[],
            metavar="K=V",
            help="A parameter, may be repeated; V is read as the job types it.",
        )
        parser.add_argument("--idempotency-key", metavar="K", help="The same key starts one run within 24 hours.")
        parser.add_argument(
            "--wait",
            nargs="?",
            const=0.0,
            type=float,
            metavar="SECONDS",
            help="Wait for the end of the run, at most so long; without a number, as long as it takes.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--tenant", default="default", metavar="SLUG", help="Tenant; default: %(default)s.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            started = self._start(options)
        except UpbeatError as error:
            for detail in error.details:
                self.stderr.write(f"{detail.path}: {detail.value!r}: expected {detail.expected}")
            raise CommandError(error.message, returncode=REFUSED) from error
        run = started.run
        if options["wait"] is not None:
            if not options["json"]:
                self._say(run, started.created)
            run = self._wait(run.pk, options["wait"])
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {
                        "id": run.pk,
                        "state": run.state,
                        "reason": run.reason,
                        "url": _url(run.pk),
                        "created": started.created,
                    },
                    ensure_ascii=False,
                )
            )
        elif options["wait"] is None:
            self._say(run, started.created)
        else:
            self.stdout.write(f"{run.state}{': ' + run.reason if run.reason else ''}")
        if options["wait"] is not None and (code := _exit_code(run)):
            sys.exit(code)

    def _start(self, options: dict[str, Any]) -> StartedRun:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {options['tenant']!r}.", returncode=REFUSED)
        # Who only publishes must be told of the Celery tasks; a worker imports them by itself.
        app.loader.import_default_modules()
        call = {
            "tenant": tenant,
            "job_name": options["job"],
            "parameters": _parameters(options["param"], _types(tenant, options["job"])),
            "trigger": {"kind": "cli", "by": by_cli()},
        }
        if options["idempotency_key"] is None:
            return start_run(**call)
        return start_cli_run_once(key=options["idempotency_key"], **call)

    def _say(self, run: JobRun, created: bool) -> None:
        self.stdout.write(f"run {run.pk} {run.state}{'' if created else ' (started before)'} {_url(run.pk)}")
        self.stdout.flush()

    def _wait(self, run_id: int, seconds: float) -> JobRun:
        deadline = time.monotonic() + seconds if seconds else None
        while True:
            try:
                run = JobRun.objects.get(pk=run_id)
            except OperationalError:
                # A database that restarts does not end a run.
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                time.sleep(1)
                continue
            if run.state in RUN_FINAL or (deadline is not None and time.monotonic() >= deadline):
                return run
            time.sleep(POLL_SECONDS)


def _types(tenant: Tenant, job_name: str) -> dict[str, str]:
    """The types of the job's parameters by name; an unknown job has none and is refused by the service."""
    version = JobVersion.objects.filter(job__tenant=tenant, job__name=job_name).order_by("-number").first()
    return {p["name"]: p["type"] for p in version.spec.get("parameters", ())} if version else {}


def _parameters(given: list[str], types: dict[str, str]) -> dict[str, Any]:
    """Read `K=V` pairs. Values of types that JSON can write are read as JSON, all others are text."""
    values: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise CommandError(f"--param: {pair!r} is not K=V", returncode=REFUSED)
        if types.get(name) in ("integer", "number", "boolean", "list", "object", "secret", "enum"):
            try:
                values[name] = json.loads(text)
                continue
            except ValueError:
                pass
        values[name] = text
    return values


def _exit_code(run: JobRun) -> int:
    if run.state == RunState.SUCCEEDED:
        return SUCCEEDED
    return ENDED_OTHERWISE if run.state in RUN_FINAL else STILL_RUNNING


def _url(run_id: int) -> str:
    host = settings().host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{shown}:{settings().port}/api/v1/runs/{run_id}"
