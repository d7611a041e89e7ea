from __future__ import annotations

from orchestrator.dag.diff import describe_changes, text_diff
from tests.support.definitions import job, spec_of

OLD = job(
    """
    - {name: extract, type: shell, command: ./old.sh}
    - {name: load, type: noop, depends_on: [extract]}
    - {name: gone, type: noop}
    """,
    "timeout: 1h\nparameters: [{name: region, type: string}]",
)
NEW = job(
    """
    - {name: extract, type: shell, command: ./new.sh, timeout: 5m}
    - {name: check, type: noop, depends_on: [extract]}
    - {name: load, type: noop, depends_on: [{task: extract, status: done}, check]}
    """,
    "owner: data-team\nparameters: [{name: region, type: string, default: cn}]",
)


def test_changes_are_told_in_words():
    assert describe_changes(spec_of(OLD), spec_of(NEW)) == [
        'remove timeout, which was "1h"',
        'set owner to "data-team"',
        'parameter region: set default to "cn"',
        "remove task gone",
        'task extract: change command from "./old.sh" to "./new.sh"',
        'task extract: set timeout to "5m"',
        "add task check (noop) after extract",
        "task load: depends on extract (status: done) instead of extract",
        "task load: depends on check",
    ]


def test_the_same_content_has_no_changes():
    assert describe_changes(spec_of(OLD), spec_of(OLD + "\n# a comment\n")) == []


def test_a_new_job_is_one_change():
    assert describe_changes(None, spec_of(OLD)) == ["create job example with 3 tasks"]


def test_another_order_of_tasks_is_a_change():
    old = spec_of(job("- {name: a, type: noop}\n- {name: b, type: noop}"))
    new = spec_of(job("- {name: b, type: noop}\n- {name: a, type: noop}"))

    assert describe_changes(old, new) == ["change the order of the tasks"]


def test_a_change_of_everything_is_told_in_short():
    old = spec_of(job("\n".join(f"- {{name: a{n}, type: noop}}" for n in range(300))))
    new = spec_of(job("\n".join(f"- {{name: b{n}, type: noop}}" for n in range(300))))

    sentences = describe_changes(old, new)

    assert len(sentences) == 201
    assert sentences[-1] == "… and 400 more changes"


def test_the_text_diff_names_both_sides():
    diff = text_diff(spec_of(OLD), spec_of(NEW), old_label="version 1", new_label="version 2")

    assert diff.startswith("--- version 1\n+++ version 2\n")
    assert "-    command: ./old.sh\n+    command: ./new.sh\n" in diff
    assert text_diff(spec_of(OLD), spec_of(OLD)) == ""
