"""Templates, as one tenant sees them."""

from __future__ import annotations

from orchestrator.dag.spec import ParameterSpec
from orchestrator.dag.templates import TemplateSpec
from orchestrator.errors import NotFound
from orchestrator.models import Template
from orchestrator.selectors.pages import Page, page_of


class UnknownTemplate(NotFound):
    """There is no such template."""

    code = "unknown_template"


def templates_of(tenant_id: int, *, after: str | None = None, limit: int = 50) -> Page[Template]:
    """Return a page of templates by name."""
    rows = Template.objects.filter(tenant_id=tenant_id).order_by("name")
    if after is not None:
        rows = rows.filter(name__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.name)


def template_of(tenant_id: int, name: str) -> Template:
    """Return a template by its name; raises UnknownTemplate."""
    row = Template.objects.filter(tenant_id=tenant_id, name=name).first()
    if row is None:
        raise UnknownTemplate(f"There is no template {name!r}.")
    return row


def spec_of_template(row: Template) -> TemplateSpec:
    """Return what a stored template says."""
    return TemplateSpec(
        name=row.name,
        description=row.description,
        parameters=tuple(ParameterSpec(**{**each, "values": tuple(each.get("values", ()))}) for each in row.parameters),
        **row.task_definition,
    )
