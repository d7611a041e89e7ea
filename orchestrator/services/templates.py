"""Templates: defined, replaced and deleted; and jobs made from them. A job keeps nothing of its template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.dag.diff import describe_form_changes
from orchestrator.dag.export import export_yaml
from orchestrator.dag.reading import JOB_NAME
from orchestrator.dag.spec import canonical_data
from orchestrator.dag.templates import TemplateSpec, job_of_template, template_form
from orchestrator.errors import Detail, InvalidParameters
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import Template, Tenant
from orchestrator.selectors.templates import spec_of_template
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.jobs import Applied, create_job
from orchestrator.services.parameters import context_of
from orchestrator.services.transitions import record_transition

_COLUMNS = ("name", "description", "parameters")


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """A template and what storing it did."""

    template: Template
    outcome: Literal["created", "updated", "unchanged"]


def plan_template(*, tenant: Tenant, spec: TemplateSpec) -> list[str]:
    """Return what storing the template would change, one sentence each; empty if nothing."""
    row = Template.objects.filter(tenant=tenant, name=spec.name).first()
    if row is None:
        return [f"create template {spec.name}"]
    return describe_form_changes(template_form(spec_of_template(row)), template_form(spec))


def set_template(*, tenant: Tenant, spec: TemplateSpec, by: str) -> StoredTemplate:
    """Store a template under its name, replacing what was there. Safe to call twice; jobs made from it stay."""

    def work() -> StoredTemplate:
        data = canonical_data(spec)
        columns = {
            "description": spec.description,
            "parameters": data.get("parameters", []),
            "task_definition": {key: value for key, value in data.items() if key not in _COLUMNS},
        }
        row, created = Template.objects.select_for_update().get_or_create(
            tenant=tenant, name=spec.name, defaults={**columns, "updated_by": by[:200]}
        )
        before = None if created else _shown(row)
        if not created:
            if spec_of_template(row) == spec:
                return StoredTemplate(row, "unchanged")
            for column, value in columns.items():
                setattr(row, column, value)
            row.updated_by = by[:200]
            row.save(update_fields=[*columns, "updated_by", "updated_at"])
        _record(row, "" if created else "defined", "defined", by=by)
        if before is None:
            _audit(row, "template.create", None, _shown(row), by=by)
        else:
            _audit(row, "template.update", *changed(before, _shown(row)), by=by)
        return StoredTemplate(row, "created" if created else "updated")

    return in_transaction(work)


def delete_template(row: Template, *, by: str) -> None:
    """Forget a template; jobs made from it stay as they are. Safe to call twice."""

    def work() -> None:
        if Template.objects.filter(pk=row.pk).delete()[0]:
            _record(row, "defined", "deleted", by=by)
            _audit(row, "template.delete", _shown(row), None, by=by)

    in_transaction(work)


def create_job_of_template(row: Template, *, name: str, values: Mapping[str, Any], author: str) -> Applied:
    """Make a job from a template; its parameters default to these values. The same again changes nothing.

    Raises InvalidParameters for a name or values that do not fit, and JobExists.
    """
    if not JOB_NAME.fullmatch(name) or name == "trigger":
        raise InvalidParameters(
            "The job cannot be made.",
            details=(Detail("name", name[:200], f"a job's name, which matches {JOB_NAME.pattern}"),),
        )
    tenant = row.tenant
    made = job_of_template(
        spec_of_template(row),
        name=name,
        values=values,
        context=context_of(tenant),
    )
    if made.spec is None:
        raise InvalidParameters("The parameters do not fit the template.", details=made.problems)
    return create_job(
        tenant=tenant,
        spec=made.spec,
        source=export_yaml(made.spec),
        author=author,
        comment=f"from template {row.name}",
    )


def _shown(row: Template) -> dict[str, Any]:
    return {"description": row.description, "parameters": row.parameters, "task": row.task_definition}


def _audit(row: Template, action: str, before: Any, after: Any, *, by: str) -> None:
    record_audit(
        action=action, subject="template", subject_id=row.pk, subject_name=row.name, tenant_id=row.tenant_id, by=by,
        before=before, after=after,
    )  # fmt: skip


def _record(row: Template, old: str, new: str, *, by: str) -> None:
    record_transition(
        subject="template",
        subject_id=row.pk,
        from_state=old,
        to_state=new,
        reason=f"template {row.name}",
        cause="template",
        by=by[:200],
    )
