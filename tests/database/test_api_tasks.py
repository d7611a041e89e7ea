from __future__ import annotations

import pytest

from orchestrator.dag.export import export_yaml
from orchestrator.dag.spec import JobSpec
from orchestrator.models import Job, JobRun
from orchestrator.services.parsing import valid_definitions
from orchestrator.states import RunState
from tests.support.api import Api, problems
from tests.support.records import new_job, new_run, token_text
from tests.support.simulation import Broker

pytestmark = pytest.mark.django_db
PATH = "/api/v1/tasks"
CALL = {"name": "backup-db", "schedule": "0 2 * * *", "command": "pg_dump > /backup/db.sql", "timeout": 3600}


@pytest.fixture
def api() -> Api:
    return Api(token_text("admin"))


def test_a_task_is_a_job_of_one_shell_command_with_a_schedule(api):
    made = api.send(PATH, CALL)

    job = Job.objects.get()
    spec = JobSpec.from_canonical(job.latest_version.spec)
    assert made.status_code == 201
    assert made.json() == {
        "id": job.pk,
        "name": "backup-db",
        "description": "",
        "schedule": "0 2 * * *",
        "command": "pg_dump > /backup/db.sql",
        "timeout": 3600.0,
        "status": "idle",
        "url": f"http://testserver/api/v1/tasks/{job.pk}",
        "job_url": f"http://testserver/api/v1/jobs/{job.pk}",
    }
    (task,) = spec.tasks
    assert (task.type, task.config, task.timeout) == ("shell", {"command": CALL["command"]}, 3600.0)
    assert spec.schedules == ({"cron": "0 2 * * *"},)
    (exported,) = valid_definitions(export_yaml(spec))
    assert exported.spec == spec


def test_the_same_task_again_is_the_same_job(api):
    first, second = api.send(PATH, CALL), api.send(PATH, CALL)
    other = api.send(PATH, {**CALL, "command": "true"})

    assert (second.status_code, second.json()["id"]) == (201, first.json()["id"])
    assert (other.status_code, other.json()["code"]) == (409, "job_exists")
    assert Job.objects.get().latest_version.number == 1


@pytest.mark.parametrize("name", ["Backup DB", "backup_db", "backup.db", " Backup - DB "])
def test_a_name_becomes_one_that_a_job_may_have(api, name):
    made = api.send(PATH, {**CALL, "name": name}).json()

    assert (made["name"], made["description"]) == ("backup-db", name)


@pytest.mark.parametrize("name", ["", "  ", "数据库备份", "a/b", "trigger", "x" * 64, "--"])
def test_a_name_of_which_no_job_name_can_be_made_is_refused(api, name):
    answer = api.send(PATH, {**CALL, "name": name})

    assert answer.status_code == 400
    assert problems(answer)["name"].startswith("letters a to z, digits, spaces")
    assert answer.json()["details"][0]["value"] == name


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("schedule", "0 25 * * *", "five fields such as"),
        ("timeout", 0, "more than 0 to 366d"),
        ("timeout", "soon", "a duration such as"),
        ("timeout", True, "seconds, or a text"),
        ("command", "", "min"),
        ("command", "echo ${params.day}", "the value through env or args"),
        ("command", None, "a shell command line"),
    ],
)
def test_a_problem_names_the_field_of_the_call(api, field, value, expected):
    answer = api.send(PATH, {**CALL, field: value})

    assert answer.status_code == 400
    assert list(problems(answer)) == [field]
    assert expected in problems(answer)[field]
    assert not Job.objects.exists()


def test_schedule_and_timeout_may_be_left_out(api):
    made = api.send(PATH, {"name": "now-and-then", "command": "true"}).json()

    assert (made["schedule"], made["timeout"]) == (None, 3600.0)


def test_a_task_is_executed_and_its_status_read(api, broker: Broker):
    made = api.send(PATH, CALL).json()["id"]
    before = api.get(f"{PATH}/{made}/status").json()

    started = api.send(f"{PATH}/{made}/execute", **{"Idempotency-Key": "k"})
    again = api.send(f"{PATH}/{made}/execute", **{"Idempotency-Key": "k"})

    status = api.get(f"{PATH}/backup-db/status").json()
    assert (before["status"], before["last_run"], before["open_runs"]) == ("idle", None, 0)
    assert (started.status_code, again.json()["id"], again.json()["created"]) == (202, started.json()["id"], False)
    assert (status["status"], status["open_runs"], status["last_run"]["id"]) == ("running", 1, started.json()["id"])
    assert api.get(f"{PATH}/{made}").json()["status"] == "running"
    assert [item["status"] for item in api.get(PATH).json()["items"]] == ["running"]


def test_stopping_cancels_the_open_runs_of_the_job_alone(api):
    job, other = new_job("mine"), new_job("other")
    waiting = [new_run(job, RunState.PENDING) for _ in range(3)]
    new_run(job, RunState.SUCCEEDED), new_run(other, RunState.PENDING)

    answer = api.send(f"{PATH}/{job.pk}/stop", {"reason": "wrong day"})

    assert answer.json() == {
        "id": job.pk,
        "name": "mine",
        "stopped": [run.pk for run in waiting],
        "remaining": 0,
    }
    assert list(JobRun.objects.filter(state="cancelled").values_list("reason", flat=True)) == ["wrong day"] * 3
    assert api.send(f"{PATH}/{job.pk}/stop").json()["stopped"] == []
    assert JobRun.objects.get(job=other).state == "pending"


def test_only_jobs_of_one_command_are_listed_but_any_has_a_status(api):
    new_job("dag", tasks=("a", "b"))
    api.send(PATH, CALL)

    assert [item["name"] for item in api.get(PATH).json()["items"]] == ["backup-db"]
    assert api.get(f"{PATH}/dag").json()["code"] == "no_single_task"
    assert api.get(f"{PATH}/dag/status").json()["status"] == "idle"
    assert api.get(f"{PATH}/unknown/status").status_code == 404


def test_each_call_needs_its_own_scope(api):
    made = api.send(PATH, CALL).json()["id"]
    reader, trigger = Api(token_text("read")), Api(token_text("trigger"))

    assert [reader.send(f"{PATH}{rest}", CALL).status_code for rest in ("", f"/{made}/execute", f"/{made}/stop")] == [
        403
    ] * 3
    assert trigger.get(f"{PATH}/{made}/status").status_code == 403
    assert reader.get(f"{PATH}/{made}/status").status_code == 200
