"""A sql task from its definition to its result, on a connection that is stored as people store it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from orchestrator.conf import options
from orchestrator.dag.spec import JobSpec, ParameterSpec, TaskSpec
from orchestrator.models import Attempt, TaskRun
from orchestrator.services import secrets
from orchestrator.services.connections import delete_connection, set_connection
from orchestrator.store import log_key, store_of_process
from tests.support.factories import default_tenant, job_of, run_of
from tests.support.simulation import WORKER, Broker
from workers.runtime.attempt import run_attempt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch):
    def use(*keys: str) -> None:
        monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})

    use(Fernet.generate_key().decode())
    return use


@pytest.fixture
def orders(tmp_path: Path, keys) -> Path:
    path = tmp_path / "orders.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "create table orders (d text, note text); insert into orders values ('x', 'hunter2-key')"
        )
    set_connection(tenant=default_tenant(), name="warehouse", url=f"sqlite:///{path}", by="ada")
    return path


def attempted(**config: object) -> TaskRun:
    spec = JobSpec(
        name="counting",
        parameters=(ParameterSpec("key", "secret", default={"secret": "api"}),),
        tasks=(TaskSpec("count", "sql", config={"connection": "warehouse", **config}),),
    )
    run = run_of(job_of(spec), parameters={"key": {"secret": "api"}})
    task_run = TaskRun.objects.get(run=run)
    run_attempt(task_run.pk, worker=WORKER)
    task_run.refresh_from_db()
    return task_run


def test_a_task_reads_its_connection_and_keeps_its_result(broker: Broker, orders: Path) -> None:
    secrets.set_secret(tenant=default_tenant(), name="api", value="hunter2-key", by="ada")

    row = attempted(
        statement="select note, count(*) as n from orders where note = :key",
        bind={"key": "${params.key}"},
        result="first_row",
    )

    log = store_of_process().read(log_key(row.run_id, Attempt.objects.get(task_run=row).pk)).decode()
    assert (row.state, row.reason, row.result) == ("succeeded", "", {"note": "***", "n": 1})
    assert "1/1: select note" in log
    assert "hunter2" not in log


def test_a_connection_that_does_not_exist_is_named(broker: Broker, orders: Path) -> None:
    delete_connection(tenant=default_tenant(), name="warehouse", by="ada")

    row = attempted(statement="select 1")

    assert row.state == "failed"
    assert row.reason.startswith("connection: 'warehouse': There is no connection 'warehouse'.")


def test_a_key_that_is_gone_is_named_and_may_come_back(broker: Broker, orders: Path, keys) -> None:
    keys(Fernet.generate_key().decode())

    row = attempted(statement="select 1")

    assert "UPBEAT_ENCRYPTION_KEYS" in row.reason
    assert Attempt.objects.get(task_run=row).failure_kind == "retryable"


def test_a_path_that_leads_to_upbeats_own_data_is_refused(broker: Broker, orders: Path) -> None:
    orders.unlink()
    orders.symlink_to(options().home_path / "upbeat.sqlite3")

    row = attempted(statement="select 1")

    assert Attempt.objects.get(task_run=row).failure_kind == "permanent"
    assert "own data" in row.reason
