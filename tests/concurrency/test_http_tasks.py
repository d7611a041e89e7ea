"""http tasks with a real worker: the documented job from order to report, and a request that is cancelled."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.concurrency.kill_load import Cluster
from tests.concurrency.test_kill import apply, ask, manage
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
        manage(cluster, "migrate", "--verbosity", "0")
        manage(cluster, "allow_networks", "127.0.0.0/8", "--reason", "tests")
        (tmp_path / "secret").write_text(SECRET)
        manage(cluster, "set_secret", "reports-api", "--file", str(tmp_path / "secret"))
        for process in (cluster.workers[0], cluster.control, cluster.beats[0]):
            process.start()
        yield cluster


def test_the_documented_job_orders_a_report_and_polls_until_it_is_done(
    cluster: Cluster, server: Server, tmp_path: Path
) -> None:
    answers = iter(["working", "working", "done"])
    server.answers["/api/reports"] = lambda call: call.reply(202, {"state": "accepted", "id": 17})
    server.answers["/api/reports/17"] = lambda call: call.reply(200, {"state": next(answers)})
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "name: refresh-report" in block]
    job = text.replace("https://reports.example", server.url("")).replace("delay: 30s", "delay: 200ms")
    apply(cluster, tmp_path, job)

    manage(cluster, "trigger", "refresh-report", "--param", "day=2026-11-21", "--wait", "60")

    assert ask(cluster, "select state from orchestrator_jobrun") == [("succeeded",)]
    order, *polls = server.seen
    assert (order.method, order.body) == ("POST", b'{"day":"2026-11-21"}')
    assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {SECRET}"}
    assert [seen.path for seen in polls] == ["/api/reports/17"] * 3
    told = str(ask(cluster, "select reason from orchestrator_transition union select reason from orchestrator_attempt"))
    assert "expect.body is false: json.state == 'done'" in told
    home = Path(cluster.environ["UPBEAT_HOME"])
    logs = [path.read_text(errors="replace") for path in home.rglob("*") if path.is_file() and path.name != "secret"]
    assert any("< HTTP/1.1 202 Accepted" in log for log in logs)
    assert SECRET not in told + "".join(logs)


def test_a_cancelled_request_is_given_up_at_once(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    waiting, gone = threading.Event(), threading.Event()

    def answer(call: Call) -> None:
        waiting.set()
        call.hang()
        gone.set()

    server.answers["/hang"] = answer
    apply(
        cluster,
        tmp_path,
        f"kind: Job\nname: hangs\ntasks: [{{name: call, type: http, url: '{server.url('/hang')}', timeouts: {{read: 10m}}}}]",
    )
    manage(cluster, "trigger", "hangs")
    assert waiting.wait(20)
    ((run,),) = ask(cluster, "select max(id) from orchestrator_jobrun")

    manage(cluster, "shell", "-c", f"from orchestrator.services.runs import cancel_run; cancel_run({run}, by='a test')")

    assert gone.wait(15), "the connection is still open"
    state = f"select state from orchestrator_jobrun where id = {run}"
    eventually(lambda: ask(cluster, state) == [("cancelled",)], within=20, saying="the run is cancelled")
