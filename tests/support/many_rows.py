"""Many rows in every table, quickly: some made one by one, the others copied from them in bulk."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from django.apps import apps
from django.db import models

from orchestrator.models import Job, JobVersion

#: Never copied: what Django keeps for itself, and rows of which there is one.
LEFT_OUT = {
    *("contenttypes.contenttype", "auth.permission", "sessions.session", "admin.logentry"),
    *("django_celery_beat.periodictasks", "triggers.ruleepoch"),
}
#: Numbers that name a row of another table without a foreign key.
NAMED_BY_NUMBER = {
    "rule_id": "triggers.triggerrule",
    "event_id": "triggers.event",
    "job_run_id": "orchestrator.jobrun",
    "run_id": "orchestrator.jobrun",
}


def copy_rows(times: int) -> None:
    """Copy every row of every table `times` times; a copy points at the copies of what its original points at."""
    copies: dict[tuple[str, Any, int], Any] = {}
    for model in _in_order():
        originals = list(model._default_manager.all())
        made = [(old, number, _copy(old, number, copies)) for old in originals for number in range(1, times + 1)]
        model._default_manager.bulk_create([new for _, _, new in made], batch_size=500)
        copies |= {(model._meta.label_lower, old.pk, number): new.pk for old, number, new in made}
    newest = JobVersion.objects.filter(job=models.OuterRef("pk")).order_by("-number").values("pk")[:1]
    Job.objects.update(latest_version=models.Subquery(newest))


def _copy(old: models.Model, number: int, copies: dict[tuple[str, Any, int], Any]) -> models.Model:
    new = type(old)()
    unique = _unique(type(old))
    for field in old._meta.concrete_fields:
        name, value = field.attname, getattr(old, field.attname)
        if isinstance(field, models.AutoField):
            continue
        if isinstance(field, models.ForeignKey):
            value = copies.get((field.related_model._meta.label_lower, value, number), value)
        elif name in NAMED_BY_NUMBER:
            value = copies.get((NAMED_BY_NUMBER[name], value, number), value)
        elif field.name in unique and isinstance(field, models.UUIDField):
            value = uuid4()
        elif value is not None and field.name in unique and isinstance(field, models.CharField):
            value = f"{value[: (field.max_length or 200) - 5]}-{number}"
        setattr(new, name, value)
    return new


def _unique(model: type[models.Model]) -> set[str]:
    """The fields that must differ between rows, alone or together."""
    groups: list[Sequence[str]] = [*model._meta.unique_together]
    groups += [one.fields for one in model._meta.constraints if isinstance(one, models.UniqueConstraint)]
    return {field.name for field in model._meta.concrete_fields if field.unique} | {
        name for group in groups for name in group
    }


def _in_order() -> Iterator[type[models.Model]]:
    """What is pointed at before what points; a job's newest version is set at the end."""
    waits: dict[type[models.Model], set[type[models.Model]]] = defaultdict(set)
    chosen = [model for model in apps.get_models() if model._meta.label_lower not in LEFT_OUT]
    for model in chosen:
        for field in model._meta.concrete_fields:
            target = field.related_model if isinstance(field, models.ForeignKey) else None
            if target in chosen and target is not model and (model, target) != (Job, JobVersion):
                waits[model].add(target)
    done: set[type[models.Model]] = set()
    for _ in itertools.repeat(None, len(chosen)):
        for model in chosen:
            if model not in done and waits[model] <= done:
                done.add(model)
                yield model
    assert done == set(chosen), f"a circle of foreign keys: {set(chosen) - done}"
