"""What the pages of the admin show in tests: nothing, ten rows of each kind, or a thousand, and a run of so many tasks."""

from __future__ import annotations

from datetime import timedelta
from itertools import cycle
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.utils import timezone

from orchestrator.admin.compare import compare_url
from orchestrator.models import Attempt, JobRun, JobVersion, Task, TaskRun, Transition
from orchestrator.services.jobs import apply_definition
from orchestrator.states import ATTEMPT_FINAL, RUN_FINAL, TASK_FINAL, AttemptState, RunState, TaskState
from tests.support.admin_pages import Target
from tests.support.admin_rows import fill
from tests.support.large_runs import large_run, layered_spec
from tests.support.many_rows import copy_rows
from tests.support.records import default_tenant
from triggers.models import DeadLetter, Event, Firing
from triggers.models.events import EVENT_STATES, LETTER_STATES, OUTCOMES

#: Put where people may write what they like: alive, it would ask another host for a picture.
MARKUP = '"><img src="http://markup.invalid/x" onerror="oops()">'
SUPERUSER = "root"
#: Columns of free text, whatever the model.
FREE = {
    *("description", "reason", "comment", "error", "by", "author", "updated_by", "paused_by", "pause_reason", "worker"),
    *("message_id", "event_type", "source", "shown_url", "holder", "destination", "trace_id", "owner", "resolved_by"),
    *("subject_name", "quarantine_reason", "headers", "payload", "metadata", "parameters", "before", "after"),
}


def fill_pages(rows: int) -> None:
    """Give every table of an empty database `rows` rows, in every state, and markup in the newest of each."""
    User.objects.create(username=SUPERUSER, is_staff=True, is_superuser=True)
    if not rows:
        return
    made = min(rows, 10)
    fill(0, made)
    copy_rows(rows // made - 1)
    _vary()
    for model in admin.site._registry:
        _dress(model._default_manager.order_by("pk").last())
    for size in (rows, rows + 1):
        apply_definition(tenant=default_tenant(), spec=layered_spec("compared", size), source="", author="ada")
    run = large_run(default_tenant(), rows, name="nightly-load")
    _name_by_markup(run)


def address(target: Target) -> str | None:
    """Return where the page is opened, or nothing where there is no row to show."""
    if target.name == "orchestrator_jobversion_compare":
        pair = JobVersion.objects.filter(job__name="compared").order_by("number").values_list("pk", flat=True)
        return compare_url(*pair) if len(pair) == 2 else None
    return target.url(ids(target.model))


def _vary() -> None:
    """All states, not one; the moments with them."""
    now = timezone.now()
    _states(JobRun, "state", tuple(RunState), lambda state: now if state in RUN_FINAL else None)
    _states(TaskRun, "state", tuple(TaskState), lambda state: now if state in TASK_FINAL else None)
    _states(Attempt, "state", tuple(AttemptState), lambda state: now if state in ATTEMPT_FINAL else None)
    _states(Event, "state", EVENT_STATES)
    _states(Firing, "outcome", OUTCOMES)
    _states(DeadLetter, "state", LETTER_STATES)


def _states(model: type[models.Model], column: str, states: tuple[str, ...], ended: Any = None) -> None:
    rows = list(model._default_manager.order_by("pk"))
    for number, (row, state) in enumerate(zip(rows, cycle(states), strict=False)):
        setattr(row, column, state)
        if ended is not None:
            row.started_at = timezone.now() - timedelta(seconds=7 * number + 3)  # type: ignore[attr-defined]
            row.ended_at = ended(state)  # type: ignore[attr-defined]
    columns = [column, "started_at", "ended_at"] if ended is not None else [column]
    model._default_manager.bulk_update(rows, columns, batch_size=500)


def _dress(row: models.Model | None) -> None:
    if row is None:
        return
    dressed: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        if field.name in FREE and isinstance(field, models.CharField | models.TextField) and not field.choices:
            dressed[field.name] = MARKUP[: field.max_length or None]
        elif field.name in FREE and isinstance(field, models.JSONField) and isinstance(getattr(row, field.name), dict):
            dressed[field.name] = {MARKUP: MARKUP}
    if dressed and row._meta.label_lower != "orchestrator.auditrecord":  # no row of that is ever changed
        type(row)._default_manager.filter(pk=row.pk).update(**dressed)


def _name_by_markup(run: JobRun) -> None:
    """Names that no definition may have, in the run whose page is opened: its page must not trust them."""
    type(run.job).objects.filter(pk=run.job_id).update(name=MARKUP, description=MARKUP, owner=MARKUP, tags=[MARKUP])
    JobRun.objects.filter(pk=run.pk).update(
        reason=MARKUP, parameters={MARKUP: MARKUP}, trigger={"kind": "api", "by": MARKUP}
    )
    first = TaskRun.objects.filter(run=run).order_by("position").first()
    assert first is not None
    Task.objects.filter(pk=first.task_id).update(name=MARKUP)
    TaskRun.objects.filter(pk=first.pk).update(reason=MARKUP, worker=MARKUP)
    Attempt.objects.filter(task_run=first).update(reason=MARKUP, worker=MARKUP)
    Transition.objects.filter(run_id=run.pk, subject_id=first.pk).update(reason=MARKUP, by=MARKUP)


def ids(model: type[models.Model] | None) -> dict[str, Any]:
    """Return what the parameters of addresses stand for: rows of the newest run, and of the page's own model."""
    run = JobRun.objects.order_by("pk").last()
    attempt = Attempt.objects.filter(task_run__run=run).order_by("pk").first()
    rows = model._default_manager.order_by("pk") if model else JobRun.objects.none()
    # Nobody may delete the account with which the page is opened.
    newest = rows.exclude(username=SUPERUSER).last() if model is User else rows.last()
    return {
        "object_id": newest and newest.pk,
        "id": newest and newest.pk,
        "run_id": run and run.pk,
        "job_id": run and run.job_id,
        "version_id": run and run.version_id,
        "attempt_id": attempt and attempt.pk,
        "position": 0 if run else None,
        "rule_id": newest and newest.pk,
        "app_label": "orchestrator",
    }
