"""Commands by API: on tasks, runs, many runs and jobs."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models import Job, JobRun, TaskRun, Tenant, Transition
from orchestrator.services import bulk
from orchestrator.services.runs import cancel_run, pause_run
from orchestrator.services.tokens import ADMIN, OPERATE, READ
from tests.support.api import Api
from tests.support.factories import job_of, run_of, state_of, states_of, task_of
from tests.support.records import token_text
from tests.support.simulation import PERMANENT, Broker, Simulation, claim, result_of, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


@pytest.fixture
def api() -> Api:
    return Api(token_text(READ, OPERATE))


def failed_run(job: Job | str = "a -> b") -> JobRun:
    """A run of a job whose first task failed."""
    run = run_of(job)
    run_task(run, "a", PERMANENT)
    return run


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def paths(answer: Any) -> list[str]:
    return [detail["path"] for detail in answer.json()["details"]]


class TestTasks:
    @pytest.mark.parametrize(("command", "state"), [("skip", "skipped"), ("mark", "succeeded")])
    def test_a_task_that_has_not_started_is_ended_by_hand(self, api: Api, command: str, state: str) -> None:
        run = run_of("a -> b")
        row = task_of(run, "a")

        answer = api.send(f"/api/v1/task-runs/{row.pk}/{command}", {"reason": "done by hand"})

        assert answer.status_code == 200
        assert (answer.json()["id"], answer.json()["state"]) == (row.pk, state)
        assert "token:ci: done by hand" in answer.json()["reason"]
        fact = Transition.objects.get(subject="task_run", subject_id=row.pk, to_state=state)
        assert (fact.cause, fact.by) == (command, "token:ci")

    @pytest.mark.parametrize("command", ["skip", "mark"])
    def test_what_cannot_be_ended_is_refused_with_a_clear_code(self, api: Api, command: str) -> None:
        run = run_of("a -> b, c")
        attempt = claim(run, "a")

        def ask(name: str) -> Any:
            return api.send(f"/api/v1/task-runs/{task_of(run, name).pk}/{command}")

        assert refusal(ask("a")) == (409, "task_running")
        settle(attempt, PERMANENT)
        assert refusal(ask("a")) == (409, "run_final")
        other = run_of("a -> b; c")
        run_task(other, "a", PERMANENT)
        run = other
        assert refusal(ask("a")) == (409, "task_final")
        assert refusal(api.send(f"/api/v1/task-runs/{2**40}/{command}")) == (404, "unknown_task_run")

    def test_a_command_is_in_the_scope_of_its_token(self) -> None:
        run, _ = run_of(job_of("a", name="nightly-etl")), job_of("a", name="other")
        path = f"/api/v1/task-runs/{task_of(run, 'a').pk}/skip"

        assert refusal(Api(token_text(READ)).send(path)) == (403, "out_of_scope")
        assert refusal(Api(token_text(OPERATE, jobs=("other",), name="x")).send(path)) == (403, "out_of_scope")
        stranger = token_text(ADMIN, tenant=Tenant.objects.create(slug="x", name="X"), name="y")
        assert refusal(Api(stranger).send(path)) == (404, "unknown_task_run")
        assert Api(token_text(OPERATE, jobs=("nightly-etl",), name="z")).send(path).status_code == 200


class TestRetries:
    def test_a_failed_run_is_run_again(self, api: Api) -> None:
        run = failed_run()

        answer = api.send(f"/api/v1/runs/{run.pk}/retries", {"from": "failed", "mark": {}, "reason": "fixed"})

        assert answer.status_code == 201
        made = answer.json()
        assert (made["rerun_of"], made["state"]) == (run.pk, "running")
        assert made["trigger"] == {
            "kind": "rerun", "by": "token:ci", "of": run.pk, "from": "failed", "mark": {}, "reason": "fixed",
        }  # fmt: skip
        assert states_of(JobRun(pk=made["id"])) == {"a": "ready", "b": "waiting"}

    def test_carried_tasks_point_at_what_was_executed(self, api: Api, broker: Broker) -> None:
        run = run_of("a -> b")
        run_task(run, "a", result_of(7))
        run_task(run, "b", PERMANENT)

        made = api.send(f"/api/v1/runs/{run.pk}/retries", {"from": ["b"]}).json()

        items = api.get(f"/api/v1/runs/{made['id']}/task-runs").json()["items"]
        assert [(item["task"], item["state"], item["result"], item["carried_from"]) for item in items] == [
            ("a", "succeeded", 7, task_of(run, "a").pk),
            ("b", "ready", None, None),
        ]

    def test_without_a_body_it_runs_from_what_failed(self, api: Api) -> None:
        answer = api.send(f"/api/v1/runs/{failed_run().pk}/retries")

        assert (answer.status_code, answer.json()["trigger"]["from"]) == (201, "failed")

    def test_a_repeated_key_makes_one_run_and_another_call_with_it_is_refused(self, api: Api) -> None:
        run, other = failed_run(), failed_run()
        path, key = f"/api/v1/runs/{run.pk}/retries", {"Idempotency-Key": "again-1"}

        first = api.send(path, {"from": "failed"}, **key)
        second = api.send(path, {"from": "failed"}, **key)

        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json()["id"] == second.json()["id"]
        assert refusal(api.send(path, {"from": "start"}, **key)) == (422, "idempotency_mismatch")
        assert refusal(api.send(f"/api/v1/runs/{other.pk}/retries", {}, **key)) == (422, "idempotency_mismatch")
        assert JobRun.objects.filter(rerun_of__isnull=False).count() == 1

    def test_refusals_name_what_is_wrong(self, api: Api) -> None:
        run = failed_run()
        path = f"/api/v1/runs/{run.pk}/retries"

        assert refusal(api.send(f"/api/v1/runs/{run_of('a').pk}/retries")) == (409, "run_open")
        assert paths(api.send(path, {"from": ["a", "x"], "mark": {"y": "skipped", "b": 3}})) == [
            "from[1]", "mark.y", "mark.b",
        ]  # fmt: skip
        assert paths(api.send(path, {"from": "middle"})) == ["from"]
        assert paths(api.send(path, {"from": 3})) == ["from"]
        assert paths(api.send(path, {"from": []})) == ["from"]
        Job.objects.filter(pk=run.job_id).update(archived_at=run.created_at)
        assert refusal(api.send(path)) == (409, "job_archived")
        assert not JobRun.objects.filter(rerun_of=run).exists()

    def test_a_run_that_succeeded_has_nothing_that_failed(self, api: Api) -> None:
        run = run_of("a")
        run_task(run, "a")

        assert refusal(api.send(f"/api/v1/runs/{run.pk}/retries")) == (409, "nothing_to_rerun")
        assert api.send(f"/api/v1/runs/{run.pk}/retries", {"from": "start"}).status_code == 201


class TestMany:
    def test_a_dry_run_counts_and_changes_nothing(self, api: Api) -> None:
        job = job_of("a", limit=1)
        runs = [run_of(job) for _ in range(3)]

        said = api.send("/api/v1/runs/cancellations", {"filter": {"job": job.name}, "dry_run": True}).json()

        assert (said["matched"], said["matched_by_state"]) == (3, {"pending": 2, "running": 1})
        assert (said["done"], said["refused"], said["remaining"]) == (0, 0, 0)
        assert [item["outcome"] for item in said["items"]] == ["would_cancel"] * 3
        assert [state_of(run) for run in runs] == ["running", "pending", "pending"]

    def test_many_runs_are_cancelled_a_bounded_number_at_a_time(self, api: Api) -> None:
        job = job_of("a", limit=1)
        runs = [run_of(job) for _ in range(3)]
        attempt = claim(runs[0], "a")
        other = run_of("a")
        body = {"filter": {"job": job.name}, "reason": "wrong day", "limit": 2}

        first, second, third = (api.send("/api/v1/runs/cancellations", body).json() for _ in range(3))

        assert [(said["done"], said["remaining"]) for said in (first, second, third)] == [(2, 1), (1, 0), (0, 0)]
        assert [item["run"] for item in first["items"]] == [runs[2].pk, runs[1].pk], "none starts in another's place"
        assert second["items"][0]["outcome"] == "stopping"
        assert [state_of(run) for run in runs] == ["running", "cancelled", "cancelled"]
        settle(attempt)
        assert state_of(runs[0]) == "cancelled"
        assert state_of(other) == "running"
        assert JobRun.objects.get(pk=runs[1].pk).reason == "wrong day"

    def test_many_runs_are_run_again_once(self, api: Api) -> None:
        job = job_of("a -> b")
        failed = [failed_run(job) for _ in range(3)]
        good = run_of(job)
        run_task(good, "a")
        run_task(good, "b")
        body = {"filter": {"job": job.name}, "reason": "disk replaced", "limit": 2}

        dry = api.send("/api/v1/runs/retries", {**body, "dry_run": True}).json()
        first, second, third = (api.send("/api/v1/runs/retries", body).json() for _ in range(3))

        assert (dry["matched_by_state"], [item["outcome"] for item in dry["items"]]) == (
            {"failed": 3}, ["would_rerun"] * 2,
        )  # fmt: skip
        assert [(said["done"], said["remaining"]) for said in (first, second, third)] == [(2, 1), (1, 0), (0, 0)]
        assert list(
            JobRun.objects.filter(rerun_of__isnull=False).order_by("pk").values_list("rerun_of", flat=True)
        ) == [run.pk for run in failed]
        assert first["items"][0]["new_run"] == JobRun.objects.get(rerun_of=failed[0]).pk
        again = api.send("/api/v1/runs/retries", {**body, "again": True}).json()
        assert [item["outcome"] for item in again["items"]] == ["rerun", "rerun"]

    def test_a_refused_run_stops_no_other_and_is_stepped_over(self, api: Api) -> None:
        job = job_of("a -> b")
        first, second = failed_run(job), failed_run(job)
        TaskRun.objects.filter(run=first).update(state="succeeded")
        body: dict[str, Any] = {"filter": {"job": job.name}, "limit": 1}

        said = api.send("/api/v1/runs/retries", body).json()
        assert [(item["outcome"], item["code"]) for item in said["items"]] == [("refused", "nothing_to_rerun")]
        assert (said["done"], said["refused"], said["remaining"], said["next"]) == (0, 1, 1, str(first.pk))

        said = api.send("/api/v1/runs/retries", {**body, "cursor": said["next"]}).json()
        assert [(item["run"], item["outcome"]) for item in said["items"]] == [(second.pk, "rerun")]
        assert (said["remaining"], said["next"]) == (0, None)

    def test_the_filters_are_those_of_the_list(self, api: Api) -> None:
        tagged = job_of("a", tags=("etl",))
        run = failed_run(tagged)
        failed_run()
        later = {"created_from": "2100-01-01T00:00:00Z"}

        def matched(given: dict[str, Any]) -> int:
            return api.send("/api/v1/runs/retries", {"filter": given, "dry_run": True}).json()["matched"]

        assert [item["id"] for item in api.get("/api/v1/runs?tag=etl").json()["items"]] == [run.pk]
        assert matched({"tag": "etl"}) == 1
        assert matched({"state": "failed"}) == matched({"state": ["failed", "succeeded"]}) == 2
        assert matched({"trigger": "test"}) == 2
        assert matched({"trigger": "schedule"}) == matched(later) == 0
        assert matched({"state": ["failed"], "created_to": "2100-01-01T00:00:00Z"}) == 2

    @pytest.mark.parametrize("path", ["/api/v1/runs/retries", "/api/v1/runs/cancellations"])
    def test_an_empty_or_unknown_filter_is_refused(self, api: Api, path: str) -> None:
        run = run_of("a")

        assert refusal(api.send(path, {"filter": {}})) == (400, "invalid_request")
        assert refusal(api.send(path, {})) == (400, "invalid_request")
        assert paths(api.send(path, {"filter": {"jobs": "x"}})) == ["filter.jobs"]
        bad = {"state": ["failed", 3], "created_from": "soon", "rerun_of": True, "job": 7}
        assert paths(api.send(path, {"filter": bad})) == [
            "filter.job", "filter.state", "filter.created_from", "filter.rerun_of",
        ]  # fmt: skip
        assert paths(api.send(path, {"filter": {"state": "failed"}, "limit": 0, "dry_run": 1})) == ["dry_run", "limit"]
        assert state_of(run) == "running"

    def test_a_token_reaches_the_runs_of_its_jobs_alone(self) -> None:
        mine, other = job_of("a", name="mine"), job_of("a", name="other")
        run, stranger = run_of(mine), run_of(other)
        api = Api(token_text(OPERATE, jobs=("mine",)))

        assert refusal(api.send("/api/v1/runs/cancellations", {"filter": {"job": "other"}})) == (403, "out_of_scope")
        assert api.send("/api/v1/runs/cancellations", {"filter": {"state": "running"}}).json()["done"] == 1
        assert (state_of(run), state_of(stranger)) == ("cancelled", "running")
        reader = Api(token_text(READ, name="reader"))
        assert refusal(reader.send("/api/v1/runs/retries", {"filter": {"job": "mine"}})) == (403, "out_of_scope")

    def test_a_call_that_takes_long_answers_with_what_is_left(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        job = job_of("a")
        for _ in range(3):
            run_of(job)
        monkeypatch.setattr(bulk, "SECONDS", 0.0)

        said = api.send("/api/v1/runs/cancellations", {"filter": {"job": job.name}}).json()

        assert (said["done"], said["remaining"]) == (1, 2)


class TestPauses:
    def test_a_paused_run_says_who_paused_it_and_why(self, api: Api) -> None:
        run = run_of("a")

        said = api.send(f"/api/v1/runs/{run.pk}/pause", {"reason": "release"}).json()
        assert (said["paused_by"], said["pause_reason"]) == ("token:ci", "release")
        pause_run(run.pk, by="bob", reason="lunch")
        assert JobRun.objects.get(pk=run.pk).paused_by == "token:ci", "the first pause stays"

        said = api.send(f"/api/v1/runs/{run.pk}/resume").json()
        assert (said["paused_at"], said["paused_by"], said["pause_reason"]) == (None, "", "")
        assert [
            (fact.reason, fact.cause, fact.by)
            for fact in Transition.objects.filter(subject="run", cause__in=["pause", "resume"]).order_by("pk")
        ] == [("paused: release", "pause", "token:ci"), ("resumed", "resume", "token:ci")]


class TestJobs:
    def test_each_command_on_a_job_is_recorded_with_who_and_why(self) -> None:
        api = Api(token_text(ADMIN))
        job = job_of("a")

        for command in ("pause", "archive", "restore", "resume"):
            answer = api.send(f"/api/v1/jobs/{job.pk}/{command}", {"reason": f"{command} it"})
            assert answer.status_code == 200
            assert api.send(f"/api/v1/jobs/{job.pk}/{command}", {"reason": "again"}).status_code == 200

        facts = Transition.objects.filter(subject="job", subject_id=job.pk).order_by("pk")
        assert [(fact.from_state, fact.to_state, fact.cause, fact.reason, fact.by) for fact in facts] == [
            ("active", "paused", "pause", "pause it", "token:ci"),
            ("paused", "archived", "archive", "archive it", "token:ci"),
            ("archived", "paused", "restore", "restore it", "token:ci"),
            ("paused", "active", "resume", "resume it", "token:ci"),
        ]

    def test_an_archived_job_can_be_restored_and_runs_again(self, broker: Broker) -> None:
        api = Api(token_text(ADMIN, READ))
        job = job_of("a")
        run = run_of(job)
        cancel_run(run.pk, by="ada")
        api.send(f"/api/v1/jobs/{job.pk}/archive")
        assert refusal(api.send(f"/api/v1/runs/{run.pk}/retries")) == (409, "job_archived")

        api.send(f"/api/v1/jobs/{job.pk}/restore")
        made = api.send(f"/api/v1/runs/{run.pk}/retries").json()
        Simulation(broker).drain()

        assert state_of(JobRun(pk=made["id"])) == "succeeded"

    def test_archiving_is_for_administrators(self, api: Api) -> None:
        job = job_of("a")

        assert refusal(api.send(f"/api/v1/jobs/{job.pk}/archive")) == (403, "out_of_scope")
        assert refusal(api.send(f"/api/v1/jobs/{job.pk}/restore")) == (403, "out_of_scope")
        assert api.send(f"/api/v1/jobs/{job.pk}/pause").status_code == 200
