"""GitHub. It signs the raw body, retries nothing by itself, and gives every delivery an id that a redelivery keeps.

https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from triggers.cloud_events import Unreadable
from triggers.sources.providers.base import (
    BadSignature,
    Config,
    Delivery,
    Mapped,
    Provider,
    Verdict,
    at,
    check_hex,
    parse_object,
    word,
)
from triggers.sources.providers.ci import (
    CiEvent,
    branch_and_tag,
    changed_kind,
    deployed_kind,
    event,
    status_of,
    text,
    version_in,
)

SIGNATURE: Final = "x-hub-signature-256"
_PREFIX: Final = "sha256="
#: Events whose object has the name of the event and tells how a run of something went.
_RUNS: Final = ("workflow_run", "workflow_job", "check_run", "check_suite")


def verify(delivery: Delivery, secrets: Sequence[str], config: Config, now: datetime) -> None:
    # The older header, with SHA-1, is there as well; it is not looked at.
    given = delivery.header(SIGNATURE)
    if not given.startswith(_PREFIX):
        raise BadSignature("the signature is missing" if not given else "the signature is not sha256=…")
    # Of a form, too, GitHub signs the body as it is sent.
    check_hex(given.removeprefix(_PREFIX), secrets, delivery.body)


def events(delivery: Delivery, config: Config) -> Mapped:
    name = word(delivery.header("x-github-event"))
    if not name:
        raise Unreadable("bad_field", "X-GitHub-Event: missing")
    if name == "ping":
        return Verdict.PING
    return [read_event("github", name, delivery.header("x-github-delivery"), delivery, config)]


def read_event(ci: str, name: str, message_id: str, delivery: Delivery, config: Config) -> dict[str, Any]:
    """Return the event of a body in GitHub's shape, which others send as well; raises Unreadable."""
    body = parse_object(delivery)
    found = CiEvent(
        ci,
        repository=text(at(body, "repository", "full_name")) or text(at(body, "organization", "login")),
        actor=text(at(body, "sender", "login")) or text(at(body, "pusher", "name")),
    )
    parts = [ci, name]
    moment: Any = None
    match name:
        case "deployment_status" | "deployment":
            moment = _deployment(found, body)
            # The action is always `created`: what happened is the state.
            parts.append(word(at(body, "deployment_status", "state")) if name == "deployment_status" else "created")
        case "release":
            moment = _release(found, body)
            parts.append(word(body.get("action")))
        case "push":
            _push(found, body, config)
            moment = at(body, "head_commit", "timestamp")
        case _ if name in _RUNS:
            moment = _run(found, body.get(name))
            parts.append(word(body.get("action")))
        case _:
            found.ref, found.tag = branch_and_tag(body.get("ref"))
            found.url = text(at(body, name, "html_url"))
            parts.append(word(body.get("action")))
    return event(
        found,
        event_type=".".join(part for part in parts if part),
        message_id=message_id,
        raw=body,
        delivery=delivery,
        config=config,
        moment=moment,
    )


def _deployment(found: CiEvent, body: dict[str, Any]) -> Any:
    deployment, status = body.get("deployment"), body.get("deployment_status")
    said = at(deployment, "payload")
    found.kind = deployed_kind(at(said, "kind"), at(deployment, "task"))
    found.ref, found.tag = branch_and_tag(at(deployment, "ref"))
    found.sha = text(at(deployment, "sha"))
    found.environment = text(at(status, "environment")) or text(at(deployment, "environment"))
    found.version = text(at(said, "version")) or version_in(found.tag, found.ref)
    found.status = status_of(at(status, "state")) or "pending"
    found.url = next(
        (url for key in ("log_url", "target_url", "environment_url", "url") if (url := text(at(status, key)))),
        text(at(deployment, "url")),
    )
    found.actor = text(at(deployment, "creator", "login")) or found.actor
    found.pipeline_id = text(at(body, "workflow_run", "id"))
    found.deployment_id = text(at(deployment, "id"))
    return at(status, "created_at") or at(deployment, "created_at")


def _release(found: CiEvent, body: dict[str, Any]) -> Any:
    release = body.get("release")
    found.kind = "released"
    found.tag = found.version = found.ref = text(at(release, "tag_name"))
    found.sha = text(at(release, "sha"))
    found.status = "success" if body.get("action") in ("published", "released", "created") else None
    found.url = text(at(release, "html_url"))
    found.actor = text(at(release, "author", "login")) or found.actor
    return at(release, "published_at")


def _push(found: CiEvent, body: dict[str, Any], config: Config) -> None:
    found.ref, found.tag = branch_and_tag(body.get("ref"))
    found.kind = changed_kind(body.get("commits"), config)
    found.sha = text(body.get("after"))
    found.version = version_in(found.tag)
    found.url = text(body.get("compare")) or text(body.get("compare_url"))
    found.actor = text(at(body, "pusher", "name")) or text(at(body, "pusher", "login")) or found.actor


def _run(found: CiEvent, run: Any) -> Any:
    found.kind = "pipeline"
    found.ref, found.tag = branch_and_tag(at(run, "head_branch") or at(run, "check_suite", "head_branch"))
    found.sha = text(at(run, "head_sha"))
    found.version = version_in(found.tag, found.ref)
    # Until it has ended there is no conclusion.
    found.status = status_of(at(run, "conclusion")) or status_of(at(run, "status"))
    found.url = text(at(run, "html_url"))
    found.actor = text(at(run, "actor", "login")) or found.actor
    found.pipeline_id = text(at(run, "run_id")) or text(at(run, "id"))
    return at(run, "updated_at") or at(run, "completed_at")


GITHUB = Provider("github", "GitHub", verify, events, keeps=("x-github-",), forms=True, id_header="x-github-delivery")
