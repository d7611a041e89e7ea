"""Trigger calls over HTTP, as a pipeline makes them: one connection that is kept."""

from __future__ import annotations

import http.client
import json
from typing import Any


class Caller:
    """A client of the API with a connection of its own."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def trigger(self, job: str) -> int:
        """Start a run and return its id."""
        return int(json.loads(self.post("/v1/jobs/trigger", {"jobName": job, "parameters": {}}))["id"])

    def get(self, path: str) -> bytes:
        """Return what a path answers."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send a command and return its answer."""
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> bytes:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status in (200, 201, 202), content
        return content
