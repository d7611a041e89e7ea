"""Reads the result that a local process left: JSON in its last line, or in a file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from workers.executors.fields import BadField, shown
from workers.runtime.output import LastLine


def json_of_line(last: LastLine, limit: int) -> Any:
    """Return the JSON in the last line of standard output. Raises BadField."""
    where = "the last line of standard output"
    words = last.line()
    if last.too_long:
        raise BadField("result", where, f"at most {limit} bytes long")
    return _parsed(words, where)


def json_of_file(path: Path, limit: int) -> Any:
    """Return the JSON in the file that `$UPBEAT_RESULT` names. Raises BadField."""
    where = "the file in $UPBEAT_RESULT"
    return _parsed(bytes_of_file(path, limit, where), where)


def bytes_of_file(path: Path, limit: int, where: str) -> bytes:
    """Return the content of a file that a task wrote, which may be anything. Raises BadField."""
    try:
        # A link to another's file, a FIFO that nobody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadField("result", where, "there: the command did not write it") from None
    except OSError as error:
        raise BadField("result", where, f"readable: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadField("result", where, "a regular file")
        words = file.read(limit + 1)
    if len(words) > limit:
        raise BadField("result", where, f"at most {limit} bytes long")
    return words


def _parsed(words: bytes, where: str) -> Any:
    if not words.strip():
        raise BadField("result", where, "JSON: it is empty")
    try:
        return json.loads(words, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadField("result", f"{where}, {shown(words.decode(errors='replace').strip())},", "JSON") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)
