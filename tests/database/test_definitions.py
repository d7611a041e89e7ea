"""Definitions in the ledger: versions, what apply does once, twice and at the same time, and the commands."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from orchestrator.dag.graph import Graph
from orchestrator.dag.spec import JobSpec
from orchestrator.errors import JobArchived, UnknownJob, UnknownVersion
from orchestrator.models import Dependency, Job, JobVersion, Task, Tenant, Transition
from orchestrator.services.jobs import (
    apply_definition,
    apply_definitions,
    archive_job,
    pause_job,
    plan_definition,
    restore_job,
    resume_job,
    version_of_job,
)
from tests.support.definitions import spec_of
from tests.support.records import default_tenant

SOURCE = """\
kind: Job
name: nightly-etl
owner: data-team
tags: [etl]
concurrency: {limit: 2, when_full: skip}
tasks:
  - {name: load, type: noop, join: any, depends_on: [extract, {task: check, status: done}], priority: P0, pool: bulk}
  - {name: extract, type: shell, command: ./extract.sh, idempotent: true, locks: [db], timeout: 5m, queue_timeout: 1h}
  - {name: check, type: noop, depends_on: [{task: extract, when: "results.extract.n > 0"}]}
"""
CHANGED = SOURCE.replace("./extract.sh", "./new.sh").replace("limit: 2", "limit: 5").replace("[etl]", "[]")


@pytest.fixture
def tenant(db: None) -> Tenant:
    return default_tenant()


def apply(tenant: Tenant, source: str, **more: str) -> Any:
    return apply_definition(tenant=tenant, spec=spec_of(source), source=source, **({"author": "ada"} | more))


def test_applying_a_definition_makes_a_job_with_its_first_version(tenant: Tenant):
    applied = apply(tenant, SOURCE, comment="the first")

    job = Job.objects.get(tenant=tenant, name="nightly-etl")
    assert applied.outcome == "created"
    assert applied.version_created
    assert (job.owner, job.tags, job.concurrency_limit, job.when_full) == ("data-team", ["etl"], 2, "skip")
    version = job.latest_version
    assert version is not None
    assert (version.number, version.author, version.comment, version.task_count) == (1, "ada", "the first", 3)
    assert version.source == SOURCE
    assert JobSpec.from_canonical(version.spec) == spec_of(SOURCE)


def test_a_stored_version_keeps_its_content_hash(tenant: Tenant):
    version = apply(tenant, SOURCE).version
    version.refresh_from_db()

    assert JobSpec.from_canonical(version.spec).content_hash() == version.content_hash


def test_tasks_and_dependencies_are_rows_in_topological_positions(tenant: Tenant):
    version = apply(tenant, SOURCE).version

    tasks = {task.name: task for task in Task.objects.filter(version=version)}
    assert [task.name for task in sorted(tasks.values(), key=lambda task: task.position)] == [
        "extract",
        "check",
        "load",
    ]
    extract, load = tasks["extract"], tasks["load"]
    assert (extract.type, extract.upstream_count, extract.downstream_count) == ("shell", 0, 2)
    assert (extract.timeout_seconds, extract.queue_timeout_seconds, extract.lock_count, extract.idempotent) == (
        300,
        3600,
        1,
        True,
    )
    assert (load.join, load.upstream_count, load.priority, load.pool) == ("any", 2, 0, "bulk")
    assert extract.priority == 2
    edges = Dependency.objects.filter(version=version).values_list(
        "upstream_position", "downstream_position", "status", "when"
    )
    assert sorted(edges) == [(0, 1, "success", "results.extract.n > 0"), (0, 2, "success", ""), (1, 2, "done", "")]


def test_applying_the_same_content_again_changes_nothing(tenant: Tenant):
    first = apply(tenant, SOURCE)

    again = apply(tenant, SOURCE + "\n# written differently\n")

    assert (again.outcome, again.version_created) == ("unchanged", False)
    assert again.version == first.version
    assert JobVersion.objects.count() == 1


def test_other_content_is_a_new_version(tenant: Tenant):
    apply(tenant, SOURCE)

    applied = apply(tenant, CHANGED)

    assert (applied.outcome, applied.version.number) == ("updated", 2)
    job = Job.objects.get(name="nightly-etl")
    assert job.latest_version == applied.version
    assert (job.concurrency_limit, job.tags) == (5, [])


def test_the_content_of_an_older_version_makes_that_one_the_latest(tenant: Tenant):
    first = apply(tenant, SOURCE)
    apply(tenant, CHANGED)

    back = apply(tenant, SOURCE)

    assert (back.outcome, back.version_created, back.version) == ("updated", False, first.version)
    assert Job.objects.get(name="nightly-etl").latest_version == first.version
    assert Job.objects.get(name="nightly-etl").concurrency_limit == 2
    assert JobVersion.objects.count() == 2


def test_tenants_do_not_share_jobs(tenant: Tenant):
    other = Tenant.objects.create(slug="other")
    apply(tenant, SOURCE)

    assert apply(other, SOURCE).outcome == "created"
    assert Job.objects.filter(name="nightly-etl").count() == 2


def test_several_definitions_are_applied_all_or_none(tenant: Tenant):
    archive_job(apply(tenant, SOURCE).job, by="ada")
    definitions = [(spec_of(SOURCE.replace("nightly-etl", "another")), ""), (spec_of(CHANGED), "")]

    with pytest.raises(JobArchived):
        apply_definitions(tenant=tenant, definitions=definitions, author="ada")

    assert not Job.objects.filter(name="another").exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("existing", [False, True])
def test_two_equal_definitions_at_the_same_time_make_one_version(existing: bool):
    tenant = default_tenant()
    if existing:
        apply(tenant, SOURCE)
    gate = threading.Barrier(4)
    outcomes: list[str] = []

    def actor() -> None:
        try:
            spec = spec_of(CHANGED)
            gate.wait(timeout=30)
            applied = apply_definition(tenant=tenant, spec=spec, source=CHANGED, author="ada")
            outcomes.append("new" if applied.version_created else applied.outcome)
        finally:
            connection.close()

    threads = [threading.Thread(target=actor) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert sorted(outcomes) == ["new", "unchanged", "unchanged", "unchanged"]
    version = Job.objects.get(name="nightly-etl").latest_version
    assert version is not None
    assert version.number == (2 if existing else 1)
    assert Task.objects.filter(version=version).count() == 3


def test_a_big_job_is_stored_completely(tenant: Tenant):
    lines = [
        f"  - {{name: t{n}, type: noop, depends_on: [{', '.join(f't{up}' for up in range(max(0, n - 3), n))}]}}"
        for n in range(3000)
    ]
    source = "kind: Job\nname: big\ntasks:\n" + "\n".join(lines)

    version = apply(tenant, source).version

    assert Task.objects.filter(version=version).count() == 3000
    assert Dependency.objects.filter(version=version).count() == Graph.of(spec_of(source)).edge_count


def test_a_plan_says_what_apply_would_change_and_changes_nothing(tenant: Tenant):
    assert plan_definition(tenant=tenant, spec=spec_of(SOURCE)) == ["create job nightly-etl with 3 tasks"]
    apply(tenant, SOURCE)

    assert plan_definition(tenant=tenant, spec=spec_of(SOURCE)) == []
    assert 'task extract: change command from "./extract.sh" to "./new.sh"' in plan_definition(
        tenant=tenant, spec=spec_of(CHANGED)
    )
    assert JobVersion.objects.count() == 1


def test_pausing_and_resuming_a_job_is_recorded_once_each(tenant: Tenant):
    job = apply(tenant, SOURCE).job

    pause_job(job, by="ada", reason="maintenance")
    paused = pause_job(job, by="bob", reason="too late")
    resume_job(job, by="bob")
    resumed = resume_job(job, by="bob")

    assert (paused.paused_by, paused.pause_reason) == ("ada", "maintenance")
    assert paused.paused_at is not None
    assert (resumed.paused_at, resumed.pause_reason) == (None, "")
    facts = Transition.objects.filter(subject="job", subject_id=job.pk).order_by("id")
    assert [(fact.from_state, fact.to_state, fact.by, fact.reason) for fact in facts] == [
        ("active", "paused", "ada", "maintenance"),
        ("paused", "active", "bob", "resumed"),
    ]


def test_an_archived_job_takes_no_definition_until_it_is_restored(tenant: Tenant):
    job = apply(tenant, SOURCE).job
    archive_job(job, by="ada")

    with pytest.raises(JobArchived):
        apply(tenant, CHANGED)
    restore_job(job, by="ada")

    assert apply(tenant, CHANGED).outcome == "updated"


def test_versions_are_found_by_number(tenant: Tenant):
    first = apply(tenant, SOURCE).version
    second = apply(tenant, CHANGED).version

    assert version_of_job(tenant=tenant, job_name="nightly-etl") == second
    assert version_of_job(tenant=tenant, job_name="nightly-etl", number=1) == first
    with pytest.raises(UnknownVersion):
        version_of_job(tenant=tenant, job_name="nightly-etl", number=9)
    with pytest.raises(UnknownJob):
        version_of_job(tenant=tenant, job_name="none")


# The commands, as a person calls them.


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command; returns exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command(*arguments, stdout=out, stderr=err)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except CommandError as error:
        code = error.returncode
        err.write(str(error))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nightly.yaml"
    path.write_text(SOURCE)
    return path


def test_validate_prints_one_problem_per_line_without_a_database(tmp_path: Path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(SOURCE)
    bad.write_text(SOURCE.replace("type: shell", "type: shel").replace("owner", "ownr"))

    code, out, _ = run("validate", str(good), str(bad))

    assert code == 1
    assert out.splitlines() == [
        f"{good}: job nightly-etl is valid (3 tasks)",
        f'{bad}:3:1: ownr: unknown field; found "ownr"; expected owner?',
        f'{bad}:8:27: tasks[1].type: unknown task type; found "shel"; expected shell?',
    ]


def test_validate_of_a_valid_file_ends_with_zero(file: Path):
    code, out, _ = run("validate", "--json", str(file))

    assert code == 0
    assert json.loads(out) == {
        "valid": True,
        "definitions": [{"file": str(file), "kind": "Job", "name": "nightly-etl", "problems": []}],
    }


def test_validate_as_json_has_every_part_of_a_problem(file: Path):
    file.write_text(SOURCE.replace("owner", "ownr"))

    code, out, _ = run("validate", "--json", str(file))

    assert code == 1
    assert json.loads(out)["definitions"][0]["problems"] == [
        {"path": "ownr", "line": 3, "column": 1, "value": "ownr", "expected": "owner?", "message": "unknown field"}
    ]


@pytest.mark.django_db
def test_plan_ends_with_three_for_changes_and_zero_for_none(file: Path):
    code, out, _ = run("plan", str(file))
    assert (code, out) == (3, "nightly-etl:\n  create job nightly-etl with 3 tasks\n")

    run("apply", str(file))

    code, out, _ = run("plan", str(file))
    assert (code, out) == (0, "nightly-etl: no changes\n")


@pytest.mark.django_db
def test_apply_prints_job_version_and_outcome(file: Path):
    assert run("apply", str(file), "--comment", "first") == (0, "nightly-etl version 1 created\n", "")
    assert run("apply", str(file)) == (0, "nightly-etl version 1 unchanged\n", "")
    file.write_text(CHANGED)
    assert run("apply", str(file)) == (0, "nightly-etl version 2 created\n", "")
    file.write_text(SOURCE)
    assert run("apply", str(file)) == (0, "nightly-etl version 1 updated\n", "")
    assert JobVersion.objects.get(number=1).comment == "first"


@pytest.mark.django_db
def test_apply_of_a_file_with_problems_changes_nothing(file: Path, tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: Job\nname: bad\n")

    code, out, err = run("apply", str(file), str(bad))

    assert (code, out) == (1, "")
    assert f"{bad}:1:1: tasks: missing; expected a list of tasks" in err
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_a_plain_pipeline_takes_its_name_from_the_file(tmp_path: Path):
    path = tmp_path / "order_sync.yaml"
    path.write_text("pipeline:\n  - name: data_extract\n    schedule: '0 2 * * *'\n")

    assert run("apply", str(path))[1] == "order-sync version 1 created\n"


@pytest.mark.django_db
def test_what_export_prints_apply_accepts_unchanged(file: Path, tmp_path: Path):
    run("apply", str(file))
    file.write_text(CHANGED)
    run("apply", str(file))
    exported = tmp_path / "exported.yaml"

    code, out, _ = run("export", "nightly-etl")
    exported.write_text(out)
    assert code == 0
    assert run("apply", str(exported))[1] == "nightly-etl version 2 unchanged\n"

    exported.write_text(run("export", "nightly-etl", "--version", "1")[1])
    assert run("apply", str(exported))[1] == "nightly-etl version 1 updated\n"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "none"), "There is no job 'none'."),
        (("export", "none", "--tenant", "nobody"), "There is no tenant 'nobody'."),
        (("apply", "none.yaml"), "none.yaml: No such file or directory"),
        (("validate", "/"), "Is a directory"),
    ],
)
def test_a_refusal_is_one_line_on_standard_error(arguments: tuple[str, ...], message: str):
    code, out, err = run(*arguments)

    assert (code, out) == (1, "")
    assert message in err
