"""Locks as people manage them: definition by service, command, file, API and admin; release of a stuck holder."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orchestrator.errors import InvalidRequest
from orchestrator.models import Job, JobRun, Lock, LockRequest, TaskRun, Transition
from orchestrator.selectors.locks import UnknownLock, lock_of, use_of
from orchestrator.services.attempts import AttemptEnd
from orchestrator.services.locks import LockInUse, LockNotHeld, delete_lock, release_holder, set_lock
from tests.support.factories import age, default_tenant, run_of, state_of, states_of, task_of
from tests.support.records import token_text
from tests.support.simulation import FAILURE, Broker, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

LOAD = "load; load: locks=warehouse"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "locks.md"
LOCK = "kind: Lock\nname: warehouse\ncapacity: 3\ndescription: The warehouse takes three loads at once.\n"


def define(capacity: int = 1, name: str = "warehouse", **more: Any) -> str:
    return set_lock(tenant=default_tenant(), name=name, capacity=capacity, by="ada", **more).outcome


def holders(name: str = "warehouse") -> list[int]:
    rows = LockRequest.objects.filter(lock__name=name, granted_at__isnull=False).order_by("granted_at", "id")
    return list(rows.values_list("task_run__run_id", flat=True))


def release(run: JobRun, task: str = "load", *, lock: str = "warehouse", reason: str = "it hangs") -> Any:
    return release_holder(
        tenant_id=run.tenant_id, name=lock, task_run_id=task_of(run, task).pk, by="user:ada", reason=reason
    )


class TestDefinition:
    def test_a_lock_is_created_changed_and_left_as_it_is(self) -> None:
        assert [define(2), define(3, description="of the warehouse"), define(3)] == ["created", "updated", "unchanged"]

        lock = Lock.objects.get()
        assert (lock.capacity, lock.description, lock.updated_by) == (3, "of the warehouse", "ada")
        facts = Transition.objects.filter(subject="lock", subject_id=lock.pk).order_by("id")
        assert list(facts.values_list("to_state", "reason", "by")) == [
            ("defined", "lock warehouse: capacity 2", "ada"),
            ("defined", "lock warehouse: capacity 2 → 3; another description", "ada"),
        ]

    @pytest.mark.parametrize(
        ("name", "capacity", "path"), [("no spaces", 1, "name"), ("", 1, "name"), ("a", 0, "capacity"), ("a", 10**6, "capacity")]
    )  # fmt: skip
    def test_a_lock_that_cannot_be_is_refused_by_the_field(self, name: str, capacity: int, path: str) -> None:
        with pytest.raises(InvalidRequest) as refused:
            define(capacity, name)

        assert [detail.path for detail in refused.value.details] == [path]
        assert not Lock.objects.exists()

    def test_a_raised_capacity_is_granted_at_once(self, broker: Broker) -> None:
        first, second, third = (run_of(LOAD) for _ in range(3))
        broker.published.clear()

        define(2)

        assert holders() == [first.pk, second.pk]
        assert broker.hinted() == [task_of(second, "load").pk]
        assert holders() != [third.pk]

    def test_lowering_takes_nothing_away_and_counts_from_the_next_grant_on(self) -> None:
        define(2)
        first, second, third = (run_of(LOAD) for _ in range(3))

        define(1)
        assert holders() == [first.pk, second.pk]
        run_task(first, "load")
        assert holders() == [second.pk]
        run_task(second, "load")

        assert holders() == [third.pk]

    def test_a_lock_in_use_is_not_deleted_and_one_that_is_not_comes_back_with_capacity_one(self) -> None:
        define(2)
        run = run_of(LOAD)
        with pytest.raises(LockInUse):
            delete_lock(tenant_id=run.tenant_id, name="warehouse", by="ada")
        run_task(run, "load")

        delete_lock(tenant_id=run.tenant_id, name="warehouse", by="ada")

        assert not Lock.objects.exists()
        with pytest.raises(UnknownLock):
            delete_lock(tenant_id=run.tenant_id, name="warehouse", by="ada")
        run_of(LOAD)
        assert lock_of(run.tenant_id, "warehouse").capacity == 1


class TestView:
    def test_holders_come_in_the_order_of_grants_and_waiters_in_the_order_of_turns(self) -> None:
        define(2)
        first, second, third = (run_of(LOAD) for _ in range(3))
        urgent = run_of("load; load: locks=warehouse priority=P0")
        claim(second, "load", worker="w2/1.1")

        use = use_of(Lock.objects.get())

        assert [(h.run_id, h.state, h.attempt, h.worker) for h in use.holders] == [
            (first.pk, "ready", 0, ""), (second.pk, "running", 1, "w2/1.1"),
        ]  # fmt: skip
        assert [(w.position, w.run_id, w.priority) for w in use.waiters] == [(1, urgent.pk, 0), (2, third.pk, 2)]
        assert (use.held, use.waiting) == (2, 2)
        assert all(each.job and each.task == "load" and each.since for each in (*use.holders, *use.waiters))

    def test_it_costs_the_same_for_any_number(self) -> None:
        run_of(LOAD)
        counts = []
        lock = Lock.objects.get()
        for _ in range(2):
            with CaptureQueriesContext(connection) as captured:
                use_of(lock)
            counts.append(len(captured))
            for _ in range(8):
                run_of(LOAD)

        assert counts == [4, 4]


class TestRelease:
    def test_a_running_holder_goes_on_and_its_end_neither_breaks_nor_grants_twice(self, broker: Broker) -> None:
        first, second, third = (run_of(LOAD) for _ in range(3))
        stuck = claim(first, "load")

        released = release(first)

        assert (released.state, released.run_id) == ("running", first.pk)
        assert "goes on running without the lock warehouse" in released.text
        assert holders() == [second.pk]
        assert settle(stuck)
        assert state_of(first) == "succeeded"
        assert holders() == [second.pk], "the end of the first frees nothing that the second holds"
        run_task(second, "load")
        assert holders() == [third.pk]

    def test_it_is_recorded_with_who_and_why(self) -> None:
        run = run_of(LOAD)
        claim(run, "load")

        release(run, reason="the warehouse was restarted")

        fact = Transition.objects.get(cause="release_lock")
        assert (fact.subject, fact.subject_id, fact.run_id) == ("task_run", task_of(run, "load").pk, run.pk)
        assert (fact.from_state, fact.to_state, fact.by) == ("running", "running", "user:ada")
        assert fact.reason == "lock warehouse released: the warehouse was restarted"

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_without_a_reason_nothing_is_released(self, reason: str) -> None:
        run = run_of(LOAD)

        with pytest.raises(InvalidRequest):
            release(run, reason=reason)

        assert holders() == [run.pk]

    def test_a_grant_that_nobody_used_goes_to_the_next_and_asks_again(self, broker: Broker) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        broker.published.clear()

        assert release(first).state == "ready"

        assert holders() == [second.pk]
        assert broker.hinted() == [task_of(second, "load").pk]
        run_task(second, "load")
        run_task(first, "load")
        assert state_of(first) == "succeeded"

    def test_alone_it_gets_its_grant_back(self, broker: Broker) -> None:
        run = run_of(LOAD)

        release(run)

        assert holders() == [run.pk]
        run_task(run, "load")

    def test_one_of_two_locks_of_a_running_holder_is_released_alone(self) -> None:
        both, other = run_of("t; t: locks=a,b"), run_of("t; t: locks=a")
        held = claim(both, "t")

        release(both, "t", lock="a")

        assert (holders("a"), holders("b")) == ([other.pk], [both.pk])
        settle(held)
        assert holders("b") == []
        assert holders("a") == [other.pk]

    def test_a_holder_that_fails_afterwards_asks_again_before_its_retry(self) -> None:
        first, second = run_of("load; load: locks=warehouse attempts=2 delay=1"), run_of(LOAD)
        held = claim(first, "load")
        release(first)

        settle(held, FAILURE)
        age(first, seconds=2)
        heal()

        assert states_of(first) == {"load": "ready"}
        assert holders() == [second.pk]
        run_task(second, "load")
        run_task(first, "load")
        assert state_of(first) == "succeeded"

    def test_a_deferred_holder_keeps_its_lock_and_asks_again_when_it_was_released(self) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        settle(claim(first, "load"), AttemptEnd(defer_seconds=60))
        assert holders() == [first.pk]

        released = release(first)

        assert (released.state, holders()) == ("deferred", [second.pk])
        assert "asks for the lock warehouse again when it is due" in released.text
        age(first, seconds=61)
        heal()
        assert holders() == [second.pk]
        run_task(second, "load")
        run_task(first, "load")
        assert state_of(first) == "succeeded"

    def test_the_lock_of_a_vanished_worker_need_not_be_waited_for(self) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load")
        age(first, seconds=16)
        heal()
        assert holders() == [first.pk]

        release(first)

        assert holders() == [second.pk]
        age(first, seconds=30)
        assert "lock_released" not in heal()

    def test_who_holds_nothing_cannot_be_released_and_twice_is_refused(self) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load")
        with pytest.raises(LockNotHeld):
            release(second)
        release(first)

        with pytest.raises(LockNotHeld):
            release(first)

        assert holders() == [second.pk]
        with pytest.raises(UnknownLock):
            release(first, lock="other")


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "lock.yaml"
        path.write_text(LOCK)
        return path

    def test_a_lock_is_validated_planned_applied_and_exported(self, file: Path) -> None:
        assert manage("validate", str(file)) == f"{file}: lock warehouse is valid (capacity 3)\n"
        with pytest.raises(SystemExit):
            manage("plan", str(file))
        assert manage("apply", str(file)) == "lock warehouse created\n"
        assert manage("apply", str(file)) == "lock warehouse unchanged\n"
        assert manage("plan", str(file)) == "lock warehouse: no changes\n"

        assert manage("export", "warehouse", "--kind", "Lock") == LOCK
        file.write_text(LOCK.replace("3\n", "4\n"))
        assert manage("apply", str(file)) == "lock warehouse updated\n"
        assert Lock.objects.get().capacity == 4

    def test_locks_and_jobs_of_one_file_are_applied_all_or_none(self, file: Path) -> None:
        job = "kind: Job\nname: loads\ntasks:\n  - {name: load, type: noop, locks: [warehouse]}\n"
        file.write_text(f"{LOCK}---\n{job}")
        assert manage("apply", str(file)) == "lock warehouse created\nloads version 1 created\n"
        Job.objects.update(archived_at="2026-01-01T00:00:00Z")

        file.write_text(f"{LOCK.replace('capacity: 3', 'capacity: 5')}---\n{job}  - {{name: next, type: noop}}\n")
        with pytest.raises(CommandError, match="archived"):
            manage("apply", str(file))

        assert Lock.objects.get().capacity == 3

    def test_an_applied_capacity_is_granted_at_once(self, file: Path) -> None:
        runs = [run_of(LOAD) for _ in range(4)]

        manage("apply", str(file))

        assert holders() == [run.pk for run in runs[:3]]

    def test_json_names_the_kind(self, file: Path) -> None:
        applied = json.loads(manage("apply", str(file), "--json"))["applied"]

        assert applied == [{"file": str(file), "kind": "Lock", "name": "warehouse", "outcome": "created"}]
        assert json.loads(manage("plan", str(file), "--json"))["plans"][0]["changes"] == []
        exported = json.loads(manage("export", "warehouse", "--kind", "Lock", "--json"))
        assert exported["definition"]["capacity"] == 3

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("nothing", "--kind", "Lock"), "no lock 'nothing'"),
            (("x", "--kind", "Look"), r"none of .*Job, Lock, "),
            (("x", "--kind", "Lock", "--version", "2"), "no versions"),
        ],
    )
    def test_an_export_that_cannot_be_says_why(self, arguments: tuple[str, ...], said: str) -> None:
        with pytest.raises(CommandError, match=said):
            manage("export", *arguments)

    def test_the_example_of_the_docs_applies_as_it_stands(self, file: Path) -> None:
        file.write_text(re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])

        assert manage("apply", str(file)) == "lock warehouse created\n"

    def test_the_command_sets_and_changes_a_lock(self) -> None:
        assert manage("set_lock", "warehouse", "--capacity", "3") == "warehouse capacity 3 created\n"
        assert json.loads(manage("set_lock", "warehouse", "--capacity", "2", "--json"))["outcome"] == "updated"
        with pytest.raises(CommandError):
            manage("set_lock", "no spaces", "--capacity", "2")


class Api(Client):
    def __init__(self, *scopes: str, jobs: tuple[str, ...] = ()) -> None:
        headers = {"Authorization": f"Bearer {token_text(*scopes, jobs=jobs)}"}
        super().__init__(headers=headers, raise_request_exception=False)

    def send(self, method: str, path: str, body: object) -> Any:
        return self.generic(method, f"/api/v1/locks{path}", json.dumps(body), content_type="application/json")


class TestApi:
    def test_a_lock_is_put_read_listed_and_deleted(self) -> None:
        api = Api("admin")

        created = api.send("PUT", "/warehouse", {"capacity": 2, "description": "three loads"})
        again = api.send("PUT", "/warehouse", {"capacity": 1})

        assert (created.status_code, again.status_code) == (201, 200)
        assert again.json() == {
            "name": "warehouse", "capacity": 1, "description": "three loads", "updated_by": "token:ci", "held": 0,
            "waiting": 0, "holders": [], "waiters": [],
        }  # fmt: skip
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load", worker="w1/1.1")
        read = api.get("/api/v1/locks/warehouse").json()
        (holder,), (waiter,) = read["holders"], read["waiters"]
        assert (holder["run"], holder["task"], holder["attempt"], holder["worker"]) == (first.pk, "load", 1, "w1/1.1")
        assert (waiter["position"], waiter["run"], waiter["priority"]) == (1, second.pk, "P2")
        assert api.get("/api/v1/locks").json()["items"] == [
            {"name": "warehouse", "capacity": 1, "description": "three loads", "updated_by": "token:ci", "held": 1,
             "waiting": 1},
        ]  # fmt: skip
        refused = api.send("DELETE", "/warehouse", {})
        assert (refused.status_code, refused.json()["code"]) == (409, "lock_in_use")
        run_task_of_held(first)
        run_task(second, "load")
        assert api.send("DELETE", "/warehouse", {}).status_code == 204
        assert api.get("/api/v1/locks/warehouse").json()["code"] == "unknown_lock"

    def test_a_holder_is_released_with_a_reason(self) -> None:
        api = Api("operate")
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load")
        body = {"task_run": task_of(first, "load").pk, "reason": "it hangs"}

        answer = api.send("POST", "/warehouse/releases", body)
        again = api.send("POST", "/warehouse/releases", body)

        assert answer.status_code == 201
        assert answer.json()["state"] == "running"
        assert "goes on running" in answer.json()["message"]
        assert holders() == [second.pk]
        assert (again.status_code, again.json()["code"]) == (409, "lock_not_held")
        assert Transition.objects.get(cause="release_lock").by == "token:ci"

    @pytest.mark.parametrize(
        ("method", "path", "body", "problem"),
        [
            ("PUT", "/warehouse", {}, "capacity"),
            ("PUT", "/warehouse", {"capacity": 0}, "capacity"),
            ("PUT", "/warehouse", {"capacity": True}, "capacity"),
            ("PUT", "/warehouse", {"capacity": 1, "description": 7}, "description"),
            ("PUT", "/warehouse", {"capacity": 1, "tenant": "x"}, "tenant"),
            ("POST", "/warehouse/releases", {"task_run": 1}, "reason"),
            ("POST", "/warehouse/releases", {"task_run": "1", "reason": "r"}, "task_run"),
        ],
    )
    def test_a_body_with_problems_is_refused_by_the_field(
        self, method: str, path: str, body: object, problem: str
    ) -> None:
        answer = Api("admin").send(method, path, body)

        assert answer.status_code == 400
        assert [detail["path"] for detail in answer.json()["details"]] == [problem]

    def test_definitions_need_admin_releases_operate_and_the_holders_job(self) -> None:
        run = run_of(LOAD)
        other = run_of("x")
        body = {"task_run": task_of(run, "load").pk, "reason": "it hangs"}

        assert Api("operate").send("PUT", "/warehouse", {"capacity": 2}).status_code == 403
        assert Api("operate").send("DELETE", "/warehouse", {}).status_code == 403
        assert Api("read").send("POST", "/warehouse/releases", body).status_code == 403
        narrow = Api("operate", jobs=(other.job.name,))
        assert narrow.send("POST", "/warehouse/releases", body).status_code == 403
        assert narrow.send("POST", "/warehouse/releases", {**body, "task_run": 10**9}).status_code == 404
        assert holders() == [run.pk]


def run_task_of_held(run: JobRun) -> None:
    """Settle the attempt that runs."""
    from orchestrator.ledger.claims import recover

    claimed = recover(task_run_id=task_of(run, "load").pk, worker="w1/1.1")
    assert claimed is not None
    settle(claimed, worker="w1/1.1")


class TestAdmin:
    def test_the_page_of_a_lock_shows_holders_and_waiters_and_changes_its_capacity(self, admin_client: Any) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        path = f"/admin/orchestrator/lock/{Lock.objects.get().pk}/change/"

        page = admin_client.get(path).content.decode()
        assert f"#{first.pk} load" in page
        assert f"#{second.pk} load" in page
        answer = admin_client.post(path, {"capacity": "2", "description": ""}, follow=True)

        assert answer.status_code == 200
        assert holders() == [first.pk, second.pk]
        assert Lock.objects.get().updated_by == "user:admin"
        refused = admin_client.post(path, {"capacity": "0", "description": ""})
        assert "At least one attempt" in refused.content.decode()

    def test_a_lock_is_defined(self, admin_client: Any) -> None:
        admin_client.post(
            "/admin/orchestrator/lock/add/", {"tenant": default_tenant().pk, "name": "db", "capacity": "2"}, follow=True
        )

        assert Lock.objects.get().capacity == 2

    def test_a_holder_is_released_with_a_reason_only(self, admin_client: Any) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load")
        path = "/admin/orchestrator/lockrequest/"
        chosen = [LockRequest.objects.get(task_run=task_of(run, "load")).pk for run in (first, second)]
        post = {"action": "release", "_selected_action": chosen}

        assert 'name="reason"' in admin_client.get(path).content.decode()
        said = admin_client.post(path, post, follow=True)
        assert [str(m) for m in said.context["messages"]] == ["A lock is not released without a reason: say why."]
        said = admin_client.post(path, {**post, "reason": "it hangs"}, follow=True)

        assert [str(m) for m in said.context["messages"]] == [
            "Released: load goes on running without the lock warehouse; cancel its run if it must not.",
            "Released: load asks for the lock warehouse again, behind the others.",
        ]
        assert Transition.objects.filter(cause="release_lock", by="user:admin").count() == 2
        assert TaskRun.objects.filter(state="ready").count() == 1

    def test_a_person_who_may_only_look_releases_nothing(self, client: Any, django_user_model: Any) -> None:
        from django.contrib.auth.models import Permission

        person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
        person.user_permissions.set(Permission.objects.filter(codename="view_lockrequest"))
        client.force_login(person)
        run = run_of(LOAD)
        chosen = [LockRequest.objects.get().pk]

        client.post(
            "/admin/orchestrator/lockrequest/", {"action": "release", "_selected_action": chosen, "reason": "r"}
        )

        assert holders() == [run.pk]
        assert not Transition.objects.filter(cause="release_lock").exists()
