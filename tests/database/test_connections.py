"""Connections and the keys that hide them: what is stored, what is shown, who may let go of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError

from orchestrator.conf import options
from orchestrator.dag.spec import JobSpec, ParameterSpec, TaskSpec
from orchestrator.errors import InvalidRequest, Misconfigured
from orchestrator.models import Connection, Secret, Tenant, Transition
from orchestrator.services import connections, secrets
from orchestrator.services.connections import ConnectionInUse, OwnDatabase, UnknownConnection
from orchestrator.services.jobs import apply_definition, archive_job
from orchestrator.services.rekey import rekey
from orchestrator.services.runs import start_run
from orchestrator.services.secrets import SecretInUse
from tests.support.records import default_tenant

pytestmark = pytest.mark.django_db
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
URL = "postgresql://etl:p%40ss-word@db.example:5432/sales?sslmode=require"


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    def use(*keys: str) -> None:
        monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})

    use(OLD)
    return use


def stored(name: str = "warehouse", url: str = URL, **more) -> Connection:
    return connections.set_connection(tenant=default_tenant(), name=name, url=url, by="ada", **more)


def expected(url: str) -> str:
    with pytest.raises(InvalidRequest) as refused:
        stored(url=url)
    assert [detail.value for detail in refused.value.details] == [None]
    return refused.value.details[0].expected


def test_a_connection_is_stored_encrypted_and_revealed_by_name():
    row = stored(description="The warehouse")

    assert b"p%40ss-word" not in bytes(row.ciphertext)
    assert connections.reveal_connection(default_tenant().pk, "warehouse") == URL
    assert row.shown_url == "postgresql://etl:***@db.example:5432/sales?sslmode=require"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://etl@db/sales", "postgresql://etl@db/sales"),
        ("postgresql+psycopg://etl:x1y2z3@db/sales", "postgresql://etl:***@db/sales"),
        (
            "postgresql://db/sales?user=etl&password=x1y2z3&sslmode=require",
            "postgresql://db/sales?sslmode=require&user=etl&password=***",
        ),
        ("postgresql://db/sales?sslkey=%2Fk&sslpassword=x1y2z3", "postgresql://db/sales?sslkey=%2Fk&sslpassword=***"),
        ("postgresql://etl:x1y2z3@[::1]:5433/sales", "postgresql://etl:***@[::1]:5433/sales"),
        ("sqlite:////srv/data/orders.sqlite3", "sqlite:////srv/data/orders.sqlite3"),
    ],
)
def test_a_password_is_shown_nowhere(url, shown):
    row = stored(url=url)

    assert row.shown_url == shown
    assert "x1y2z3" not in row.shown_url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "postgresql://user:password@host:5432/database"),
        ("warehouse", "postgresql://user:password@host:5432/database"),
        ("mysql://etl:hunter2@db/sales", "the dialect mysql is not supported; supported: postgresql"),
        ("postgresql+psycopg2://etl:hunter2@db/sales", "the driver psycopg2 is not supported"),
        ("postgresql://etl:hun@ter2@db/sales", "%40"),
        ("postgresql://etl:hunter2@db", "the name of the database"),
        ("postgresql://etl:hunter2@db:port/sales", "postgresql://user:password@host:5432/database"),
        ("postgresql://etl:hunter2@db/sales?service=other", "no parameter service"),
        ("postgresql://etl:hunter2@db/sales?passfile=/etc/passwd", "no parameter passfile"),
        ("postgresql://db/sales?password=hunter2&password=hunter3", "password once"),
        ("postgresql://etl:hunter2@db/sa les", "without spaces"),
        ("sqlite://", "absolute path"),
        ("sqlite:///orders.sqlite3", "absolute path"),
        ("sqlite:///:memory:", "absolute path"),
        ("sqlite:///file:/srv/x?mode=ro", "absolute path"),
        ("sqlite:////srv/x?mode=ro", "without parameters"),
        ("postgresql://etl:hunter2@db/" + "s" * 600, "at most 500 characters"),
        ("x" * 5000, "at most 4096"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_quoted(url, words):
    said = expected(url)

    assert words in said
    assert "hunter2" not in said
    assert not Connection.objects.exists()


@pytest.mark.parametrize("name", ["", "two words", "a/b", "x" * 101])
def test_a_bad_name_is_refused(name):
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        stored(name=name)


def test_upbeats_own_data_is_no_connection(tmp_path):
    home = options().home_path
    home.mkdir(parents=True, exist_ok=True)
    link = tmp_path / "innocent.sqlite3"
    link.symlink_to(home / "upbeat.sqlite3")

    for path in (home / "upbeat.sqlite3", home / "store" / "x", link, home / ".." / home.name / "secret-key"):
        with pytest.raises(OwnDatabase):
            stored(url=f"sqlite:///{path}")


@pytest.mark.postgresql
def test_the_ledgers_database_is_no_connection():
    own = settings.DATABASES["default"]
    port = own["PORT"] or 5432

    for host in (own["HOST"], "localhost"):
        with pytest.raises(OwnDatabase):
            stored(url=f"postgresql://x:y@{host}:{port}/{own['NAME']}")
    with pytest.raises(OwnDatabase):
        stored(url=f"postgresql:///x?host={own['HOST']}&port={port}&dbname={own['NAME']}")


def test_a_path_that_became_a_link_to_the_ledger_is_refused_when_it_is_used(tmp_path):
    path = tmp_path / "orders.sqlite3"
    stored(url=f"sqlite:///{path}")
    path.symlink_to(options().home_path / "upbeat.sqlite3")

    with pytest.raises(OwnDatabase):
        connections.reveal_connection(default_tenant().pk, "warehouse")


def test_what_must_be_masked_is_all_of_a_password_wherever_it_stands():
    assert set(connections.secrets_of(URL)) == {URL, "p@ss-word"}
    in_query = "postgresql://db/sales?password=p%40ss&sslpassword=key-pass"
    assert set(connections.secrets_of(in_query)) == {in_query, "p@ss", "key-pass"}
    assert connections.secrets_of("nonsense") == ("nonsense",)


def test_a_connection_of_another_tenant_does_not_exist():
    stored()
    other = Tenant.objects.create(slug="other")

    with pytest.raises(UnknownConnection):
        connections.reveal_connection(other.pk, "warehouse")


def test_every_change_is_recorded_with_who_and_why_and_without_values():
    stored()
    stored(url="postgresql://etl:n3w-p4ss@db/sales", reason="new password")
    connections.delete_connection(tenant=default_tenant(), name="warehouse", by="bob")
    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    secrets.delete_secret(tenant=default_tenant(), name="api", by="bob", reason="unused")

    rows = Transition.objects.order_by("id").values_list("subject", "from_state", "to_state", "reason", "by")
    assert list(rows) == [
        ("connection", "", "stored", "warehouse stored", "ada"),
        ("connection", "stored", "stored", "new password", "ada"),
        ("connection", "stored", "deleted", "warehouse deleted", "bob"),
        ("secret", "", "stored", "api stored", "ada"),
        ("secret", "stored", "deleted", "unused", "bob"),
    ]


def job_with_both(name: str = "nightly"):
    spec = JobSpec(
        name=name,
        parameters=(ParameterSpec("api_key", "secret", default={"secret": "api"}),),
        tasks=(TaskSpec("load", "sql", config={"connection": "warehouse", "statement": "select 1"}),),
    )
    return apply_definition(tenant=default_tenant(), spec=spec, source="", author="ada").job


def test_what_a_job_names_is_not_deleted():
    stored()
    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    job = job_with_both()

    with pytest.raises(ConnectionInUse, match="the job nightly"):
        connections.delete_connection(tenant=default_tenant(), name="warehouse", by="bob")
    with pytest.raises(SecretInUse, match="the job nightly"):
        secrets.delete_secret(tenant=default_tenant(), name="api", by="bob")

    archive_job(job, by="bob")
    connections.delete_connection(tenant=default_tenant(), name="warehouse", by="bob")
    secrets.delete_secret(tenant=default_tenant(), name="api", by="bob")
    assert not Connection.objects.exists()
    assert not Secret.objects.exists()


def test_what_an_open_run_names_is_not_deleted():
    stored()
    for name in ("api", "other"):
        secrets.set_secret(tenant=default_tenant(), name=name, value="v4lue", by="ada")
    job = job_with_both()
    run = start_run(
        tenant=default_tenant(),
        job_name=job.name,
        parameters={"api_key": {"secret": "other"}},
        trigger={"kind": "test", "by": "ada"},
    ).run
    archive_job(job, by="bob")

    with pytest.raises(ConnectionInUse, match=f"run {run.pk}"):
        connections.delete_connection(tenant=default_tenant(), name="warehouse", by="bob")
    with pytest.raises(SecretInUse, match=f"run {run.pk}"):
        secrets.delete_secret(tenant=default_tenant(), name="other", by="bob")


def test_a_secret_that_the_tenant_names_is_not_deleted():
    tenant = default_tenant()
    secrets.set_secret(tenant=tenant, name="api", value="v4lue", by="ada")
    tenant.parameters = {"api_key": {"secret": "api"}}
    tenant.save()

    with pytest.raises(SecretInUse, match="the tenant's parameters"):
        secrets.delete_secret(tenant=tenant, name="api", by="bob")


# Keys.


def test_keys_are_rotated_without_losing_anything(keys):
    stored()
    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    changed_at = Secret.objects.get().updated_at
    keys(NEW, OLD)
    secrets.set_secret(tenant=default_tenant(), name="fresh", value="fr3sh", by="ada")

    first, second = rekey(by="ops"), rekey(by="ops")

    keys(NEW)
    assert (first.renewed, first.already, first.lost) == (2, 1, ())
    assert (second.renewed, second.already) == (0, 3)
    assert secrets.reveal_secrets(default_tenant().pk, ["api", "fresh"]) == {"api": "v4lue", "fresh": "fr3sh"}
    assert connections.reveal_connection(default_tenant().pk, "warehouse") == URL
    assert Secret.objects.get(name="api").updated_at == changed_at
    assert Transition.objects.filter(cause="rekey", by="ops").count() == 2


def test_a_lost_key_is_named_with_what_it_hides_and_the_rest_is_rotated(keys):
    stored()
    keys(NEW)
    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    out, err = StringIO(), StringIO()

    with pytest.raises(CommandError, match="add the missing key"):
        call_command("rekey", stdout=out, stderr=err)

    assert "connection default/warehouse" in err.getvalue()
    assert "1 were under the first key" in out.getvalue()
    with pytest.raises(Misconfigured, match="UPBEAT_ENCRYPTION_KEYS"):
        connections.reveal_connection(default_tenant().pk, "warehouse")


# Commands.


@pytest.fixture
def typed(monkeypatch):
    def type_(text: str) -> None:
        monkeypatch.setattr("sys.stdin", StringIO(text))

    return type_


def said(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_a_connection_is_set_from_standard_input_or_a_file_and_listed(typed, tmp_path: Path):
    typed(f"{URL}\n")
    answered = said("set_connection", "warehouse", "--description", "The warehouse")
    file = tmp_path / "url"
    file.write_text("sqlite:////srv/orders.sqlite3\n")
    said("set_connection", "orders", "--file", str(file))

    listed = json.loads(said("list_connections", "--json"))
    assert answered == "warehouse stored: postgresql://etl:***@db.example:5432/sales?sslmode=require\n"
    assert [(row["name"], row["shown_url"]) for row in listed] == [
        ("orders", "sqlite:////srv/orders.sqlite3"),
        ("warehouse", "postgresql://etl:***@db.example:5432/sales?sslmode=require"),
    ]
    assert connections.reveal_connection(default_tenant().pk, "warehouse") == URL
    assert "p%40ss" not in said("list_connections")


def test_a_url_that_is_refused_is_not_printed(typed):
    typed("mysql://etl:hunter2@db/sales")

    with pytest.raises(CommandError) as refused:
        said("set_connection", "warehouse")

    assert "hunter2" not in str(refused.value)
    assert "mysql is not supported" in str(refused.value)


def test_secrets_are_listed_and_deleted_by_command(typed):
    typed("v4lue\n")
    said("set_secret", "api", "--reason", "first")

    assert [row["name"] for row in json.loads(said("list_secrets", "--json"))] == ["api"]
    assert "v4lue" not in said("list_secrets")
    assert secrets.reveal_secrets(default_tenant().pk, ["api"]) == {"api": "v4lue"}

    said("delete_secret", "api")
    with pytest.raises(CommandError, match="no secret api"):
        said("delete_secret", "api")


def test_a_connection_is_deleted_by_command_unless_it_is_in_use(typed):
    stored()
    secrets.set_secret(tenant=default_tenant(), name="api", value="v4lue", by="ada")
    job = job_with_both()

    with pytest.raises(CommandError, match="the job nightly"):
        said("delete_connection", "warehouse")
    archive_job(job, by="bob")

    assert said("delete_connection", "warehouse") == "warehouse deleted\n"
