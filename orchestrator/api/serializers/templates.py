"""How templates look: the fields of the contract, and where they are."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.dag.templates import template_form
from orchestrator.models import Template
from orchestrator.selectors.templates import spec_of_template


class TaskDefinitionAnswer(serializers.Serializer):
    """The template's one shell command."""

    schedule = serializers.JSONField(required=False, help_text="Cron of five fields, or `{cron, timezone}`.")
    timeout = serializers.JSONField(required=False, help_text='Seconds, or a text such as "2h"; default: 1h.')
    retry_times = serializers.IntegerField(required=False, help_text="Further attempts after a failed one.")
    command = serializers.CharField(help_text="Parameters are shell variables of their names in it.")


class TemplateAnswer(serializers.Serializer):
    """A template: a shell command with typed parameters."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    template_name = serializers.CharField()
    description = serializers.CharField()
    parameters = serializers.ListField(child=serializers.DictField())
    task_definition = TaskDefinitionAnswer()
    updated_at = serializers.DateTimeField()
    updated_by = serializers.CharField()


def template_answer(row: Template, base_url: str) -> dict[str, Any]:
    return {
        "id": row.pk,
        "url": f"{base_url}/api/v1/templates/{row.name}",
        "description": "",
        "parameters": [],
        **template_form(spec_of_template(row)),
        "updated_at": row.updated_at,
        "updated_by": row.updated_by,
    }


class TemplateJobCall(serializers.Serializer):
    """A job to make from a template."""

    name = serializers.CharField(max_length=63, help_text="The job's name.")
    parameters = serializers.DictField(
        required=False, help_text="Values of the template's parameters; a run may override them."
    )
