from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from orchestrator.models import ApiToken, Tenant, Transition
from tests.support.api import Api, problems
from tests.support.records import new_job, new_token, token_text

pytestmark = pytest.mark.django_db
PATH = "/api/v1/tokens"


@pytest.fixture
def api() -> Api:
    return Api(token_text("admin", name="root"))


def test_a_token_is_made_and_its_text_shown_once(api):
    new_job("nightly-etl")

    made = api.send(
        PATH, {"name": "ci", "scopes": ["trigger"], "jobs": ["nightly-etl"], "expires_at": "2099-01-01T00:00:00Z"}
    )

    assert made.status_code == 201
    text = made.json().pop("token")
    assert Api(text).send("/v1/jobs/trigger", {"jobName": "nightly-etl"}).status_code == 202
    shown = api.get(f"{PATH}/{made.json()['id']}").json()
    assert (shown["name"], shown["scopes"], shown["jobs"], shown["expires_at"]) == (
        "ci",
        ["trigger"],
        ["nightly-etl"],
        "2099-01-01T00:00:00Z",
    )
    assert shown["last_used_at"] is not None
    assert text not in api.get(PATH).content.decode()


def test_a_token_may_trigger_and_read_unless_it_says_otherwise(api):
    assert api.send(PATH, {"name": "ci"}).json()["scopes"] == ["read", "trigger"]


def test_making_and_revoking_is_kept_with_who_did_it(api):
    made = api.send(PATH, {"name": "ci"}).json()["id"]

    first, again = api.delete(f"{PATH}/{made}"), api.delete(f"{PATH}/{made}")

    facts = Transition.objects.filter(subject="token", subject_id=made).order_by("pk")
    assert (first.status_code, again.status_code) == (204, 204)
    assert list(facts.values_list("from_state", "to_state", "by")) == [
        ("", "valid", "token:root"),
        ("valid", "revoked", "token:root"),
    ]


def test_a_revoked_token_is_refused_at_once_and_leaves_the_list(api):
    made = api.send(PATH, {"name": "ci"}).json()
    api.delete(f"{PATH}/{made['id']}")

    assert Api(made["token"]).get("/api/v1/runs").status_code == 401
    assert [item["name"] for item in api.get(PATH).json()["items"]] == ["root"]
    assert [item["name"] for item in api.get(f"{PATH}?revoked=true").json()["items"]] == ["ci"]


def test_a_token_for_some_jobs_makes_none_for_others():
    new_job("mine"), new_job("foreign")
    api = Api(token_text("admin", jobs=("mine",)))

    refused = [api.send(PATH, {"name": "x", "jobs": jobs}) for jobs in (["foreign"], ["mine", "foreign"], [])]

    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(403, "out_of_scope")] * 3
    assert api.send(PATH, {"name": "x", "jobs": ["mine"]}).status_code == 201


def test_a_token_makes_none_that_lives_longer():
    token, text = new_token("admin")
    ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() + timedelta(hours=1))
    api = Api(text)

    for_ever = api.send(PATH, {"name": "x"})
    longer = api.send(PATH, {"name": "x", "expires_at": (timezone.now() + timedelta(hours=2)).isoformat()})
    shorter = api.send(PATH, {"name": "x", "expires_at": (timezone.now() + timedelta(minutes=30)).isoformat()})

    assert (for_ever.status_code, longer.status_code, shorter.status_code) == (403, 403, 201)


def test_only_an_administrator_sees_or_makes_tokens():
    operator = Api(token_text("operate", "read", "trigger"))

    answers = [
        operator.get(PATH),
        operator.send(PATH, {"name": "x", "scopes": ["admin"]}),
        operator.delete(f"{PATH}/1"),
    ]

    assert [answer.status_code for answer in answers] == [403] * 3


def test_tokens_of_others_do_not_exist_to_a_token_for_some_jobs(api):
    new_job("mine")
    limited = Api(token_text("admin", jobs=("mine",), name="limited"))
    root = ApiToken.objects.get(name="root").pk

    assert [item["name"] for item in limited.get(PATH).json()["items"]] == ["limited"]
    assert (limited.get(f"{PATH}/{root}").status_code, limited.delete(f"{PATH}/{root}").status_code) == (404, 404)
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))
    assert stranger.delete(f"{PATH}/{root}").status_code == 404


def test_every_problem_of_a_token_is_named(api):
    past = api.send(PATH, {"name": " ", "scopes": ["write"], "jobs": ["unknown"], "expires_at": "2020-01-01T00:00:00Z"})
    shape = api.send(PATH, {"scopes": "read", "jobs": [5], "expires_at": "tomorrow", "token": "x"})

    assert set(problems(past)) == {"name", "scopes", "jobs", "expires_at"}
    assert set(problems(shape)) == {"name", "scopes", "jobs", "expires_at", "token"}
