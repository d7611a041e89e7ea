"""Task types with a real worker: one run through all of them, the documented http job, a request that is cancelled."""

from __future__ import annotations

import random
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.concurrency.kill_load import Cluster
from tests.support.http_server import Call, Server, serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "write-jobs.md").read_text()
SECRET = "r3p0rts/k+y"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker, a control worker and a beat; a tenant that may reach loopback."""
    tmp_path: Path = tmp_path_factory.mktemp("http")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("UPBEAT_ENCRYPTION_KEYS", Fernet.generate_key().decode())
        cluster = Cluster("redis", tmp_path, stack, random.Random(1))
        stack.callback(cluster.stop)
        cluster.manage("migrate", "--verbosity", "0")
        cluster.manage("allow_networks", "127.0.0.0/8", "--reason", "tests")
        (tmp_path / "secret").write_text(SECRET)
        cluster.manage("set_secret", "reports-api", "--file", str(tmp_path / "secret"))
        for process in (cluster.workers[0], cluster.control, cluster.beats[0]):
            process.start()
        yield cluster


def documented(name: str) -> str:
    """The job of docs/write-jobs.md with this name."""
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if f"name: {name}\n" in block]
    return text


def test_one_run_goes_through_a_task_of_each_type(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    server.answers["/rows"] = lambda call: call.reply(200, {"rows": 3})
    database = tmp_path / "orders.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("create table orders (d text); insert into orders values ('2026-11-20'), ('x; drop')")
    (tmp_path / "url").write_text(f"sqlite:///{database}")
    cluster.manage("set_connection", "warehouse", "--file", str(tmp_path / "url"))
    cluster.apply(
        f"""
kind: Job
name: each-type
parameters:
  - {{name: day, type: string, default: "x; drop"}}
  - {{name: api_key, type: secret, default: {{secret: reports-api}}}}
defaults: {{timeout: 30s}}
tasks:
  - {{name: by_shell, type: shell, command: 'echo "$KEY"; echo "{{\\"day\\": \\"$1\\"}}"', args: ["${{params.day}}"], env: {{KEY: "${{params.api_key}}"}}, result: json}}
  - name: by_script
    type: script
    interpreter: [{sys.executable}, -u]
    script: |
      import json, os
      print(json.dumps({{"length": len(os.environ["DAY"])}}))
    env: {{DAY: "${{results.by_shell.day}}"}}
    result: json
    depends_on: [by_shell]
  - {{name: by_python, type: python, call: "operator:concat", args: [["a"], ["${{results.by_shell.day}}"]], depends_on: [by_shell]}}
  - {{name: by_http, type: http, url: "{server.url("/rows")}", result: body, depends_on: [by_script]}}
  - {{name: by_sql, type: sql, connection: warehouse, statement: "select count(*) as n from orders where d = :day", bind: {{day: "${{params.day}}"}}, result: first_row, read_only: true, depends_on: [by_python]}}
  - {{name: by_wait, type: wait, for: 1s, depends_on: [{{task: by_sql, when: "results.by_sql.n == 1"}}, by_http]}}
  - {{name: nothing, type: noop, depends_on: [by_wait]}}
""",
    )

    cluster.manage("trigger", "each-type", "--wait", "60")

    rows = cluster.ask(
        "select k.name, t.state, t.result from orchestrator_taskrun t join orchestrator_task k on k.id = t.task_id"
        " join orchestrator_jobversion v on v.id = k.version_id join orchestrator_job j on j.id = v.job_id"
        " where j.name = 'each-type' order by t.position",
    )
    assert {state for _, state, _ in rows} == {"succeeded"}, rows
    assert {name: result for name, _, result in rows} == {
        "by_shell": {"day": "x; drop"},
        "by_script": {"length": 7},
        "by_python": ["a", "x; drop"],
        "by_http": {"rows": 3},
        "by_sql": {"n": 1},
        "by_wait": None,
        "nothing": None,
    }
    home = Path(cluster.environ["UPBEAT_HOME"])
    assert not [path for path in home.rglob("*.log") if SECRET in path.read_text(errors="replace")]


def test_the_documented_job_orders_a_report_and_polls_until_it_is_done(
    cluster: Cluster, server: Server, tmp_path: Path
) -> None:
    answers = iter(["working", "working", "done"])
    server.answers["/api/reports"] = lambda call: call.reply(202, {"state": "accepted", "id": 17})
    server.answers["/api/reports/17"] = lambda call: call.reply(200, {"state": next(answers)})
    job = (
        documented("refresh-report")
        .replace("https://reports.example", server.url(""))
        .replace("delay: 30s", "delay: 200ms")
    )
    cluster.apply(job)

    cluster.manage("trigger", "refresh-report", "--param", "day=2026-11-21", "--wait", "60")

    assert cluster.ask("select state from orchestrator_jobrun order by id desc limit 1") == [("succeeded",)]
    order, *polls = [call for call in server.seen if call.path.startswith("/api/reports")]
    assert (order.method, order.body) == ("POST", b'{"day":"2026-11-21"}')
    assert {seen.headers["authorization"] for seen in (order, *polls)} == {f"Bearer {SECRET}"}
    assert [seen.path for seen in polls] == ["/api/reports/17"] * 3
    told = str(cluster.ask("select reason from orchestrator_transition union select reason from orchestrator_attempt"))
    assert "expect.body is false: json.state == 'done'" in told
    home = Path(cluster.environ["UPBEAT_HOME"])
    logs = [path.read_text(errors="replace") for path in home.rglob("*") if path.is_file() and path.name != "secret"]
    assert any("< HTTP/1.1 202 Accepted" in log for log in logs)
    assert SECRET not in told + "".join(logs)


def test_the_documented_wait_is_waited_between_its_neighbours(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(documented("deploy-and-look").replace("10m", "2s"))

    cluster.manage("trigger", "deploy-and-look", "--wait", "60")

    ((waited, in_order),) = cluster.ask(
        "select extract(epoch from w.ended_at - d.ended_at)::float8, l.started_at >= w.ended_at"
        " from orchestrator_taskrun d join orchestrator_taskrun w using (run_id) join orchestrator_taskrun l using (run_id)"
        " where run_id = (select max(id) from orchestrator_jobrun) and (d.position, w.position, l.position) = (0, 1, 2)",
    )
    assert isinstance(waited, float)
    assert 2 <= waited < 10
    assert in_order


def test_a_cancelled_request_is_given_up_at_once(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    waiting, gone = threading.Event(), threading.Event()

    def answer(call: Call) -> None:
        waiting.set()
        call.hang()
        gone.set()

    server.answers["/hang"] = answer
    cluster.apply(
        f"kind: Job\nname: hangs\ntasks: [{{name: call, type: http, url: '{server.url('/hang')}', timeouts: {{read: 10m}}}}]",
    )
    cluster.manage("trigger", "hangs")
    assert waiting.wait(20)
    ((run,),) = cluster.ask("select max(id) from orchestrator_jobrun")

    cluster.manage("shell", "-c", f"from orchestrator.services.runs import cancel_run; cancel_run({run}, by='a test')")

    assert gone.wait(15), "the connection is still open"
    state = f"select state from orchestrator_jobrun where id = {run}"
    eventually(lambda: cluster.ask(state) == [("cancelled",)], within=20, saying="the run is cancelled")
