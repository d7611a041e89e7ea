"""What a rule would do with an event, step by step: by the functions that the engine itself calls. Stores nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson
from django.utils import timezone

from orchestrator.errors import Detail, InvalidParameters, InvalidRequest
from orchestrator.models import Tenant
from orchestrator.services.runs import job_targets, resolve_for
from triggers.envelope import Envelope, Policy, Problem, Received, read
from triggers.models import RuleState, TriggerRule
from triggers.rules.decide import Activation, Fires, evaluate
from triggers.rules.explain import Explanation, Step, explain
from triggers.rules.rule import CompiledRule, compile_rule
from triggers.rules.spec import RuleSpec
from triggers.rules.stages import State, StateKey, state_keys
from triggers.services.rules import spec_of_rule

_POLICY: Final = Policy(slug="api", id_policy="bodyhash")
_WORDS: Final = {True: "passed", False: "stopped", None: "error"}


def try_rule(
    *,
    tenant: Tenant,
    rule: TriggerRule | RuleSpec,
    event: Mapping[str, Any],
    channel: str = "api",
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what a rule, stored or not, would do with an event now. Raises InvalidRequest for what is no event.

    A rule of an id that is stored is judged by what its stages remember, as an event that came now would be.
    """
    now = timezone.now()
    headers = {name.lower(): value for name, value in (headers or {}).items()}
    envelope = _envelope_of(event, channel, headers)
    compiled = _compiled(tenant, rule)
    activation = Activation(envelope, channel, headers, "", now)
    explanation = explain(compiled, activation, states=_states_of(compiled, activation))
    steps = list(explanation.steps)
    outcome, reason = explanation.outcome, explanation.reason
    if outcome in ("fired", "held", "suppressed"):
        job = _job_step(tenant, compiled, explanation)
        steps.append(job)
        if not job.passed:
            outcome, reason = ("error" if job.passed is None else "suppressed"), job.detail
    return {
        "outcome": outcome,
        "reason": reason,
        "steps": [{"step": each.name, "outcome": _WORDS[each.passed], **_said(each)} for each in steps],
        "parameters": dict(explanation.parameters),
        "releaseAt": explanation.release_at if outcome == "held" else None,
        "eventMessage": activation.event,
    }


def _said(step: Step) -> dict[str, Any]:
    fields = asdict(step)
    return {"detail": fields["detail"], "value": fields["value"]}


def _envelope_of(event: Mapping[str, Any], channel: str, headers: Mapping[str, str]) -> Envelope:
    found = read(
        Received(channel=channel, body=orjson.dumps(event), content_type="application/json", headers=headers),
        _POLICY,
        timezone.now(),
    )
    if isinstance(found, Problem):
        raise InvalidRequest(
            "The event would be a dead letter.",
            details=(Detail("eventMessage", found.reason, found.error[:500]),),
        )
    if len(found) != 1:
        raise InvalidRequest(
            "The body has problems.", details=(Detail("eventMessage", f"{len(found)} events", "one event"),)
        )
    return found[0]


def _compiled(tenant: Tenant, rule: TriggerRule | RuleSpec) -> CompiledRule:
    if isinstance(rule, TriggerRule):
        row: TriggerRule | None = rule
        spec = spec_of_rule(rule)
    else:
        row = TriggerRule.objects.filter(tenant=tenant, slug=rule.rule_id, deleted_at=None).first()
        spec = rule
    return compile_rule(
        rule_id=row.pk if row else 0,
        version_id=0,
        number=row.version if row else 0,
        tenant_id=tenant.pk,
        spec=spec,
    )


def _states_of(rule: CompiledRule, activation: Activation) -> dict[StateKey, State]:
    answer = evaluate(rule, activation)
    if not rule.rule_id or not isinstance(answer, Fires) or not (keys := state_keys(rule, answer)):
        return {}
    rows = RuleState.objects.filter(rule_id=rule.rule_id, key_hash__in=[key for _, key in keys])
    return {
        (row.stage, row.key_hash): State(row.opened_at, row.window_until, row.count, row.generation, row.firing_id)
        for row in rows
        if (row.stage, row.key_hash) in keys
    }


def _job_step(tenant: Tenant, rule: CompiledRule, explanation: Explanation) -> Step:
    spec = rule.spec
    if spec.job_name is None:
        return Step("job", True, f"the rule's own {spec.task_type} task", spec.own_job_name)
    target = job_targets(tenant.pk, [spec.job_name]).get(spec.job_name)
    if target is None:
        return Step("job", False, f"job_archived: there is no job {spec.job_name}", spec.job_name)
    if target.archived:
        return Step("job", False, "job_archived: the job of the rule starts no more runs", spec.job_name)
    if explanation.outcome == "fired":
        try:
            resolve_for(target, tenant, explanation.parameters, timezone.now())
        except InvalidParameters as error:
            details = "; ".join(f"{detail.path}: expected {detail.expected}" for detail in error.details)
            return Step("job", None, f"invalid_parameters: {details or error}", spec.job_name)
    waits = "; it is paused: the run waits" if target.paused and spec.when_job_paused == "hold" else ""
    return Step("job", True, f"the job {spec.job_name}{waits}", spec.job_name)
