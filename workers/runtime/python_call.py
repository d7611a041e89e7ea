"""Makes the call of a `python` task, in whatever Python the task names: 3.8 or newer, without our package.

`python python_call.py FOLDER`, where the folder holds `request.json`: `call`, `args`, `kwargs`, `limit` (bytes of the
result). Leaves `ending.json` there: `{"returned": value}`, or `{"failed": kind, "reason": words}`. Without one, the
process did not live to say how the call ended.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any


class Failed(Exception):
    """The call cannot be made, or what it returned cannot be kept: trying again cannot help."""


def main(folder: str) -> None:
    """Make the call and end the process as it ended."""
    # As `python -m` has it: the directory in which the task runs, not that of this file.
    ours = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd() if os.path.abspath(entry) == ours else entry for entry in sys.path]
    import json

    request_file = os.path.join(folder, "request.json")
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    os.unlink(request_file)  # it may hold secrets
    sys.argv = [request["call"]]
    ending, code = _outcome(request)
    draft = os.path.join(folder, "ending.draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(ending)
    os.rename(draft, os.path.join(folder, "ending.json"))
    sys.exit(code)


def _outcome(request: dict[str, Any]) -> tuple[bytes, int]:
    try:
        value = _called(request)
        return _kept(value, request["limit"]), 0
    except Failed as problem:
        _say(str(problem))
        return _failed("permanent", str(problem)), 1
    except SystemExit as exit:
        if exit.code is None or exit.code == 0:
            return _kept(None, request["limit"]), 0
        if isinstance(exit.code, int):
            return _failed("retryable", f"exit code {exit.code & 255}"), exit.code & 255
        _say(str(exit.code))
        return _failed("retryable", str(exit.code)), 1
    except BaseException as error:
        return _failed("retryable", _told(error)), 1


def _called(request: dict[str, Any]) -> Any:
    import importlib

    module_name, _, path = request["call"].partition(":")
    try:
        target = importlib.import_module(module_name)
    except (ModuleNotFoundError, SyntaxError) as error:
        raise Failed(f"call: {_told(error)}") from None
    for name in path.split("."):
        try:
            target = getattr(target, name)
        except AttributeError:
            raise Failed(f"call: the module {module_name!r} has no {path!r}") from None
    if not callable(target):
        raise Failed(f"call: {request['call']} is not a function: {type(target).__name__}")
    try:
        value = target(*request["args"], **request["kwargs"])
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # Raised by the call itself, not by anything that it called: the arguments do not fit.
            raise Failed(f"args and kwargs: {error}") from None
        raise
    if hasattr(value, "__await__"):
        import asyncio

        async def awaited() -> Any:
            return await value

        return asyncio.run(awaited())
    return value


def _kept(value: Any, limit: int) -> bytes:
    import json

    try:
        text = json.dumps({"returned": value}, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Failed(f"result: the returned {type(value).__name__} is not JSON: {error}") from None
    if len(text) > limit + len('{"returned": }'):
        raise Failed(f"result: the returned {type(value).__name__} has more than {limit} bytes as JSON")
    return text


def _failed(kind: str, reason: str) -> bytes:
    import json

    return json.dumps({"failed": kind, "reason": reason[:2000]}).encode()


def _say(words: str) -> None:
    try:
        print(words, file=sys.stderr, flush=True)
    except Exception:
        return  # the call closed its standard error; the reason still says it


def _told(error: BaseException) -> str:
    """Write the traceback to the log, without the frames of this file, and return its last lines as one."""
    import traceback

    inside: TracebackType | None = error.__traceback__
    while inside is not None and inside.tb_frame.f_code.co_filename == __file__:
        inside = inside.tb_next
    _say("".join(traceback.format_exception(type(error), error, inside)).rstrip())
    words = " ".join("".join(traceback.format_exception_only(type(error), error)).split())
    frames = traceback.extract_tb(inside)
    if not frames or isinstance(error, (ModuleNotFoundError, SyntaxError)):
        return words
    last = frames[-1]
    return f"{words} (line {last.lineno} of {last.filename}, in {last.name})"


if __name__ == "__main__":
    main(sys.argv[1])
