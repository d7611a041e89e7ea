"""Installs the servers' Debian packages: as root, when they are missing, without starting a service of the system."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
CREATE_CLUSTER = Path("/etc/postgresql-common/createcluster.d/upbeat-tests.conf")


def may_install() -> bool:
    """Say whether this user on this system can install packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str]) -> None:
    """Install `packages`; the machine gets programs, no running server and no PostgreSQL cluster of its own."""
    print(f"installing {', '.join(packages)}", flush=True)
    _apt("update")
    with _file(POLICY, "#!/bin/sh\nexit 101\n", mode=0o755):  # 101: this service may not be started
        if "postgresql" in packages:
            # It brings the settings that the package after it reads when it is set up.
            _apt("install", "postgresql-common")
            with _file(CREATE_CLUSTER, "create_main_cluster = false\n", mode=0o644):
                _apt("install", *packages)
        else:
            _apt("install", *packages)


def _apt(verb: str, *arguments: str) -> None:
    subprocess.run(
        [
            *("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"),
            *("--no-install-recommends", verb, *arguments),
        ],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def _file(path: Path, text: str, *, mode: int) -> Iterator[None]:
    """Keep a file in place while something runs; one that is already there is somebody's and stays as it is."""
    if path.exists():
        yield
        return
    made = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if made:
            path.parent.rmdir()
