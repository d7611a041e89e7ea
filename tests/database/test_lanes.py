"""Workers say which lanes they take from; who is silent does not live."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.models import LaneWorker
from orchestrator.services.lanes import forget, report_lanes
from tests.support.simulation import heal

pytestmark = pytest.mark.django_db


def reported() -> list[tuple[str, str, int]]:
    return list(LaneWorker.objects.order_by("lane", "worker").values_list("lane", "worker", "slots"))


def test_a_report_is_one_statement_and_a_later_one_takes_its_place() -> None:
    report_lanes("w1@host", ["default", "bulk", "default"], 2)
    LaneWorker.objects.update(seen_at=F("seen_at") - timedelta(minutes=5))

    with CaptureQueriesContext(connection) as captured:
        report_lanes("w1@host", ["default", "bulk"], 4)

    assert len([query for query in captured if "lane" in query["sql"]]) == 1
    assert reported() == [("bulk", "w1@host", 4), ("default", "w1@host", 4)]
    ages = [timezone.now() - seen for seen in LaneWorker.objects.values_list("seen_at", flat=True)]
    assert all(abs(age) < timedelta(seconds=30) for age in ages)


def test_a_worker_that_leaves_is_forgotten_and_the_others_stay() -> None:
    report_lanes("w1@host", ["default", "bulk"], 2)
    report_lanes("w2@host", ["default"], 2)

    forget("w1@host")
    forget("w1@host")

    assert reported() == [("default", "w2@host", 2)]


def test_the_reconciler_forgets_who_was_silent_for_a_day() -> None:
    report_lanes("long-gone@host", ["default"], 2)
    LaneWorker.objects.update(seen_at=F("seen_at") - timedelta(hours=25))
    report_lanes("w1@host", ["default"], 2)

    assert heal() == {}

    assert reported() == [("default", "w1@host", 2)]


class TestWorker:
    """Real workers, as they are started anywhere."""

    pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

    @pytest.mark.parametrize("pool", [("threads", 3), ("prefork", 2), ("solo", 1)])
    def test_a_worker_reports_and_takes_itself_off_the_list_when_it_ends(
        self, pool: tuple[str, int], redis_url: str, tmp_path: Path
    ) -> None:
        from tests.support.processes import worker
        from tests.support.waiting import eventually

        options = ("-P", pool[0], "-c", str(pool[1]))
        database = connection.settings_dict
        environ = environ_for(database, redis_url, tmp_path)
        with worker("lanes", *options, queues="default,bulk", environ=environ, log=tmp_path / "log") as process:
            process.wait_for_output("ready.")
            eventually(lambda: len(reported()) == 2, within=10, saying="the worker has reported")
            assert [(lane, slots) for lane, _, slots in reported()] == [("bulk", pool[1]), ("default", pool[1])]
            assert reported()[0][1].startswith("lanes@")

            process.terminate()

            eventually(lambda: not reported(), within=15, saying="the worker is forgotten")
            eventually(lambda: not process.running, within=15, saying="the worker has ended")
        assert "Traceback" not in process.output()


def environ_for(database: dict[str, Any], redis_url: str, home: Path) -> dict[str, str]:
    """The environment of a process that uses this test's database."""
    if database["ENGINE"].endswith("sqlite3"):
        url = f"sqlite:///{database['NAME']}"
    else:
        user = f"{database['USER']}:{database['PASSWORD']}@" if database["USER"] else ""
        url = f"postgresql://{user}{database['HOST']}:{database['PORT']}/{database['NAME']}"
    return {
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.production",
        "UPBEAT_PROFILE": "production",
        "UPBEAT_SECRET_KEY": "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFG",
        "UPBEAT_ALLOWED_HOSTS": "localhost",
        "UPBEAT_HOME": str(home),
        "UPBEAT_DATABASE_URL": url,
        "UPBEAT_BROKER_URL": redis_url,
        "UPBEAT_RESULT_URL": redis_url,
    }
