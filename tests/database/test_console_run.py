from __future__ import annotations

import pytest

from tests.support.records import new_job, new_run

pytestmark = pytest.mark.django_db


def page(run, rest: str = "") -> str:
    return f"/admin/runs/{run.pk}/{rest}"


def test_the_page_of_a_run_needs_a_login_and_the_permission_to_see_runs(client, admin_client, django_user_model):
    run = new_run(new_job())

    assert client.get(page(run)).status_code == 302
    client.force_login(django_user_model.objects.create_user("eve", is_staff=True))
    assert client.get(page(run)).status_code == 403
    assert admin_client.get(page(run)).status_code == 200
    assert admin_client.get("/admin/runs/999999/").status_code == 404


def test_a_refresh_with_nothing_new_is_empty(admin_client):
    run = new_run(new_job())

    first = admin_client.get(page(run, "?cursor=0"), headers={"HX-Request": "true"})
    second = admin_client.get(page(run, "?cursor=0"), headers={"HX-Request": "true", "X-Seen": first["X-Seen"]})

    assert (first.status_code, second.status_code, second.content) == (200, 204, b"")
