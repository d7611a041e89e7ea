"""Ask for a replay: stored events, or dead letters, given to the rules of today once more; `replay_steps` does it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from django.db import IntegrityError, transaction
from django.db.models import Max

from orchestrator.errors import Detail, IdempotencyMismatch, InvalidRequest
from orchestrator.models import Tenant
from orchestrator.services.audit import record_audit
from orchestrator.services.transactions import database_now, in_transaction
from orchestrator.services.transitions import record_transition
from triggers.models import Event, Replay, TriggerRule

STATES: Final = ("running", "done", "failed")
MOST_IDS: Final = 10_000
#: Seconds for which the call that asks for a replay does steps itself.
AT_ONCE_SECONDS: Final = 2.0
_LONGEST_KEY: Final = 200
#: Numbers of events or dead letters that the record of a replay names.
IDS_SHOWN: Final = 20


def start_replay(
    *,
    tenant: Tenant,
    selection: Mapping[str, Any],
    rules: Sequence[str],
    dry_run: bool,
    by: str,
    key: str | None = None,
) -> tuple[Replay, bool]:
    """Begin a replay, or return the one that this key began; and whether it is new. Does its first steps.

    `selection` is one of `{"events": ids}`, `{"filter": …}`, `{"from": …, "to": …}`, `{"dead_letters": ids}`, each
    checked. `rules` are ids, disabled ones too; none: all that are enabled. Raises InvalidRequest for a rule that is
    not there, IdempotencyMismatch.
    """
    key = _checked_key(key)
    known = set(
        TriggerRule.objects.filter(tenant=tenant, slug__in=rules, deleted_at=None).values_list("slug", flat=True)
    )
    if unknown := [
        Detail(f"rules[{n}]", slug, "the id of a rule") for n, slug in enumerate(rules) if slug not in known
    ]:
        raise InvalidRequest("The body has problems.", details=tuple(unknown))
    fingerprint = hashlib.sha256(
        orjson.dumps([selection, list(rules), dry_run], option=orjson.OPT_SORT_KEYS)
    ).hexdigest()
    found = Replay.objects.filter(tenant=tenant, by=by[:200], idempotency_key=key).first()
    created = False
    if found is None:
        found, created = _create(tenant, selection, rules, dry_run, by, key, fingerprint)
    if found.fingerprint != fingerprint:
        raise IdempotencyMismatch(
            details=(Detail("Idempotency-Key", key, "a new key for another selection or other rules"),)
        )
    if not created:
        return found, False
    from triggers.services.replay_steps import advance_replay  # with all of ingest, which who only asks need not load

    return advance_replay(found.pk, seconds=AT_ONCE_SECONDS), True


def _create(
    tenant: Tenant,
    selection: Mapping[str, Any],
    rules: Sequence[str],
    dry_run: bool,
    by: str,
    key: str,
    fingerprint: str,
) -> tuple[Replay, bool]:
    until = Event.objects.filter(tenant=tenant).aggregate(Max("pk"))["pk__max"] or 0

    def work() -> Replay:
        with transaction.atomic():
            replay = Replay.objects.create(
                tenant=tenant,
                by=by[:200],
                idempotency_key=key,
                fingerprint=fingerprint,
                selection=dict(selection),
                rules=list(rules),
                dry_run=dry_run,
                until=until,
                created_at=database_now(),
            )
            record(replay, "", "running", reason=f"{'dry run of ' if dry_run else ''}{', '.join(selection)}")
            record_audit(
                action="replay.start", subject="replay", subject_id=replay.pk, subject_name=f"#{replay.pk}",
                tenant_id=tenant.pk, by=by, after={"selection": _shown(selection), "rules": list(rules), "dry_run": dry_run},
            )  # fmt: skip
            return replay

    try:
        return in_transaction(work), True
    except IntegrityError:
        # The same call at the same time: the other made it.
        return Replay.objects.get(tenant=tenant, by=by[:200], idempotency_key=key), False


def _shown(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return a selection as its record says it: of ten thousand numbers the first few, all are in the replay."""
    return {
        kind: [*chosen[:IDS_SHOWN], f"and {len(chosen) - IDS_SHOWN:,} more"]
        if isinstance(chosen, list) and len(chosen) > IDS_SHOWN
        else chosen
        for kind, chosen in selection.items()
    }


def _checked_key(key: str | None) -> str:
    if key is None:
        return f"call:{uuid.uuid4()}"
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise InvalidRequest(
            "The Idempotency-Key is not usable.",
            details=(Detail("Idempotency-Key", key[:_LONGEST_KEY], f"1 to {_LONGEST_KEY} printable characters"),),
        )
    return key


def record(replay: Replay, old: str, new: str, *, reason: str) -> None:
    """Append a fact of a replay."""
    record_transition(
        subject="replay",
        subject_id=replay.pk,
        from_state=old,
        to_state=new,
        reason=reason[:500],
        cause="replay",
        by=replay.by,
    )
