"""Links to Flower, for templates: `{% flower_run run as live %}{% if live %}…`; empty where this person has no Flower."""

from __future__ import annotations

from django import template

from orchestrator.console.flower import flower_run_url, flower_task_url
from orchestrator.models import JobRun

register = template.Library()


@register.simple_tag(takes_context=True)
def flower_run(context: template.Context, run: JobRun) -> str:
    """Return the address of the messages of a run in Flower."""
    return flower_run_url(context["request"], run.job.name, run.pk)


@register.simple_tag(takes_context=True)
def flower_task(context: template.Context, task_run_id: int) -> str:
    """Return the address of the message of a task run in Flower."""
    return flower_task_url(context["request"], task_run_id)
