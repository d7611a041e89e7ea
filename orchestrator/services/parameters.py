"""What parameters come to in a tenant: the values that a call without any would have, and their schema."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone

from orchestrator.conf import options
from orchestrator.dag.parameter_schema import parameter_schema
from orchestrator.dag.parameters import ParameterContext, Resolved, resolve_parameters
from orchestrator.dag.spec import ParameterSpec
from orchestrator.errors import Detail
from orchestrator.models import Tenant


def context_of(tenant: Tenant, moment: datetime | None = None) -> ParameterContext:
    """Return what defaults may refer to for a run of this moment, now by default."""
    moment = moment or timezone.now()
    return ParameterContext(
        execution_date=moment.astimezone(ZoneInfo(tenant.timezone)).date(),
        env=options().env,
        logical_date=moment.isoformat(),
    )


def schema_of(specs: Iterable[ParameterSpec], *, tenant: Tenant, title: str, description: str) -> dict[str, Any]:
    """Return the JSON schema of the parameters that a trigger call of this tenant may send now."""
    return parameter_schema(
        specs,
        tenant=tenant.parameters,
        environment=os.environ,
        context=context_of(tenant),
        title=title,
        description=description,
    )


def values_without(specs: Iterable[ParameterSpec], *, tenant: Tenant) -> dict[str, Resolved]:
    """Return what each parameter comes to in a run of now for which nothing is given, or why that is refused."""
    context = context_of(tenant)
    return {
        spec.name: resolve_parameters(
            (spec,), trigger={}, tenant=tenant.parameters, environment=os.environ, context=context
        )
        for spec in specs
    }


def problems_with(specs: Iterable[ParameterSpec], values: Mapping[str, Any], *, tenant: Tenant) -> tuple[Detail, ...]:
    """Return what keeps a run of now from starting with these values; empty if nothing does."""
    return resolve_parameters(
        specs, trigger=values, tenant=tenant.parameters, environment=os.environ, context=context_of(tenant)
    ).problems


def template_schema_of(
    specs: Iterable[ParameterSpec], *, tenant: Tenant, title: str, description: str
) -> dict[str, Any]:
    """Return the JSON schema of the values with which a job is made from a template."""
    return parameter_schema(
        specs, tenant={}, environment={}, context=context_of(tenant), title=title, description=description
    )
