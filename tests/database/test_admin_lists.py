"""Every list of the admin, ours and other packages': empty and full, quick, readable."""

from __future__ import annotations

import re

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.admin.mixins import duration_words
from orchestrator.models import JobRun
from tests.support.admin_rows import LONG, fill
from tests.support.records import default_tenant, new_job, new_run

pytestmark = pytest.mark.django_db
MODELS = sorted((model for model in admin.site._registry), key=lambda model: model._meta.label_lower)


def list_of(model) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)
def test_every_list_opens_empty(admin_client, model):
    assert admin_client.get(list_of(model)).status_code == 200


def test_an_empty_list_says_whether_there_is_nothing_or_nothing_matches(admin_client):
    assert "No job runs yet" in admin_client.get(list_of(JobRun)).content.decode()

    new_run(new_job())
    found = admin_client.get(list_of(JobRun), {"state__exact": "failed"}).content.decode()

    assert "No job runs match the search and the filters" in found
    assert "Show all" in found
    assert "Add job run" not in found


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)
def test_every_list_costs_the_same_for_any_length(admin_client, model):
    """A new list must be filled above, or this says nothing about it."""
    fill(0, 3)
    assert model._default_manager.count() >= 3
    admin_client.get(list_of(model))
    counts = []
    for first, count in ((3, 1), (4, 6)):
        fill(first, count)
        with CaptureQueriesContext(connection) as captured:
            answer = admin_client.get(list_of(model))
        assert answer.status_code == 200
        counts.append(len(captured))

    assert counts[0] == counts[1]
    assert counts[0] <= 9


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)
def test_every_list_reads_well(admin_client, model):
    fill(0, 3)

    page = admin_client.get(list_of(model)).content.decode()
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    rows = re.findall(r"<tbody.*?</tbody>", body, flags=re.DOTALL)

    assert rows
    for row in rows:
        text = re.sub(r"<[^>]*>", " ", row)
        assert not re.search(r"\b[ap]\.m\.", text), "a moment without its zone"
        assert not re.search(r"\bNone\b", text)
        assert not re.search(r"\b(timed_out|upstream_failed|retry_waiting|no_match)\b", text), (
            "a state as code writes it"
        )
        # A long text takes two lines and shows the rest on hover.
        assert text.count(LONG.strip()[:70]) <= row.count("line-clamp:2") * 6


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)
def test_every_record_opens_and_shows_moments_with_their_zone(admin_client, model):
    fill(0, 2)
    row = model._default_manager.first()

    answer = admin_client.get(f"{list_of(model)}{row.pk}/change/", follow=True)

    page = answer.content.decode()
    assert answer.status_code == 200
    assert not re.search(r"\d [ap]\.m\.", page)
    assert "(&#x27;" not in page, "a tuple as code writes it"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)
def test_every_list_can_be_searched_where_it_has_a_box(admin_client, model):
    fill(0, 1)
    default_tenant()

    for asked in ("7", "team-0", "nothing-like-it", "%", "9" * 30):
        assert admin_client.get(list_of(model), {"q": asked}).status_code == 200


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.014, "0.01 s"),
        (9.99, "9.99 s"),
        (119.9, "119 s"),
        (576, "9 min 36 s"),
        (7200, "2 h 0 min"),
        (99_998, "27 h 46 min"),
        (1_000_000, "11 d 13 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds, said):
    assert duration_words(seconds) == said
