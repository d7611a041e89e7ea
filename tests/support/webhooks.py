"""Senders of webhooks: how each provider signs, written apart from the code that verifies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

SECRET = "It's a Secret to Everybody"
#: The published example of Standard Webhooks.
SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def hex_hmac(secret: str, body: bytes, algorithm: str = "sha256") -> str:
    return hmac.new(secret.encode(), body, getattr(hashlib, algorithm)).hexdigest()


def github(body: bytes, event: str, *, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    return {
        "content-type": "application/json",
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-hub-signature": "sha1=" + hex_hmac(secret, body, "sha1"),
        "x-hub-signature-256": "sha256=" + hex_hmac(secret, body),
    }


def gitea(body: bytes, event: str, *, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    return {
        "content-type": "application/json",
        # Gitea names itself with others' headers, too.
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-gitea-event": event,
        "x-gitea-event-type": event,
        "x-gitea-delivery": delivery,
        "x-gitea-signature": hex_hmac(secret, body),
        "x-hub-signature-256": "sha256=" + hex_hmac(secret, body),
    }


def standard(
    body: bytes, *, secret: str = SIGNING_SECRET, message_id: str = "msg_1", at: datetime | float | None = None
) -> dict[str, str]:
    moment = datetime.now(UTC) if at is None else at
    seconds = str(int(moment.timestamp() if isinstance(moment, datetime) else moment))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def generic(body: bytes, *, secret: str = SECRET) -> dict[str, str]:
    return {"content-type": "application/json", "x-signature-256": "sha256=" + hex_hmac(secret, body)}


def text(body: Any) -> bytes:
    return json.dumps(body).encode()


DEPLOYMENT_STATUS = {
    "action": "created",
    "deployment_status": {
        "id": 11,
        "state": "success",
        "environment": "production",
        "log_url": "https://github.example/acme/shop/actions/runs/7",
        "created_at": "2026-11-21T10:00:00Z",
    },
    "deployment": {
        "id": 145988746,
        "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e",
        "ref": "v1.2.3",
        "task": "deploy",
        "payload": {},
        "environment": "production",
        "creator": {"login": "octocat"},
    },
    "workflow_run": {"id": 7},
    "repository": {"full_name": "acme/shop"},
    "sender": {"login": "robot"},
}
GITLAB_DEPLOYMENT = {
    "object_kind": "deployment",
    "status": "success",
    "status_changed_at": "2021-04-28 21:50:00 +0200",
    "deployment_id": 15,
    "deployable_id": 796,
    "deployable_url": "http://gitlab.example/root/shop/-/jobs/796",
    "environment": "staging",
    "environment_tier": "staging",
    "project": {"id": 30, "path_with_namespace": "root/shop"},
    "short_sha": "279484c0",
    "user": {"username": "root"},
    "commit_url": "http://gitlab.example/root/shop/-/commit/279484c09fbe69ededfced8c1bb6e6d24616b468",
    "ref": "master",
}
JENKINS = {
    "name": "shop",
    "url": "job/shop/",
    "build": {
        "full_url": "http://jenkins.example/job/shop/18/",
        "number": 18,
        "phase": "COMPLETED",
        "status": "SUCCESS",
        "url": "job/shop/18/",
        "scm": {"branch": "origin/main", "commit": "c6d86dc654b12425e706bcf951adfe5a8627a517"},
        "parameters": {"ENVIRONMENT": "production", "VERSION": "1.4.0"},
    },
}
