"""What the tests of python tasks call. Runs in the Pythons that the tests find: 3.8 is the oldest."""

from __future__ import annotations

import asyncio
import atexit
import base64
import datetime
import json
import os
import sys
import time
from urllib.parse import quote

NOT_A_FUNCTION = 3


def add(a, b=1):
    return a + b


async def add_later(a, b):
    await asyncio.sleep(0)
    return a + b


class Report:
    @staticmethod
    def title(day):
        return {"day": day}


def append_forever(witness):
    print("up")
    while True:
        with open(witness, "a") as file:
            file.write(".")
        time.sleep(0.05)


def flood():
    while True:
        print("a line of output that never ends" * 100)


def tell(key):
    print("key", key, base64.b64encode(key.encode()).decode(), quote(key, safe=""))
    print(json.dumps(key), file=sys.stderr)
    return {key: [key]}


def fail(message="no rows for that day"):
    _inner(message)


def _inner(message):
    raise ValueError(message)


def leave(code=None):
    sys.exit(code)


def vanish(code):
    os._exit(code)


def leave_badly():
    atexit.register(os._exit, 9)
    return "returned"


def date():
    return {"day": datetime.date(2026, 11, 21)}


def not_a_number():
    return float("nan")


def endless():
    found = []
    found.append(found)
    return found


def big(count):
    return "x" * count


def environment():
    return {"argv": sys.argv, "version": list(sys.version_info[:2]), "day": os.environ.get("DAY"), "cwd": os.getcwd()}


def arguments_in_sight(key):
    with open("/proc/self/cmdline") as file:
        return file.read()


def wants_two(first, second):
    return [first, second]


def type_error_within():
    return len(3)
