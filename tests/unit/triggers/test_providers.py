"""What the calls of each provider mean, in the payload that all of them share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import webhooks
from triggers.cloud_events import Unreadable
from triggers.envelope import Envelope, Policy, Received, read
from triggers.sources.providers import PROVIDERS
from triggers.sources.providers.base import Delivery, Verdict, accepts, kept_headers
from triggers.sources.webhook import KIND

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"


def mapped(provider: str, body: Any, headers: dict[str, str], **config: Any) -> Envelope:
    """The one event of a call, read as ingest reads it."""
    raw = body if isinstance(body, bytes) else webhooks.text(body)
    found = PROVIDERS[provider].events(Delivery(raw, headers, headers.get("content-type", "")), config)
    assert isinstance(found, list)
    (form,) = found
    events = read(Received("webhook:x", webhooks.text(form)), Policy("x", "transport"), NOON)
    assert isinstance(events, list), events
    return events[0]


def github(body: Any, event: str, **config: Any) -> Envelope:
    return mapped("github", body, webhooks.github(webhooks.text(body), event), **config)


def without_raw(envelope: Envelope) -> dict[str, Any]:
    return {name: value for name, value in envelope.payload.items() if name != "raw"}


class TestGitHub:
    def test_a_deployment_that_succeeded(self) -> None:
        envelope = github(webhooks.DEPLOYMENT_STATUS, "deployment_status")

        assert (envelope.event_type, envelope.message_id, envelope.source) == (
            "github.deployment_status.success",
            "d-1",
            "github:acme/shop",
        )
        assert envelope.timestamp == datetime(2026, 11, 21, 10, tzinfo=UTC)
        assert without_raw(envelope) == {
            "kind": "deployed",
            "ci": "github",
            "repository": "acme/shop",
            "ref": "v1.2.3",
            "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e",
            "tag": None,
            "environment": "production",
            "version": "v1.2.3",
            "status": "success",
            "url": "https://github.example/acme/shop/actions/runs/7",
            "actor": "octocat",
            "pipelineId": "7",
            "deploymentId": "145988746",
        }
        assert envelope.payload["raw"] == webhooks.DEPLOYMENT_STATUS

    @pytest.mark.parametrize(
        ("task", "payload", "kind"),
        [
            ("deploy", {}, "deployed"),
            ("deploy:migrations", {}, "schema_changed"),
            ("config", {}, "config_changed"),
            ("deploy", {"kind": "schema_changed"}, "schema_changed"),
        ],
    )
    def test_a_deployment_says_what_it_changes(self, task: str, payload: dict[str, str], kind: str) -> None:
        body = webhooks.DEPLOYMENT_STATUS | {"deployment": {"task": task, "payload": payload}}

        assert github(body, "deployment_status").payload["kind"] == kind

    def test_a_release(self) -> None:
        body = {
            "action": "published",
            "release": {"tag_name": "v2.0.0", "html_url": "https://x/r", "published_at": "2026-11-20T00:00:00Z"},
            "repository": {"full_name": "acme/shop"},
            "sender": {"login": "ann"},
        }

        envelope = github(body, "release")

        assert envelope.event_type == "github.release.published"
        assert [envelope.payload[name] for name in ("kind", "tag", "version", "status", "actor")] == [
            "released", "v2.0.0", "v2.0.0", "success", "ann",
        ]  # fmt: skip

    def test_a_workflow_run(self) -> None:
        run = {"id": 7, "head_branch": "main", "head_sha": "abc", "status": "completed", "conclusion": "timed_out"}

        envelope = github({"action": "completed", "workflow_run": run, "repository": None}, "workflow_run")

        assert (envelope.event_type, envelope.source) == ("github.workflow_run.completed", "github")
        assert [envelope.payload[name] for name in ("kind", "ref", "status", "pipelineId")] == [
            "pipeline", "main", "failure", "7",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("file", "kind"),
        [("db/migrations/7.sql", "schema_changed"), ("config/app.yml", "config_changed"), ("a.py", None)],
    )
    def test_a_push_changed_what_its_files_say(self, file: str, kind: str | None) -> None:
        body = {"ref": "refs/heads/main", "after": "abc", "commits": [{"added": [file], "modified": None}]}
        paths = {"schema_changed": ["*/migrations/*"], "config_changed": ["config/*"]}

        envelope = github(body, "push", paths=paths)

        assert (envelope.event_type, envelope.payload["ref"], envelope.payload["kind"]) == ("github.push", "main", kind)

    def test_a_pushed_tag(self) -> None:
        envelope = github({"ref": "refs/tags/v1.0.0"}, "push")

        assert [envelope.payload[name] for name in ("ref", "tag", "version")] == ["v1.0.0"] * 3

    def test_any_other_event_has_its_name_and_action(self) -> None:
        assert github({"action": "opened", "issue": {"html_url": "u"}}, "issues").event_type == "github.issues.opened"

    def test_a_form_is_the_same_event(self) -> None:
        body = urlencode({"payload": webhooks.text(webhooks.DEPLOYMENT_STATUS)}).encode()
        headers = webhooks.github(body, "deployment_status") | {"content-type": FORM}

        assert mapped("github", body, headers) == github(webhooks.DEPLOYMENT_STATUS, "deployment_status")

    def test_a_ping_is_no_event(self) -> None:
        body = b'{"zen": "..."}'

        assert PROVIDERS["github"].events(Delivery(body, webhooks.github(body, "ping")), {}) is Verdict.PING

    @pytest.mark.parametrize("most", [0, 10])
    def test_a_body_that_is_too_large_to_be_carried_is_left_out(self, most: int) -> None:
        envelope = github(webhooks.DEPLOYMENT_STATUS, "deployment_status", raw_max_bytes=most)

        assert envelope.payload["raw"] is None


class TestGitLab:
    def test_a_deployment(self) -> None:
        headers = {"webhook-id": "w-1", "x-gitlab-event-uuid": "shared"}

        envelope = mapped("gitlab", webhooks.GITLAB_DEPLOYMENT, headers)

        assert (envelope.event_type, envelope.message_id, envelope.source) == (
            "gitlab.deployment.success",
            "w-1",
            "gitlab:root/shop",
        )
        assert envelope.timestamp == datetime(2021, 4, 28, 19, 50, tzinfo=UTC)
        assert without_raw(envelope) == {
            "kind": "deployed",
            "ci": "gitlab",
            "repository": "root/shop",
            "ref": "master",
            "sha": "279484c09fbe69ededfced8c1bb6e6d24616b468",
            "tag": None,
            "environment": "staging",
            "version": None,
            "status": "success",
            "url": "http://gitlab.example/root/shop/-/jobs/796",
            "actor": "root",
            "pipelineId": "796",
            "deploymentId": "15",
        }

    @pytest.mark.parametrize(
        ("body", "event_type", "kind", "status"),
        [
            ({"object_kind": "pipeline", "object_attributes": {"id": 1, "status": "failed", "ref": "main"}}, "gitlab.pipeline.failed", "pipeline", "failure"),
            ({"object_kind": "build", "build_status": "canceled", "ref": "main"}, "gitlab.build.canceled", "pipeline", "cancelled"),
            ({"object_kind": "release", "action": "create", "tag": "v1.1"}, "gitlab.release.create", "released", "success"),
            ({"object_kind": "tag_push", "ref": "refs/tags/v1.1"}, "gitlab.tag_push", None, None),
            ({"object_kind": "push", "ref": "refs/heads/main", "commits": "?"}, "gitlab.push", None, None),
            ({"object_kind": "issue", "object_attributes": {"action": "open"}}, "gitlab.issue.open", None, None),
        ],
    )  # fmt: skip
    def test_other_events(self, body: dict[str, Any], event_type: str, kind: str | None, status: str | None) -> None:
        envelope = mapped("gitlab", body, {"idempotency-key": "i-1"})

        assert (envelope.event_type, envelope.payload["kind"], envelope.payload["status"]) == (event_type, kind, status)
        assert envelope.message_id == "i-1"

    def test_without_an_id_hook_and_body_make_one_and_the_shared_one_is_not_used(self) -> None:
        headers = {"x-gitlab-webhook-uuid": "h", "x-gitlab-event-uuid": "shared"}

        first = mapped("gitlab", {"object_kind": "push", "after": "a"}, headers).message_id

        assert first.startswith("h:")
        assert first == mapped("gitlab", {"object_kind": "push", "after": "a"}, headers).message_id
        assert first != mapped("gitlab", {"object_kind": "push", "after": "b"}, headers).message_id


class TestGitea:
    def test_it_is_known_by_its_own_headers_although_it_sends_githubs(self) -> None:
        body = webhooks.text({"action": "published", "release": {"tag_name": "v1"}, "repository": {"full_name": "a/b"}})

        envelope = mapped("gitea", body, webhooks.gitea(body, "release", delivery="g-1") | {"x-github-delivery": "x"})

        assert (envelope.event_type, envelope.message_id, envelope.source) == (
            "gitea.release.published",
            "g-1",
            "gitea:a/b",
        )


class TestJenkins:
    def test_a_deployment_that_has_ended(self) -> None:
        envelope = mapped("jenkins", webhooks.JENKINS, {})

        assert (envelope.event_type, envelope.message_id) == (
            "jenkins.build.completed.success",
            "http://jenkins.example/job/shop/18/:completed",
        )
        assert without_raw(envelope) == {
            "kind": "deployed",
            "ci": "jenkins",
            "repository": "shop",
            "ref": "main",
            "sha": "c6d86dc654b12425e706bcf951adfe5a8627a517",
            "tag": None,
            "environment": "production",
            "version": "1.4.0",
            "status": "success",
            "url": "http://jenkins.example/job/shop/18/",
            "actor": None,
            "pipelineId": "18",
            "deploymentId": None,
        }

    def test_a_build_that_begins_has_not_the_status_of_the_one_before(self) -> None:
        build = {"full_url": "u", "phase": "STARTED", "status": "FAILURE"}

        envelope = mapped("jenkins", {"name": "x", "build": build}, {})

        assert (envelope.event_type, envelope.payload["status"], envelope.payload["kind"]) == (
            "jenkins.build.started", "running", "pipeline",
        )  # fmt: skip

    def test_its_phases_are_different_events(self) -> None:
        ids = {
            mapped("jenkins", {"build": {"full_url": "u", "phase": phase}}, {}).message_id
            for phase in ("STARTED", "COMPLETED", "FINALIZED")
        }

        assert len(ids) == 3


class TestStandardWebhooks:
    def test_type_data_and_moment_are_the_events(self) -> None:
        body = {"type": "invoice.paid", "timestamp": "2026-11-21T09:00:00Z", "data": {"id": 7}, "tenant": "x"}

        envelope = mapped("standard_webhooks", body, webhooks.standard(b"", at=NOON))

        assert (envelope.event_type, envelope.message_id, envelope.payload, envelope.metadata) == (
            "invoice.paid", "msg_1", {"id": 7}, {"tenant": "x"},
        )  # fmt: skip
        assert envelope.timestamp == datetime(2026, 11, 21, 9, tzinfo=UTC)

    def test_without_data_the_body_is_the_payload_and_the_signed_moment_the_events(self) -> None:
        envelope = mapped("standard_webhooks", {"type": "a", "x": 1}, webhooks.standard(b"", at=NOON))

        assert (envelope.payload, envelope.timestamp) == ({"type": "a", "x": 1}, NOON)


class TestGeneric:
    def test_without_a_mapping_a_body_is_an_event_itself(self) -> None:
        assert PROVIDERS["generic"].events(Delivery(b"{}", {}), {}) is Verdict.AS_IT_IS

    def test_each_field_has_an_expression(self) -> None:
        mapping = {
            "eventType": "'shop.' + payload.kind",
            "messageId": "string(payload.id)",
            "timestamp": "timestamp(payload.at)",
            "source": "headers['x-request-id']",
            "priority": "payload.?urgent.orValue(false) ? 'HIGH' : ''",
            "payload": "payload.data",
        }
        body = {"kind": "sold", "id": 7, "at": "2026-11-21T09:00:00Z", "data": {"sum": 3}}

        envelope = mapped("generic", body, {"x-request-id": "shop", "authorization": "x"}, mapping=mapping)

        assert envelope == Envelope(
            "7", "shop.sold", datetime(2026, 11, 21, 9, tzinfo=UTC), "shop", {"sum": 3}, priority=""
        )

    def test_records_of_an_object_store_become_events_of_their_own(self) -> None:
        mapping = {
            "each": "payload.Records",
            "eventType": "'file.created'",
            "messageId": "item.s3.bucket.name + '/' + item.s3.object.key + '/' + item.s3.object.sequencer",
        }
        records = [
            {
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "b"}, "object": {"key": key, "sequencer": "1"}},
            }
            for key in ("x", "y")
        ]

        found = PROVIDERS["generic"].events(Delivery(webhooks.text({"Records": records}), {}), {"mapping": mapping})

        assert isinstance(found, list)
        assert [(form["messageId"], form["payload"]) for form in found] == [
            ("b/x/1", records[0]),
            ("b/y/1", records[1]),
        ]

    @pytest.mark.parametrize(
        ("mapping", "body", "words"),
        [
            ({"eventType": "payload.nothing"}, b"{}", "mapping.eventType"),
            ({"eventType": "'a'", "each": "payload.x"}, b'{"x": 1}', "mapping.each: not a list"),
            ({"eventType": "'a'", "each": "payload"}, b"[" + b"1," * 500 + b"1]", "at most 500"),
            ({"eventType": "'a'"}, b"[" * 900 + b"]" * 900, "nested"),
        ],
    )
    def test_a_body_that_does_not_fit_is_a_problem(self, mapping: dict[str, str], body: bytes, words: str) -> None:
        with pytest.raises(Unreadable, match=words):
            PROVIDERS["generic"].events(Delivery(body, {}), {"mapping": mapping})


@pytest.mark.parametrize(
    ("provider", "body", "headers"),
    [
        ("github", b"{}", {}),
        ("github", b"[]", {"x-github-event": "push"}),
        ("github", b"x=1", {"x-github-event": "push", "content-type": FORM}),
        ("gitlab", b"{}", {}),
        ("gitlab", b"not json", {}),
        ("gitea", b"{}", {"x-github-event": "push"}),
        ("jenkins", b'{"build": []}', {}),
        ("standard_webhooks", b'{"type": 7}', {}),
    ],
)
def test_a_body_that_is_none_of_the_providers_is_a_problem(provider: str, body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(Unreadable):
        PROVIDERS[provider].events(Delivery(body, headers, headers.get("content-type", "")), {})


def test_headers_that_tell_secrets_are_never_kept() -> None:
    headers = {
        "authorization": "x", "cookie": "x", "x-hub-signature-256": "x", "x-gitlab-token": "x", "webhook-signature": "x",
        "x-github-event": "push", "x-github-token": "x", "content-type": "application/json", "x-own": "kept", "x-other": "x",
        "x-api-key": "x",
    }  # fmt: skip
    config = {"keep_headers": ["X-Own", "Authorization", "X-Api-Key"]}

    kept = kept_headers(Delivery(b"", headers), PROVIDERS["github"], config)

    assert kept == {"x-github-event": "push", "content-type": "application/json", "x-own": "kept"}


@pytest.mark.parametrize(
    ("provider", "content_type", "accepted"),
    [
        ("github", "application/json; charset=utf-8", True),
        ("github", FORM, True),
        ("github", "", True),
        ("github", "text/plain", False),
        ("gitlab", FORM, False),
        ("generic", "application/cloudevents-batch+json", True),
        ("generic", "application/xml", False),
        ("cloudevents", "image/png", True),
    ],
)
def test_a_provider_sends_its_own_media_types(provider: str, content_type: str, accepted: bool) -> None:
    assert accepts(Delivery(b"", {}, content_type), PROVIDERS[provider]) == accepted


class TestConfig:
    SECRETS = {"current": "hook-secret"}

    def problems(self, secrets: dict[str, str] | None = None, **config: Any) -> dict[str, str]:
        found = KIND.problems({"provider": "generic", **config}, self.SECRETS if secrets is None else secrets)
        return {detail.path: detail.expected for detail in found}

    def test_every_field_in_use_is_fine(self) -> None:
        assert not self.problems(
            max_bytes=25 * 2**20,
            allowed_networks=["192.0.2.0/24", "2001:db8::/32"],
            tolerance_seconds=60,
            hmac={
                "header": "X-Sign",
                "signed": "{id}.{timestamp}.{body}",
                "timestamp_header": "X-At",
                "id_header": "X-Id",
            },
            mapping={"eventType": "payload.type", "payload": "payload.data"},
            keep_headers=["X-Shop"],
        )

    @pytest.mark.parametrize(
        ("config", "path"),
        [
            ({"provider": "bitbucket"}, "config.provider"),
            ({"max_bytes": 25 * 2**20 + 1}, "config.max_bytes"),
            ({"allowed_networks": ["192.0.2.1/24"]}, "config.allowed_networks[0]"),
            ({"mapping": {"payload": "payload"}}, "config.mapping.eventType"),
            ({"mapping": {"eventType": "payload."}}, "config.mapping.eventType"),
            ({"mapping": {"eventType": "unknown.x"}}, "config.mapping.eventType"),
            ({"hmac": {"signed": "{timestamp}.{body}"}}, "config.hmac.signed"),
            ({"hmac": {"timestamp_header": "X-At"}}, "config.hmac.signed"),
            ({"hmac": {"signed": "{secret}"}}, "config.hmac.signed"),
            ({"hmac": {}, "auth": "none"}, "config.auth"),
            ({"hmac": {"header": "X-A"}, "auth": "bearer"}, "config.hmac"),
            ({"provider": "github", "mapping": {"eventType": "'a'"}}, "config.mapping"),
            ({"provider": "cloudevents", "tolerance_seconds": 10}, "config.tolerance_seconds"),
            ({"topics": ["a"]}, "config.topics"),
        ],
    )
    def test_a_field_that_is_wrong_is_named(self, config: dict[str, Any], path: str) -> None:
        assert list(self.problems(**config)) == [path]

    def test_a_webhook_needs_a_secret(self) -> None:
        assert list(self.problems({})) == ["secrets.current"]
        assert list(self.problems({"current": "a", "old": "b"})) == ["secrets.old"]


NAMES = st.sampled_from(
    ["action", "deployment", "deployment_status", "release", "repository", "full_name", "sender", "login", "ref", "task",
     "payload", "kind", "object_kind", "object_attributes", "status", "project", "commits", "added", "build", "phase",
     "full_url", "parameters", "scm", "type", "data", "timestamp", "workflow_run", "tag", "commit_url", "environment"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(
    body=st.dictionaries(NAMES, values, max_size=8),
    provider=st.sampled_from(["github", "gitlab", "gitea", "jenkins", "standard_webhooks"]),
    event=st.sampled_from(["push", "release", "deployment_status", "deployment", "workflow_run", "x y"]),
)
def test_whatever_an_authentic_call_holds_it_is_an_event_or_a_problem(
    body: dict[str, Any], provider: str, event: str
) -> None:
    headers = {"x-github-event": event, "x-gitea-event": event, "webhook-id": "1", "webhook-timestamp": "1"}
    config = {"paths": {"schema_changed": ["*"]}}
    try:
        found = PROVIDERS[provider].events(Delivery(webhooks.text(body), headers), config)
    except Unreadable:
        return

    assert isinstance(found, list)
    for form in found:
        assert read(Received("webhook:x", webhooks.text(form), message_id="1"), Policy("x", "transport"), NOON)
