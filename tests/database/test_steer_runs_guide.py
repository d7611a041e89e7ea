"""Every call of docs/steer-runs.md is made, and answers what the guide shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest

from orchestrator.models import Job, JobRun
from orchestrator.services.runs import pause_run
from tests.support.api import Api
from tests.support.factories import job_of, run_of, task_of
from tests.support.records import token_text
from tests.support.simulation import PERMANENT, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]
GUIDE = Path(__file__).parents[2] / "docs" / "steer-runs.md"
EXAMPLES = re.findall(r"```console\n\$ (curl .*?)\n```\n(?:```json\n(.*?)\n```\n)?", GUIDE.read_text(), re.DOTALL)
DRAWING = "extract -> load -> publish"


def failed_run(job: Job) -> JobRun:
    run = run_of(job)
    run_task(run, "extract")
    run_task(run, "load", PERMANENT)
    return run


def shows(answer: Any, shown: Any) -> bool:
    """Whether an answer has all that the guide shows of it."""
    if isinstance(shown, dict):
        return isinstance(answer, dict) and all(key in answer and shows(answer[key], shown[key]) for key in shown)
    if isinstance(shown, list):
        return len(answer) == len(shown) and all(map(shows, answer, shown))
    return bool(answer == shown)


def test_the_guide_has_its_examples() -> None:
    assert len(EXAMPLES) == GUIDE.read_text().count("```console")
    assert len(EXAMPLES) >= 12


@pytest.mark.parametrize(("call", "shown"), EXAMPLES, ids=[call[:60] for call, _ in EXAMPLES])
def test_a_call_of_the_guide_does_what_it_says(call: str, shown: str) -> None:
    job = job_of(DRAWING, name="nightly-etl")
    other = job_of(DRAWING)
    failed, paused = failed_run(other), run_of(other)
    pause_run(paused.pk, by="token:ops", reason="release in progress")
    if "retries" in call:
        failed_run(job), failed_run(job)
    else:
        run_of(job), run_of(job)
    run = run_of(job)
    values = {
        "UPBEAT": "/api/v1",
        "TOKEN": token_text("read", "operate", name="ops"),
        "RUN": run.pk,
        "FAILED_RUN": failed.pk,
        "PAUSED_RUN": paused.pk,
        "TASK_RUN": task_of(run, "extract").pk,
    }
    words = shlex.split(Template(call).substitute(values))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1] if "-d" in words else None
    (path,) = [word for word in words if word.startswith("/api/")]

    api = Api(None)
    form = "application/x-www-form-urlencoded"  # what curl says of `-d`
    answer = api.post(path, body, form, headers=headers) if body else api.get(path, headers=headers)

    assert answer.status_code in (200, 201), answer.content
    assert shows(answer.json(), json.loads(shown or "{}")), answer.json()
