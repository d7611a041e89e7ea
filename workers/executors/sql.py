"""`sql`: statements on a stored connection, in one transaction or each by itself.

The text is fixed and split by the database's own rules; values reach it as bind parameters alone. What an error means
for another try depends on the moment: before COMMIT everything is rolled back, within it nobody knows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from orchestrator.errors import Misconfigured, UpbeatError
from orchestrator.registry import FieldProblem, TaskType
from orchestrator.store import RESULT_BYTES
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.databases.base import BadBind, Database, Fault, ResultTooLarge, Rows, Trouble
from workers.executors.databases.statements import NAME, CannotSplit, Dialect, Statement, split
from workers.executors.databases.watch import PATIENCE_SECONDS, Cause, Interrupted, Watch

ResultFrom = Literal["none", "first_row", "rows"]

MOST_ROWS = 100_000
MAX_ROWS = 1000
#: What the log shows of a statement's first line.
SHOWN_CHARACTERS = 200
LONGEST_STATEMENT = 256 * 1024
#: Reading SQL takes seconds for each megabyte: longer texts are read when they run, not by whoever validates them.
CHECKED_CHARACTERS = 32 * 1024
DIALECTS: tuple[Dialect, ...] = ("postgres", "sqlite")
SUPPORTED = "postgresql (driver psycopg 3) and sqlite"


def check(config: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Find what no schema can: binds and statements that do not fit. The dialect is not known before the connection is,
    so a problem is one only if all dialects have it."""
    text, bind = config.get("statement"), config.get("bind", {})
    if not isinstance(text, str) or not isinstance(bind, Mapping) or len(text) > CHECKED_CHARACTERS:
        return
    found: list[FieldProblem] | None = None
    for dialect in DIALECTS:
        problems = _problems(text, bind, dialect)
        found = [problem for problem in problems if found is None or problem in found]
        if not found:
            return
    yield from found or ()


TYPE = TaskType(
    name="sql",
    label="SQL statements",
    schema={
        "type": "object",
        "required": ["connection", "statement"],
        "additionalProperties": False,
        "properties": {
            "connection": {
                "type": "string",
                "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
                "description": "Name of a stored connection; a fixed text.",
            },
            "statement": {
                "type": "string",
                "pattern": r"\S",
                "maxLength": LONGEST_STATEMENT,
                "description": "One or more statements, separated by semicolons; a fixed text.",
            },
            "bind": {
                "type": "object",
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "description": "Values of the statement's `:name`s.",
            },
            "result": {
                "enum": ["none", "first_row", "rows"],
                "default": "none",
                "description": "Of the last statement that returns rows: the first as an object, or a list of them.",
            },
            "max_rows": {
                "type": "integer",
                "minimum": 1,
                "maximum": MOST_ROWS,
                "default": MAX_ROWS,
                "description": "Rows of the result; the log says if there were more.",
            },
            "read_only": {
                "type": "boolean",
                "default": False,
                "description": "The database refuses everything that writes.",
            },
            "transaction": {
                "type": "boolean",
                "default": True,
                "description": "All statements in one transaction; false: each by itself.",
            },
        },
    },
    fixed_text=("connection", "statement"),
    values_in=("bind",),
    check=check,
)


@dataclass(frozen=True, slots=True)
class SqlConfig:
    """The fields of a sql task, rendered."""

    connection: str
    statement: str
    bind: Mapping[str, Any]
    result: ResultFrom = "none"
    max_rows: int = MAX_ROWS
    read_only: bool = False
    transaction: bool = True


class BadField(Exception):
    """A rendered field is not what the executor can use."""


@dataclass(slots=True)
class _Progress:
    """How far an attempt has come: what a lost connection means is read from it."""

    statement: int = 0
    connected: bool = False
    #: A statement that commits itself has been sent.
    sent: bool = False
    committing: bool = False


class SqlExecutor:
    """Runs SQL. `patience`: seconds that a database has to obey a cancel before its connection is cut."""

    def __init__(self, *, patience: float = PATIENCE_SECONDS, result_bytes: int = RESULT_BYTES) -> None:
        self._patience = patience
        self._result_bytes = result_bytes

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        try:
            config = read_config(context.config)
            if context.stop.requested:
                return _stopped(context)
            database, dialect = _database(context, config.connection)
            statements = _statements(config, dialect)
        except (BadField, CannotSplit) as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))
        except UpbeatError as problem:
            # A key that is missing may come back; a connection that does not exist does not by itself.
            kind = FailureKind.RETRYABLE if isinstance(problem, Misconfigured) else FailureKind.PERMANENT
            return ExecutionResult.failed(kind, f"connection: {config.connection!r}: {problem.message}")
        progress = _Progress()
        try:
            # Ended before the connection is closed: a cancel must not come upon one that is being taken apart.
            with Watch(database, context.stop, context.timeout, patience=self._patience) as watch:
                try:
                    attempt = _Attempt(context, config, database, statements, watch, progress, self._result_bytes)
                    return ExecutionResult.succeeded(_result(config, attempt.run()))
                except (BadField, BadBind, ResultTooLarge) as problem:
                    return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))
                except Interrupted:
                    return _interrupted(context, watch.cause)
                except Trouble as trouble:
                    return _failure(context, config, trouble, watch, progress, len(statements))
        finally:
            database.close()


def read_config(config: Mapping[str, Any]) -> SqlConfig:
    """Check the rendered fields; raises BadField."""
    known = SqlConfig.__slots__
    if unknown := sorted(set(config) - set(known)):
        raise BadField(f"{unknown[0]}: not a field of a sql task ({', '.join(known)})")
    for field in ("connection", "statement"):
        if not isinstance(config.get(field), str) or not config[field].strip():
            raise BadField(f"{field}: {_shown(config.get(field))} is not a text")
    if len(config["statement"]) > LONGEST_STATEMENT:
        raise BadField(f"statement: {len(config['statement'])} characters are more than {LONGEST_STATEMENT}")
    bind = config.get("bind") or {}
    if not isinstance(bind, Mapping):
        raise BadField(f"bind: {_shown(bind)} is not a mapping of names to values")
    for name in bind:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise BadField(f"bind: {_shown(name)} is not a name of letters, digits and underscores")
    result = config.get("result") or "none"
    if result not in ("none", "first_row", "rows"):
        raise BadField(f"result: {_shown(result)} is not none, first_row or rows")
    max_rows = config.get("max_rows", MAX_ROWS)
    if not isinstance(max_rows, int) or isinstance(max_rows, bool) or not 1 <= max_rows <= MOST_ROWS:
        raise BadField(f"max_rows: {_shown(max_rows)} is not a whole number from 1 to {MOST_ROWS}")
    return SqlConfig(
        connection=config["connection"],
        statement=config["statement"],
        bind=bind,
        result=cast(ResultFrom, result),
        max_rows=max_rows,
        read_only=_flag(config, "read_only", default=False),
        transaction=_flag(config, "transaction", default=True),
    )


def _flag(config: Mapping[str, Any], field: str, *, default: bool) -> bool:
    value = config.get(field, default)
    if not isinstance(value, bool):
        raise BadField(f"{field}: {_shown(value)} is not true or false")
    return value


def _database(context: ExecutionContext, name: str) -> tuple[Database, Dialect]:
    """Open nothing yet: find out what kind of database it is. Raises UpbeatError, BadField."""
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        url = make_url(context.connection(name))
        dialect = url.drivername.partition("+")[0]
        say = _Sayer(context)
        if dialect == "sqlite":
            from workers.executors.databases.sqlite import SQLite

            return SQLite(url, say), "sqlite"
        if dialect in ("postgresql", "postgres"):
            from workers.executors.databases.postgresql import PostgreSQL

            return PostgreSQL(url.set(drivername="postgresql+psycopg"), say), "postgres"
    except ImportError as problem:
        raise BadField(
            f"connection: {name!r} needs {problem.name or 'a driver'}, which this worker does not have"
        ) from None
    except (ArgumentError, ValueError):
        raise BadField(f"connection: {name!r} has no URL that can be read") from None
    raise BadField(f"connection: {name!r} is of the dialect {dialect}; supported: {SUPPORTED}")


@dataclass(frozen=True, slots=True)
class _Sayer:
    context: ExecutionContext

    def __call__(self, line: str) -> None:
        self.context.log.write(f"{line}\n".encode(errors="replace"))


def _statements(config: SqlConfig, dialect: Dialect) -> list[Statement]:
    for problem in _problems(config.statement, config.bind, dialect):
        raise BadField(f"{'.'.join(map(str, problem.path))}: {problem.message}; expected {problem.expected}")
    return split(config.statement, dialect)


def _problems(text: str, bind: Iterable[str], dialect: Dialect) -> list[FieldProblem]:
    try:
        statements = split(text, dialect)
    except CannotSplit:
        return [FieldProblem(("statement",), "not SQL", "strings, names and comments that end", _shown(text))]
    if not statements:
        return [FieldProblem(("statement",), "empty", "at least one statement", _shown(text))]
    problems = [
        FieldProblem(
            ("statement",),
            "begins or ends a transaction",
            "`transaction: true` for one, or `transaction: false` and each statement by itself",
            each.first_line[:SHOWN_CHARACTERS],
        )
        for each in statements
        if each.controls_transaction
    ]
    used = {name.name for each in statements for name in each.binds}
    problems += [
        FieldProblem(("bind", name), "missing", f"a value: the statement uses :{name}")
        for name in sorted(used - set(bind))
    ]
    problems += [
        FieldProblem(("bind", name), "not used", f"a statement that uses :{name}, or no such value")
        for name in sorted(set(bind) - used)
    ]
    return problems


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt on a database: connect, run every statement, commit."""

    context: ExecutionContext
    config: SqlConfig
    database: Database
    statements: list[Statement]
    watch: Watch
    progress: _Progress
    result_bytes: int

    def run(self) -> Rows | None:
        """Run to the end of the last commit; return the rows of the result."""
        config, database, watch = self.config, self.database, self.watch
        watch.check()
        database.connect(name=_name(self.context), seconds=watch.seconds_left, read_only=config.read_only)
        self.progress.connected = True
        if config.transaction:
            watch.check()
            database.begin(read_only=config.read_only, seconds=watch.seconds_left)
        found: Rows | None = None
        for number, statement in enumerate(self.statements, 1):
            self.progress.statement = number
            rows = self._run_one(number, statement)
            found = rows if rows.returned is not None else found
        found = _result_rows(config, found)
        if config.transaction:
            watch.check()
            self.progress.committing = True
            database.commit()
        if found is not None and config.result == "rows" and (found.returned or 0) > len(found.kept):
            self._say(f"the result has the first {len(found.kept)} of {found.returned} rows (max_rows)")
        return found

    def _run_one(self, number: int, statement: Statement) -> Rows:
        config, database, watch = self.config, self.database, self.watch
        watch.check()
        # A text could take a setting of the connection back, but not one of a transaction that has begun.
        alone = config.read_only and not config.transaction
        if alone:
            database.begin(read_only=True, seconds=watch.seconds_left)
        elif not config.transaction or number > 1:
            database.limit(watch.seconds_left, in_transaction=config.transaction)
        place = f"{number}/{len(self.statements)}"
        # Masked before it is cut: half a secret is none that a mask would know.
        self._say(f"{place}: {self.context.redact(statement.first_line)[:SHOWN_CHARACTERS]}")
        began = time.monotonic()
        rows = Rows(_rows_kept(config), self.result_bytes)
        self.progress.sent = not config.transaction and not config.read_only
        database.run(statement, config.bind, rows)
        if (config.transaction or alone) and not database.in_transaction:
            raise Trouble(Fault.WRONG, "the statement ended the task's transaction")
        if alone:
            database.commit()
        self._say(f"{place}: {_counted(rows)} in {time.monotonic() - began:.3f} s")
        return rows

    def _say(self, line: str) -> None:
        _Sayer(self.context)(line)


def _counted(rows: Rows) -> str:
    if rows.returned is not None:
        return f"{rows.returned} rows"
    return "done" if rows.affected is None else f"{rows.affected} rows changed"


def _rows_kept(config: SqlConfig) -> int:
    return {"none": 0, "first_row": 1, "rows": config.max_rows}[config.result]


def _result_rows(config: SqlConfig, found: Rows | None) -> Rows | None:
    """Check, before anything is committed, that there is the result that the task promises."""
    if config.result == "none":
        return None
    if found is None:
        raise BadField(f"result: {config.result} of statements of which none returns rows")
    if twice := sorted({name for name in found.columns if found.columns.count(name) > 1}):
        raise BadField(f"result: two columns are called {twice[0]}; give each a name of its own")
    return found


def _result(config: SqlConfig, rows: Rows | None) -> Any:
    if rows is None:
        return None
    found = [dict(zip(rows.columns, row, strict=True)) for row in rows.kept]
    return found if config.result == "rows" else (found[0] if found else None)


def _name(context: ExecutionContext) -> str:
    """`upbeat job/run/task/attempt`; the names give way to the numbers where there is no room for both."""
    fixed = len(f"upbeat /{context.run_id}//{context.attempt_number}")
    room = max(2, 63 - fixed)
    task = context.task_name[: max(room // 2, room - len(context.job_name))]
    job = context.job_name[: room - len(task)]
    return f"upbeat {job}/{context.run_id}/{task}/{context.attempt_number}"


def _failure(
    context: ExecutionContext, config: SqlConfig, trouble: Trouble, watch: Watch, progress: _Progress, count: int
) -> ExecutionResult:
    """Translate an error by what it is and when it came."""
    words = str(trouble)
    if count > 1 and progress.statement and not progress.committing:
        words = f"statement {progress.statement} of {count}: {words}"
    in_commit = progress.committing and not config.read_only
    if trouble.fault in (Fault.CANCELED, Fault.BROKEN) and (watch.cause is not None or watch.is_late):
        ended = _interrupted(context, watch.cause or Cause.TIMEOUT)
        if in_commit and trouble.fault is Fault.BROKEN:
            reason = f"{ended.reason} in COMMIT: whether it took place is not known"
            return ExecutionResult.failed(ended.failure or FailureKind.UNKNOWN, reason)
        return ended
    if trouble.fault is Fault.TRANSIENT and not progress.connected:
        # Nothing has begun, so it counts as a failure that may be repeated, not as a time-out.
        if watch.cause is Cause.STOPPED:
            return _stopped(context)
        if watch.is_late:
            words = f"no connection within {context.timeout:g} s: {words}"
    match trouble.fault:
        case Fault.WRONG:
            return ExecutionResult.failed(FailureKind.PERMANENT, words)
        case Fault.BROKEN if in_commit:
            reason = f"the connection was lost in COMMIT: whether it took place is not known: {words}"
            return ExecutionResult.failed(FailureKind.UNKNOWN, reason)
        case Fault.BROKEN if progress.sent:
            reason = f"the connection was lost: whether the statement took effect is not known: {words}"
            return ExecutionResult.failed(FailureKind.UNKNOWN, reason)
        case Fault.BROKEN:
            return ExecutionResult.failed(
                FailureKind.RETRYABLE, f"the connection was lost, nothing was changed: {words}"
            )
    return ExecutionResult.failed(FailureKind.RETRYABLE, words)


def _interrupted(context: ExecutionContext, cause: Cause | None) -> ExecutionResult:
    if cause is Cause.STOPPED:
        return _stopped(context)
    return ExecutionResult.failed(FailureKind.TIMEOUT, f"timed out after {context.timeout:g} s")


def _stopped(context: ExecutionContext) -> ExecutionResult:
    return ExecutionResult.failed(FailureKind.STOPPED, context.stop.reason or "stopped")


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else json.dumps(value, default=repr)
    return text if len(text) <= 120 else f"{text[:117]}…"
