from __future__ import annotations

import pytest

from orchestrator.dag.spec import DependencySpec
from tests.support.definitions import only_problem, spec_of

PIPELINE = """
pipeline:
  - name: data_extract
    schedule: "0 2 * * *"
    dependencies: []
  - name: data_transform
    dependencies:
      - task: data_extract
        status: success
    timeout: 3600
    command: ./transform.sh
  - name: data_load
    dependencies:
      - {task: data_transform, status: done}
    resources:
      - database_lock: primary_db
      - {cpu: 2, file_lock: staging}
"""


def test_a_plain_pipeline_becomes_a_job():
    spec = spec_of(PIPELINE, stem="nightly_sync")

    assert spec.name == "nightly-sync"
    assert spec.schedules == ({"cron": "0 2 * * *"},)
    extract, transform, load = spec.tasks
    assert (extract.type, extract.depends_on) == ("noop", ())
    assert (transform.type, transform.config) == ("shell", {"command": "./transform.sh"})
    assert transform.timeout == 3600.0
    assert load.depends_on == (DependencySpec("data_transform", "done"),)
    assert (load.locks, load.resources) == (("primary_db", "staging"), {"cpu": 2})


def test_a_name_in_the_file_wins():
    assert spec_of(f"name: other\n{PIPELINE}", stem="nightly").name == "other"


@pytest.mark.parametrize("stem", ["", "Nightly", "trigger", "a b"])
def test_a_file_name_that_gives_no_job_name_is_a_problem(stem: str):
    assert only_problem(PIPELINE, stem=stem).path == "name"


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("timeout: 3600", "schedule: '0 3 * * *'", "pipeline[1].schedule"),
        ("status: success", "status: succes", "pipeline[1].dependencies[0].status"),
        ("task: data_extract", "task: data_extrac", "pipeline[1].dependencies[0].task"),
        ("timeout: 3600", "timeot: 3600", "pipeline[1].timeot"),
        ("database_lock", "database", "pipeline[2].resources[0].database"),
    ],
)
def test_a_mistake_is_one_located_problem(old: str, new: str, path: str):
    found = only_problem(PIPELINE.replace(old, new), stem="nightly")

    assert found.path == path
    assert found.line is not None
