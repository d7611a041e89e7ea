from __future__ import annotations

import pytest

from orchestrator.dag.spec import ConcurrencySpec, DependencySpec, JobSpec, ParameterSpec, RetrySpec
from tests.support.definitions import job, only_problem, parse, parse_all, problems_of, spec_of

NOOP = "- {name: a, type: noop}"


def test_a_job_is_read_with_every_field():
    spec = spec_of(
        """
        kind: Job
        name: nightly-etl
        description: Load the orders
        owner: data-team
        tags: [etl, orders, etl]
        priority: P1
        timeout: 2h
        concurrency: {limit: 1, when_full: skip}
        parameters:
          - {name: biz_date, type: date, default: "${biz_date}"}
          - {name: region, type: enum, values: [no, on], default: on, required: true, description: Where}
        schedule: {cron: "30  1 * * *", timezone: Asia/Shanghai}
        tasks:
          - name: extract
            type: shell
            command: ./extract.sh
            env: {BIZ_DATE: "${params.biz_date}"}
            idempotent: true
            allow_failure: true
            retry: {max_attempts: 5, delay: 1m, backoff: exponential, max_delay: 5m, jitter: true, on: ["exit:75", lost]}
            resources: {cpu: 0.5, memory: 512Mi, class: io}
            locks: [b, a, b]
            pool: bulk
            timeout: 90
            queue_timeout: 1h
            priority: P0
          - name: load
            type: noop
            join: any
            depends_on: [extract]
          - name: restore
            type: noop
            depends_on:
              - {task: load, status: failed, recovers: true, when: "params.region == 'on'"}
        """
    )

    assert (spec.name, spec.description, spec.owner, spec.tags) == (
        "nightly-etl",
        "Load the orders",
        "data-team",
        ("etl", "orders"),
    )
    assert (spec.priority, spec.timeout, spec.concurrency) == ("P1", 7200.0, ConcurrencySpec(1, "skip"))
    assert spec.schedules == ({"cron": "30 1 * * *", "timezone": "Asia/Shanghai"},)
    assert spec.parameters == (
        ParameterSpec("biz_date", "date", default="${biz_date}", has_default=True),
        ParameterSpec("region", "enum", "on", True, True, ("no", "on"), "Where"),
    )
    extract, load, restore = spec.tasks
    assert extract.config == {"command": "./extract.sh", "env": {"BIZ_DATE": "${params.biz_date}"}}
    assert extract.retry == RetrySpec(5, 60.0, "exponential", 300.0, True, ("exit:75", "lost"))
    assert extract.resources == {"cpu": 0.5, "memory": 512 * 2**20, "class": "io"}
    assert (extract.locks, extract.pool, extract.timeout, extract.queue_timeout) == (("a", "b"), "bulk", 90.0, 3600.0)
    assert (extract.idempotent, extract.allow_failure, extract.priority) == (True, True, "P0")
    assert (load.join, load.depends_on) == ("any", (DependencySpec("extract"),))
    assert restore.depends_on == (DependencySpec("load", "failed", "params.region == 'on'", True),)


def test_defaults_fill_what_a_task_leaves_open_and_retry_merges_key_by_key():
    spec = spec_of(
        job(
            """
            - {name: a, type: noop}
            - {name: b, type: noop, timeout: 5m, pool: long, retry: {delay: 1s}}
            """,
            "defaults: {timeout: 30m, pool: bulk, retry: {max_attempts: 3, delay: 10s, backoff: exponential}}",
        )
    )

    a, b = spec.tasks
    assert (a.timeout, a.pool, a.retry) == (1800.0, "bulk", RetrySpec(3, 10.0, "exponential"))
    assert (b.timeout, b.pool, b.retry) == (300.0, "long", RetrySpec(3, 1.0, "exponential"))


def test_without_defaults_a_task_has_one_attempt_and_an_hour():
    (task,) = spec_of(job(NOOP)).tasks

    assert (task.retry.max_attempts, task.retry.on, task.timeout, task.pool) == (1, ("failed",), 3600.0, "default")


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ('"30s"', 30), ("1.5", 1.5), ("5m", 300), ("2h", 7200), ("1d", 86400), ("250ms", 0.25)])  # fmt: skip
def test_durations_are_numbers_or_texts(text: str, seconds: float):
    assert spec_of(job(NOOP, f"timeout: {text}")).timeout == seconds


@pytest.mark.parametrize("text", ["5x", "-5", "0", "'30'", "true", "[5]", "400d", "5 m", "5M", "1h30m"])
def test_what_is_no_duration_is_a_problem(text: str):
    assert only_problem(job(NOOP, f"timeout: {text}")).path == "timeout"


@pytest.mark.parametrize("name", ["Big", "-x", "a_b", "trigger", "a" * 64, "5", "''", "[a]"])
def test_a_wrong_job_name_is_a_problem(name: str):
    assert only_problem(f"kind: Job\nname: {name}\ntasks: [{{name: a, type: noop}}]").path == "name"


@pytest.mark.parametrize("name", ["Extract", "1a", "a-b", "in", "'true'", "'null'", "a" * 64])
def test_a_wrong_task_name_is_one_problem_even_if_others_refer_to_it(name: str):
    found = only_problem(job(f"- {{name: {name}, type: noop}}\n- {{name: z, type: noop, depends_on: [{name}]}}"))

    assert found.path == "tasks[0].name"


def test_a_problem_has_path_place_value_and_expectation():
    (found,) = problems_of(job("- {name: a, type: noop}\n- {name: b, type: noop, depends_on: [{task: c}]}"))

    assert found.path == "tasks[1].depends_on[0].task"
    assert (found.line, found.column) == (6, 47)
    assert found.value == "c"
    assert "one of a, b" in found.expected
    assert str(found).startswith("6:47: tasks[1].depends_on[0].task: unknown upstream task")


def test_all_problems_are_found_at_once_in_the_order_of_the_document():
    found = problems_of(
        """kind: Job
name: Bad
descripton: x
parameters:
  - {name: n, type: integer, default: five}
tasks:
  - {name: a, type: shel}
  - {name: b, type: shell, comand: x, depends_on: [a, zz], timeout: 5x}
  - {name: b, type: noop, depends_on: [{task: b, status: succes}]}
"""
    )

    assert [problem.path for problem in found] == [
        "name",
        "descripton",
        "parameters[0].default",
        "tasks[0].type",
        "tasks[1].command",
        "tasks[1].comand",
        "tasks[1].depends_on[1].task",
        "tasks[1].timeout",
        "tasks[2].name",
        "tasks[2].depends_on[0].status",
    ]
    assert all(problem.line is not None for problem in found)


@pytest.mark.parametrize(
    ("text", "path", "near"),
    [
        (job(NOOP, "ownr: x"), "ownr", "owner?"),
        (job("- {name: a, type: noop, dependson: []}"), "tasks[0].dependson", "depends_on?"),
        (job("- {name: a, type: shell, command: x, enviroment: {}}"), "tasks[0].enviroment", "env?"),
        (job(NOOP, "concurrency: {limit: 1, whenfull: skip}"), "concurrency.whenfull", "when_full?"),
        (job(NOOP, "defaults: {retry: {max_attempt: 1}}"), "defaults.retry.max_attempt", "max_attempts?"),
        (job("- {name: a, type: noop, pool: blk}"), "tasks[0].pool", "bulk?"),
        (
            job("- {name: a, type: noop}\n- {name: load, type: noop, depends_on: [lod]}"),
            "tasks[1].depends_on[0].task",
            "a task",
        ),
    ],
)
def test_a_misspelt_name_comes_with_the_nearest_right_one(text: str, path: str, near: str):
    found = only_problem(text)

    assert found.path == path
    if near == "a task":
        assert "load?" in found.expected
    elif near == "env?":
        assert found.message == "unknown field"
    else:
        assert found.expected == near


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("{name: a, type: shell, command: 5}", "tasks[0].command"),
        ("{name: a, type: shell}", "tasks[0].command"),
        ("{name: a, type: shell, command: x, success_codes: [300]}", "tasks[0].success_codes[0]"),
        ("{name: a, type: shell, command: x, result: jsn}", "tasks[0].result"),
        ("{name: a, type: shell, command: x, env: {A: [1]}}", "tasks[0].env.A"),
        ("{name: a, type: noop, resources: {memory: 5Zi}}", "tasks[0].resources.memory"),
        ("{name: a, type: noop, resources: {cpu: -1}}", "tasks[0].resources.cpu"),
        ("{name: a, type: noop, resources: {gpu: 1}}", "tasks[0].resources.gpu"),
        ("{name: a, type: noop, join: some}", "tasks[0].join"),
        ("{name: a, type: noop, locks: [a b]}", "tasks[0].locks[0]"),
        ("{name: a, type: noop, idempotent: yes}", "tasks[0].idempotent"),
        ("{name: a, type: noop, priority: P9}", "tasks[0].priority"),
        ("{name: a, type: noop, retry: {max_attempts: 0}}", "tasks[0].retry.max_attempts"),
        ("{name: a, type: noop, retry: {on: []}}", "tasks[0].retry.on"),
        ('{name: a, type: noop, retry: {on: ["exit:256"]}}', "tasks[0].retry.on[0]"),
        ('{name: a, type: noop, retry: {on: ["exit:9-3"]}}', "tasks[0].retry.on[0]"),
        ("{name: a, type: noop, retry: {on: [lots]}}", "tasks[0].retry.on[0]"),
        ("{name: a, type: noop, depends_on: a}", "tasks[0].depends_on"),
        ("{name: a, type: noop, depends_on: [5]}", "tasks[0].depends_on[0]"),
        ("{name: a}", "tasks[0].type"),
        ("{type: noop}", "tasks[0].name"),
        ("a", "tasks[0]"),
    ],
)
def test_a_wrong_field_of_a_task_is_one_problem(task: str, path: str):
    assert only_problem(job(f"- {task}")).path == path


@pytest.mark.parametrize(
    ("head", "path"),
    [
        ("parameters: [{name: x, type: strin}]", "parameters[0].type"),
        ("parameters: [{name: in, type: string}]", "parameters[0].name"),
        ("parameters: [{name: x, type: enum}]", "parameters[0].values"),
        ("parameters: [{name: x, type: enum, values: []}]", "parameters[0].values"),
        ("parameters: [{name: x, type: enum, values: [a, a]}]", "parameters[0].values[1]"),
        ("parameters: [{name: x, type: enum, values: [a], default: b}]", "parameters[0].default"),
        ("parameters: [{name: x, type: string, values: [a]}]", "parameters[0].values"),
        ("parameters: [{name: x, type: date, default: 2026-13-01}]", "parameters[0].default"),
        ("parameters: [{name: x, type: secret, default: hunter2}]", "parameters[0].default"),
        ('parameters: [{name: x, type: string, default: "${params.y}"}]', "parameters[0].default"),
        ('parameters: [{name: x, type: string, default: "${biz_dat}"}]', "parameters[0].default"),
        ('parameters: [{name: x, type: list, default: "${biz_date}x"}, {name: x, type: string}]', "parameters[1].name"),
        ("concurrency: {when_full: skip}", "concurrency.limit"),
        ("concurrency: {limit: 0}", "concurrency.limit"),
        ('schedule: "* * * *"', "schedule"),
        ('schedule: {cron: "61 * * * *"}', "schedule.cron"),
        ('schedule: [{cron: "* * * * *", timezone: Mars/X}]', "schedule[0].timezone"),
        ("tags: etl", "tags"),
        ("priority: high", "priority"),
    ],
)
def test_a_wrong_field_of_the_job_is_one_problem(head: str, path: str):
    assert only_problem(job(NOOP, head)).path == path


def test_a_secret_in_a_default_is_not_repeated_in_the_problem():
    assert "hunter2" not in str(only_problem(job(NOOP, "parameters: [{name: x, type: secret, default: hunter2}]")))


@pytest.mark.parametrize("end", ["timeout", "lost", "unknown"])
def test_repeating_an_end_that_says_nothing_needs_an_idempotent_task(end: str):
    text = f"- {{name: a, type: noop, retry: {{on: [failed, {end}]}}, idempotent: IDEMPOTENT}}"

    assert only_problem(job(text.replace("IDEMPOTENT", "false"))).path == "tasks[0].retry.on"
    assert problems_of(job(text.replace("IDEMPOTENT", "true"))) == []


def test_risky_ends_in_the_defaults_are_one_problem_that_names_the_tasks():
    found = only_problem(
        job("- {name: a, type: noop}\n- {name: b, type: noop, idempotent: true}", "defaults: {retry: {on: [lost]}}")
    )

    assert found.path == "defaults.retry.on"
    assert found.message.endswith(": a")


def test_a_loop_is_named():
    found = only_problem(
        job(
            """
            - {name: a, type: noop, depends_on: [c]}
            - {name: b, type: noop, depends_on: [a]}
            - {name: c, type: noop, depends_on: [b]}
            """
        )
    )

    assert found.path == "tasks[0].depends_on[0].task"
    assert "a -> b -> c -> a" in found.message


def test_a_duplicate_dependency_is_a_problem():
    assert only_problem(job("- {name: a, type: noop}\n- {name: b, type: noop, depends_on: [a, a]}")).path == (
        "tasks[1].depends_on[1].task"
    )


def test_recovers_goes_with_a_failed_dependency_only():
    text = job("- {name: a, type: noop}\n- {name: b, type: noop, depends_on: [{task: a, recovers: true}]}")

    assert only_problem(text).path == "tasks[1].depends_on[0].recovers"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment", "the file is empty"),
        ("[]", "wrong type"),
        ("kind: Jobb\nname: a", "unknown kind"),
        ("knd: Job\nname: a\ntasks: [{name: a, type: noop}]", "misspelt as knd"),
        ("name: a\ntasks: [{name: a, type: noop}]", "missing"),
        ("kind: Job\nname: a\ntasks: []", "empty"),
        ("kind: Job\nname: a", "missing"),
    ],
)
def test_what_is_no_job_is_a_problem(text: str, message: str):
    found = problems_of(text)

    assert any(message in problem.message for problem in found)


def test_a_file_may_hold_several_jobs_and_each_has_its_own_problems():
    first, second, third = parse_all(
        "kind: Job\nname: a\ntasks: [{name: a, type: noop}]\n---\nkind: Job\nname: b\n---\nkind: Job\nname: a\ntasks: [{name: a, type: noop}]\n"
    )

    assert first.spec is not None
    assert second.problems[0].line == 5
    assert third.problems[0].message == "duplicate job"


def test_json_is_accepted():
    assert parse('{"kind": "Job", "name": "a", "tasks": [{"name": "a", "type": "noop"}]}').spec is not None


def test_the_same_content_written_differently_is_the_same_version():
    flow = parse('{"tasks": [{"type": "noop", "name": "a", "timeout": "1h"}], "name": "a", "kind": "Job"}').spec
    block = parse("kind: Job\nname: a  # why\ntasks:\n  - name: a\n    type: noop\n").spec

    assert flow is not None
    assert block is not None
    assert flow.content_hash() == block.content_hash()
    assert JobSpec.from_canonical(flow.canonical()) == block
