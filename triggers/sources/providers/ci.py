"""The common payload of what CI systems tell, so that one rule fits all of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final

from triggers.sources.providers.base import Config, Delivery

KINDS: Final = ("deployed", "schema_changed", "config_changed", "released", "pipeline")
#: Bytes of the provider's own body that an event carries beside the common fields.
RAW_BYTES: Final = 64 * 1024

#: Each system has its own words; what is in none of them stays as it is, in lower case.
_STATUS: Final = {
    **dict.fromkeys(("success", "succeeded", "passed", "fixed", "ok", "completed"), "success"),
    **dict.fromkeys(("failure", "failed", "error", "timed_out", "startup_failure"), "failure"),
    **dict.fromkeys(("running", "in_progress", "started"), "running"),
    **dict.fromkeys(
        ("pending", "queued", "created", "waiting", "requested", "preparing", "scheduled", "waiting_for_resource"), "pending"
    ),
    **dict.fromkeys(("cancelled", "canceled", "aborted", "stopped", "killed"), "cancelled"),
    **dict.fromkeys(("skipped", "neutral", "not_built"), "skipped"),
}  # fmt: skip
#: What a deployment says that it is, in the words people use for it.
_KIND_OF_WORD: Final = {
    **dict.fromkeys(("schema", "schema_changed", "migrate", "migration", "migrations", "database"), "schema_changed"),
    **dict.fromkeys(("config", "config_changed", "configuration", "settings"), "config_changed"),
}
_VERSION: Final = re.compile(r"v?\d+(?:\.\d+)+(?:[-+.][0-9A-Za-z.+-]+)?")


@dataclass(slots=True)
class CiEvent:
    """What one call of a CI system says; None where it says nothing."""

    ci: str
    kind: str | None = None
    repository: str | None = None
    ref: str | None = None
    sha: str | None = None
    tag: str | None = None
    environment: str | None = None
    version: str | None = None
    status: str | None = None
    url: str | None = None
    actor: str | None = None
    pipeline_id: str | None = None
    deployment_id: str | None = None

    def payload(self, raw: Any, delivery: Delivery, config: Config) -> dict[str, Any]:
        """Return the payload of the event; every field is there, so that no condition fails on a missing one."""
        most = config.get("raw_max_bytes", RAW_BYTES)
        return {
            "kind": self.kind,
            "ci": self.ci,
            "repository": self.repository,
            "ref": self.ref,
            "sha": self.sha,
            "tag": self.tag,
            "environment": self.environment,
            "version": self.version,
            "status": self.status,
            "url": self.url,
            "actor": self.actor,
            "pipelineId": self.pipeline_id,
            "deploymentId": self.deployment_id,
            "raw": raw if len(delivery.body) <= most else None,
        }

    @property
    def source(self) -> str:
        return f"{self.ci}:{self.repository}"[:200] if self.repository else self.ci


def event(
    found: CiEvent,
    *,
    event_type: str,
    message_id: str,
    raw: Any,
    delivery: Delivery,
    config: Config,
    moment: Any = None,
) -> dict[str, Any]:
    """Return an event in the contract's form."""
    form: dict[str, Any] = {
        "eventType": event_type[:200],
        "source": found.source,
        "payload": found.payload(raw, delivery, config),
    }
    if message_id:
        form["messageId"] = message_id
    if (at := moment_of(moment)) is not None:
        form["timestamp"] = at
    return form


def text(value: Any) -> str | None:
    """Return a text or a number as text, None for anything else and for nothing."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) or None


def status_of(value: Any) -> str | None:
    """Return a status in the words that all systems share: success, failure, running, pending, cancelled, skipped."""
    found = text(value)
    return _STATUS.get(found.lower(), found.lower()) if found else None


def branch_and_tag(ref: Any) -> tuple[str | None, str | None]:
    """Return the name of a ref without `refs/…`, and the tag if it is one."""
    found = text(ref)
    if found is None:
        return None, None
    if found.startswith("refs/tags/"):
        tag = found.removeprefix("refs/tags/")
        return tag, tag
    return found.removeprefix("refs/heads/"), None


def version_in(*values: Any) -> str | None:
    """Return the first value that looks like a version."""
    return next((found for value in values if (found := text(value)) and _VERSION.fullmatch(found)), None)


def deployed_kind(*said: Any) -> str:
    """Return the kind of a deployment by the words that its maker gave it; `deployed` unless they say more."""
    for value in said:
        found = text(value)
        if found is None:
            continue
        if found in KINDS:
            return found
        for part in re.split(r"[^a-z_]+", found.lower()):
            if part in _KIND_OF_WORD:
                return _KIND_OF_WORD[part]
    return "deployed"


def changed_kind(commits: Any, config: Config) -> str | None:
    """Return what a push changed, by the globs of `paths` in the config: schema before configuration; None: neither."""
    paths: Mapping[str, Iterable[str]] = config.get("paths", {})
    if not isinstance(commits, list) or not paths:
        return None
    files = [
        file
        for commit in commits
        if isinstance(commit, dict)
        for part in ("added", "modified", "removed")
        if isinstance(names := commit.get(part), list)
        for file in names
        if isinstance(file, str)
    ]
    for kind in ("schema_changed", "config_changed"):
        if any(fnmatchcase(file, glob) for glob in paths.get(kind, ()) for file in files):
            return kind
    return None


def moment_of(value: Any) -> str | None:
    """Return a provider's moment as RFC 3339, None for what is none: the moment of the call stands in for it."""
    if isinstance(value, str) and 19 <= len(value) <= 40:
        try:
            found = datetime.fromisoformat(value.replace(" UTC", "+00:00").replace(" +", "+").replace(" -", "-"))
            return found.astimezone(UTC).isoformat() if found.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None
    return None


def digest_id(*parts: bytes) -> str:
    """Return an id for a call that has none: equal for equal parts."""
    return sha256(b"\0".join(parts)).hexdigest()[:40]
