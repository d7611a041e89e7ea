"""Keeps what a process knows from other processes of its user.

The commands of tasks run as the worker's user. Without this, each of them could read the worker's environment and
memory, and with them every secret of the installation.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: What the embedded profile's supervisor gives to its children (`embedded/trees.py`, which is an edge).
SUPERVISED = "UPBEAT_SUPERVISED"
PR_SET_DUMPABLE = 4


def keep_to_itself() -> bool:
    """Let nobody but root read this process's environment and memory, or trace it; return whether that holds.

    Forked children inherit it, executed programs do not. Costs core dumps and debuggers that are not root's. Left
    undone under the embedded profile's supervisor, which finds its processes by their environment, and whose keys
    lie in files of the same user anyway.
    """
    if sys.platform != "linux" or SUPERVISED in os.environ:
        return False
    return ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
