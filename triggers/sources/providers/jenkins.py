"""Jenkins' Notification plugin. It signs nothing: a bearer token in a header, or Standard Webhooks from a pipeline.

https://plugins.jenkins.io/notification/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from triggers.cloud_events import Unreadable
from triggers.sources.providers import standard_webhooks
from triggers.sources.providers.base import (
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    at,
    check_bearer,
    parse_object,
    word,
)
from triggers.sources.providers.ci import (
    CiEvent,
    branch_and_tag,
    deployed_kind,
    digest_id,
    event,
    status_of,
    text,
    version_in,
)

_STATUS_OF_PHASE: Final = {"queued": "pending", "started": "running"}


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    signing = [secret for secret in secrets if standard_webhooks.is_secret(secret)]
    tokens = [secret for secret in secrets if not standard_webhooks.is_secret(secret)]
    if signing:
        try:
            standard_webhooks.verify(delivery, signing, config, now)
            return
        except BadSignature:
            if not tokens:
                raise
    check_bearer(delivery, tokens)


def events(delivery: Delivery, config: Config) -> Mapped:
    body = parse_object(delivery)
    build = body.get("build")
    phase = word(at(build, "phase"))
    if not phase:
        raise Unreadable("bad_field", "build.phase: missing")
    # STARTED may carry the status of the build before.
    status = None if phase in ("started", "queued") else at(build, "status")
    parameters = at(build, "parameters")
    environment = _parameter(parameters, "environment", "env")
    ref, tag = branch_and_tag(at(build, "scm", "branch"))
    found = CiEvent(
        "jenkins",
        # With an environment it is a deployment, without one any pipeline.
        kind=deployed_kind(_parameter(parameters, "kind")) if environment else "pipeline",
        repository=text(body.get("name")),
        ref=ref.removeprefix("origin/") if ref else None,
        sha=text(at(build, "scm", "commit")),
        tag=tag,
        environment=environment,
        version=_parameter(parameters, "version", "tag") or version_in(tag),
        status=status_of(status) or _STATUS_OF_PHASE.get(phase),
        url=text(at(build, "full_url")) or text(at(build, "url")) or text(body.get("url")),
        actor=_parameter(parameters, "actor", "user") or text(at(build, "scm", "culprits", 0)),
        pipeline_id=text(at(build, "number")),
        deployment_id=_parameter(parameters, "deployment_id", "deploymentid"),
    )
    own = delivery.header("webhook-id")
    place = text(at(build, "full_url"))
    message_id = own or (f"{place}:{phase}" if place else digest_id(delivery.body))
    parts = ["jenkins", "build", phase, word(status)]
    return [
        event(
            found,
            event_type=".".join(part for part in parts if part),
            message_id=message_id[-500:],
            raw=body,
            delivery=delivery,
            config=config,
        )
    ]


def _parameter(parameters: Any, *names: str) -> str | None:
    """Return a parameter of the build by one of its names, in any case."""
    if not isinstance(parameters, dict):
        return None
    known = {str(name).lower(): value for name, value in parameters.items()}
    return next((found for name in names if (found := text(known.get(name)))), None)


def secret_problem(secret: str) -> str | None:
    return standard_webhooks.secret_problem(secret) if standard_webhooks.is_secret(secret) else None


JENKINS = Provider(
    "jenkins", "Jenkins", verify, events, keeps=("webhook-",), id_header="webhook-id", secret_problem=secret_problem
)
