"""Reads YAML 1.2 (core types) or JSON from strangers into located values, in bounded time and memory.

Works on parser events: PyYAML's own construction reads `on` as true, makes dates of texts, lets the last of two
equal keys win and, in C, dies of deep nesting. `Node` trees share what an alias names, and every alias counts with
its full size, so that a document of nested aliases is refused and not expanded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from orchestrator.dag.problems import Path, Problem, path_text, shown

# libyaml where the wheel has it: ten times as fast. Its events are made one by one, so the depth check stops it
# long before its stack ends (nesting of 30,000 kills only its composer).
_LOADER: Any = getattr(yaml, "CLoader", yaml.Loader)

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a definition may be. A file beyond `size` bytes is refused unread."""

    size: int = 4 * 1024 * 1024
    depth: int = 64
    tasks: int = 10_000
    edges: int = 50_000
    #: Values and keys, aliases counted with all they name, beside `EDGE_NODES` for each dependency: 20 for each of
    #: 10,000 tasks. Every one costs microseconds, and in a few bytes: what counts for a reader's time is not the size.
    nodes: int = 200_000
    documents: int = 100
    problems: int = 1_000


#: A dependency with all of its fields is a mapping of four keys and four values.
EDGE_NODES = 9

_NO_PLACES: dict[str, tuple[int, int]] = {}


class Node:
    """A value with its place: a scalar, a list of nodes or a mapping of nodes. Lines and columns count from 1."""

    __slots__ = ("column", "height", "key_places", "line", "size", "value")

    def __init__(self, value: Scalar | list[Node] | dict[str, Node], line: int, column: int) -> None:
        self.value = value
        self.line = line
        self.column = column
        #: Values inside and itself, and levels inside; both count what aliases stand for.
        self.size = 1
        self.height = 0
        # Only mappings have one of their own: there may be hundreds of thousands of nodes.
        self.key_places: dict[str, tuple[int, int]] = {} if type(value) is dict else _NO_PLACES

    def plain(self) -> Any:
        """Return the value as plain JSON data."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def nearest(self, path: Path) -> Node:
        """Return the node at `path`, or the last one on the way to it."""
        node = self
        for step in path:
            inner: Node | None = None
            if isinstance(node.value, dict) and isinstance(step, str):
                inner = node.value.get(step)
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                inner = node.value[step]
            if inner is None:
                break
            node = inner
        return node


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its root (None if it cannot be read), its own text, and what is wrong with its form."""

    root: Node | None
    source: str
    problems: tuple[Problem, ...] = ()


def read_documents(text: str | bytes, limits: Limits) -> list[Document]:
    """Read all documents of a file. A file that is too large or not understood is one document with one problem."""
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="replace"))
    if size > limits.size:
        return [_refused(f"the file has {size} bytes", f"at most {limits.size} bytes")]
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        text.encode()
    except UnicodeError as error:
        return [_refused(f"the file is not UTF-8 text: {error.__class__.__name__}", "UTF-8")]
    # libyaml compares each directive with all before it: 20,000 of them take a second, 400,000 minutes.
    if len(_DIRECTIVE.findall(text)) > 1:
        return [_refused("the file has several directives (lines that begin with %)", "no directives")]
    if text.lstrip().startswith("{"):
        text = _SURROGATE_PAIR.sub(_joined_pair, text)
    return _Reader(text, limits).read()


class _Refused(Exception):
    """The document cannot be read on; control flow inside this module."""

    def __init__(self, message: str, expected: str, event: yaml.Event, path: str = "") -> None:
        line, column = _place(event)
        self.problem = Problem(path, line, column, None, expected, message)


class _Reader:
    def __init__(self, text: str, limits: Limits) -> None:
        self._text = text
        self._limits = limits
        self._nodes = 0
        self._room = limits.nodes
        self._entries: Counter[str] = Counter()
        self._problems: list[Problem] = []

    def read(self) -> list[Document]:
        documents: list[Document] = []
        starts: list[int] = []
        try:
            events = iter(yaml.parse(self._text, Loader=_LOADER))
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if len(documents) == self._limits.documents:
                        expected = f"at most {self._limits.documents} documents"
                        raise _Refused("the file has too many documents", expected, event)
                    self._problems = []
                    self._entries.clear()
                    starts.append(_place(event)[0] - 1)
                    documents.append(Document(self._document(events), self._text, tuple(self._problems)))
        except _Refused as refusal:
            return [*documents, Document(None, self._text, (*self._problems, refusal.problem))]
        except yaml.MarkedYAMLError as error:
            return [*documents, Document(None, self._text, (*self._problems, _syntax_problem(error)))]
        except yaml.YAMLError as error:
            message = f"not YAML: {str(error).splitlines()[0]}"
            return [*documents, Document(None, self._text, (Problem("", None, None, None, "YAML or JSON", message),))]
        if len(documents) > 1:
            lines = self._text.splitlines(keepends=True)
            ends = [*starts[1:], len(lines)]
            documents = [
                replace(document, source="".join(lines[start:end]))
                for document, start, end in zip(documents, [0, *starts[1:]], ends, strict=True)
            ]
        return documents

    def _document(self, events: Iterator[yaml.Event]) -> Node | None:
        """Build the node tree of one document; iterative, since the depth of the text is not ours to choose."""
        root: Node | None = None
        anchors: dict[str, Node | None] = {}
        open_nodes: list[_Open] = []
        for event in events:
            node: Node
            if type(event) is yaml.ScalarEvent:
                self._nodes += 1
                if self._nodes > self._room:
                    self._count(event, 0)
                node = self._scalar(event, open_nodes)
                if event.anchor:
                    anchors[event.anchor] = node
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._count(event, 1)
                self._check_depth(event, len(open_nodes) + 1)
                is_map = isinstance(event, yaml.MappingStartEvent)
                node = Node({} if is_map else [], *_place(event))
                node.height = 1
                if event.tag and event.tag not in ("!", _TAG + ("map" if is_map else "seq")):
                    self._problem(open_nodes, event, event.tag, "no tags", "a tag of another type")
                if event.anchor:
                    # Not to be named inside itself.
                    anchors[event.anchor] = None
                open_nodes.append(_Open(node, event.anchor, None if is_map else _entries_of(open_nodes)))
                continue
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                closed = open_nodes.pop()
                node = closed.node
                if closed.anchor:
                    anchors[closed.anchor] = node
            elif isinstance(event, yaml.AliasEvent):
                anchor = event.anchor or ""
                named = anchors.get(anchor)
                if named is None:
                    known = anchor in anchors
                    raise _Refused(
                        f"alias *{shown(anchor)} "
                        + ("stands inside what it names" if known else "names nothing above it"),
                        "an anchor that is complete",
                        event,
                    )
                self._count(event, named.size)
                self._check_depth(event, len(open_nodes) + named.height)
                node = named
            else:  # the end of the document
                return root
            if not open_nodes:
                root = node
            else:
                self._attach(open_nodes, node, event)
        raise AssertionError("the parser ends every document")

    def _attach(self, open_nodes: list[_Open], node: Node, event: yaml.Event) -> None:
        parent = open_nodes[-1]
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
            if parent.entries is not None:
                self._count_entry(parent.entries, event)
        elif parent.key is None:
            parent.key = node
            if isinstance(node.value, (dict, list)):
                self._problem(open_nodes, event, node.plain(), "a text", "a key is a mapping or a list")
                node.value = ""
        else:
            assert isinstance(parent.node.value, dict)
            key = parent.key.value if isinstance(parent.key.value, str) else parent.key_text
            if key in parent.node.value:
                first = parent.node.key_places[key]
                self._problems_at(
                    (*_path(open_nodes[:-1]), key),
                    parent.key,
                    shown(key),
                    "each key once",
                    f"duplicate key, first in line {first[0]}",
                )
            else:
                parent.node.value[key] = node
                parent.node.key_places[key] = (parent.key.line, parent.key.column)
            parent.key = None

    def _scalar(self, event: yaml.ScalarEvent, open_nodes: list[_Open]) -> Node:
        text = event.value
        node = Node(text, *_place(event))
        is_key = bool(open_nodes) and isinstance(open_nodes[-1].node.value, dict) and open_nodes[-1].key is None
        if "\x00" in text:
            self._problem(open_nodes, event, text.replace("\x00", "\\0"), "text without it", "a NUL character")
            node.value = text.replace("\x00", "")
        elif event.tag and event.tag not in ("!", _TAG + "str"):
            self._problem(open_nodes, event, event.tag, "no tags; quote a text, write a number as it is", "a tag")
        elif is_key:
            # JSON's keys are texts, so `200: ok` has the key "200".
            pass
        elif event.implicit[0] and not event.tag:
            if text in _CONSTANTS:
                node.value = _CONSTANTS[text]
            elif text[0] in _FIRST_OF_NUMBER:
                try:
                    node.value = _number(text)
                except ValueError as error:
                    self._problem(open_nodes, event, text, str(error), "a number that cannot be stored")
        return node

    def _count(self, event: yaml.Event, size: int) -> None:
        self._nodes += size
        if self._nodes > self._room:
            raise _Refused(
                f"the document has more than {self._limits.nodes} values, aliases counted with all they name",
                f"at most {self._limits.nodes} values beside those of its dependencies",
                event,
            )

    def _count_entry(self, entries: tuple[str, str], event: yaml.Event) -> None:
        """Stop at the first task or dependency too many; what reads the values counts those behind aliases."""
        what, path = entries
        self._entries[what] += 1
        limit = self._limits.tasks
        if what == "dependencies":
            limit = self._limits.edges
            self._room += EDGE_NODES
        if self._entries[what] > limit:
            raise _Refused(f"more than {limit} {what}", f"at most {limit} {what}", event, path)

    def _check_depth(self, event: yaml.Event, depth: int) -> None:
        # What reads the values later walks them by recursion.
        if depth > self._limits.depth:
            limit = self._limits.depth
            raise _Refused(f"nested deeper than {limit} levels", f"at most {limit} levels", event)

    def _problem(self, open_nodes: list[_Open], event: yaml.Event, value: Any, expected: str, message: str) -> None:
        place = Node(None, *_place(event))
        self._problems_at(_path(open_nodes), place, shown(value), expected, message)

    def _problems_at(self, path: Path, place: Node, value: Any, expected: str, message: str) -> None:
        if len(self._problems) < self._limits.problems:
            self._problems.append(Problem(path_text(path), place.line, place.column, value, expected, message))


class _Open:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("anchor", "entries", "key", "node")

    def __init__(self, node: Node, anchor: str | None, entries: tuple[str, str] | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Node | None = None
        #: What the entries of this list are and the path they are counted under, if there is a limit to them.
        self.entries = entries

    @property
    def key_text(self) -> str:
        # An alias as a key may name a number.
        return "" if self.key is None or self.key.value is None else str(self.key.value)


def _entries_of(open_nodes: list[_Open]) -> tuple[str, str] | None:
    """What the entries of a list that begins here are, and the field of the document that holds them."""
    if len(open_nodes) not in (1, 3):
        return None
    keys = tuple(opened.key_text for opened in open_nodes if opened.key is not None)
    what = _COUNTED.get(keys)
    return None if what is None else (what, keys[0])


def _place(event: yaml.Event) -> tuple[int, int]:
    mark: Any = event.start_mark  # always there in the events of a parser
    return mark.line + 1, mark.column + 1


def _path(open_nodes: list[_Open]) -> Path:
    path: list[str | int] = []
    for opened in open_nodes:
        if isinstance(opened.node.value, list):
            path.append(len(opened.node.value))
        elif opened.key is not None:
            path.append(opened.key.value if isinstance(opened.key.value, str) else opened.key_text)
    return tuple(path)


#: The lists that may be long, by the keys that lead to them, and what their entries are.
_COUNTED = {
    ("tasks",): "tasks",
    ("pipeline",): "tasks",
    ("tasks", "depends_on"): "dependencies",
    ("pipeline", "dependencies"): "dependencies",
}
_TAG = "tag:yaml.org,2002:"
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_FIRST_OF_NUMBER = frozenset("0123456789+-.")
# JSON writes characters beyond U+FFFF as two escapes, which YAML does not know.
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def is_like_number(text: str) -> bool:
    """Whether a plain scalar of this text would be a number."""
    return any(pattern.fullmatch(text) for pattern in (_INTEGER, _FLOAT, _NOT_FINITE))


def _number(text: str) -> Scalar:
    """Resolve a plain scalar that begins like a number; raises ValueError for one that cannot be stored."""
    if _INTEGER.fullmatch(text):
        if len(text) > 24:
            raise ValueError("an integer of at most 64 bits")
        number = int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if not -(2**63) <= number < 2**63:
            raise ValueError("an integer of at most 64 bits")
        return number
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError("a number that a double can hold")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("a finite number")
    return text


def _joined_pair(found: re.Match[str]) -> str:
    joined = bytes.fromhex(found[2] + found[3]).decode("utf-16-be")
    return f"{found[1]}{joined}"


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = f"not YAML: {error.problem or error.context or 'not understood'}"
    return Problem(
        path="",
        line=mark.line + 1 if mark else None,
        column=mark.column + 1 if mark else None,
        value=None,
        expected="YAML or JSON",
        message=message,
    )


def _refused(message: str, expected: str) -> Document:
    return Document(None, "", (Problem("", None, None, None, expected, message),))
