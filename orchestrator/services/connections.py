"""Connections: named ways into databases, their URLs encrypted at rest and revealed to attempts alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db import transaction

from orchestrator.conf import options
from orchestrator.errors import Detail, InvalidRequest, NotFound, Refused
from orchestrator.models import Connection, Tenant
from orchestrator.selectors.connections import users_of_connection
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.encryption import decrypt, encrypt
from orchestrator.services.secrets import NAME, NAMES
from orchestrator.services.transitions import record_transition

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

LONGEST_URL: Final = 4096
LONGEST_DESCRIPTION: Final = 500
#: What the page of a connection can show.
LONGEST_SHOWN: Final = 500
SUPPORTED: Final = "postgresql://user:password@host:5432/database or sqlite:////absolute/path"
#: Spellings of a dialect → the dialect with the one driver that we have for it.
DIALECTS: Final = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}
#: What a PostgreSQL URL may say after its `?`. Left out: what makes a worker read its own files for a password or a
#: host (`service`, `passfile`), and what the executor sets itself (`application_name`).
POSTGRESQL_PARAMETERS: Final = frozenset({
    "user", "password", "host", "hostaddr", "port", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey",
    "sslpassword", "sslcrl", "sslnegotiation", "ssl_min_protocol_version", "channel_binding", "gssencmode",
    "krbsrvname", "require_auth", "target_session_attrs", "load_balance_hosts", "connect_timeout", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "options",
})  # fmt: skip
SECRET_PARAMETERS: Final = ("password", "sslpassword")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+(?:,[A-Za-z0-9_.:%-]+)*")
_LOCAL = {"", "localhost", "127.0.0.1", "::1"}


class UnknownConnection(NotFound):
    """There is no such connection."""

    code = "unknown_connection"


class ConnectionInUse(Refused):
    """A job or a run that has not ended names this connection."""

    code = "connection_in_use"


class OwnDatabase(Refused):
    """The connection leads to Upbeat's own data, which its services alone may write."""

    code = "own_database"


def check_url(name: str, url: str) -> None:
    """Raise InvalidRequest, which never quotes the URL, or OwnDatabase, unless a connection could be stored so."""
    problems = [] if NAME.fullmatch(name) else [Detail("name", name, NAMES)]
    parsed: URL | None = None
    try:
        parsed = parse_url(url)
    except InvalidRequest as refused:
        problems += refused.details
    if problems or parsed is None:
        raise InvalidRequest("The connection cannot be stored.", details=tuple(problems))
    _refuse_own(parsed)


def set_connection(
    *, tenant: Tenant, name: str, url: str, description: str = "", by: str, reason: str = ""
) -> Connection:
    """Store a connection under its name, replacing what was there. Safe to call twice. The database is not asked.

    Raises InvalidRequest, OwnDatabase, and Misconfigured without a key.
    """
    check_url(name, url)
    if len(description) > LONGEST_DESCRIPTION:
        raise InvalidRequest(
            "The connection cannot be stored.",
            details=(Detail("description", f"{len(description)} characters", f"at most {LONGEST_DESCRIPTION}"),),
        )
    with transaction.atomic():
        stored = Connection.objects.select_for_update().filter(tenant=tenant, name=name).first()
        before = None if stored is None else _shown(stored)
        connection, created = Connection.objects.update_or_create(
            tenant=tenant,
            name=name,
            defaults={
                "ciphertext": encrypt(url),
                "shown_url": shown(parse_url(url)),
                "description": description,
                "updated_by": by[:200],
            },
        )
        record_transition(
            subject="connection",
            subject_id=connection.pk,
            from_state="" if created else "stored",
            to_state="stored",
            reason=reason or f"{name} {'stored' if created else 'replaced'}",
            cause="connection set",
            by=by,
        )
        # A password alone may differ, which nothing here shows.
        old, new = changed(before or {}, _shown(connection))
        record_audit(
            action="connection.create" if created else "connection.update", subject="connection",
            subject_id=connection.pk, subject_name=name, tenant_id=tenant.pk, by=by,
            before=None if created else old, after=new, reason=reason,
        )  # fmt: skip
    return connection


def delete_connection(*, tenant: Tenant, name: str, by: str, reason: str = "") -> None:
    """Remove a connection for good.

    Raises UnknownConnection, and ConnectionInUse while the latest version of a job, or a run that has not ended, has a
    task that names it.
    """
    with transaction.atomic():
        connection = Connection.objects.select_for_update().filter(tenant=tenant, name=name).first()
        if connection is None:
            raise UnknownConnection(f"There is no connection {name}.")
        if users := users_of_connection(tenant, name):
            raise ConnectionInUse(
                f"The connection {name} is in use by {', '.join(users)}.",
                details=(Detail("name", name, "a connection that no task names"),),
            )
        subject_id, before = connection.pk, _shown(connection)
        connection.delete()
        record_transition(
            subject="connection",
            subject_id=subject_id,
            from_state="stored",
            to_state="deleted",
            reason=reason or f"{name} deleted",
            cause="connection deleted",
            by=by,
        )
        record_audit(
            action="connection.delete", subject="connection", subject_id=subject_id, subject_name=name,
            tenant_id=tenant.pk, by=by, before=before, reason=reason,
        )  # fmt: skip


def _shown(connection: Connection) -> dict[str, str]:
    return {"url": connection.shown_url, "description": connection.description}


def reveal_connection(tenant_id: int, name: str) -> str:
    """Return the URL of a connection. Raises UnknownConnection, OwnDatabase and, for a lost key, Misconfigured."""
    stored = Connection.objects.filter(tenant_id=tenant_id, name=name).values_list("ciphertext", flat=True).first()
    if stored is None:
        raise UnknownConnection(f"There is no connection {name!r}.")
    url = decrypt(f"connection {name!r}", bytes(stored))
    # Again: a path may have become a link since, or the ledger may have moved.
    _refuse_own(parse_url(url))
    return url


def secrets_of(url: str) -> tuple[str, ...]:
    """Return all of a URL that must never be seen: its password, wherever it stands, and the URL as a whole."""
    try:
        parsed = parse_url(url)
    except InvalidRequest:
        return (url,)
    found = [url, str(parsed.password or "")]
    for parameter in SECRET_PARAMETERS:
        value = parsed.query.get(parameter, ())
        found += [value] if isinstance(value, str) else value
    return tuple(secret for secret in found if secret)


def parse_url(text: str) -> URL:
    """Read a URL strictly, so that what is masked is what the driver gets. Raises InvalidRequest without its value."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if not 0 < len(text) <= LONGEST_URL or any(not c.isprintable() or c.isspace() for c in text):
        raise _bad(f"at most {LONGEST_URL} printable characters without spaces: {SUPPORTED}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _bad(SUPPORTED) from None
    dialect, _, driver = url.drivername.lower().partition("+")
    known = DIALECTS.get(url.drivername.lower())
    if known is None:
        what = f"the driver {driver}" if dialect in DIALECTS else f"the dialect {dialect}"
        raise _bad(f"{what[:80]} is not supported; supported: {SUPPORTED}")
    url = url.set(drivername=known)
    if known == "sqlite":
        _check_sqlite(url)
    else:
        _check_postgresql(url)
    if len(shown(url)) > LONGEST_SHOWN:
        raise _bad(f"at most {LONGEST_SHOWN} characters without its password")
    return url


def shown(url: URL) -> str:
    """Return the URL for people: stars for passwords, in the parameters too."""
    query = {key: value for key, value in url.query.items() if key not in SECRET_PARAMETERS}
    text = url.set(query=query, drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=True)
    for key in SECRET_PARAMETERS:
        if key in url.query:
            text += f"{'&' if '?' in text else '?'}{key}=***"
    return text


def _check_sqlite(url: URL) -> None:
    if url.host or url.username or url.password or url.port:
        raise _bad("four slashes before an absolute path: sqlite:////var/data/orders.sqlite3")
    if not url.database or not url.database.startswith("/"):
        raise _bad("an absolute path to a file: sqlite:////var/data/orders.sqlite3")
    if url.query:
        raise _bad("a SQLite path without parameters")


def _check_postgresql(url: URL) -> None:
    # A raw `@` or `/` in a password would make half of it a host, which is shown.
    if url.host and not _HOST.fullmatch(url.host):
        raise _bad("a host name after the `@`; write special characters of a password as %40, %2F and so on")
    if not url.database and "dbname" not in url.query:
        raise _bad("the name of the database after the host")
    if unknown := sorted(set(url.query) - POSTGRESQL_PARAMETERS):
        raise _bad(f"no parameter {unknown[0][:80]}; known: {', '.join(sorted(POSTGRESQL_PARAMETERS))}")
    for key in SECRET_PARAMETERS:
        if not isinstance(url.query.get(key, ""), str):
            raise _bad(f"{key} once")


def _bad(expected: str) -> InvalidRequest:
    return InvalidRequest("The URL is not understood.", details=(Detail("url", None, expected),))


def _refuse_own(url: URL) -> None:
    own = settings.DATABASES["default"]
    if url.drivername == "sqlite":
        path = Path(url.database or "/").resolve()
        if path == Path(str(own["NAME"])).resolve() or path.is_relative_to(options().home_path.resolve()):
            raise OwnDatabase
        return
    if "sqlite" in own["ENGINE"]:
        return
    host = str(url.query.get("host", url.host or ""))
    port = int(str(url.query.get("port", url.port or 5432)).partition(",")[0] or 5432)
    same_host = host == str(own.get("HOST") or "") or {host, str(own.get("HOST") or "")} <= _LOCAL
    name = str(url.query.get("dbname", url.database or ""))
    if same_host and port == int(own.get("PORT") or 5432) and name == str(own["NAME"]):
        raise OwnDatabase
