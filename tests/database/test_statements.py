"""What the hot path may cost: SQL statements per task on PostgreSQL, BEGIN and COMMIT not counted.

The figures are ceilings of today's cost: one that grows is a decision, not an accident.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.models import TaskRun
from orchestrator.services import attempts
from orchestrator.services.attempts import Claimed
from orchestrator.services.runs import advance_run
from tests.support.factories import job_of, run_of, task_of
from tests.support.simulation import FAILURE, SUCCESS, WORKER, Broker, claim, run_task, settle
from workers.runtime.attempt import run_attempt

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker"),
    pytest.mark.postgresql,  # SQLite has no round trips to save
]


def statements_of(work: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        work()
    # Django names savepoints and BEGIN in its log too; they are no statements of ours.
    marks = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK")
    return [query["sql"] for query in captured if not query["sql"].upper().startswith(marks)]


def cost(work: Callable[[], object]) -> int:
    return len(statements_of(work))


def test_a_header_of_a_wide_chord_costs_two_statements() -> None:
    run = run_of("p*10 -> end")
    headers = list(TaskRun.objects.filter(run=run, fragment__isnull=False).values_list("pk", flat=True))

    def one_header() -> None:
        claimed = attempts.claim_task_run(headers.pop(), worker=WORKER)
        assert isinstance(claimed, Claimed)
        attempts.settle_attempt(claimed, SUCCESS, worker=WORKER)

    one_header()  # the version is compiled once per process
    assert cost(one_header) <= 2


def test_a_whole_attempt_of_a_header_stays_within_the_promised_six() -> None:
    run = run_of("p*10 -> end")
    headers = list(TaskRun.objects.filter(run=run, fragment__isnull=False).values_list("pk", flat=True))
    run_attempt(headers.pop(), worker=WORKER)

    spent = statements_of(lambda: run_attempt(headers.pop(), worker=WORKER))

    assert len(spent) <= 2, spent


def test_a_link_of_a_chain_costs_four_statements() -> None:
    run = run_of(" -> ".join(f"t{n}" for n in range(6)))
    run_task(run, "t0")
    ids = {name: task_of(run, name).pk for name in ("t1", "t2", "t3")}

    def link() -> None:
        claimed = attempts.claim_task_run(ids["t1"], worker=WORKER)
        assert isinstance(claimed, Claimed)
        attempts.settle_attempt(claimed, SUCCESS, worker=WORKER, follows=ids["t2"])

    assert cost(link) <= 4


def test_one_of_many_upstreams_costs_two_statements_and_no_transaction() -> None:
    run = run_of("a*6 -> b*2; x -> b_1, b_2")
    run_task(run, "a_1")
    id = task_of(run, "a_2").pk

    def upstream() -> None:
        claimed = attempts.claim_task_run(id, worker=WORKER)
        assert isinstance(claimed, Claimed)
        attempts.settle_attempt(claimed, SUCCESS, worker=WORKER)

    with CaptureQueriesContext(connection) as captured:
        upstream()
    assert len(captured) == 2, [query["sql"][:40] for query in captured]


def test_the_last_leaf_costs_five_statements() -> None:
    run = run_of("a -> b")
    run_task(run, "a")
    id = task_of(run, "b").pk

    def leaf() -> None:
        claimed = attempts.claim_task_run(id, worker=WORKER)
        assert isinstance(claimed, Claimed)
        attempts.settle_attempt(claimed, SUCCESS, worker=WORKER)

    assert cost(leaf) <= 5


def test_a_retry_costs_no_more_than_a_header() -> None:
    run = run_of("a -> b; a: attempts=3")
    claimed = claim(run, "a")

    assert cost(lambda: settle(claimed, FAILURE)) <= 1


@pytest.mark.parametrize("width", [10, 190])
def test_planning_the_tail_of_a_chord_costs_the_same_at_any_width(width: int) -> None:
    run = run_of("start -> side; start -> p*%d -> end" % width)  # noqa: UP031  braces are the drawing's own
    run_task(run, "start")
    for header in TaskRun.objects.filter(run=run, fragment__isnull=False):
        claimed = attempts.claim_task_run(header.pk, worker=WORKER)
        assert isinstance(claimed, Claimed)
        attempts.settle_attempt(claimed, SUCCESS, worker=WORKER)

    assert cost(lambda: advance_run(run.pk)) <= 5


@pytest.mark.parametrize("width", [5, 150])
def test_a_trigger_costs_the_same_for_any_number_of_tasks(width: int, broker: Broker) -> None:
    job = job_of("p*%d -> end" % width)  # noqa: UP031  as above
    run_of(job)

    spent = statements_of(lambda: run_of(job))

    assert len(spent) <= 12, spent


def test_a_lost_claim_costs_two_statements() -> None:
    run = run_of("a")
    id = claim(run, "a").task_run_id

    assert cost(lambda: attempts.claim_task_run(id, worker="other")) <= 2
