"""A local S3 server of our own, from a wheel; it keeps everything in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from uuid import uuid4

from tests.support.processes import Process
from tests.support.services import free_port
from tests.support.waiting import eventually

#: Any but us-east-1, in which a bucket cannot be made with a region.
REGION = "eu-central-1"
BUCKET = "upbeat-tests"
#: The server believes every key; the client insists on one.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server with one bucket. `kill` and `start` are for tests that need an outage: its memory is lost."""

    endpoint: str
    process: Process

    def url(self, bucket: str = BUCKET) -> str:
        """A store of its own, for each call."""
        return f"s3://{bucket}/{uuid4().hex}?endpoint={self.endpoint}&region={REGION}"

    def start(self) -> None:
        self.process.start()
        eventually(self._answers, within=60)
        self._make_bucket()

    def kill(self) -> None:
        self.process.kill()

    def _answers(self) -> bool:
        try:
            with urlopen(self.endpoint, timeout=2):
                return True
        except HTTPError:
            return True
        except (URLError, OSError):
            return False

    def _make_bucket(self) -> None:
        # In a process of its own: the client's library is slow to import, and leaves warnings behind.
        code = (
            "import sys, boto3; s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name=sys.argv[2]);"
            "s3.create_bucket(Bucket=sys.argv[3], CreateBucketConfiguration={'LocationConstraint': sys.argv[2]})"
        )
        subprocess.run(
            [sys.executable, "-c", code, self.endpoint, REGION, BUCKET],
            env={**os.environ, **CREDENTIALS},
            check=True,
            timeout=60,
        )


@contextlib.contextmanager
def start_s3() -> Iterator[S3Server]:
    """Start a server, make its bucket, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="upbeat-s3-") as directory:
        port = free_port()
        server = S3Server(
            f"http://127.0.0.1:{port}",
            Process(
                "s3",
                [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
                environ=CREDENTIALS,
                log=Path(directory) / "s3.log",
            ),
        )
        try:
            server.start()
            yield server
        finally:
            server.process.stop(within=5)
