from __future__ import annotations

import pytest

from orchestrator import checks


@pytest.fixture
def given(monkeypatch, settings):
    """Settings of a profile, with the options that matter."""

    def use(name: str, /, **options: object) -> None:
        monkeypatch.setattr(checks, "_profile", lambda: name)
        real = checks.options()
        values = {**real._values, **{f"UPBEAT_{option.upper()}": value for option, value in options.items()}}
        monkeypatch.setattr(real, "_values", values)

    settings.DEBUG = False
    return use


def ids(messages) -> set[str]:
    assert all(message.hint for message in messages)
    return {message.id for message in messages}


def test_the_embedded_profile_may_be_simple(given):
    given("embedded")

    assert ids(checks.check_production(None)) == set()


def test_production_names_what_it_must_not_have(given, settings, monkeypatch):
    given("production", profile="production", rate_per_minute=0)
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    settings.DEBUG = True

    found = ids(checks.check_production(None))

    assert found == {"upbeat.E001", "upbeat.E002", "upbeat.W001", "upbeat.W002", "upbeat.W003"}


@pytest.mark.parametrize(
    ("profile", "key", "found"),
    [
        ("production", "x" * 60, {"upbeat.E004"}),
        ("production", "short", {"upbeat.E004"}),
        ("embedded", "short", {"upbeat.W005"}),
        ("production", "k3Jd8sLq0vPz7Xw2Rt5Yu9Bn4Mc6Fh1Ga", set()),
    ],
)
def test_a_weak_secret_key_is_named(given, profile, key, found):
    given(profile, secret_key=key)

    assert ids(checks.check_secret_key(None)) == found


def test_the_web_process_needs_a_secret_key(given, monkeypatch):
    given("embedded", secret_key="")

    commands = ids(checks.check_secret_key(None))
    monkeypatch.setattr("sys.argv", ["/venv/bin/uvicorn"])

    assert commands == set()
    assert ids(checks.check_secret_key(None)) == {"upbeat.E003"}


def test_rabbitmq_alone_has_no_chord_counters(settings):
    settings.CELERY = {"broker_url": "amqp://host//", "result_backend": None}

    assert ids(checks.check_broker(None)) == {"upbeat.W006"}


def test_keys_that_are_no_keys_are_found_at_start(given):
    given("embedded", encryption_keys=("nonsense",))

    assert ids(checks.check_encryption_keys(None)) == {"upbeat.E005"}


def test_a_lease_shorter_than_a_pause_is_named(given):
    given("embedded", lease_seconds=1.0)

    assert ids(checks.check_lease(None)) == {"upbeat.W007"}


@pytest.mark.parametrize(
    ("given_options", "found"),
    [
        ({"store_url": "s3://logs/upbeat?endpoint=https://minio.example:9000&region=eu-central-1"}, set()),
        ({"store_url": "ftp://logs"}, {"upbeat.E006"}),
        ({"store_url": "s3://logs?regoin=eu-central-1"}, {"upbeat.E006"}),
        ({"store_url": "s3://logs", "store_access_key_id": "id"}, {"upbeat.E007"}),
    ],
)
def test_a_store_that_cannot_be_meant_is_named_at_start(given, given_options, found):
    given("embedded", **given_options)

    assert ids(checks.check_store(None)) == found
