"""Rules: created, replaced, enabled, disabled, rolled back, deleted. Every change makes a version and a fact.

A rule that carries its task owns a hidden job of that one task, which is made and versioned in the same transaction.
The row of the job is locked first and the rule's after it, as everywhere; the epoch comes last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from django.db import IntegrityError, transaction

from orchestrator.errors import Detail
from orchestrator.models import Job, Tenant
from orchestrator.services import jobs
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.parsing import Definition, detail_of, read_definitions
from orchestrator.services.runs import cancel_pending_of_rule
from orchestrator.services.transactions import database_now, in_transaction
from orchestrator.services.transitions import record_transition
from triggers.errors import (
    InvalidRule,
    RuleExists,
    StaleVersion,
    UnknownRule,
    UnknownRuleJob,
    UnknownRuleVersion,
)
from triggers.models import Firing, RuleState, RuleVersion, TriggerRule
from triggers.rules.spec import RuleProblem, RuleSpec, own_job_definition, read_rule
from triggers.rules_cache import bump_epoch

Outcome = Literal["created", "updated", "unchanged"]
#: Words of paths below `/task-trigger-rules`, so no rule can have them.
RESERVED: Final = ("test",)
#: What an answer shows of a rule beside its form: in a call it is read over, so that what was read can be sent back.
SHOWN_ONLY: Final = (
    "id", "version", "url", "job", "createdAt", "updatedAt", "updatedBy", "quarantinedAt", "quarantineReason",
    "warnings",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A rule, and what storing it did."""

    rule: TriggerRule
    outcome: Outcome
    #: Called once, after the commit.
    afterwards: Callable[[], None] | None = None


def spec_of(form: Mapping[str, Any]) -> RuleSpec:
    """Read a rule as it was sent; raises InvalidRule with all of its problems."""
    spec = read_rule({key: value for key, value in form.items() if key not in SHOWN_ONLY})
    if not isinstance(spec, RuleSpec):
        raise InvalidRule(details=tuple(map(_detail, spec)))
    if spec.rule_id in RESERVED:
        raise InvalidRule(details=(Detail("ruleId", spec.rule_id, "another id: this one is reserved"),))
    return spec


def problems_beyond(spec: RuleSpec) -> tuple[Detail, ...]:
    """Return what is wrong with a rule's own task as its type sees it, and with its id; asks no database."""
    if spec.rule_id in RESERVED:
        return (Detail("ruleId", spec.rule_id, "another id: this one is reserved"),)
    if spec.task_type is None:
        return ()
    definition = _own_definition(spec)[1]
    return () if definition.spec is not None else _problems_in(definition)


def spec_of_rule(rule: TriggerRule) -> RuleSpec:
    """Return what a stored rule says."""
    return RuleSpec.from_canonical(rule.spec)


def form_of(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored version as a rule is written."""
    return RuleSpec.from_canonical(canonical).to_form()


def create_rule(*, tenant: Tenant, spec: RuleSpec, by: str, comment: str = "") -> TriggerRule:
    """Make a rule. Raises RuleExists for an id that is taken, UnknownRuleJob, InvalidRule for a task that is wrong."""

    def work() -> StoredRule:
        with transaction.atomic():
            job = _job_of(tenant, spec, by=by, comment=comment)
            if TriggerRule.objects.filter(tenant=tenant, slug=spec.rule_id, deleted_at=None).exists():
                raise _exists(spec.rule_id)
            return _create(tenant, spec, job, by=by, comment=comment)

    return _committed(work).rule


def replace_rule(
    *, tenant: Tenant, spec: RuleSpec, by: str, comment: str = "", if_version: int | None = None
) -> TriggerRule:
    """Make the spec the rule's latest version; the same content changes nothing.

    Raises UnknownRule, StaleVersion where its version is not `if_version`, UnknownRuleJob, InvalidRule.
    """

    def work() -> StoredRule:
        with transaction.atomic():
            job = _job_of(tenant, spec, by=by, comment=comment)
            return _replace(_locked(tenant, spec.rule_id, if_version), spec, job, by=by, comment=comment)

    return _committed(work).rule


def set_rule_within(tenant: Tenant, spec: RuleSpec, *, by: str, comment: str = "") -> StoredRule:
    """Create or replace a rule inside the caller's transaction, whose commit `afterwards` follows. Safe to call twice.

    Raises UnknownRuleJob, InvalidRule.
    """
    job = _job_of(tenant, spec, by=by, comment=comment)
    rule = TriggerRule.objects.select_for_update().filter(tenant=tenant, slug=spec.rule_id, deleted_at=None).first()
    if rule is None:
        return _create(tenant, spec, job, by=by, comment=comment)
    return _replace(rule, spec, job, by=by, comment=comment)


def enable_rule(*, tenant: Tenant, slug: str, by: str, reason: str = "", if_version: int | None = None) -> TriggerRule:
    """Let a rule fire again; one in quarantine leaves it. Safe to call twice. Raises UnknownRule, StaleVersion."""
    return _switch(tenant, slug, True, by=by, reason=reason, if_version=if_version)


def disable_rule(*, tenant: Tenant, slug: str, by: str, reason: str = "", if_version: int | None = None) -> TriggerRule:
    """Let a rule fire no more; what it holds stays held. Safe to call twice. Raises UnknownRule, StaleVersion."""
    return _switch(tenant, slug, False, by=by, reason=reason, if_version=if_version)


def quarantine_rule(rule_id: int, *, reason: str) -> bool:
    """Disable a rule whose condition costs too much, until a person enables it; False if it was disabled already."""

    def work() -> bool:
        with transaction.atomic():
            rule = TriggerRule.objects.select_for_update().filter(pk=rule_id, deleted_at=None, enabled=True).first()
            if rule is None:
                return False
            rule.quarantined_at = database_now()
            rule.quarantine_reason = reason[:500]
            spec = replace(spec_of_rule(rule), enabled=False)
            _store(rule, spec, by="rules", comment=f"quarantine: {reason}", to_state="quarantined", cause="quarantine")
            return True

    return in_transaction(work)


def roll_back_rule(
    *, tenant: Tenant, slug: str, number: int, by: str, comment: str = "", if_version: int | None = None
) -> TriggerRule:
    """Make the content of an earlier version the latest, as a new version; enabled or not stays as it is now.

    Raises UnknownRule, UnknownRuleVersion, StaleVersion, UnknownRuleJob, InvalidRule.
    """

    def work() -> StoredRule:
        with transaction.atomic():
            rule = TriggerRule.objects.filter(tenant=tenant, slug=slug, deleted_at=None).first()
            if rule is None:
                raise _unknown(slug)
            earlier = RuleVersion.objects.filter(rule=rule, number=number).first()
            if earlier is None:
                raise UnknownRuleVersion(f"The rule {slug} has no version {number}.")
            content = RuleSpec.from_canonical(earlier.spec)
            job = _job_of(tenant, content, by=by, comment=comment)
            rule = _locked(tenant, slug, if_version)
            spec = replace(content, enabled=rule.enabled)
            return _replace(rule, spec, job, by=by, comment=comment or f"back to version {number}")

    return _committed(work).rule


def delete_rule(*, tenant: Tenant, slug: str, by: str, reason: str = "", if_version: int | None = None) -> None:
    """Delete a rule softly: what it holds is suppressed, its pending runs are cancelled, its history stays.

    Raises UnknownRule, StaleVersion.
    """

    def work() -> None:
        with transaction.atomic():
            rule = TriggerRule.objects.filter(tenant=tenant, slug=slug, deleted_at=None).first()
            if rule is not None and rule.own_job is not None:
                jobs.archive_job(rule.own_job, by=by, reason="rule_deleted", managed_by=rule.own_job.managed_by)
            rule = _locked(tenant, slug, if_version)
            was = _state_of(rule)
            rule.deleted_at = database_now()
            rule.enabled = False
            rule.updated_by = by[:200]
            rule.save(update_fields=["deleted_at", "enabled", "updated_by", "updated_at"])
            Firing.objects.filter(rule_id=rule.pk, outcome="held").update(
                outcome="suppressed", reason="rule_deleted", release_at=None, expires_at=None
            )
            RuleState.objects.filter(rule=rule).delete()
            cancel_pending_of_rule(tenant_id=tenant.pk, rule_id=rule.pk, by=by)
            _record(rule, was, "deleted", reason=reason or "deleted", cause="delete_rule", by=by)
            _audit(rule, "rule.delete", form_of(rule.spec), None, by=by, reason=reason)
            bump_epoch()

    in_transaction(work)


def _job_of(tenant: Tenant, spec: RuleSpec, *, by: str, comment: str) -> jobs.Applied | None:
    """Return the hidden job of a rule that carries its task, made or versioned; check the job that another names."""
    if spec.job_name is not None:
        if not Job.objects.filter(tenant=tenant, name=spec.job_name, managed_by="").exists():
            raise UnknownRuleJob(
                f"There is no job {spec.job_name!r}.",
                details=(
                    Detail("taskName", spec.job_name, "the name of a job, or a taskType with the task's parameters"),
                ),
            )
        return None
    source, definition = _own_definition(spec)
    if definition.spec is None:
        raise InvalidRule(details=_problems_in(definition))
    # One that is archived was that of a rule of the same id, which was deleted: it is restored.
    return jobs.apply_within(
        tenant, definition.spec, source=source, author=by, comment=comment, managed_by=f"rule:{spec.rule_id}"
    )


def _own_definition(spec: RuleSpec) -> tuple[str, Definition]:
    source = json.dumps(own_job_definition(spec), ensure_ascii=False, indent=2) + "\n"
    (definition,) = read_definitions(source)
    return source, definition


def _problems_in(definition: Definition) -> tuple[Detail, ...]:
    return tuple(detail_of(each, _path_in_rule(each.path)) for each in definition.problems)


def _create(tenant: Tenant, spec: RuleSpec, job: jobs.Applied | None, *, by: str, comment: str) -> StoredRule:
    try:
        with transaction.atomic():
            rule = TriggerRule.objects.create(
                tenant=tenant,
                slug=spec.rule_id,
                name=spec.name,
                description=spec.description,
                enabled=spec.enabled,
                version=1,
                spec=spec.canonical(),
                own_job=job.job if job else None,
                updated_by=by[:200],
            )
    except IntegrityError as error:
        # Another call made it since the look.
        raise _exists(spec.rule_id) from error
    RuleVersion.objects.create(rule=rule, number=1, spec=rule.spec, comment=comment[:500], author=by[:200])
    _record(rule, "", _state_of(rule), reason=comment or "created", cause="create_rule", by=by)
    _audit(rule, "rule.create", None, spec.to_form(), by=by, reason=comment)
    bump_epoch()
    return StoredRule(rule, "created", _afterwards(job))


def _replace(rule: TriggerRule, spec: RuleSpec, job: jobs.Applied | None, *, by: str, comment: str) -> StoredRule:
    if spec.canonical() == rule.spec and (job is None or job.outcome == "unchanged"):
        return StoredRule(rule, "unchanged")
    if job is None and rule.own_job is not None:
        jobs.archive_job(rule.own_job, by=by, reason="rule_names_a_job", managed_by=rule.own_job.managed_by)
    rule.own_job = job.job if job else None
    _store(rule, spec, by=by, comment=comment, cause="replace_rule")
    return StoredRule(rule, "updated", _afterwards(job))


def _store(
    rule: TriggerRule, spec: RuleSpec, *, by: str, comment: str, cause: str, to_state: str | None = None
) -> None:
    """Write a new version of a rule whose row the caller has locked."""
    was = _state_of(rule)
    rule.name, rule.description, rule.enabled = spec.name, spec.description, spec.enabled
    if rule.enabled:
        rule.quarantined_at, rule.quarantine_reason = None, ""
    rule.version += 1
    before = form_of(rule.spec)
    rule.spec = spec.canonical()
    rule.updated_by = by[:200]
    rule.save()
    RuleVersion.objects.create(rule=rule, number=rule.version, spec=rule.spec, comment=comment[:500], author=by[:200])
    _record(rule, was, to_state or _state_of(rule), reason=comment or f"version {rule.version}", cause=cause, by=by)
    _audit(rule, _ACTIONS[cause], before, spec.to_form(), by=by, reason=comment)
    bump_epoch()


def _switch(tenant: Tenant, slug: str, enabled: bool, *, by: str, reason: str, if_version: int | None) -> TriggerRule:
    word = "enabled" if enabled else "disabled"

    def work() -> TriggerRule:
        with transaction.atomic():
            rule = _locked(tenant, slug, if_version)
            if rule.enabled != enabled:
                spec = replace(spec_of_rule(rule), enabled=enabled)
                _store(rule, spec, by=by, comment=reason or word, cause=f"{word[:-1]}_rule")
            return rule

    return in_transaction(work)


def _locked(tenant: Tenant, slug: str, if_version: int | None) -> TriggerRule:
    rule = TriggerRule.objects.select_for_update().filter(tenant=tenant, slug=slug, deleted_at=None).first()
    if rule is None:
        raise _unknown(slug)
    if if_version is not None and rule.version != if_version:
        raise StaleVersion(
            f"The rule {slug} is at version {rule.version}, not {if_version}: read it again.",
            details=(Detail("If-Match", f'"{if_version}"', f'"{rule.version}"'),),
        )
    return rule


def _committed(work: Callable[[], StoredRule]) -> StoredRule:
    stored = in_transaction(work)
    if stored.afterwards is not None:
        stored.afterwards()
    return stored


def _afterwards(job: jobs.Applied | None) -> Callable[[], None] | None:
    return None if job is None else lambda: jobs.after_apply(job)


def _state_of(rule: TriggerRule) -> str:
    return "quarantined" if rule.quarantined_at else "enabled" if rule.enabled else "disabled"


_ACTIONS: Final = {
    "replace_rule": "rule.update",
    "enable_rule": "rule.enable",
    "disable_rule": "rule.disable",
    "quarantine": "rule.quarantine",
}


def _audit(
    rule: TriggerRule, action: str, before: dict[str, Any] | None, after: dict[str, Any] | None, *, by: str, reason: str
) -> None:
    old, new = (before, after) if before is None or after is None else changed(before, after)
    record_audit(
        action=action, subject="rule", subject_id=rule.pk, subject_name=rule.slug, tenant_id=rule.tenant_id, by=by,
        before=old, after=new, reason=reason,
    )  # fmt: skip


def _record(rule: TriggerRule, old: str, new: str, *, reason: str, cause: str, by: str) -> None:
    record_transition(
        subject="rule",
        subject_id=rule.pk,
        from_state=old,
        to_state=new,
        reason=f"rule {rule.slug}: {reason}"[:500],
        cause=cause,
        by=by[:200],
    )


def _unknown(slug: str) -> UnknownRule:
    return UnknownRule(f"There is no rule {slug}.")


def _exists(slug: str) -> RuleExists:
    return RuleExists(f"There is already a rule {slug}.", details=(Detail("ruleId", slug, "an id that no rule has"),))


def _detail(problem: RuleProblem) -> Detail:
    return Detail(problem.path, problem.value, f"{problem.expected} ({problem.message})")


def _path_in_rule(path: str) -> str:
    """Name the place of a problem in the hidden job's definition as the rule has it."""
    inner = path.removeprefix("tasks[0]").lstrip(".")
    return "taskType" if inner == "type" else f"parameters.{inner}" if inner else "parameters"
