"""A trigger rule as it is written: read with all of its problems, written back as it was, stored in canonical form.

The contract's fields stand at the top (`eventType`, `taskName`, …), what we add beside them (`match`, `dedupe`, …).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, cast

import orjson

from orchestrator.dag.schedules import cron_problem, is_timezone
from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.placeholders import RULE, parse_template, texts_in
from orchestrator.expressions.problems import InvalidExpression, InvalidPlaceholder
from orchestrator.expressions.program import compile_condition, compile_quantity
from orchestrator.units import duration_text
from triggers.rules.fields import LONGEST, Fields, Problems, RuleProblem, check_data, duration_of
from triggers.rules.own_task import TASK_NAME, TEXT_FIELD, check_task, task_fields
from triggers.rules.terms import EXPIRES_AFTER, Batch, Concurrency, Debounce, Dedupe, Throttle
from triggers.rules.window import WindowSpec

__all__ = ["CONTRACT_FIELDS", "FIELDS", "RuleProblem", "RuleSpec", "own_job_definition", "read_rule"]

RULE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,57}")
#: In every answer at the top level, given or not.
CONTRACT_FIELDS: Final = (
    "ruleId", "ruleName", "eventType", "condition", "taskName", "taskType", "parameters", "priority", "enabled",
    "description",
)  # fmt: skip
FIELDS: Final = (
    *CONTRACT_FIELDS, "match", "target", "timeout", "dedupe", "throttle", "debounce", "batch", "concurrency", "delay",
    "window", "expiresAfter", "whenJobPaused", "includeSnapshot",
)  # fmt: skip
#: Of the rule's model, and not offered: refused by name, so that nobody believes in them.
NOT_OFFERED: Final[Mapping[str, str]] = {
    "gates": "a rule without gates: nothing checks them yet",
    "all": "one eventType, or several of which each fires: joins of events are not offered",
}
PRIORITIES: Final[Mapping[str, str]] = {
    "HIGH": "P1", "MEDIUM": "P2", "LOW": "P3", "P0": "P0", "P1": "P1", "P2": "P2", "P3": "P3",
}  # fmt: skip
#: Bytes of a rule as JSON.
LARGEST: Final = 64 * 1024
MOST_PARAMETERS: Final = 200
MOST_PATTERNS: Final = 50
MOST_HEADERS: Final = 20
_TYPE: Final = re.compile(r"[^\s\x00-\x1f]{1,200}")
_EXPRESSION: Final = "a CEL expression over payload, metadata, headers, eventType, source, timestamp, now …"


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """What a rule says. Built by `read_rule`; equal specs mean the same."""

    rule_id: str
    event_types: tuple[str, ...]
    #: The job by name where there is no `task_type`, else what the task is called.
    task_name: str
    task_type: str | None = None
    name: str = ""
    description: str = ""
    enabled: bool = True
    #: HIGH, MEDIUM, LOW or P0 to P3, as it is written.
    priority: str | None = None
    sources: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    #: Lower-case names.
    headers: tuple[tuple[str, str], ...] = ()
    condition: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: Of the rule's own task, where it is given at the top.
    timeout: float | None = None
    dedupe: Dedupe | None = None
    throttle: Throttle | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    concurrency: Concurrency | None = None
    delay: float | None = None
    window: WindowSpec | None = None
    expires_after: float | None = None
    when_job_paused: Literal["hold", "drop"] = "hold"

    @property
    def job_name(self) -> str | None:
        """The job that the rule starts by name; None if it carries its task."""
        return self.task_name if self.task_type is None else None

    @property
    def own_job_name(self) -> str | None:
        """The name of the hidden job of a rule that carries its task."""
        return None if self.task_type is None else f"rule-{self.rule_id}"

    @property
    def run_priority(self) -> str | None:
        """P0 to P3; None: the job's or the event's decides."""
        return None if self.priority is None else PRIORITIES[self.priority]

    @property
    def expires_seconds(self) -> float:
        """How long a held firing, and a run that waits to start, may take."""
        return EXPIRES_AFTER if self.expires_after is None else self.expires_after

    @property
    def task_timeout(self) -> float | None:
        """Seconds that the rule's own task may take, wherever they are written."""
        return self.timeout if self.timeout is not None else duration_of(self.parameters.get("timeout"))

    def to_form(self) -> dict[str, Any]:
        """Return the rule as it is written: `read_rule` of it gives an equal spec."""
        form: dict[str, Any] = {
            "ruleId": self.rule_id,
            "ruleName": self.name,
            "eventType": self.event_types[0] if len(self.event_types) == 1 else list(self.event_types),
            "condition": self.condition,
            "taskName": self.task_name,
            "taskType": self.task_type,
            "parameters": dict(self.parameters),
            "priority": self.priority,
            "enabled": self.enabled,
            "description": self.description,
        }
        if match := self._match_form():
            form["match"] = match
        if self.timeout is not None:
            form["timeout"] = _number(self.timeout)
        form |= self._stage_forms()
        if self.expires_after is not None:
            form["expiresAfter"] = duration_text(self.expires_after)
        if self.when_job_paused != "hold":
            form["whenJobPaused"] = self.when_job_paused
        return form

    def canonical(self) -> dict[str, Any]:
        """Return the rule as it is stored: its form without what is not said."""
        return {name: value for name, value in self.to_form().items() if value not in (None, "", {})}

    @classmethod
    def from_canonical(cls, data: Mapping[str, Any]) -> Self:
        """Build the spec from its canonical form, which was checked when it was stored; the inverse of `canonical`.

        Raises ValueError for one that this release does not understand.
        """
        problems = Problems()
        spec = _read(Fields(data, problems), compiles=False)
        if spec is None or problems.found:
            raise ValueError("; ".join(map(str, problems.found)) or "no rule")
        return cast(Self, spec)

    def _match_form(self) -> dict[str, Any]:
        match: dict[str, Any] = {}
        if self.sources:
            match["source"] = list(self.sources)
        if self.channels:
            match["channel"] = list(self.channels)
        if self.headers:
            match["headers"] = dict(self.headers)
        return match

    def _stage_forms(self) -> dict[str, Any]:
        form: dict[str, Any] = {}
        if self.dedupe is not None:
            form["dedupe"] = {"key": self.dedupe.key, "window": duration_text(self.dedupe.window)}
        if (throttle := self.throttle) is not None:
            form["throttle"] = {
                "limit": throttle.limit,
                "per": duration_text(throttle.per),
                "onExceed": throttle.on_exceed,
                **({"key": throttle.key} if throttle.key else {}),
            }
        if (debounce := self.debounce) is not None:
            form["debounce"] = {
                "key": debounce.key,
                "quiet": duration_text(debounce.quiet),
                **({} if debounce.max_wait is None else {"maxWait": duration_text(debounce.max_wait)}),
            }
        if (batch := self.batch) is not None:
            form["batch"] = {
                "key": batch.key,
                "maxEvents": batch.max_events,
                "maxWait": duration_text(batch.max_wait),
            }
        if (concurrency := self.concurrency) is not None:
            form["concurrency"] = {
                **({"key": concurrency.key} if concurrency.key else {}),
                "max": concurrency.max,
                "onExceed": concurrency.on_exceed,
            }
        if self.delay is not None:
            form["delay"] = duration_text(self.delay)
        if (window := self.window) is not None:
            form["window"] = {"tz": window.tz, "allow": window.allow, "onClosed": window.on_closed}
        return form


def read_rule(form: Mapping[str, Any]) -> RuleSpec | tuple[RuleProblem, ...]:
    """Return the rule, or everything that is wrong with it. Asks nobody: whether its job exists is the caller's."""
    problems = Problems()
    if not isinstance(form, Mapping):
        problems.add((), "wrong type", "a mapping with ruleId, eventType and taskName", form)
    elif check_data(form, problems):
        size = len(orjson.dumps(form))
        if size > LARGEST:
            problems.add((), f"has {size} bytes", f"at most {LARGEST} bytes as JSON")
        else:
            spec = _read(Fields(form, problems), compiles=True)
            if spec is not None and not problems.found:
                return spec
    return tuple(problems.found)


def own_job_definition(spec: RuleSpec) -> dict[str, Any]:
    """Return the definition, `kind: Job`, of the hidden job of a rule that carries its task."""
    assert spec.task_type is not None, "the rule names a job of its own"
    label = spec.task_name if not spec.name or spec.name == spec.task_name else f"{spec.task_name}: {spec.name}"
    task: dict[str, Any] = {"name": TASK_NAME, "type": spec.task_type}
    if spec.task_timeout is not None:
        task["timeout"] = _number(spec.task_timeout)
    own = task_fields(spec.task_type, spec.parameters, slug=spec.rule_id)
    return {"kind": "Job", "name": f"rule-{spec.rule_id}", "description": label, "tasks": [{**own, **task}]}


# --- reading


def _read(form: Fields, *, compiles: bool) -> RuleSpec | None:
    """Read a rule; without `compiles` its expressions and placeholders are taken on trust."""
    problems = form.problems
    form.only((*FIELDS, *NOT_OFFERED))
    for name, expected in NOT_OFFERED.items():
        if name in form:
            form.refuse(name, "not offered", expected)
    match = form.within("match", ("eventType", "source", "channel", "headers"))
    target = form.within("target", ("taskName", "taskType"))
    task_type = _task_type(form, target)
    stages = _Stages(form, compiles=compiles)
    spec = RuleSpec(
        rule_id=_rule_id(form),
        name=form.text("ruleName", longest=200) or "",
        description=form.text("description", longest=4000) or "",
        enabled=form.boolean("enabled") is not False,
        priority=form.choice("priority", tuple(PRIORITIES)),
        event_types=_event_types(form, match),
        sources=match.texts("source", longest=200, most=MOST_PATTERNS, expected="a source") if match else (),
        channels=match.texts("channel", longest=300, most=MOST_PATTERNS, expected="a channel") if match else (),
        headers=_headers(match),
        condition=_condition(form, compiles=compiles),
        task_name=_task_name(form, target),
        task_type=task_type,
        parameters=_parameters(form, task_type, compiles=compiles),
        timeout=_timeout(form, task_type),
        dedupe=stages.dedupe(),
        throttle=stages.throttle(),
        debounce=stages.debounce(),
        batch=stages.batch(),
        concurrency=stages.concurrency(),
        delay=form.duration("delay"),
        window=_window(form),
        expires_after=form.duration("expiresAfter"),
        when_job_paused=cast(Literal["hold", "drop"], form.choice("whenJobPaused", ("hold", "drop")) or "hold"),
    )
    if form.boolean("includeSnapshot"):
        form.refuse("includeSnapshot", "not offered", "false: there is no change-data capture yet")
    _check_together(spec, form)
    return None if problems.found else spec


def _rule_id(form: Fields) -> str:
    expected = f"a text that matches {RULE_ID.pattern}"
    if not form.required("ruleId", expected):
        return ""
    value = form.raw("ruleId")
    if not isinstance(value, str) or not RULE_ID.fullmatch(value):
        form.refuse("ruleId", "not an id of a rule", expected)
        return ""
    return value


def _event_types(form: Fields, match: Fields | None) -> tuple[str, ...]:
    owner = match if match is not None and "eventType" in match else form
    if owner is match and "eventType" in form and form.raw("eventType") != match.raw("eventType"):
        form.refuse("eventType", "another type than match.eventType", "one of the two, or the same")
    if not owner.required("eventType", "the type of event, such as order.created or order.#"):
        return ()
    patterns = owner.texts("eventType", longest=200, most=MOST_PATTERNS, expected="a type of event")
    for pattern in patterns:
        words = pattern.split(".")
        wrong = next((word for word in words if word not in ("*", "#") and ("*" in word or "#" in word)), None)
        if wrong is not None:
            owner.refuse("eventType", f"a wildcard within a word: {wrong}", "`*` for one word, `#` for the rest")
        elif "#" in words[:-1]:
            owner.refuse("eventType", "`#` before the end", "`#` as the last word: it stands for all the rest")
        elif not _TYPE.fullmatch(pattern):
            owner.refuse("eventType", "white space in a type", "a type such as order.created")
    return patterns


def _headers(match: Fields | None) -> tuple[tuple[str, str], ...]:
    given = match.raw("headers") if match is not None else None
    if match is None or given is None:
        return ()
    if not isinstance(given, Mapping) or not 0 < len(given) <= MOST_HEADERS:
        match.refuse("headers", "not such headers", f"1 to {MOST_HEADERS} names with their exact values")
        return ()
    headers: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(value, str) or len(value) > 1000 or not 0 < len(name) <= 200:
            match.problems.add((*match.path, "headers", name), "not a header", "a text, at most 1000 characters", value)
        else:
            headers[name.lower()] = value
    return tuple(sorted(headers.items()))


def _condition(form: Fields, *, compiles: bool) -> str:
    source = (form.text("condition", longest=100_000, expected="a CEL expression, or empty for always") or "").strip()
    if source and compiles:
        try:
            compile_condition(source, rule_environment())
        except InvalidExpression as error:
            _refuse_expression(form, "condition", error, "a CEL expression that is true or false")
    return source


def _refuse_expression(form: Fields, name: str, error: InvalidExpression, expected: str) -> None:
    for problem in error.problems:
        known = ", ".join(rule_environment().variables)
        form.refuse(name, str(problem), f"one of {known}" if problem.undeclared else expected)


def _task_type(form: Fields, target: Fields | None) -> str | None:
    owner = target if target is not None and "taskType" in target else form
    if owner is target and "taskType" in form and form.raw("taskType") != target.raw("taskType"):
        form.refuse("taskType", "another type than target.taskType", "one of the two, or the same")
    return owner.text("taskType", longest=63, expected="a type of task, such as shell or http") or None


def _task_name(form: Fields, target: Fields | None) -> str:
    owner = target if target is not None and "taskName" in target else form
    if owner is target and "taskName" in form and form.raw("taskName") != target.raw("taskName"):
        form.refuse("taskName", "another name than target.taskName", "one of the two, or the same")
    if not owner.required("taskName", "the name of a job, or with a taskType what the task is called"):
        return ""
    name = owner.text("taskName", longest=200)
    if name is not None and not name.strip():
        owner.refuse("taskName", "empty", "a name")
    return name or ""


def _parameters(form: Fields, task_type: str | None, *, compiles: bool) -> Mapping[str, Any]:
    given = form.raw("parameters")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        form.refuse("parameters", "wrong type", "a mapping")
        return {}
    if len(given) > MOST_PARAMETERS:
        form.problems.add(("parameters",), f"{len(given)} parameters", f"at most {MOST_PARAMETERS}")
        return {}
    if not compiles:
        return given
    if task_type is not None:
        check_task(task_type, given, form.problems)
    groups = "debounce" in form or "batch" in form
    for name, value in given.items():
        if task_type in TEXT_FIELD and name in ("script", "command"):
            continue
        if task_type == "http" and name == "expect":
            continue
        for where, text in texts_in(value, ("parameters", name)):
            _check_placeholders(form.problems, where, text, named_job=task_type is None, groups=groups)
    return given


def _check_placeholders(
    problems: Problems, path: tuple[str | int, ...], text: str, *, named_job: bool, groups: bool
) -> None:
    try:
        parts = parse_template(text, RULE)
    except InvalidPlaceholder as error:
        problems.add(path, f"bad placeholder: {error}", RULE.expected, error.placeholder)
        return
    for part in parts:
        if isinstance(part, str):
            continue
        if part.root == "runId" and named_job:
            expected = "a parameter without it: tasks of the job read ${run.id}"
            problems.add(path, "the run has no id before it is made", expected, text)
        elif part.root == "eventIds" and not groups:
            problems.add(path, "eventIds without a group", "a rule with debounce or batch, or ${eventId}", text)


def _timeout(form: Fields, task_type: str | None) -> float | None:
    timeout = form.duration("timeout")
    if task_type is None:
        if timeout is not None:
            form.refuse("timeout", "a time limit for another's job", "no timeout: the job's own definition has it")
        return timeout
    parameters = form.raw("parameters")
    inner = parameters.get("timeout") if isinstance(parameters, Mapping) else None
    if inner is not None:
        seconds = duration_of(inner)
        if seconds is None or not 0 < seconds <= LONGEST:
            expected = 'seconds, or a duration such as "5m", at most 366d'
            form.problems.add(("parameters", "timeout"), "not a duration", expected, inner)
        elif timeout is not None and timeout != seconds:
            form.refuse("timeout", "another than parameters.timeout", "one of the two, or the same")
    return timeout


def _window(form: Fields) -> WindowSpec | None:
    given = form.within("window", ("tz", "allow", "onClosed"))
    if given is None:
        return None
    on_closed = cast(Literal["hold", "drop"], given.choice("onClosed", ("hold", "drop")) or "hold")
    zone = given.text("tz", longest=63, expected="a time zone") or "UTC"
    if not is_timezone(zone):
        given.refuse("tz", "not a time zone", "an IANA name such as Asia/Shanghai")
        zone = "UTC"
    expected = 'five fields as in cron, such as "* 22-23,0-5 * * *"'
    allow = given.text("allow", longest=200, expected=expected) if given.required("allow", expected) else None
    if allow is None:
        return None
    problem = cron_problem(allow)
    if problem is not None:
        given.refuse("allow", f"not such a text: {problem}", expected)
        return None
    window = WindowSpec(" ".join(allow.split()), zone, on_closed)
    if not window.ever_opens():
        given.refuse("allow", "no minute matches it", "a window that opens")
    return window


class _Stages:
    """Reads the stages, whose keys are expressions."""

    def __init__(self, form: Fields, *, compiles: bool) -> None:
        self._form = form
        self._compiles = compiles

    def dedupe(self) -> Dedupe | None:
        given = self._form.within("dedupe", ("key", "window"))
        if given is None:
            return None
        key, window = self._key(given, "dedupe"), self._duration(given, "window", "10m")
        return Dedupe(key, window) if key and window else None

    def throttle(self) -> Throttle | None:
        given = self._form.within("throttle", ("key", "limit", "per", "onExceed"))
        if given is None:
            return None
        limit = self._integer(given, "limit", 1_000_000)
        per = self._duration(given, "per", "1m")
        on_exceed = cast(Literal["hold", "drop"], given.choice("onExceed", ("hold", "drop")) or "hold")
        return Throttle(limit, per, on_exceed, self._optional_key(given)) if limit and per else None

    def debounce(self) -> Debounce | None:
        given = self._form.within("debounce", ("key", "quiet", "maxWait"))
        if given is None:
            return None
        key, quiet = self._key(given, "debounce"), self._duration(given, "quiet", "30s")
        longest = given.duration("maxWait")
        if quiet and longest and longest < quiet:
            given.refuse("maxWait", "shorter than quiet", f"at least {duration_text(quiet)}")
        return Debounce(key, quiet, longest) if key and quiet else None

    def batch(self) -> Batch | None:
        given = self._form.within("batch", ("key", "maxEvents", "maxWait"))
        if given is None:
            return None
        key = self._key(given, "batch")
        events = self._integer(given, "maxEvents", 10_000)
        wait = self._duration(given, "maxWait", "60s")
        return Batch(key, events, wait) if key and events and wait else None

    def concurrency(self) -> Concurrency | None:
        given = self._form.within("concurrency", ("key", "max", "onExceed"))
        if given is None:
            return None
        most = self._integer(given, "max", 10_000)
        on_exceed = cast(Literal["queue", "drop"], given.choice("onExceed", ("queue", "drop")) or "queue")
        return Concurrency(most, self._optional_key(given), on_exceed) if most else None

    def _key(self, given: Fields, stage: str) -> str:
        if not given.required("key", f"what a {stage} is kept by, such as payload.orderId"):
            return ""
        return self._optional_key(given)

    def _optional_key(self, given: Fields) -> str:
        source = (given.text("key", longest=100_000, expected=_EXPRESSION) or "").strip()
        if not source:
            if given.raw("key") == "":
                given.refuse("key", "empty", _EXPRESSION)
        elif self._compiles:
            try:
                compile_quantity(source, rule_environment())
            except InvalidExpression as error:
                _refuse_expression(given, "key", error, _EXPRESSION)
        return source

    def _duration(self, given: Fields, name: str, example: str) -> float | None:
        return given.duration(name) if given.required(name, f'a duration such as "{example}"') else None

    def _integer(self, given: Fields, name: str, high: int) -> int | None:
        return given.integer(name, 1, high) if given.required(name, f"an integer, 1 to {high}") else None


def _check_together(spec: RuleSpec, form: Fields) -> None:
    """Record what no field alone shows."""
    if "debounce" in form and "batch" in form:
        form.refuse("batch", "debounce and batch together", "one of them: each makes one run of several events")
    waits = {
        "debounce": spec.debounce.longest if spec.debounce else None,
        "batch": spec.batch.max_wait if spec.batch else None,
        "delay": spec.delay,
    }
    for name, seconds in waits.items():
        if seconds is not None and seconds >= spec.expires_seconds:
            limit = duration_text(spec.expires_seconds)
            form.refuse(name, f"waits {duration_text(seconds)}, and what waits expires after {limit}", "a shorter wait")


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) else seconds
