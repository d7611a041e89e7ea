"""Bearer tokens: what is shown once, what is stored, who may do what, and how often.

A call costs one statement on PostgreSQL: token, tenant and the count of this minute's calls together.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from orchestrator.conf import options
from orchestrator.errors import Detail, InvalidRequest, NotFound, OutOfScope, TooManyCalls, Unauthenticated
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import ApiToken, Job, Tenant
from orchestrator.roles import Action, Scope, scope_for, scopes_allow
from orchestrator.services.audit import record_audit
from orchestrator.services.transitions import record_transition

READ: Final = Scope.READ.value
TRIGGER: Final = Scope.TRIGGER.value
OPERATE: Final = Scope.OPERATE.value
ADMIN: Final = Scope.ADMIN.value
#: `admin` includes the others; `orchestrator.roles` says what each lets a token do.
SCOPES: Final = tuple(scope.value for scope in Scope)
DEFAULT_SCOPES: Final = (TRIGGER, READ)

PREFIX: Final = "upb_"
LAST_USED_EVERY: Final = timedelta(minutes=1)


class UnknownToken(NotFound):
    """There is no such token."""

    code = "unknown_token"


def create_token(
    *,
    tenant: Tenant,
    name: str,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    job_names: Sequence[str] = (),
    expires_at: datetime | None = None,
    by: str = "",
) -> tuple[ApiToken, str]:
    """Store a new token and return it with its text, which nobody can read again. Raises InvalidRequest."""
    problems = [Detail("scopes", scope, "one of " + ", ".join(SCOPES)) for scope in scopes if scope not in SCOPES]
    if not name.strip():
        problems.append(Detail("name", name, "a name that tells tokens apart"))
    if expires_at is not None and expires_at <= timezone.now():
        problems.append(Detail("expires_at", expires_at.isoformat(), "a moment in the future"))
    known = set(Job.objects.filter(tenant=tenant, name__in=job_names).values_list("name", flat=True))
    problems += [Detail("jobs", job, "the name of a job") for job in job_names if job not in known]
    if problems:
        raise InvalidRequest("The token cannot be made.", details=tuple(problems))
    plaintext = PREFIX + secrets.token_urlsafe(32)

    def work() -> ApiToken:
        token = ApiToken.objects.create(
            tenant=tenant,
            name=name.strip(),
            prefix=plaintext[:10],
            digest=digest_of(plaintext),
            scopes=sorted(set(scopes or DEFAULT_SCOPES), key=SCOPES.index),
            job_names=sorted(set(job_names)),
            expires_at=expires_at,
        )
        _record(token, "", "valid", by)
        return token

    return in_transaction(work), plaintext


def grant_token(
    *,
    by: ApiToken,
    name: str,
    scopes: Sequence[str],
    job_names: Sequence[str],
    expires_at: datetime | None,
) -> tuple[ApiToken, str]:
    """Let a token make another of its tenant that may do no more than itself, and no longer.

    Raises OutOfScope for rights that `by` lacks, and what `create_token` raises.
    """
    ends = ApiToken.objects.values_list("expires_at", flat=True).get(pk=by.pk)
    beyond = [
        Detail("scopes", scope, "scopes that this token has itself")
        for scope in scopes
        if scope not in by.scopes and ADMIN not in by.scopes
    ]
    if by.job_names:
        own = "jobs of this token: " + ", ".join(by.job_names)
        beyond += [Detail("jobs", job, own) for job in job_names if job not in by.job_names]
        if not job_names:
            beyond.append(Detail("jobs", [], own))
    if ends is not None and (expires_at is None or expires_at > ends):
        shown = expires_at.isoformat() if expires_at else None
        beyond.append(Detail("expires_at", shown, f"not after {ends.isoformat()}, when this token ends"))
    if beyond:
        raise OutOfScope("A token cannot give rights that it does not have.", details=tuple(beyond))
    return create_token(
        tenant=by.tenant,
        name=name,
        scopes=scopes,
        job_names=job_names,
        expires_at=expires_at,
        by=f"token:{by.name}",
    )


def may_manage(by: ApiToken, token: ApiToken) -> bool:
    """Whether the one may see and revoke the other: only what it could have made itself."""
    return not by.job_names or (bool(token.job_names) and set(token.job_names) <= set(by.job_names))


def revoke_token(token: ApiToken, *, by: str = "") -> None:
    """End a token at once and for all. Safe to call twice."""

    def work() -> None:
        if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            _record(token, "valid", "revoked", by)

    in_transaction(work)


def _record(token: ApiToken, old: str, new: str, by: str) -> None:
    reason = f"token {token.name} ({token.prefix}…): {', '.join(token.scopes)}"
    record_transition(
        subject="token",
        subject_id=token.pk,
        from_state=old,
        to_state=new,
        reason=reason[:500],
        cause="token",
        by=by[:200],
    )
    shown = {
        "prefix": token.prefix,
        "scopes": list(token.scopes),
        "jobs": list(token.job_names) or "all",
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }
    record_audit(
        action="token.revoke" if old else "token.create", subject="token", subject_id=token.pk, subject_name=token.name,
        tenant_id=token.tenant_id, by=by, before=shown if old else None, after=None if old else shown,
    )  # fmt: skip


def digest_of(plaintext: str) -> str:
    # 256 random bits: nothing to guess, so a plain hash is enough and costs a microsecond a call.
    return hashlib.sha256(plaintext.encode()).hexdigest()


def authenticate(plaintext: str) -> ApiToken | None:
    """Return the valid token of this text with its tenant, in one query; does not count as a call."""
    row = _row(_FIND, [digest_of(plaintext)])
    return _token(row) if row else None


def admit_call(plaintext: str) -> ApiToken:
    """Return the valid token of this text and count the call; raises Unauthenticated or TooManyCalls.

    All processes count in one row per token, by the database's clock. Call it outside a transaction: the row is
    hot, and its lock must not last longer than the statement.
    """
    limit: int = options().rate_per_minute
    digest = digest_of(plaintext)
    if not limit:
        row = _row(_FIND, [digest])
        calls = second = 0
    elif connection.vendor == "postgresql":
        # A lost count after a crash harms nobody: the caller need not wait for the disk. Within a transaction of
        # others the setting would be theirs too.
        row = _row(_FIND_AND_COUNT, ["on" if connection.in_atomic_block else "off", digest])
        calls, second = row[-2:] if row else (0, 0)
    else:
        row = _row(_FIND, [digest])
        calls, second = _row(_COUNT, [row[0]]) or (0, 0) if row else (0, 0)
    if row is None:
        raise Unauthenticated
    if limit and calls > limit:
        raise TooManyCalls(limit=limit, retry_after_seconds=60 - int(second) % 60)
    token = _token(row)
    if row[10]:
        _note_use(token.pk)
    return token


def check_action(token: ApiToken, action: Action, job_name: str | None = None) -> None:
    """Raise OutOfScope unless the token may do this, and to this job if one is named. Asks no database."""
    if not scopes_allow(token.scopes, action):
        scope = scope_for(action)
        raise OutOfScope(
            f"The token lacks the scope {scope}.",
            details=(Detail("scope", list(token.scopes), f"a token with scope {scope}"),),
        )
    if job_name is not None and token.job_names and job_name not in token.job_names:
        raise OutOfScope(
            f"The token is not good for the job {job_name}.",
            details=(Detail("job", job_name, "one of " + ", ".join(token.job_names)),),
        )


def _note_use(token_id: int) -> None:
    now = timezone.now()
    unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USED_EVERY)
    ApiToken.objects.filter(unnoted, pk=token_id).update(last_used_at=now)


_COLUMNS = """t.id, t.name, t.prefix, t.scopes, t.job_names, n.id, n.slug, n.name, n.timezone, n.parameters,
              t.last_used_at is null or t.last_used_at < {a_minute_ago}"""
_VALID = """from orchestrator_apitoken t join orchestrator_tenant n on n.id = t.tenant_id
            where t.digest = %s and t.revoked_at is null and (t.expires_at is null or t.expires_at > {now})"""

# SQLite keeps moments as text of one format, in which order is time.
_CLOCKS = {
    "postgresql": {"now": "now()", "a_minute_ago": "now() - interval '1 minute'"},
    "sqlite": {
        "now": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
        "a_minute_ago": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-1 minute')",
    },
}
_FIND = f"select {_COLUMNS} {_VALID}"
# The row of a token is born with its first call; from then on each call is an update in place.
_FIND_AND_COUNT = f"""
    with setting as (select set_config('synchronous_commit', %s, true)),
    caller as (select {_COLUMNS.replace("n.id,", "n.id as tenant_id,").replace("n.name", "n.name as tenant_name")}
               {_VALID}),
    counted as (
        insert into orchestrator_ratewindow (token_id, minute, calls)
        select caller.id, extract(epoch from now())::bigint / 60, 1 from caller, setting
        on conflict (token_id) do update set
            calls = case when orchestrator_ratewindow.minute = excluded.minute
                         then orchestrator_ratewindow.calls + 1 else 1 end,
            minute = excluded.minute
        returning calls)
    select caller.*, counted.calls, extract(epoch from now())::bigint from caller, counted"""
_COUNT = """
    insert into orchestrator_ratewindow (token_id, minute, calls)
    values (%s, cast(strftime('%%s', 'now') as integer) / 60, 1)
    on conflict (token_id) do update set
        calls = case when orchestrator_ratewindow.minute = excluded.minute
                     then orchestrator_ratewindow.calls + 1 else 1 end,
        minute = excluded.minute
    returning calls, cast(strftime('%%s', 'now') as integer)"""


def _row(statement: str, values: list[Any]) -> tuple[Any, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(statement.format_map(_CLOCKS[connection.vendor]), values)
        rows = cursor.fetchall()
    return rows[0] if rows else None


def _token(row: tuple[Any, ...]) -> ApiToken:
    alias = connection.alias
    tenant = Tenant.from_db(alias, ("id", "slug", "name", "timezone", "parameters"), (*row[5:9], _json(row[9])))
    token = ApiToken.from_db(
        alias, ("id", "name", "prefix", "scopes", "job_names"), (*row[:3], _json(row[3]), _json(row[4]))
    )
    token.tenant = tenant
    return token


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
