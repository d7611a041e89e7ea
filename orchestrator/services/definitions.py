"""Definitions of every kind applied together, all or none; and the kinds of the orchestrator itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from orchestrator.dag.diff import describe_form_changes
from orchestrator.dag.export import export_form
from orchestrator.dag.kinds import NamedSpec
from orchestrator.dag.locks import LockSpec, lock_form, read_lock
from orchestrator.dag.reading import Value
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.templates import TemplateSpec, read_template, template_form
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import Tenant
from orchestrator.registry import AppliedDefinition, DefinitionKind, Written, definition_kinds
from orchestrator.selectors.locks import lock_of
from orchestrator.selectors.templates import spec_of_template, template_of
from orchestrator.services import jobs, locks, templates

# What siblings read and compare their own kinds with.
__all__ = ["Value", "apply_all", "describe_form_changes"]


def apply_all(
    *,
    tenant: Tenant,
    definitions: Sequence[tuple[DefinitionKind, NamedSpec, str]],
    by: str,
    comment: str = "",
) -> list[AppliedDefinition]:
    """Apply definitions, (kind, content, source) each, in one transaction. Safe to call twice.

    Raises what the kinds refuse, such as JobArchived; then nothing was applied.
    """

    def work() -> list[AppliedDefinition]:
        # In one order, so that two callers cannot wait for each other: jobs first, as everywhere in the ledger.
        order = sorted(
            range(len(definitions)),
            key=lambda index: (
                definitions[index][0].name != "Job",
                definitions[index][0].name,
                definitions[index][1].name,
            ),
        )
        applied: dict[int, AppliedDefinition] = {}
        # All or none, inside a caller's transaction too.
        with transaction.atomic():
            for index in order:
                kind, content, source = definitions[index]
                applied[index] = kind.apply(tenant, content, Written(source, by, comment))
        return [applied[index] for index in range(len(definitions))]

    results = in_transaction(work)
    for result in results:
        if result.afterwards is not None:
            result.afterwards()
    return results


def _summary_of_job(spec: JobSpec) -> str:
    return f"{len(spec.tasks)} task{'' if len(spec.tasks) == 1 else 's'}"


def _plan_job(tenant: Tenant, spec: JobSpec) -> list[str]:
    return jobs.plan_definition(tenant=tenant, spec=spec)


def _apply_job(tenant: Tenant, spec: JobSpec, written: Written) -> AppliedDefinition:
    applied = jobs.apply_within(tenant, spec, source=written.source, author=written.by, comment=written.comment)
    return AppliedDefinition(
        "Job",
        spec.name,
        # An older version that became the latest again was not created.
        "created" if applied.version_created else applied.outcome,
        applied.version.number,
        lambda: jobs.after_apply(applied),
    )


def _export_job(tenant: Tenant, name: str) -> Mapping[str, Any]:
    return export_form(JobSpec.from_canonical(jobs.version_of_job(tenant=tenant, job_name=name).spec))


def _plan_lock(tenant: Tenant, spec: LockSpec) -> list[str]:
    return locks.plan_lock(tenant=tenant, name=spec.name, capacity=spec.capacity, description=spec.description)


def _apply_lock(tenant: Tenant, spec: LockSpec, written: Written) -> AppliedDefinition:
    stored = locks.set_lock_within(
        tenant, spec.name, capacity=spec.capacity, description=spec.description, by=written.by
    )
    return AppliedDefinition("Lock", spec.name, stored.outcome, afterwards=lambda: locks.after_set(stored))


def _export_lock(tenant: Tenant, name: str) -> Mapping[str, Any]:
    lock = lock_of(tenant.pk, name)
    return lock_form(LockSpec(lock.name, lock.capacity, lock.description))


def _summary_of_template(spec: TemplateSpec) -> str:
    return f"{len(spec.parameters)} parameter{'' if len(spec.parameters) == 1 else 's'}"


def _plan_template(tenant: Tenant, spec: TemplateSpec) -> list[str]:
    return templates.plan_template(tenant=tenant, spec=spec)


def _apply_template(tenant: Tenant, spec: TemplateSpec, written: Written) -> AppliedDefinition:
    stored = templates.set_template(tenant=tenant, spec=spec, by=written.by)
    return AppliedDefinition("Template", spec.name, stored.outcome)


def _export_template(tenant: Tenant, name: str) -> Mapping[str, Any]:
    return template_form(spec_of_template(template_of(tenant.pk, name)))


definition_kinds.register("Job", DefinitionKind("Job", None, _summary_of_job, _plan_job, _apply_job, _export_job))
definition_kinds.register(
    "Lock",
    DefinitionKind("Lock", read_lock, lambda spec: f"capacity {spec.capacity}", _plan_lock, _apply_lock, _export_lock),
)
definition_kinds.register(
    "Template",
    DefinitionKind("Template", read_template, _summary_of_template, _plan_template, _apply_template, _export_template),
)
