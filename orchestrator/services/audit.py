"""The record of who changed and commanded what: one row each, appended in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db.models.functions import Now

from orchestrator.models import AuditRecord, JobRun

#: Where a caller came in, by the word before the colon of its name.
_SURFACES: Final = {"user": "admin", "token": "api", "cli": "command"}
#: Characters of one text in `before` and `after`; a definition of megabytes is kept by its version, not twice here.
TEXT_KEPT: Final = 2_000


def record_audit(
    *,
    action: str,
    subject: str,
    subject_id: object = "",
    subject_name: str = "",
    tenant_id: int | None = None,
    by: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
    surface: str = "",
) -> None:
    """Append one record, in the caller's transaction if there is one.

    `action` is object and verb (`job.update`); `before` and `after` are plain JSON: of a change only what differs,
    never the value of a secret. `surface` is `admin`, `api` or `command`, by default what `by` says.
    """
    AuditRecord.objects.create(
        # By the clock of the database, as all that the ledger writes.
        at=Now(),
        tenant_id=tenant_id,
        by=by[:200],
        action=action[:64],
        subject=subject[:32],
        subject_id=str(subject_id)[:64],
        subject_name=subject_name[:200],
        before=None if before is None else _kept(before),
        after=None if after is None else _kept(after),
        reason=reason[:500],
        surface=surface or _SURFACES.get(by.partition(":")[0], "system"),
    )


def record_run(run: JobRun, action: str, *, by: str, reason: str = "", **states: Mapping[str, Any] | None) -> None:
    """Append one record on a run; `before` and `after` as in `record_audit`."""
    record_audit(
        action=action, subject="run", subject_id=run.pk, subject_name=f"{run.job.name} #{run.pk}",
        tenant_id=run.tenant_id, by=by, before=states.get("before"), after=states.get("after"), reason=reason,
    )  # fmt: skip


def is_person(by: str) -> bool:
    """Whether a caller of this name is somebody at a screen or a shell, not a token, a rule or a timer."""
    return by.partition(":")[0] in ("user", "cli")


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return of two states of one thing only the fields that differ."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _kept(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_kept(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value).replace("\x00", "�")
    return text if len(text) <= TEXT_KEPT else f"{text[:TEXT_KEPT]} … ({len(text):,} characters)"
