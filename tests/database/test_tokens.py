from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.errors import InvalidRequest, OutOfScope, TooManyCalls, Unauthenticated
from orchestrator.models import ApiToken, RateWindow
from orchestrator.roles import Action
from orchestrator.services import tokens
from tests.support.records import default_tenant, new_job, new_token

pytestmark = pytest.mark.django_db


def statements_of(call):
    with CaptureQueriesContext(connection) as captured:
        call()
    return len(captured)


def test_only_the_digest_of_a_token_is_stored():
    token, plaintext = new_token()

    assert plaintext.startswith("upb_")
    assert plaintext not in str(ApiToken.objects.values_list().get(pk=token.pk))
    assert tokens.authenticate(plaintext).pk == token.pk


def test_a_token_triggers_and_reads_unless_it_says_otherwise():
    token, _ = tokens.create_token(tenant=default_tenant(), name="ci")

    assert token.scopes == ["read", "trigger"]


def test_a_token_and_its_tenant_are_found_in_one_query():
    _, plaintext = new_token()

    assert statements_of(lambda: tokens.authenticate(plaintext).tenant.slug) == 1


def test_an_admitted_call_costs_one_statement_on_postgresql_and_two_on_sqlite():
    _, plaintext = new_token()
    tokens.admit_call(plaintext)  # the first of a minute also notes the use

    expected = 1 if connection.vendor == "postgresql" else 2
    assert statements_of(lambda: tokens.admit_call(plaintext).tenant.timezone) == expected


@pytest.mark.parametrize("change", ["revoked_at", "expires_at"])
def test_a_revoked_or_expired_token_is_good_for_nothing(change):
    token, plaintext = new_token()
    ApiToken.objects.filter(pk=token.pk).update(**{change: timezone.now() - timedelta(seconds=1)})

    assert tokens.authenticate(plaintext) is None
    with pytest.raises(Unauthenticated):
        tokens.admit_call(plaintext)


def test_a_token_that_expires_later_is_good_now():
    token, plaintext = new_token()
    ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() + timedelta(seconds=30))

    assert tokens.admit_call(plaintext).pk == token.pk


def test_the_last_use_is_noted_once_a_minute():
    token, plaintext = new_token()
    tokens.admit_call(plaintext)
    first = ApiToken.objects.get(pk=token.pk).last_used_at

    tokens.admit_call(plaintext)
    unchanged = ApiToken.objects.get(pk=token.pk).last_used_at
    ApiToken.objects.filter(pk=token.pk).update(last_used_at=first - timedelta(minutes=2))
    tokens.admit_call(plaintext)

    assert first is not None
    assert unchanged == first
    assert ApiToken.objects.get(pk=token.pk).last_used_at >= first


def test_the_call_after_the_limit_is_refused_until_the_minute_is_over():
    token, plaintext = new_token()
    tokens.admit_call(plaintext)
    RateWindow.objects.filter(token=token).update(calls=600)

    with pytest.raises(TooManyCalls) as refused:
        tokens.admit_call(plaintext)
    RateWindow.objects.filter(token=token).update(minute=0)
    tokens.admit_call(plaintext)

    assert 1 <= refused.value.retry_after_seconds <= 60
    assert RateWindow.objects.get(token=token).calls == 1


@pytest.mark.django_db(transaction=True)
def test_calls_of_all_threads_are_counted_exactly():
    token, plaintext = new_token()

    def call(_):
        try:
            return tokens.admit_call(plaintext).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(80)))

    # Two rows of numbers only if a minute ended in between.
    assert RateWindow.objects.get(token=token).calls in range(1, 81)
    assert tokens.admit_call(plaintext)


@pytest.mark.parametrize(
    ("scopes", "jobs", "action", "job", "allowed"),
    [
        (["read"], (), Action.VIEW, None, True),
        (["read"], (), Action.TRIGGER, None, False),
        (["admin"], (), Action.STEER, "a", True),
        (["trigger"], ("a",), Action.TRIGGER, "a", True),
        (["trigger"], ("a",), Action.TRIGGER, "b", False),
        (["admin"], ("a",), Action.VIEW, "b", False),
    ],
)
def test_a_scope_reaches_as_far_as_it_says(scopes, jobs, action, job, allowed):
    token = ApiToken(name="t", scopes=scopes, job_names=list(jobs))

    if allowed:
        tokens.check_action(token, action, job)
    else:
        with pytest.raises(OutOfScope):
            tokens.check_action(token, action, job)


def test_all_problems_of_a_new_token_are_named_at_once():
    new_job("a")

    with pytest.raises(InvalidRequest) as refused:
        tokens.create_token(
            tenant=default_tenant(),
            name=" ",
            scopes=["reed"],
            job_names=["a", "b"],
            expires_at=timezone.now() - timedelta(days=1),
        )

    assert {detail.path for detail in refused.value.details} == {"name", "scopes", "jobs", "expires_at"}
