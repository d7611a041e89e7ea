"""A caller of the API within the test's process, and what its refusals say."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client


class Api(Client):
    """A caller with a token."""

    def __init__(self, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(headers=headers, raise_request_exception=False)

    def send(self, path: str, body: object = None, **headers: str) -> Any:
        text = body if isinstance(body, (str, bytes)) else json.dumps({} if body is None else body)
        return self.post(path, text, content_type="application/json", headers=headers)

    def put_text(self, path: str, text: str, *, content_type: str = "application/yaml") -> Any:
        return self.put(path, text, content_type=content_type)


def problems(answer: Any) -> dict[str, str]:
    """Path → what was expected, of a refusal, which must have the one shape."""
    assert set(answer.json()) == {"code", "message", "details"}
    return {detail["path"]: detail["expected"] for detail in answer.json()["details"]}
