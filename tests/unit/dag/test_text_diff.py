from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.diff import text_diff
from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec
from orchestrator.dag.text_diff import Side, side_by_side, unified_diff

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


def rows(old: str, new: str, context: int = 1) -> list[str]:
    """Rows as `kind old|new`, with what differs within a line in brackets."""

    def shown(side: Side | None) -> str:
        if side is None:
            return "·"
        return f"{side.number} {side.text[: side.low]}[{side.text[side.low : side.high]}]{side.text[side.high :]}"

    return [
        f"{pair.kind} {pair.count}"
        if pair.kind == "left_out"
        else f"{pair.kind} {shown(pair.old)} | {shown(pair.new)}".replace("[]", "")
        for pair in side_by_side(old, new, context=context)
    ]


def test_side_by_side_a_changed_line_stands_beside_its_partner_with_what_differs() -> None:
    assert rows("a: 1\nb: old one\nc: 3\n", "a: 1\nb: new one\nc: 3\n") == [
        "equal 1 a: 1 | 1 a: 1",
        "changed 2 b: [old] one | 2 b: [new] one",
        "equal 3 c: 3 | 3 c: 3",
    ]


def test_side_by_side_what_only_one_text_has_stands_beside_a_gap() -> None:
    assert rows("a: 1\n", "a: 1\nb: 2\n") == ["equal 1 a: 1 | 1 a: 1", "added · | 2 [b: 2]"]
    assert rows("a: 1\nb: 2\n", "a: 1\n") == ["equal 1 a: 1 | 1 a: 1", "removed 2 [b: 2] | ·"]


def test_side_by_side_equal_lines_far_from_a_change_are_counted() -> None:
    old = "".join(f"k{number}: 1\n" for number in range(10))

    assert rows(old, old.replace("k5: 1", "k5: 2")) == [
        "left_out 4",
        "equal 5 k4: 1 | 5 k4: 1",
        "changed 6 k5: [1] | 6 k5: [2]",
        "equal 7 k6: 1 | 7 k6: 1",
        "left_out 3",
    ]
    assert rows(old, old) == ["left_out 10"]


def test_side_by_side_every_line_of_both_texts_is_there_once_and_in_order() -> None:
    old = "".join(f"  - name: t{number}\n    x: {number}\n" for number in range(200))
    new = "".join(f"  - name: t{number}\n    x: {number % 7}\n" for number in range(0, 300, 2))

    pairs = side_by_side("tasks:\n" + old, "tasks:\n" + new, context=10**6)

    assert "".join(pair.old.text + "\n" for pair in pairs if pair.old) == "tasks:\n" + old
    assert "".join(pair.new.text + "\n" for pair in pairs if pair.new) == "tasks:\n" + new
