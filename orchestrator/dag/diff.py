"""What changed between two specs: in words for people, and as a text diff of the exported definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.dag.export import export_form, export_yaml
from orchestrator.dag.problems import path_text, shown
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.text_diff import unified_diff

#: A change of everything is said in one sentence, not in 10,000.
MOST_SENTENCES = 200


def describe_changes(old: JobSpec | None, new: JobSpec) -> list[str]:
    """Return what `new` changes, one sentence each; empty if the content is the same."""
    if old is None:
        count = len(new.tasks)
        return [f"create job {new.name} with {count} task{'' if count == 1 else 's'}"]
    if old.content_hash() == new.content_hash():
        return []
    sentences = list(_job_changes(export_form(old), export_form(new)))
    if not sentences:
        sentences = ["change the order of the tasks"]
    if len(sentences) > MOST_SENTENCES:
        left = len(sentences) - MOST_SENTENCES
        sentences = [*sentences[:MOST_SENTENCES], f"… and {left} more changes"]
    return sentences


def describe_form_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what one definition's plain data changes against another's, one sentence each."""
    sentences: list[str] = []
    for key in {**old, **new}:
        if key != "parameters" or isinstance(new.get(key, old.get(key)), Mapping):
            sentences += _changes((key,), old.get(key), new.get(key))
    if any(isinstance(form.get("parameters"), Mapping) for form in (old, new)):
        return sentences
    return [*sentences, *_named("parameter", old.get("parameters", []), new.get("parameters", []))]


def text_diff(old: JobSpec, new: JobSpec, *, old_label: str = "old", new_label: str = "new") -> str:
    """Return the unified diff of the two definitions as exported; empty if they are the same."""
    return unified_diff(export_yaml(old), export_yaml(new), old_label=old_label, new_label=new_label)


def _job_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    plain = [key for key in {**old, **new} if key not in ("kind", "name", "tasks", "parameters")]
    for key in plain:
        yield from _changes((key,), old.get(key), new.get(key))
    yield from _named("parameter", old.get("parameters", []), new.get("parameters", []))
    yield from _named("task", old["tasks"], new["tasks"])


def _named(what: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[str]:
    """Compare lists whose entries have names: one that moved is the same one."""
    before = {entry["name"]: entry for entry in old}
    after = {entry["name"]: entry for entry in new}
    for name in before:
        if name not in after:
            yield f"remove {what} {name}"
    for name, entry in after.items():
        if name not in before:
            detail = ""
            if what == "task":
                upstream = [edge if isinstance(edge, str) else edge["task"] for edge in entry.get("depends_on", [])]
                detail = f" ({entry['type']})" + (f" after {', '.join(upstream[:5])}" if upstream else "")
                detail += " …" if len(upstream) > 5 else ""
            yield f"add {what} {name}{detail}"
            continue
        earlier = before[name]
        for key in {**earlier, **entry}:
            if key == "depends_on":
                yield from _dependency_changes(name, earlier.get(key, []), entry.get(key, []))
            else:
                for sentence in _changes((key,), earlier.get(key), entry.get(key)):
                    yield f"{what} {name}: {sentence}"
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        yield f"change the order of the {what}s"


def _dependency_changes(task: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    before, after = ({_upstream(edge): edge for edge in edges} for edges in (old, new))
    for name in before:
        if name not in after:
            yield f"task {task}: no longer depends on {name}"
    for name, edge in after.items():
        if name not in before:
            yield f"task {task}: depends on {_edge_text(edge)}"
        elif edge != before[name]:
            yield f"task {task}: depends on {_edge_text(edge)} instead of {_edge_text(before[name])}"


def _upstream(edge: Any) -> str:
    return edge if isinstance(edge, str) else str(edge["task"])


def _edge_text(edge: Any) -> str:
    if isinstance(edge, str):
        return edge
    details = [f"{key}: {value}" for key, value in edge.items() if key != "task"]
    return f"{edge['task']} ({', '.join(details)})"


def _changes(path: tuple[str | int, ...], old: Any, new: Any) -> Iterator[str]:
    if old == new and type(old) is type(new):
        return
    name = path_text(path)
    if old is None:
        yield f"set {name} to {_value(new)}"
    elif new is None:
        yield f"remove {name}, which was {_value(old)}"
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _changes((*path, key), old.get(key), new.get(key))
    else:
        yield f"change {name} from {_value(old)} to {_value(new)}"


def _value(value: Any) -> str:
    return json.dumps(shown(value), ensure_ascii=False)
