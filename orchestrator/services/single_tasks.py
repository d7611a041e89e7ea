"""Jobs of one shell command, as `/api/v1/tasks` takes them: a name, a cron schedule, a command, a time limit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.dag.spec import JobSpec
from orchestrator.errors import Detail, InvalidRequest, Refused, RunFinal
from orchestrator.models import Job, JobRun, Tenant
from orchestrator.services.jobs import Applied, create_job
from orchestrator.services.parsing import detail_of, read_definitions
from orchestrator.services.runs import cancel_run
from orchestrator.states import RUN_FINAL

TASK_NAME: Final = "main"
NAMES: Final = (
    "letters a to z, digits, spaces, `_`, `.` and `-`, at most 63: the job's name is made of it, such as backup-db"
)
#: A call stops so many runs; it says how many are left.
STOPPED_AT_ONCE: Final = 1000

_NAME = re.compile(r"[A-Za-z0-9 _.-]*[A-Za-z0-9][A-Za-z0-9 _.-]*")
#: Path of a problem in the definition → the field of the call.
_FIELDS: Final = {"schedule": "schedule", "command": "command", "timeout": "timeout", "name": "name"}


class NoSingleTask(Refused):
    """The job is not of one shell command."""

    code = "no_single_task"


@dataclass(frozen=True, slots=True)
class Stopped:
    """Which runs were asked to stop, and how many more are open."""

    run_ids: tuple[int, ...]
    remaining: int


def create_single_task(*, tenant: Tenant, fields: Mapping[str, Any], author: str) -> Applied:
    """Make a job of `name`, `command` and, if given, `schedule` and `timeout`. The same again changes nothing.

    Raises InvalidRequest with the call's own fields, and JobExists for a name that another job has.
    """
    name = job_name_of(fields["name"])
    form = {
        "kind": "Job",
        "name": name,
        **({"description": fields["name"]} if fields["name"] != name else {}),
        **({"schedule": fields["schedule"]} if fields.get("schedule") is not None else {}),
        "tasks": [
            {
                "name": TASK_NAME,
                "type": "shell",
                "command": fields["command"],
                **({"timeout": fields["timeout"]} if fields.get("timeout") is not None else {}),
            }
        ],
    }
    source = json.dumps(form, ensure_ascii=False, indent=2) + "\n"
    (definition,) = read_definitions(source)
    if definition.spec is None:
        details = tuple(detail_of(problem, _field_of(problem.path)) for problem in definition.problems)
        raise InvalidRequest("The task cannot be made.", details=details)
    return create_job(tenant=tenant, spec=definition.spec, source=source, author=author)


def job_name_of(name: str) -> str:
    """Return the job's name for a task's: `Backup DB` and `backup_db` become `backup-db`. Raises InvalidRequest."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not _NAME.fullmatch(name) or not 0 < len(slug) <= 63 or slug == "trigger":
        raise InvalidRequest("The task cannot be made.", details=(Detail("name", name[:200], NAMES),))
    return slug


def single_task_of(spec: JobSpec) -> Mapping[str, Any]:
    """Return schedule, command and timeout of a job of one shell command. Raises NoSingleTask for any other job."""
    if len(spec.tasks) != 1 or spec.tasks[0].type != "shell":
        raise NoSingleTask(f"The job {spec.name} is not of one shell command; its definition is under /api/v1/jobs.")
    (task,) = spec.tasks
    return {
        "schedule": spec.schedules[0]["cron"] if spec.schedules else None,
        "command": task.config["command"],
        "timeout": task.timeout,
    }


def stop_job(job: Job, *, by: str, reason: str = "") -> Stopped:
    """Cancel the open runs of a job, oldest first. Safe to call twice."""
    still_open = JobRun.objects.filter(job=job).exclude(state__in=RUN_FINAL)
    stopped = []
    for run_id in still_open.order_by("pk").values_list("pk", flat=True)[:STOPPED_AT_ONCE]:
        try:
            cancel_run(run_id, by=by, reason=reason or f"stopped by {by}")
        except RunFinal:
            continue  # it ended by itself meanwhile
        stopped.append(run_id)
    return Stopped(tuple(stopped), still_open.exclude(pk__in=stopped).count())


def _field_of(path: str) -> str:
    last = re.split(r"[.\[]", path.replace("schedule.cron", "schedule"))[-1]
    return _FIELDS.get(last, path)
