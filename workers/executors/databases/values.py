"""Values of databases as JSON: what JSON has stays, exact numbers and moments become texts, bytes base64."""

from __future__ import annotations

import base64
import json
import math
from datetime import date, datetime, time
from typing import Any


def as_json(value: Any) -> Any:
    """Return what JSON can say of a value, without loss where it is a number or a moment."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    # Decimal, UUID, addresses, ranges: as the database writes them, or near enough.
    return str(value)


def as_json_text(value: Any) -> str:
    """Return an object or a list as a database takes it: a text of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def is_storable(text: str) -> bool:
    """Whether a text can be encoded: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
