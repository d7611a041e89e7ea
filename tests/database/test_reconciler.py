"""Each step of the reconciler: first the damage as it stands, then the healing."""

from __future__ import annotations

import time

import pytest
import redis
from django.db import OperationalError

from orchestrator.celery import app
from orchestrator.conf import options
from orchestrator.ledger import reconciler
from orchestrator.models import Attempt, Fragment, JobRun, LockRequest, TaskRun, Transition
from orchestrator.services import recovery
from orchestrator.services.leadership import Leadership
from orchestrator.services.recovery import Reconciler
from orchestrator.services.runs import advance_run, cancel_run
from orchestrator.states import RunState, TaskState
from tests.support.factories import age, job_of, moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, SUCCESS, Broker, Simulation, claim, heal, run_task, settle

pytestmark = pytest.mark.django_db


class TestLostHint:
    def test_a_hint_whose_lane_is_empty_is_published_again(self, broker: Broker) -> None:
        run = run_of("a")
        broker.waiting.clear()
        broker.published.clear()
        heal()
        assert broker.published == [], "it may still be on its way"

        age(run, seconds=16)
        assert heal()["lost_hint"] == 1

        assert broker.hinted() == [task_of(run, "a").pk]
        assert task_of(run, "a").hint_count == 2

    def test_the_pause_doubles_up_to_five_minutes(self, broker: Broker) -> None:
        run = run_of("a")

        def published_after(seconds: float) -> bool:
            broker.waiting.clear()
            age(run, seconds=seconds)
            return bool(heal().get("lost_hint"))

        assert published_after(16)
        assert not published_after(16)
        assert published_after(15)
        TaskRun.objects.filter(run=run).update(hint_count=40)
        assert not published_after(290)
        assert published_after(11)

    def test_a_long_healthy_queue_is_not_published_again(self, broker: Broker) -> None:
        runs = [run_of("a") for _ in range(8)]
        broker.published.clear()

        age(*runs, seconds=3600)
        heal()

        assert broker.published == []

    def test_a_message_that_a_worker_has_just_taken_does_not_double_the_backlog(self, broker: Broker) -> None:
        runs = [run_of("a") for _ in range(8)]
        broker.waiting.pop()
        broker.published.clear()

        age(*runs, seconds=40)
        heal()

        assert broker.published == []

    def test_waiters_for_a_lock_do_not_make_a_healthy_lane_look_thin(self, broker: Broker) -> None:
        runs = [run_of("a") for _ in range(3)]
        waiters = [run_of("a; a: locks=warehouse") for _ in range(3)]
        broker.published.clear()

        age(*runs, *waiters, seconds=40)
        heal()

        assert broker.published == []

    def test_a_hint_that_its_lane_has_overtaken_is_lost_though_the_lane_is_full(self, broker: Broker) -> None:
        lost = run_of("a")
        broker.waiting.clear()
        age(lost, seconds=90)
        taken = run_of("a")
        claim(taken, "a")
        others = [run_of("a") for _ in range(5)]
        broker.waiting *= 2
        broker.published.clear()

        assert heal()["lost_hint"] == 1

        assert broker.hinted() == [task_of(lost, "a").pk]
        assert {state_of(run) for run in others} == {"running"}

    def test_a_header_keeps_its_chord(self, broker: Broker) -> None:
        run = run_of("p*4 -> end")
        simulation = Simulation(broker)
        for _ in range(3):
            simulation.deliver(broker.waiting.pop(0))
        broker.waiting.clear()
        age(run, seconds=16)
        assert state_of(run) == "running"

        heal()
        simulation.drain()

        assert [len(parts) for parts in broker.parts.values()] == [4]
        assert state_of(run) == "succeeded"

    def test_a_granted_task_whose_hint_was_never_sent_is_published(self, broker: Broker) -> None:
        run = run_of("a; a: locks=warehouse")
        broker.waiting.clear()
        broker.published.clear()

        age(run, seconds=16)
        heal()

        assert broker.hinted() == [task_of(run, "a").pk]


class TestLostHintOnRedis:
    """The lane is measured where it is: an emptied one is noticed, a long one is left alone."""

    @pytest.fixture
    def lane(self, redis_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
        from orchestrator.canvas import binding

        monkeypatch.undo()
        monkeypatch.setattr(binding, "publish", broker.publish)
        monkeypatch.setattr(app.conf, "broker_read_url", redis_url)
        client = redis.Redis.from_url(redis_url)
        client.flushdb()
        yield client
        client.flushdb()
        client.close()

    def test_only_an_emptied_lane_is_filled_again(self, lane: redis.Redis, broker: Broker) -> None:
        runs = [run_of("a") for _ in range(3)]
        for number in range(3):
            lane.lpush("upbeat:default\x06\x166" if number else "upbeat:default", "a message")
        age(*runs, seconds=16)
        broker.published.clear()
        heal()
        assert broker.published == []

        lane.flushdb()
        assert heal()["lost_hint"] == 3

        assert sorted(broker.hinted()) == sorted(task_of(run, "a").pk for run in runs)

    def test_a_broker_that_is_away_stops_no_other_step(
        self, lane: redis.Redis, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting, unfinished = run_of("a"), run_of("a")
        TaskRun.objects.filter(run=unfinished).update(state=TaskState.SUCCEEDED, ended_at=unfinished.created_at,
                                                      planned_at=unfinished.created_at)  # fmt: skip
        age(waiting, unfinished, seconds=30)
        monkeypatch.setattr(app.conf, "broker_read_url", "redis://127.0.0.1:1/0")

        healed = heal()

        assert healed == {"unfinished": 1}
        assert state_of(unfinished) == "succeeded"


@pytest.mark.usefixtures("broker")
class TestExpiredLease:
    def test_an_idempotent_task_runs_again_under_a_new_token(self, broker: Broker) -> None:
        run = run_of("a; a: idempotent")
        lost = claim(run, "a")
        age(run, seconds=16)
        broker.published.clear()
        assert states_of(run) == {"a": "running"}

        assert heal()["lease_expired"] == 1

        row = task_of(run, "a")
        assert (row.state, row.lost_count, row.worker) == ("ready", 1, "")
        assert row.fencing_token > lost.token
        assert Attempt.objects.get(pk=lost.attempt_id).state == "lost"
        assert broker.hinted() == [row.pk]
        run_task(run, "a")
        assert state_of(run) == "succeeded"

    def test_another_ends_failed_for_a_person_to_decide(self) -> None:
        run = run_of("a -> b")
        claim(run, "a", worker="w7")
        age(run, seconds=16)

        heal()

        assert states_of(run) == {"a": "failed", "b": "upstream_failed"}
        assert task_of(run, "a").reason.startswith("lost: ")
        assert state_of(run) == "failed"

    def test_past_its_deadline_it_is_timed_out_and_the_retry_rule_decides(self) -> None:
        plain = run_of("a; a: timeout=10")
        again = run_of("a; a: timeout=10 idempotent attempts=2 on=timeout delay=5")
        claim(plain, "a")
        claim(again, "a")
        age(plain, again, seconds=16)

        heal()

        assert states_of(plain) == {"a": "timed_out"}
        assert states_of(again) == {"a": "retry_waiting"}
        assert set(Attempt.objects.values_list("state", flat=True)) == {"timed_out"}

    def test_a_requested_stop_is_done(self) -> None:
        run = run_of("a; a: idempotent")
        claim(run, "a")
        cancel_run(run.pk, by="ada")
        age(run, seconds=16)

        heal()

        assert (states_of(run), state_of(run)) == ({"a": "cancelled"}, "cancelled")

    def test_the_third_loss_is_poison(self) -> None:
        run = run_of("a; a: idempotent attempts=9")
        for state in ("ready", "ready", "failed"):
            claim(run, "a")
            age(run, seconds=16)
            heal()
            assert states_of(run) == {"a": state}

        assert task_of(run, "a").reason == "lost: 3 workers vanished while running it"

    def test_a_header_of_a_chord_is_counted_once_all_the_same(self, broker: Broker) -> None:
        run = run_of("p*4 -> end; p_2: idempotent")
        claim(run, "p_2")
        simulation = Simulation(broker)
        simulation.drain()
        age(run, seconds=16)

        heal()
        simulation.drain()

        assert state_of(run) == "succeeded"
        assert moves_of(run, "p_2") == [
            "waiting", "ready", "running", "ready", "running", "succeeded",
        ]  # fmt: skip

    def test_a_lease_that_is_renewed_does_not_expire(self) -> None:
        run = run_of("a")
        claim(run, "a")
        age(run, seconds=10)

        assert "lease_expired" not in heal()

    def test_no_lease_expires_while_the_leader_may_not_judge(self) -> None:
        run = run_of("a")
        claim(run, "a")
        age(run, seconds=3600)

        heal(may_expire=False)

        assert states_of(run) == {"a": "running"}


class TestUnplanned:
    def test_final_tasks_are_planned_after_five_seconds(self, broker: Broker) -> None:
        run = run_of("p*4 -> end")
        for number in range(1, 5):
            run_task(run, f"p_{number}")
        heal()
        assert states_of(run)["end"] == "waiting", "the chord's tail may still be on its way"

        age(run, seconds=6)
        assert heal()["unplanned"] == 1

        assert states_of(run)["end"] == "ready"

    def test_a_fragment_with_open_headers_is_left_alone(self, broker: Broker) -> None:
        run = run_of("p*4 -> end")
        run_task(run, "p_1")
        age(run, seconds=60)

        assert "unplanned" not in heal()

        assert task_of(run, "p_1").planned_at is None


class TestTimers:
    def test_a_due_retry_is_published(self, broker: Broker) -> None:
        run = run_of("a; a: attempts=2 delay=30")
        run_task(run, "a", FAILURE)
        broker.published.clear()

        age(run, seconds=31)
        reconciler.timers(lambda: True)

        assert broker.hinted() == [task_of(run, "a").pk]

    def test_a_run_past_its_time_is_stopped_and_ends_timed_out(self, broker: Broker) -> None:
        run = run_of(job_of("a -> b", timeout=60.0))
        attempt = claim(run, "a")
        age(run, seconds=61)

        reconciler.timers(lambda: True)
        assert states_of(run) == {"a": "running", "b": "timed_out"}
        settle(attempt, SUCCESS)

        run.refresh_from_db()
        assert (run.state, run.reason) == ("timed_out", "the run took longer than 60 s")

    def test_an_idle_run_past_its_time_ends_at_once(self, broker: Broker) -> None:
        run = run_of(job_of("a", timeout=60.0))
        age(run, seconds=61)

        reconciler.timers(lambda: True)

        assert (state_of(run), states_of(run)) == ("timed_out", {"a": "timed_out"})

    def test_a_task_that_waited_too_long_to_start_is_timed_out(self, broker: Broker) -> None:
        run = run_of("a -[failed]-> alarm; a: queue_timeout=30")
        age(run, seconds=29)
        heal()
        assert states_of(run)["a"] == "ready"

        age(run, seconds=2)
        heal()

        assert states_of(run) == {"a": "timed_out", "alarm": "ready"}
        assert task_of(run, "a").reason == "waited longer than 30 s to start"

    def test_a_task_that_waited_too_long_for_its_lock_leaves_the_queue(self, broker: Broker) -> None:
        holder = run_of("a; a: locks=warehouse")
        claim(holder, "a")
        run = run_of("a; a: locks=warehouse queue_timeout=30")
        age(run, seconds=31)

        heal()

        assert states_of(run) == {"a": "timed_out"}
        assert LockRequest.objects.filter(task_run__run=run).count() == 0


class TestRuns:
    def test_a_pending_run_whose_launch_was_lost_is_admitted(self, broker: Broker) -> None:
        run = run_of("start -> p*250")
        broker.waiting.clear()
        heal()
        assert state_of(run) == "pending"

        age(run, seconds=16)
        assert heal()["unlaunched"] == 1

        assert state_of(run) == "running"

    def test_a_run_with_nothing_open_is_finished(self, broker: Broker) -> None:
        run = run_of("a")
        run_task(run, "a")
        # As if the process had died between its last task and the look at the run.
        JobRun.objects.filter(pk=run.pk).update(state=RunState.RUNNING, ended_at=None)
        age(run, seconds=6)

        assert heal()["unfinished"] == 1

        assert state_of(run) == "succeeded"

    def test_a_run_in_which_nothing_moves_is_planned_anew_and_counted_as_a_defect(self, broker: Broker) -> None:
        run = run_of("a -> b -> c")
        run_task(run, "a")
        TaskRun.objects.filter(run=run, position=1).update(state=TaskState.WAITING, ready_at=None)
        age(run, seconds=6)
        broker.published.clear()

        assert heal()["stuck"] == 1

        assert states_of(run) == {"a": "succeeded", "b": "ready", "c": "waiting"}
        assert broker.published != []
        assert Transition.objects.filter(subject="run", cause="reconciler").count() == 1


def test_a_round_that_finds_nothing_changes_nothing(broker: Broker) -> None:
    run = run_of("p*4 -> end; q: locks=warehouse; r: attempts=2")
    run_task(run, "p_1")
    claim(run, "p_2")
    run_task(run, "r", FAILURE)
    before = (list(TaskRun.objects.order_by("id").values()), Transition.objects.count(), Fragment.objects.count())

    assert heal() == {}

    assert (
        list(TaskRun.objects.order_by("id").values()),
        Transition.objects.count(),
        Fragment.objects.count(),
    ) == before


def test_a_leader_that_lost_the_lead_writes_nothing(broker: Broker) -> None:
    run = run_of("a; b: idempotent")
    claim(run, "b")
    broker.waiting.clear()
    broker.published.clear()
    age(run, seconds=120)
    before = list(TaskRun.objects.order_by("id").values())

    reconciler.timers(lambda: False)
    healed = reconciler.round_of(lambda: False, may_expire=True)

    assert healed.by_cause == {}
    assert broker.published == []
    assert list(TaskRun.objects.order_by("id").values()) == before


def test_a_full_batch_is_followed_by_another_at_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "BATCH", 2)
    run = run_of("a*5; a_1, a_2, a_3, a_4, a_5: idempotent")
    for number in range(1, 6):
        claim(run, f"a_{number}")
    age(run, seconds=16)

    assert heal()["lease_expired"] == 5

    assert set(states_of(run).values()) == {"ready"}


@pytest.mark.django_db(transaction=True)
class TestTick:
    """The loop: who leads, when a round is due, and when leases may be judged."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [time.monotonic()]
        monkeypatch.setattr(recovery.time, "monotonic", lambda: now[0])
        return now

    def reconciler(self, clock: list[float]) -> Reconciler:
        """A leader after its first good round."""
        leader = Reconciler()
        leader.tick()
        return leader

    def tick_for(self, leader: Reconciler, clock: list[float], seconds: float) -> dict[str, int]:
        healed: dict[str, int] = {}
        for _ in range(int(seconds / 0.5)):
            clock[0] += 0.5
            healed |= leader.tick()
        return healed

    def test_a_lease_expires_once_the_database_was_there_for_one_lease(
        self, broker: Broker, clock: list[float]
    ) -> None:
        run = run_of("a")
        claim(run, "a")
        age(run, seconds=60)
        leader = self.reconciler(clock)

        assert "lease_expired" not in self.tick_for(leader, clock, options().lease_seconds - 1)
        assert self.tick_for(leader, clock, 2)["lease_expired"] == 1

    def test_no_lease_expires_right_after_the_database_was_away(
        self, broker: Broker, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leader = self.reconciler(clock)
        self.tick_for(leader, clock, options().lease_seconds + 1)
        run = run_of("a")
        claim(run, "a")

        def away(_: Leadership) -> bool:
            raise OperationalError("the database is away")

        with monkeypatch.context() as patch:
            patch.setattr(Leadership, "seek", away)
            self.tick_for(leader, clock, 1)
        age(run, seconds=60)

        assert "lease_expired" not in self.tick_for(leader, clock, options().lease_seconds - 1)
        assert states_of(run) == {"a": "running"}
        assert self.tick_for(leader, clock, 2)["lease_expired"] == 1

    def test_no_lease_expires_right_after_the_leader_was_frozen(self, broker: Broker, clock: list[float]) -> None:
        leader = self.reconciler(clock)
        self.tick_for(leader, clock, options().lease_seconds + 1)
        run = run_of("a")
        claim(run, "a")

        clock[0] += 60
        age(run, seconds=60)

        assert "lease_expired" not in self.tick_for(leader, clock, options().lease_seconds - 1)
        assert self.tick_for(leader, clock, 2)["lease_expired"] == 1

    def test_a_standby_heals_nothing(self, broker: Broker, clock: list[float]) -> None:
        leader, standby = self.reconciler(clock), Reconciler()
        run = run_of("p*4 -> end")
        for number in range(1, 5):
            run_task(run, f"p_{number}")
        age(run, seconds=6)

        assert self.tick_for(standby, clock, 3) == {}
        assert self.tick_for(leader, clock, 1)["unplanned"] == 1

    def test_a_defect_in_one_step_does_not_end_the_loop(
        self, broker: Broker, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leader = self.reconciler(clock)
        monkeypatch.setattr(reconciler, "round_of", lambda *args, **more: 1 / 0)

        assert self.tick_for(leader, clock, 1) == {}
        monkeypatch.undo()
        assert self.tick_for(leader, clock, 1) == {}


def test_advance_and_the_reconciler_plan_a_task_once_between_them(broker: Broker) -> None:
    run = run_of("p*4 -> end")
    for number in range(1, 5):
        run_task(run, f"p_{number}")
    advance_run(run.pk)
    age(run, seconds=6)

    assert "unplanned" not in heal()

    assert moves_of(run, "end") == ["waiting", "ready"]
