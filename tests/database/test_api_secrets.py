"""Secrets and connections by the API: set, seen without what they hide, deleted when nothing names them."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from orchestrator.conf import options
from orchestrator.models import Connection, Secret, Tenant, Transition
from orchestrator.services import connections, secrets
from tests.support.api import Api
from tests.support.records import default_tenant, new_job, token_text

pytestmark = pytest.mark.django_db
KEY = Fernet.generate_key().decode()
URL = "postgresql://etl:hunter2-hunter2@db.example:5432/sales"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (KEY,)})


def put(api: Api, path: str, body: object):
    import json

    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return api.put(f"/api/v1/{path}", text, content_type="application/json")


def test_a_secret_is_stored_replaced_listed_and_deleted_without_ever_being_shown():
    api = Api(token_text("admin"))

    made = put(api, "secrets/reports-api", {"value": "hunter2-hunter2", "reason": "first"})
    again = put(api, "secrets/reports-api", {"value": "hunter3-hunter3"})
    listed = api.get("/api/v1/secrets")
    read = api.get("/api/v1/secrets/reports-api")

    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == {**listed.json()["items"][0], "used_by": [], "updated_at": made.json()["updated_at"]}
    assert read.json()["updated_by"] == "token:ci"
    assert "hunter" not in "".join(each.content.decode() for each in (made, again, listed, read))
    assert secrets.reveal_secrets(default_tenant().pk, ["reports-api"]) == {"reports-api": "hunter3-hunter3"}

    assert api.delete("/api/v1/secrets/reports-api").status_code == 204
    assert api.get("/api/v1/secrets/reports-api").status_code == 404
    assert [row.by for row in Transition.objects.filter(subject="secret")] == ["token:ci"] * 3


def test_a_connection_is_stored_replaced_listed_and_deleted_without_its_password():
    api = Api(token_text("admin"))

    made = put(api, "connections/warehouse", {"url": URL, "description": "The warehouse"})
    again = put(api, "connections/warehouse", {"url": "sqlite:////srv/orders.sqlite3"})
    listed = api.get("/api/v1/connections")

    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json()["shown_url"] == "postgresql://etl:***@db.example:5432/sales"
    assert made.json()["description"] == "The warehouse"
    assert [item["shown_url"] for item in listed.json()["items"]] == ["sqlite:////srv/orders.sqlite3"]
    assert "hunter" not in made.content.decode() + again.content.decode() + listed.content.decode()
    assert api.delete("/api/v1/connections/warehouse").status_code == 204
    assert not Connection.objects.exists()


@pytest.mark.parametrize("kind", ["secrets", "connections"])
def test_lists_come_page_by_page(kind):
    for name in ("a", "b", "c"):
        secrets.set_secret(tenant=default_tenant(), name=name, value="v4lue", by="ada")
        connections.set_connection(tenant=default_tenant(), name=name, url=URL, by="ada")
    api = Api(token_text())

    first = api.get(f"/api/v1/{kind}?limit=2").json()
    second = api.get(f"/api/v1/{kind}?limit=2&cursor={first['next']}").json()

    assert [item["name"] for item in first["items"] + second["items"]] == ["a", "b", "c"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("path", "body", "path_of_problem"),
    [
        ("secrets/a", {}, "value"),
        ("secrets/a", {"value": ""}, "value"),
        ("secrets/a", {"value": 1234567}, "value"),
        ("secrets/a", {"value": ["hunter2"]}, "value"),
        ("secrets/a", {"valeu": "hunter2", "value": "x"}, "valeu"),
        ("secrets/a", {"value": "x" * 70_000}, "value"),
        ("secrets/a", '{"value": "\\ud800"}', ""),
        ("connections/a", {}, "url"),
        ("connections/a", {"url": 7}, "url"),
        ("connections/a", {"url": "mysql://etl:hunter2@db/sales"}, "url"),
        ("connections/a", {"url": "postgresql://etl:hun@ter2@db/sales"}, "url"),
        ("connections/a", {"url": URL, "password": "hunter2"}, "password"),
        ("connections/a", {"url": URL, "description": "x" * 501}, "description"),
    ],
)
def test_a_refused_value_is_not_repeated(path, body, path_of_problem):
    answer = put(Api(token_text("admin")), path, body)

    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "message", "details"}
    assert not path_of_problem or path_of_problem in [detail["path"] for detail in answer.json()["details"]]
    assert "hunter2" not in answer.content.decode()
    assert "ter2" not in answer.content.decode()
    assert not Secret.objects.exists()
    assert not Connection.objects.exists()


@pytest.mark.parametrize("path", ["secrets/a%20b", "secrets/", "connections/-a", f"secrets/{'x' * 101}"])
def test_a_name_that_cannot_be_is_no_path(path):
    assert put(Api(token_text("admin")), path, {"value": "x", "url": URL}).status_code == 404


@pytest.mark.parametrize("kind", ["secrets", "connections"])
def test_reading_needs_read_and_changing_needs_admin(kind):
    body = {"value": "x"} if kind == "secrets" else {"url": URL}
    reader, operator = Api(token_text("read")), Api(token_text("read", "operate", "trigger"))

    assert reader.get(f"/api/v1/{kind}").status_code == 200
    assert Api(token_text("trigger")).get(f"/api/v1/{kind}").status_code == 403
    for api in (reader, operator):
        assert put(api, f"{kind}/a", body).status_code == 403
        assert api.delete(f"/api/v1/{kind}/a").status_code == 403


@pytest.mark.parametrize("kind", ["secrets", "connections"])
def test_a_token_for_named_jobs_sees_and_changes_none(kind):
    new_job("nightly-etl")
    api = Api(token_text("admin", jobs=("nightly-etl",)))

    assert api.get(f"/api/v1/{kind}").status_code == 403
    assert put(api, f"{kind}/a", {"value": "x"} if kind == "secrets" else {"url": URL}).status_code == 403


def test_another_tenants_are_not_seen():
    other = Tenant.objects.create(slug="other")
    secrets.set_secret(tenant=other, name="a", value="v4lue", by="ada")
    connections.set_connection(tenant=other, name="a", url=URL, by="ada")
    api = Api(token_text("admin"))

    assert api.get("/api/v1/secrets").json()["items"] == []
    for path in ("secrets/a", "connections/a"):
        assert api.get(f"/api/v1/{path}").status_code == 404
        assert api.delete(f"/api/v1/{path}").status_code == 404


def test_what_is_in_use_is_not_deleted_and_says_by_whom():
    from tests.database.test_connections import job_with_both

    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    connections.set_connection(tenant=default_tenant(), name="warehouse", url=URL, by="ada")
    job_with_both("nightly")
    api = Api(token_text("admin"))

    for path, code in (("secrets/api", "secret_in_use"), ("connections/warehouse", "connection_in_use")):
        answer = api.delete(f"/api/v1/{path}")

        assert (answer.status_code, answer.json()["code"]) == (409, code)
        assert api.get(f"/api/v1/{path}").json()["used_by"] == ["the job nightly"]
