"""Trigger calls over HTTP, as a pipeline makes them: one connection that is kept."""

from __future__ import annotations

import http.client
import json


class Caller:
    """A client of the API with a connection of its own."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def trigger(self, job: str) -> int:
        """Start a run and return its id."""
        self._connection.request(
            "POST", "/v1/jobs/trigger", json.dumps({"jobName": job, "parameters": {}}), self._headers
        )
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 202, body
        return int(json.loads(body)["id"])
