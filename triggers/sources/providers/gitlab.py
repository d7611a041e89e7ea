"""GitLab. Its signing tokens are Standard Webhooks; the older secret token is sent as it is, in a header.

Which of the two proves a call is decided by the stored secret, never by the call: a secret that begins with `whsec_`
is a signing token. GitLab disables a hook after four failures in a row, so everything authentic is answered with 2xx.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from triggers.cloud_events import Unreadable
from triggers.sources.providers import standard_webhooks
from triggers.sources.providers.base import (
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    at,
    check_text,
    parse_object,
    word,
)
from triggers.sources.providers.ci import (
    CiEvent,
    branch_and_tag,
    changed_kind,
    deployed_kind,
    digest_id,
    event,
    status_of,
    text,
    version_in,
)


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
    check_text(delivery.header("x-gitlab-token"), tokens, what="token")


def events(delivery: Delivery, config: Config) -> Mapped:
    body = parse_object(delivery)
    kind = word(body.get("object_kind")) or word(body.get("event_name"))
    if not kind:
        raise Unreadable("bad_field", "object_kind: missing")
    project = body.get("project")
    found = CiEvent(
        "gitlab",
        repository=text(at(project, "path_with_namespace")) or text(at(body, "group", "group_path")),
        actor=text(at(body, "user", "username")) or text(body.get("user_username")) or text(body.get("user_name")),
    )
    parts = ["gitlab", kind]
    match kind:
        case "deployment":
            moment = _deployment(found, body)
            parts.append(word(body.get("status")))
        case "pipeline":
            moment = _pipeline(found, body)
            parts.append(word(at(body, "object_attributes", "status")))
        case "build":
            moment = _build(found, body)
            parts.append(word(body.get("build_status")))
        case "release":
            moment = _release(found, body)
            parts.append(word(body.get("action")))
        case "push" | "tag_push":
            moment = _push(found, body, config)
        case _:
            moment = at(body, "object_attributes", "updated_at")
            found.url = text(at(body, "object_attributes", "url"))
            parts.append(word(at(body, "object_attributes", "action")) or word(body.get("action")))
    return [
        event(
            found,
            event_type=".".join(part for part in parts if part),
            message_id=_message_id(delivery),
            raw=body,
            delivery=delivery,
            config=config,
            moment=moment,
        )
    ]


def _message_id(delivery: Delivery) -> str:
    if own := delivery.header("webhook-id") or delivery.header("idempotency-key"):
        return own
    # X-Gitlab-Event-UUID is shared by the events that one event causes: alone it would make duplicates of them.
    hook = delivery.header("x-gitlab-webhook-uuid")
    return f"{hook or 'hook'}:{digest_id(delivery.body)}"


def _deployment(found: CiEvent, body: dict[str, Any]) -> Any:
    found.kind = deployed_kind(body.get("environment_tier"), body.get("environment"))
    found.ref, found.tag = branch_and_tag(body.get("ref"))
    found.sha = _commit_of(body) or text(body.get("short_sha"))
    found.environment = text(body.get("environment"))
    found.version = version_in(found.tag, found.ref)
    found.status = status_of(body.get("status"))
    found.url = text(body.get("deployable_url")) or text(body.get("environment_external_url"))
    found.pipeline_id = text(body.get("deployable_id"))
    found.deployment_id = text(body.get("deployment_id"))
    return body.get("status_changed_at")


def _commit_of(body: dict[str, Any]) -> str | None:
    # The body has a short hash only; the commit's page ends with the whole.
    url = text(body.get("commit_url"))
    last = url.rpartition("/")[2] if url else ""
    return last if len(last) >= 40 and last.isalnum() else None


def _pipeline(found: CiEvent, body: dict[str, Any]) -> Any:
    pipeline = body.get("object_attributes")
    found.kind = "pipeline"
    found.ref = text(at(pipeline, "ref"))
    found.tag = found.ref if at(pipeline, "tag") is True else None
    found.sha = text(at(pipeline, "sha"))
    found.version = version_in(found.tag)
    found.status = status_of(at(pipeline, "status"))
    found.url = text(at(pipeline, "url"))
    found.pipeline_id = text(at(pipeline, "id"))
    return at(pipeline, "finished_at") or at(pipeline, "created_at")


def _build(found: CiEvent, body: dict[str, Any]) -> Any:
    found.kind = "pipeline"
    found.ref = text(body.get("ref"))
    found.tag = found.ref if body.get("tag") is True else None
    found.sha = text(body.get("sha"))
    found.version = version_in(found.tag)
    found.environment = text(at(body, "environment", "name"))
    found.status = status_of(body.get("build_status"))
    found.pipeline_id = text(body.get("pipeline_id"))
    return body.get("build_finished_at") or body.get("build_started_at") or body.get("build_created_at")


def _release(found: CiEvent, body: dict[str, Any]) -> Any:
    found.kind = "released"
    found.tag = found.version = found.ref = text(body.get("tag"))
    found.sha = text(at(body, "commit", "id"))
    found.status = "success" if body.get("action") in ("create", "update") else None
    found.url = text(body.get("url"))
    return body.get("released_at") or body.get("created_at")


def _push(found: CiEvent, body: dict[str, Any], config: Config) -> Any:
    found.ref, found.tag = branch_and_tag(body.get("ref"))
    found.kind = changed_kind(body.get("commits"), config)
    found.sha = text(body.get("checkout_sha")) or text(body.get("after"))
    found.version = version_in(found.tag)
    return at(body, "commits", -1, "timestamp")


def secret_problem(secret: str) -> str | None:
    return standard_webhooks.secret_problem(secret) if standard_webhooks.is_secret(secret) else None


GITLAB = Provider(
    "gitlab",
    "GitLab",
    verify,
    events,
    keeps=("x-gitlab-", "webhook-", "idempotency-key"),
    id_header="webhook-id",
    secret_problem=secret_problem,
)
