"""Secrets and connections in the admin: written there, never read there."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from orchestrator.conf import options
from orchestrator.models import Connection, Secret, Transition
from orchestrator.services import connections, secrets
from tests.support.records import default_tenant

pytestmark = pytest.mark.django_db
URL = "postgresql://etl:hunter2-hunter2@db.example:5432/sales"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    key = Fernet.generate_key().decode()
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (key,)})


def path(model: str, rest: str = "") -> str:
    return f"/admin/orchestrator/{model}/{rest}"


def add(client, model: str, **fields: str):
    return client.post(path(model, "add/"), {"tenant": default_tenant().pk, "name": "a", **fields}, follow=True)


def test_a_secret_is_stored_and_replaced_and_its_value_never_comes_back(admin_client):
    added = add(admin_client, "secret", value="hunter2-hunter2")
    row = Secret.objects.get()
    shown = admin_client.get(path("secret", f"{row.pk}/change/"))
    changed = admin_client.post(path("secret", f"{row.pk}/change/"), {"value": "hunter3-hunter3"}, follow=True)

    assert secrets.reveal_secrets(default_tenant().pk, ["a"]) == {"a": "hunter3-hunter3"}
    for page in (added, shown, changed, admin_client.get(path("secret"))):
        assert "hunter" not in page.content.decode()
    assert [row.by for row in Transition.objects.filter(subject="secret")] == ["user:admin"] * 2


def test_a_connection_is_stored_and_its_password_never_comes_back(admin_client):
    added = add(admin_client, "connection", url=URL, description="The warehouse")
    row = Connection.objects.get()
    shown = admin_client.get(path("connection", f"{row.pk}/change/"))

    assert connections.reveal_connection(default_tenant().pk, "a") == URL
    assert "postgresql://etl:***@db.example:5432/sales" in shown.content.decode()
    for page in (added, shown, admin_client.get(path("connection"))):
        assert "hunter" not in page.content.decode()


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("secret", {"value": "hunter2", "name": "two words"}, "Expected 1 to 100 letters"),
        ("secret", {"value": "hunter2" * 10_000}, "Expected 1 to 65536 bytes"),
        ("connection", {"url": "mysql://etl:hunter2@db/sales"}, "mysql is not supported"),
        ("connection", {"url": "postgresql://etl:hunter2@db"}, "the name of the database"),
    ],
)
def test_what_the_service_refuses_stands_beside_its_field_without_the_value(admin_client, model, fields, words):
    page = add(admin_client, model, **fields).content.decode()

    assert words in page
    assert "hunter2" not in page
    assert not Secret.objects.exists()
    assert not Connection.objects.exists()


def test_upbeats_own_data_is_refused_here_too(admin_client):
    page = add(admin_client, "connection", url=f"sqlite:///{options().home_path / 'upbeat.sqlite3'}").content.decode()

    assert "own data" in page
    assert not Connection.objects.exists()


def test_one_that_is_in_use_stays_and_says_why(admin_client):
    from tests.database.test_connections import job_with_both

    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    connections.set_connection(tenant=default_tenant(), name="warehouse", url=URL, by="ada")
    job_with_both()

    for model, row in (("secret", Secret.objects.get()), ("connection", Connection.objects.get())):
        single = admin_client.post(path(model, f"{row.pk}/delete/"), {"post": "yes"}, follow=True)
        many = admin_client.post(path(model), {"action": "delete_chosen", "_selected_action": [row.pk]}, follow=True)

        for page in (single, many):
            assert "in use by the job nightly" in str(next(iter(page.context["messages"])))
        assert type(row).objects.filter(pk=row.pk).exists()


@pytest.mark.parametrize("many", [True, False])
def test_one_that_nothing_names_is_deleted_and_that_is_recorded(admin_client, many):
    connections.set_connection(tenant=default_tenant(), name="warehouse", url=URL, by="ada")
    row = Connection.objects.get()

    if many:
        admin_client.post(path("connection"), {"action": "delete_chosen", "_selected_action": [row.pk]}, follow=True)
    else:
        admin_client.post(path("connection", f"{row.pk}/delete/"), {"post": "yes"}, follow=True)

    assert not Connection.objects.exists()
    assert Transition.objects.filter(subject="connection", to_state="deleted", by="user:admin").count() == 1


def test_a_person_who_may_only_look_changes_nothing(client, django_user_model):
    from django.contrib.auth.models import Permission

    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=["view_secret", "view_connection"]))
    client.force_login(person)
    secrets.set_secret(tenant=default_tenant(), name="a", value="v4lue", by="ada")
    row = Secret.objects.get()

    assert client.get(path("secret", f"{row.pk}/change/")).status_code == 200
    assert client.post(path("secret", f"{row.pk}/change/"), {"value": "other"}).status_code == 403
    client.post(path("secret"), {"action": "delete_chosen", "_selected_action": [row.pk]})
    assert secrets.reveal_secrets(default_tenant().pk, ["a"]) == {"a": "v4lue"}
