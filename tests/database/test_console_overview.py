from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.models import JobRun, LaneWorker, Lease, RoleGrant, Tenant
from orchestrator.selectors import standing as selector
from orchestrator.selectors.standing import day_of
from orchestrator.states import RunState, TaskState
from tests.support.records import default_tenant, new_job, new_run, new_task_run
from triggers.models import DeadLetter, EventSource, Listener

pytestmark = pytest.mark.django_db
#: A link whose text is a number, or a number and a word; a share in percent is none.
ANCHOR = re.compile(r'<a [^>]*href="(/admin/[^"]+)"[^>]*>\s*([\d,]+)(?: [a-z][^<]*)?<')


def overview(client, query=""):
    answer = client.get(f"/admin/{query}")
    assert answer.status_code == 200
    return answer


def numbers(answer) -> dict[str, int]:
    """The numbers of the page by the address of the list that each leads to."""
    text = answer.content.decode().replace("&amp;", "&")
    return {url: int(number.replace(",", "")) for url, number in ANCHOR.findall(text)}


def fill(runs: int = 3) -> None:
    """Runs of every state, a job that fails and one that has recovered, tasks that run and wait, workers, sources."""
    failing, recovered = new_job("failing"), new_job("recovered")
    now = timezone.now()
    for _ in range(runs):
        new_run(recovered, RunState.FAILED, reason="extract failed")
        new_run(recovered, RunState.SUCCEEDED)
        new_run(failing, RunState.SUCCEEDED)
        new_run(failing, RunState.TIMED_OUT)
        new_run(failing, RunState.CANCELLED)
        new_run(failing, RunState.FAILED, reason="exit code 1")
        new_run(failing, RunState.PENDING)
        run = new_run(failing)
        new_task_run(run, 0, TaskState.READY)
        new_task_run(new_run(recovered), 0, TaskState.RUNNING, worker="worker@a/1.2", lease_until=now)
    LaneWorker.objects.create(lane="default", worker="worker@a", slots=4, seen_at=now)
    LaneWorker.objects.create(lane="control", worker="control@a", slots=4, seen_at=now)
    for name in ("beat", "reconciler"):
        Lease.objects.create(name=name, expires_at=now + timedelta(minutes=1))
    source = EventSource.objects.create(tenant=default_tenant(), slug="orders", kind="kafka", id_policy="transport")
    EventSource.objects.create(tenant=default_tenant(), slug="quiet", kind="rabbitmq", id_policy="transport")
    EventSource.objects.create(tenant=default_tenant(), slug="shop", kind="webhook", id_policy="transport")
    Listener.objects.create(
        instance="a", source=source, kind="kafka", assigned={"t/0": 30, "t/1": 12}, last_loop_at=now, started_at=now
    )


def test_every_number_leads_to_a_list_of_just_as_many(admin_client):
    fill()

    found = numbers(overview(admin_client))

    assert len(found) >= 12
    for url, number in found.items():
        if "/eventsource/" in url:  # messages, which lie in a broker
            continue
        page = admin_client.get(url)
        assert page.status_code == 200, url
        rows = page.context["cl"].result_list
        # A worker has a row for each of its lanes.
        counted = {row.worker for row in rows} if "/laneworker/" in url and "lane=" not in url else rows
        assert len(counted) == number, url


def test_it_says_what_waits_longest_and_why(admin_client):
    first = new_run(new_job("slow"))
    old = new_task_run(first, 0, TaskState.READY)
    old.ready_at = timezone.now() - timedelta(hours=2)
    old.save()
    new_task_run(new_run(new_job("quick")), 0, TaskState.READY)

    text = overview(admin_client).content.decode()

    assert f'href="/admin/orchestrator/taskrun/{old.pk}/change/"' in text
    assert f"slow #{first.pk}" in text
    assert "the lane default has no live worker" in text
    assert "quick #" not in text


def test_a_job_whose_newest_run_succeeded_has_recovered(admin_client):
    fill(runs=1)

    rows = overview(admin_client).context["failing"]

    assert [(row["job"].name, row["job"].failures, row["job"].recovered) for row in rows] == [
        ("failing", 2, False),
        ("recovered", 1, True),
    ]


def test_a_lane_with_work_and_without_a_worker_is_told_first(admin_client):
    new_task_run(new_run(new_job()), 0, TaskState.READY)

    rows = overview(admin_client).context["lanes"]

    assert [(row["lane"].name, row["word"], row["tone"]) for row in rows] == [
        ("control", "no worker", "bad"),
        ("default", "no worker", "bad"),
        ("bulk", "no worker", "faint"),
        ("long", "no worker", "faint"),
    ]


def test_a_lane_is_full_too_when_its_workers_are_busy_with_another_lane(admin_client):
    quick, slow = new_job("quick"), new_job("slow")
    slow.latest_version.tasks.update(pool="bulk")
    for lane in ("default", "bulk"):
        LaneWorker.objects.create(lane=lane, worker="worker@a", slots=2, seen_at=timezone.now())
    for _ in range(2):
        new_task_run(new_run(quick), 0, TaskState.RUNNING)
    new_task_run(new_run(slow), 0, TaskState.READY)

    answer = overview(admin_client)

    assert {row["lane"].name: row["word"] for row in answer.context["lanes"]}["bulk"] == "full"
    assert (answer.context["standing"].live_workers, answer.context["standing"].slots) == (1, 2)


def test_sources_in_trouble_come_first_with_what_they_have_not_read(admin_client):
    fill(runs=1)

    sources = overview(admin_client).context["standing"].events.sources

    assert [(each.name, each.state, each.lag) for each in sources] == [
        ("quiet", "silent", None),
        ("orders", "ok", 42),
        ("shop", "ok", None),
    ]


def test_an_empty_installation_says_what_to_do_next(admin_client):
    text = overview(admin_client).content.decode()

    assert "No run yet today" in text
    assert "Nothing waits" in text
    assert "No run failed in the last 24 hours" in text
    assert "No event source yet" in text
    assert "nobody leads reconciler" in text


def test_it_costs_the_same_for_any_number_of_runs_and_counts_no_table(admin_client):
    fill(runs=1)
    overview(admin_client)
    with CaptureQueriesContext(connection) as few:
        overview(admin_client)
    job = new_job("many")
    JobRun.objects.bulk_create(
        JobRun(
            tenant=job.tenant, job=job, version=job.latest_version, trigger_key=f"many:{number}:{state}", state=state,
            logical_date=timezone.now(), created_at=timezone.now(), started_at=timezone.now(),
        )
        for number in range(60) for state in (RunState.RUNNING, RunState.PENDING, RunState.FAILED)
    )  # fmt: skip
    for run in JobRun.objects.filter(job=job, state=RunState.RUNNING)[:20]:
        new_task_run(run, 0, TaskState.READY)

    with CaptureQueriesContext(connection) as many:
        overview(admin_client)

    assert len(many) == len(few) <= 30
    for query in many:
        sql = query["sql"].upper()
        assert "COUNT(" not in sql or "LIMIT" in sql, sql


def test_a_refresh_sends_the_changing_part_alone_and_nothing_if_it_is_the_same(admin_client):
    fill(runs=1)
    whole = overview(admin_client)

    part = admin_client.get("/admin/", headers={"HX-Request": "true"})
    same = admin_client.get("/admin/", headers={"HX-Request": "true", "X-Seen": part.headers["X-Seen"]})

    assert "<html" in whole.content.decode()
    assert "<html" not in part.content.decode()
    assert "Runs created today" in part.content.decode()
    assert (same.status_code, same.content) == (204, b"")


def person(tenant: Tenant | None, role: str = "viewer"):
    user = get_user_model().objects.create_user("eve", password="x", is_staff=True)
    if tenant is not None:
        RoleGrant.objects.create(user=user, tenant=tenant, role=role)
    return user


def test_a_viewer_of_one_tenant_sees_nothing_of_another(client):
    fill()
    other = Tenant.objects.create(slug="other", name="Other", timezone="Asia/Shanghai")
    new_run(new_job("of-other", tenant=other), RunState.FAILED)
    new_task_run(new_run(new_job("waits-at-other", tenant=other)), 0, TaskState.READY)
    client.force_login(person(other))

    answer = overview(client)

    text = answer.content.decode()
    assert answer.context["standing"].runs.total == 2
    assert (answer.context["standing"].ready_tasks, answer.context["standing"].running_runs) == (1, 1)
    assert "of-other" in text
    assert "waits-at-other" in text
    assert "failing" not in {row["job"].name for row in answer.context["failing"]}
    assert "orders" not in text
    assert "day of Asia/Shanghai" in text
    # Flower knows no tenants.
    assert ":5555" not in text


def test_one_of_several_tenants_can_be_chosen_but_no_foreign_one(admin_client, client):
    fill(runs=1)
    other = Tenant.objects.create(slug="other", name="Other")
    new_run(new_job("of-other", tenant=other), RunState.FAILED)

    chosen = overview(admin_client, "?tenant=other")

    assert chosen.context["standing"].runs.total == 1
    assert any("tenant=other" in url for url in numbers(chosen))
    assert admin_client.get("/admin/?tenant=nobody").status_code == 404
    client.force_login(person(other))
    assert client.get("/admin/?tenant=default").status_code == 404


def test_who_has_no_role_is_told_whom_to_ask(client, admin_user):
    client.force_login(person(None))

    text = overview(client).content.decode()

    assert "You have no role yet" in text
    assert admin_user.username in text


def test_names_and_reasons_with_markup_are_shown_as_text(admin_client):
    job = new_job("markup")
    new_run(job, RunState.FAILED, reason="<script>alert(1)</script>")

    text = overview(admin_client).content.decode()

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_dead_letters_are_counted_and_listed(admin_client):
    now = timezone.now()
    DeadLetter.objects.create(
        tenant=default_tenant(), identity="0" * 32, channel="api", reason="bad", raw=b"x", first_seen=now, last_seen=now
    )

    found = numbers(overview(admin_client))

    assert found["/admin/triggers/deadletter/?state=open"] == 1


@pytest.mark.parametrize(
    ("zones", "start", "zone"),
    [
        ({"Asia/Shanghai"}, datetime(2025, 3, 30, 16, tzinfo=UTC), "Asia/Shanghai"),
        # The day on which clocks go forward began an hour earlier than its noon suggests.
        ({"Europe/Berlin"}, datetime(2025, 3, 30, 22, tzinfo=UTC), "Europe/Berlin"),
        ({"Europe/Berlin", "Asia/Shanghai"}, datetime(2025, 3, 30, tzinfo=UTC), "UTC"),
    ],
)
def test_today_is_the_day_of_the_tenants_or_utc_if_they_do_not_share_one(zones, start, zone):
    now = datetime(2025, 3, 30, 23, 30, tzinfo=UTC)

    assert (day_of(zones, now).start, day_of(zones, now).zone) == (start, zone)


def test_beyond_the_bound_it_says_more_than(admin_client, monkeypatch):
    monkeypatch.setattr(selector, "MOST_COUNTED", 4)
    monkeypatch.setattr("orchestrator.console.views.overview.MOST_COUNTED", 4)
    fill(runs=3)

    answer = overview(admin_client)

    assert answer.context["standing"].runs.capped
    assert "the newest 4 of today" in answer.content.decode()
    assert "4+" in answer.content.decode()
