from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.diff import text_diff
from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec
from orchestrator.dag.text_diff import unified_diff

LINES = st.lists(
    st.sampled_from(
        ["name: a", "tasks:", "  - name: x", "  - name: y", "  - name: z", "    type: noop", "    p: 1", ""]
    ),
    max_size=12,
)


def applied(old: str, diff: str) -> str:
    """What `patch` makes of a text by a unified diff, with every context line checked."""
    before, after, at = old.splitlines(keepends=True), [], 0
    for line in diff.splitlines(keepends=True)[2:]:
        hunk = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@\n", line)
        if hunk:
            start = int(hunk[1]) - (0 if hunk[2] == "0" else 1)
            after += before[at:start]
            at = start
        elif line.startswith("+"):
            after.append(line[1:])
        else:
            assert before[at] == line[1:]
            after += [line[1:]] if line.startswith(" ") else []
            at += 1
    return "".join(after + before[at:])


@given(LINES, LINES)
def test_a_diff_applied_to_the_old_text_gives_the_new_one(old: list[str], new: list[str]):
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))

    diff = unified_diff(before, after, old_label="v1", new_label="v2")

    assert applied(before, diff) == after
    assert (diff == "") == (before == after)


def job(count: int, command: Callable[[int], str] = str, order: list[int] | None = None) -> JobSpec:
    tasks = [
        TaskSpec(f"t{i}", "shell", {"command": command(i)}, depends_on=(DependencySpec(f"t{i - 1}"),) if i else ())
        for i in range(count)
    ]
    return JobSpec("j", tasks=tuple(tasks[i] for i in order) if order else tuple(tasks))


def test_a_changed_task_is_compared_with_itself():
    diff = text_diff(job(9), job(9, lambda i: "changed" if i == 4 else str(i)), old_label="v1", new_label="v2")

    assert [line for line in diff.splitlines() if line[:1] in "+-"] == [
        "--- v1",
        "+++ v2",
        "-    command: '4'",
        "+    command: changed",
    ]


def test_5000_changed_or_shuffled_tasks_are_compared_in_seconds():
    order = list(range(5000))
    Random(7).shuffle(order)
    began = time.process_time()

    changed = text_diff(job(5000), job(5000, lambda i: f"{i}!"))
    shuffled = text_diff(job(5000), job(5000, order=order))

    # It was minutes; most of what is left is writing the four texts.
    assert time.process_time() - began < 30
    assert changed.count("\n-    command") == changed.count("\n+    command") == 5000
    assert shuffled
