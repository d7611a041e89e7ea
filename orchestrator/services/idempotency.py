"""One run for one idempotency key of a token within 24 hours, however often and however concurrently it is sent.

The guard is the unique trigger key of the run: all requests of one generation of a key compute the same one, so one
inserts and the others find its run. The IdempotencyKey row is written after the run, so a refused request leaves
nothing behind, and a process that dies in between leaves a run that the next request finds by its trigger key. A key
that is used again after 24 hours takes the run of its last generation into the trigger key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import orjson
from django.utils import timezone

from orchestrator.errors import Detail, IdempotencyMismatch, InvalidRequest
from orchestrator.models import ApiToken, IdempotencyKey, Tenant
from orchestrator.services.runs import StartedRun, start_run
from orchestrator.services.steering import Start, start_rerun

KEY_LIVES: Final = timedelta(hours=24)
LONGEST_KEY: Final = 200


def start_run_once(
    *, token: ApiToken, key: str, job_name: str, parameters: Mapping[str, Any], trigger: Mapping[str, Any]
) -> StartedRun:
    """Start a run, or return the one that this key started; raises IdempotencyMismatch for another request.

    Call it outside a transaction: `start_run` commits before the key is recorded.
    """
    return _once(
        token,
        key,
        fingerprint_of(job_name, parameters),
        lambda trigger_key, guard: start_run(
            tenant=token.tenant,
            job_name=job_name,
            parameters=parameters,
            trigger={**trigger, **guard},
            trigger_key=trigger_key,
        ),
    )


def rerun_once(
    *, token: ApiToken, key: str, run_id: int, start: Start, mark: Mapping[str, str], by: str, reason: str = ""
) -> StartedRun:
    """Run a run again, or return the re-run that this key made; raises IdempotencyMismatch for another request."""
    return _once(
        token,
        key,
        fingerprint_of(f"rerun of {run_id}", {"from": start if isinstance(start, str) else list(start), "mark": mark}),
        lambda trigger_key, guard: start_rerun(
            run_id, start=start, mark=mark, by=by, reason=reason, trigger_key=trigger_key, guard=guard
        ),
    )


def _once(
    token: ApiToken, key: str, fingerprint: str, start: Callable[[str, Mapping[str, str]], StartedRun]
) -> StartedRun:
    """Start by a key: `start` gets the trigger key that guards it, and what the run's trigger keeps of the call."""
    _check_key(key)
    dead_before = timezone.now() - KEY_LIVES
    known = IdempotencyKey.objects.select_related("run").filter(token_id=token.pk, key=key).first()
    if known is not None and known.run is not None and known.created_at > dead_before:
        if known.fingerprint != fingerprint:
            raise _mismatch(key)
        return StartedRun(known.run, False)

    generation = (known and known.run_id) or 0
    guard = {"idempotency_key": key, "fingerprint": fingerprint}
    while True:
        started = start(trigger_key(token.pk, key, generation), guard)
        if started.created or started.run.created_at > dead_before:
            break
        # A run of more than 24 hours ago that nobody recorded: its process died in between.
        generation = started.run.pk
    if started.run.trigger.get("fingerprint") != fingerprint:
        raise _mismatch(key)
    IdempotencyKey.objects.bulk_create(
        [
            IdempotencyKey(
                token_id=token.pk,
                key=key,
                fingerprint=fingerprint,
                run_id=started.run.pk,
                created_at=started.run.created_at,
            )
        ],
        update_conflicts=True,
        unique_fields=["token", "key"],
        update_fields=["fingerprint", "run", "created_at"],
    )
    return started


def start_cli_run_once(
    *, tenant: Tenant, key: str, job_name: str, parameters: Mapping[str, Any], trigger: Mapping[str, Any]
) -> StartedRun:
    """The same for a caller without a token, who has the database itself: one run a key and tenant within 24 hours."""
    _check_key(key)
    fingerprint = fingerprint_of(job_name, parameters)
    generation = 0
    while True:
        started = start_run(
            tenant=tenant,
            job_name=job_name,
            parameters=parameters,
            trigger={**trigger, "idempotency_key": key, "fingerprint": fingerprint},
            trigger_key=f"cli:{hashlib.sha256(key.encode()).hexdigest()}:{generation}",
        )
        if started.created or started.run.created_at > timezone.now() - KEY_LIVES:
            break
        generation = started.run.pk
    if started.run.trigger.get("fingerprint") != fingerprint:
        raise _mismatch(key)
    return started


def start_run_of_form(
    *, tenant: Tenant, form_key: str, by: str, job_name: str, parameters: Mapping[str, Any], reason: str = ""
) -> StartedRun:
    """Start a run by a form of the admin: once for one form with the same values, however often it is sent.

    A form that is filled in anew, by going back to it, starts another run. Raises what `start_run` raises.
    """
    return start_run(
        tenant=tenant,
        job_name=job_name,
        parameters=parameters,
        trigger={"kind": "manual", "by": by, **({"reason": reason} if reason else {})},
        trigger_key=_form_trigger_key(form_key, by, fingerprint_of(job_name, parameters)),
    )


def rerun_of_form(
    *, form_key: str, run_id: int, start: Start, mark: Mapping[str, str], by: str, reason: str = ""
) -> StartedRun:
    """Run a run again by a form of the admin: once for one form with the same choice, however often it is sent."""
    asked = {"from": start if isinstance(start, str) else list(start), "mark": mark}
    key = _form_trigger_key(form_key, by, fingerprint_of(f"rerun of {run_id}", asked))
    return start_rerun(run_id, start=start, mark=mark, by=by, reason=reason, trigger_key=key)


def _form_trigger_key(form_key: str, by: str, fingerprint: str) -> str | None:
    """A form without a key, such as one that a script sends, starts a run each time."""
    if not form_key:
        return None
    # Who sends it is part of the key: nobody meets the run of another by guessing.
    return f"form:{hashlib.sha256(f'{by}:{form_key}:{fingerprint}'.encode()).hexdigest()}"


def fingerprint_of(job_name: str, parameters: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps([job_name, parameters], option=orjson.OPT_SORT_KEYS)).hexdigest()


def trigger_key(token_id: int, key: str, generation: int) -> str:
    return f"token:{token_id}:{hashlib.sha256(key.encode()).hexdigest()}:{generation}"


def _check_key(key: str) -> None:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidRequest(
            "The Idempotency-Key is not usable.",
            details=(Detail("Idempotency-Key", key[:LONGEST_KEY], f"1 to {LONGEST_KEY} printable characters"),),
        )


def _mismatch(key: str) -> IdempotencyMismatch:
    return IdempotencyMismatch(
        details=(Detail("Idempotency-Key", key, "a new key for another job or other parameters"),)
    )
