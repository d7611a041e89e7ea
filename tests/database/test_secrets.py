from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from orchestrator.conf import options
from orchestrator.errors import InvalidRequest, Misconfigured
from orchestrator.models import Secret
from orchestrator.services import secrets
from tests.support.records import default_tenant

pytestmark = pytest.mark.django_db
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def keys(monkeypatch):
    def use(*keys: str) -> None:
        monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})

    use(OLD)
    return use


def test_a_secret_is_stored_encrypted_and_revealed_by_name(keys):
    tenant = default_tenant()

    secrets.set_secret(tenant=tenant, name="reports-api", value="pässword", by="ada")

    assert "pässword".encode() not in bytes(Secret.objects.get().ciphertext)
    assert secrets.reveal_secrets(tenant.pk, ["reports-api"]) == {"reports-api": "pässword"}


def test_storing_again_replaces_the_value(keys):
    tenant = default_tenant()
    for value in ("one", "two"):
        secrets.set_secret(tenant=tenant, name="a", value=value, by="ada")

    assert secrets.reveal_secrets(tenant.pk, ["a"]) == {"a": "two"}
    assert Secret.objects.count() == 1


def test_a_new_key_in_front_still_reads_what_the_old_one_wrote(keys):
    tenant = default_tenant()
    secrets.set_secret(tenant=tenant, name="a", value="one", by="ada")

    keys(NEW, OLD)
    secrets.set_secret(tenant=tenant, name="b", value="two", by="ada")

    assert secrets.reveal_secrets(tenant.pk, ["a", "b"]) == {"a": "one", "b": "two"}


def test_a_lost_key_is_named_as_the_cause(keys):
    tenant = default_tenant()
    secrets.set_secret(tenant=tenant, name="a", value="one", by="ada")
    keys(NEW)

    with pytest.raises(Misconfigured, match="UPBEAT_ENCRYPTION_KEYS"):
        secrets.reveal_secrets(tenant.pk, ["a"])


@pytest.mark.parametrize("given", [(), ("short",)])
def test_a_missing_or_bad_key_says_how_to_make_one(keys, given):
    keys(*given)

    with pytest.raises(Misconfigured, match="generate_key"):
        secrets.set_secret(tenant=default_tenant(), name="a", value="one", by="ada")


def test_unknown_secrets_are_named_together(keys):
    with pytest.raises(secrets.UnknownSecret, match=r"a, b"):
        secrets.reveal_secrets(default_tenant().pk, ["b", "a"])


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a b", "x"), ("a", ""), ("a", "x" * 70_000)])
def test_a_bad_name_or_value_is_refused_without_being_quoted(keys, name, value):
    with pytest.raises(InvalidRequest) as refused:
        secrets.set_secret(tenant=default_tenant(), name=name, value=value, by="ada")

    assert "xxx" not in str(refused.value.details)
