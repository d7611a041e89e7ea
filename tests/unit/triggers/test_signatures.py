"""Who is believed: published vectors of each provider, and what must not pass."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support import webhooks
from triggers.sources.providers import PROVIDERS
from triggers.sources.providers.base import BadSignature, Delivery

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
BODY = b'{"a": 1}'


def believed(
    provider: str,
    body: bytes,
    headers: dict[str, str],
    *secrets: str,
    now: datetime = NOON,
    config: dict[str, Any] | None = None,
) -> bool:
    delivery = Delivery(body, headers, headers.get("content-type", ""))
    try:
        PROVIDERS[provider].verify(delivery, secrets, config or {}, now)
    except BadSignature:
        return False
    return True


class TestPublishedVectors:
    def test_github(self) -> None:
        """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries"""
        headers = {
            "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        }

        assert believed("github", b"Hello, World!", headers, "It's a Secret to Everybody")

    def test_standard_webhooks(self) -> None:
        """The example of the reference libraries."""
        headers = {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        then = datetime.fromtimestamp(1614265330, UTC)

        assert believed("standard_webhooks", b'{"test": 2432232314}', headers, webhooks.SIGNING_SECRET, now=then)


def signed(provider: str, body: bytes, secret: str) -> dict[str, str]:
    match provider:
        case "github":
            return webhooks.github(body, "push", secret=secret)
        case "gitea":
            return webhooks.gitea(body, "push", secret=secret)
        case "generic":
            return webhooks.generic(body, secret=secret)
        case "gitlab":
            return {"x-gitlab-token": secret}
        case "cloudevents" | "jenkins":
            return {"authorization": f"Bearer {secret}"}
    return webhooks.standard(body, secret=secret, at=NOON)


ALL = ("github", "gitlab", "gitea", "jenkins", "standard_webhooks", "cloudevents", "generic")
OF_BODY = {"github": "x-hub-signature-256", "gitea": "x-gitea-signature", "generic": "x-signature-256"}


def secret_of(provider: str, number: int = 1) -> str:
    if provider == "standard_webhooks":
        return "whsec_" + base64.b64encode(bytes([number]) * 24).decode()
    return f"secret {number}"


@pytest.mark.parametrize("provider", ALL)
def test_the_right_secret_is_believed_and_no_other(provider: str) -> None:
    headers = signed(provider, BODY, secret_of(provider))

    assert believed(provider, BODY, headers, secret_of(provider))
    assert not believed(provider, BODY, headers, secret_of(provider, 2))
    assert not believed(provider, BODY, {}, secret_of(provider))
    assert not believed(provider, BODY, headers)


@pytest.mark.parametrize("provider", ALL)
def test_while_a_secret_is_replaced_both_are_believed(provider: str) -> None:
    headers = signed(provider, BODY, secret_of(provider))

    assert believed(provider, BODY, headers, secret_of(provider, 2), secret_of(provider))


@pytest.mark.parametrize("provider", [*OF_BODY, "standard_webhooks"])
def test_a_body_that_was_written_again_is_not_believed(provider: str) -> None:
    headers = signed(provider, BODY, secret_of(provider))

    assert not believed(provider, b'{"a":1}', headers, secret_of(provider))


@pytest.mark.parametrize(("provider", "header"), OF_BODY.items())
@pytest.mark.parametrize(
    "change",
    [
        lambda given: given[:-2],
        lambda given: given[:-1],
        lambda given: given + "00",
        lambda given: given + " " + given[-2:],
        lambda given: f"{given},{given}",
        lambda given: given.replace("sha256=", "sha1="),
        lambda given: "",
        lambda given: "sha256=",
        lambda given: given[:-2] + "é!",
    ],
    ids=["byte short", "digit short", "byte long", "spaces", "header twice", "sha1", "empty", "prefix alone", "no hex"],
)
def test_a_signature_that_is_not_whole_is_not_believed(provider: str, header: str, change: Any) -> None:
    headers = signed(provider, BODY, "s")
    changed = change(headers[header])

    assert believed(provider, BODY, headers | {header: changed}, "s") == (changed == headers[header])


@pytest.mark.parametrize(("provider", "header"), OF_BODY.items())
def test_hexadecimal_digits_may_be_upper_case(provider: str, header: str) -> None:
    headers = signed(provider, BODY, "s")
    prefix, equals, digits = headers[header].rpartition("=")

    assert believed(provider, BODY, headers | {header: prefix + equals + digits.upper()}, "s")


def test_githubs_older_signature_alone_is_not_believed() -> None:
    headers = webhooks.github(BODY, "push")
    del headers["x-hub-signature-256"]

    assert not believed("github", BODY, headers, webhooks.SECRET)


def test_github_signs_a_form_and_gitea_what_is_in_it() -> None:
    payload = b'{"ref": "refs/heads/main", "a": "\xc3\xa4 +%"}'
    form = urlencode({"payload": payload}).encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}

    assert believed("github", form, webhooks.github(form, "push") | kind, webhooks.SECRET)
    assert not believed("github", form, webhooks.github(payload, "push") | kind, webhooks.SECRET)
    assert believed("gitea", form, webhooks.gitea(payload, "push") | kind, webhooks.SECRET)
    assert not believed("gitea", form, webhooks.gitea(form, "push") | kind, webhooks.SECRET)


def test_gitea_is_not_believed_by_githubs_header() -> None:
    headers = webhooks.gitea(BODY, "push")
    del headers["x-gitea-signature"]

    assert not believed("gitea", BODY, headers, webhooks.SECRET)


class TestStandardWebhooks:
    @pytest.mark.parametrize(("seconds", "right"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
    def test_what_was_signed_longer_ago_than_the_tolerance_is_not_believed(self, seconds: int, right: bool) -> None:
        headers = webhooks.standard(BODY, at=NOON.timestamp() + seconds)

        assert believed("standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET) == right

    def test_the_tolerance_can_be_set(self) -> None:
        headers = webhooks.standard(BODY, at=NOON.timestamp() - 20)

        assert not believed(
            "standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET, config={"tolerance_seconds": 10}
        )

    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_every_header_is_needed_and_signed(self, name: str) -> None:
        headers = webhooks.standard(BODY, at=NOON)

        assert not believed(
            "standard_webhooks", BODY, {k: v for k, v in headers.items() if k != name}, webhooks.SIGNING_SECRET
        )
        assert not believed("standard_webhooks", BODY, headers | {name: headers[name] + "1"}, webhooks.SIGNING_SECRET)

    def test_an_id_with_a_dot_is_not_believed(self) -> None:
        headers = webhooks.standard(BODY, message_id="a.b", at=NOON)

        assert not believed("standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET)

    def test_any_of_several_signatures_will_do(self) -> None:
        headers = webhooks.standard(BODY, at=NOON)
        headers["webhook-signature"] = f"v1,AAAA v2,xyz v1,*** {headers['webhook-signature']}"

        assert believed("standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET)

    def test_a_version_that_nobody_knows_is_not_believed(self) -> None:
        headers = webhooks.standard(BODY, at=NOON)
        headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v9,")

        assert not believed("standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET)

    def test_a_public_key_verifies_what_its_private_key_signed(self) -> None:
        private = Ed25519PrivateKey.generate()
        public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
        headers = webhooks.standard(BODY, at=NOON)
        content = f"msg_1.{headers['webhook-timestamp']}.".encode()
        headers["webhook-signature"] = "v1a," + base64.b64encode(private.sign(content + BODY)).decode()

        assert believed("standard_webhooks", BODY, headers, public)
        assert not believed("standard_webhooks", BODY + b" ", headers, public)
        assert not believed("standard_webhooks", BODY, headers, webhooks.SIGNING_SECRET)

    def test_a_public_key_is_no_key_of_an_hmac(self) -> None:
        """Whoever knows the public key, which is everybody, could sign with it."""
        public = "whpk_" + base64.b64encode(bytes(32)).decode()
        headers = webhooks.standard(BODY, secret="whsec_" + base64.b64encode(bytes(32)).decode(), at=NOON)

        assert not believed("standard_webhooks", BODY, headers, public)

    def test_a_secret_that_is_none_verifies_nothing(self) -> None:
        headers = webhooks.standard(BODY, at=NOON)

        assert not believed("standard_webhooks", BODY, headers, "whsec_", "whsec_***", "plain")


class TestGitLab:
    def test_a_signing_token_is_a_standard_webhook(self) -> None:
        headers = webhooks.standard(BODY, at=NOON)

        assert believed("gitlab", BODY, headers, webhooks.SIGNING_SECRET)
        assert not believed("gitlab", BODY + b" ", headers, webhooks.SIGNING_SECRET)

    def test_a_signing_token_is_never_taken_as_a_plain_one(self) -> None:
        assert not believed("gitlab", BODY, {"x-gitlab-token": webhooks.SIGNING_SECRET}, webhooks.SIGNING_SECRET)

    def test_from_the_plain_token_to_the_signing_one_both_are_believed(self) -> None:
        secrets = (webhooks.SIGNING_SECRET, "old")

        assert believed("gitlab", BODY, {"x-gitlab-token": "old"}, *secrets)
        assert believed("gitlab", BODY, webhooks.standard(BODY, at=NOON), *secrets)
        assert not believed("gitlab", BODY, {"x-gitlab-token": "other"}, *secrets)


class TestGeneric:
    def test_place_form_and_content_of_the_signature_can_be_set(self) -> None:
        """As one well-known sender signs: v0=hex over v0:timestamp:body."""
        moment = str(int(NOON.timestamp()))
        config = {
            "hmac": {
                "header": "X-Slack-Signature",
                "prefix": "v0=",
                "signed": "v0:{timestamp}:{body}",
                "timestamp_header": "X-Slack-Request-Timestamp",
            }
        }
        headers = {
            "x-slack-signature": "v0=" + webhooks.hex_hmac("s", f"v0:{moment}:".encode() + BODY),
            "x-slack-request-timestamp": moment,
        }

        assert believed("generic", BODY, headers, "s", config=config)
        late = datetime.fromtimestamp(NOON.timestamp() + 301, UTC)
        assert not believed("generic", BODY, headers, "s", config=config, now=late)
        assert not believed("generic", BODY, headers | {"x-slack-request-timestamp": ""}, "s", config=config)

    def test_base64_and_other_algorithms(self) -> None:
        config = {"hmac": {"header": "X-Sign", "encoding": "base64", "algorithm": "sha512"}}
        given = base64.b64encode(bytes.fromhex(webhooks.hex_hmac("s", BODY, "sha512"))).decode()

        assert believed("generic", BODY, {"x-sign": given}, "s", config=config)
        assert not believed("generic", BODY, {"x-sign": given[:-4]}, "s", config=config)
        assert not believed("generic", BODY, {"x-sign": "é"}, "s", config=config)

    def test_a_body_with_a_placeholder_is_not_filled_in(self) -> None:
        config = {"hmac": {"header": "X-Sign", "signed": "{timestamp}.{body}", "timestamp_header": "X-At"}}
        moment = str(int(NOON.timestamp()))
        body = b'{"x": "{timestamp}{body}{id}"}'
        headers = {"x-at": moment, "x-sign": webhooks.hex_hmac("s", f"{moment}.".encode() + body)}

        assert believed("generic", body, headers, "s", config=config)

    def test_a_bearer_token_or_a_password(self) -> None:
        basic = "Basic " + base64.b64encode(b"user:pass").decode()

        assert believed("generic", BODY, {"authorization": "bearer s"}, "s", config={"auth": "bearer"})
        assert believed("generic", BODY, {"authorization": basic}, "user:pass", config={"auth": "basic"})
        assert not believed("generic", BODY, {"authorization": basic}, "user:pas", config={"auth": "basic"})
        assert not believed("generic", BODY, {"authorization": "Basic ***"}, "user:pass", config={"auth": "basic"})
        assert not believed("generic", BODY, {"authorization": "Bearer "}, "", config={"auth": "bearer"})
        assert not believed("generic", BODY, webhooks.generic(BODY), webhooks.SECRET, config={"auth": "bearer"})
