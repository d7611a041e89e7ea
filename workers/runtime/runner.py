"""The process between a worker and a command: runs the command and leaves nothing of it behind.

`subprocesses.run_tree` starts it as `python -I -S -E` with a socket to the worker as standard input.
It is a subreaper, so a process that double-forks or calls setsid comes back to it instead of escaping to init.
It ends the whole tree when the command has ended, at the time limit, when asked, when there are too many processes,
and when the worker is gone.

Over the socket: four bytes of length and a marshalled request; later one byte of any value asks it to stop; end
of file means that the worker died, however it died. Back: four bytes with the command's process id, then a
marshalled report up to end of file. The command and its environment therefore never stand in an argument list.

Stand-alone: nothing of ours is imported, and of the standard library only what is built in or in C, because each
attempt pays for it: `signal` would cost 5 ms, `json` 8, `ctypes` 4, `os` 3, out of 8 for all. For the same reason it
leaves without tidying up, which would take another 2.
"""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found]
import errno
import marshal
import resource
import select
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: Seconds that what a command left running may take to end by itself: `> >(tee log)` outlives its shell a little.
SETTLE = 0.5
#: A command that ended by itself has said goodbye: what it left running gets less grace.
LEFTOVER_GRACE = 2.0
#: Seconds between two looks at how many processes there are.
COUNT_EVERY = 0.25
#: Seconds after which what survives SIGKILL is given up and reported: another user's process, or one in the kernel.
GIVE_UP = 10.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    Kill = Callable[[int, int], None]
else:
    import posix as os  # the C part of it, which has all that is used here


class Tree:
    """The command and everything that descends from it; each of them a child of ours once its parent died."""

    def __init__(self, command: int) -> None:
        self.command = command
        self.status: int | None = None
        self.cpu = 0.0
        self.rss = 0

    def reap(self) -> bool:
        """Collect what ended and return whether anything lives. No child of ours means no descendant at all."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.cpu += usage.ru_utime + usage.ru_stime
            self.rss = max(self.rss, usage.ru_maxrss * 1024)
            if pid == self.command:
                self.status = status

    def members(self) -> dict[int, int]:
        """Return process id → process group of every descendant, zombies aside."""
        parents: dict[int, int] = {}
        groups: dict[int, int] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
            except OSError:
                continue
            try:
                text = os.read(fd, 1024)
            except OSError:
                continue
            finally:
                os.close(fd)
            # The name in parentheses may itself hold spaces and parentheses.
            fields = text[text.rindex(b")") + 2 :].split(None, 3)
            parents[int(name)] = int(fields[1])
            # A zombie with threads is no corpse: its first thread has ended, and it alone.
            dead = fields[0] == b"Z" and int(text[text.rindex(b")") + 2 :].split(None, 18)[17]) <= 1
            groups[int(name)] = 0 if dead else int(fields[2])

        root = os.getpid()
        inside = {root}
        outside = {0, 1} - inside
        for pid in parents:
            path = []
            while pid not in inside and pid not in outside and pid in parents:
                path.append(pid)
                pid = parents[pid]
            (inside if pid in inside else outside).update(path)
        return {pid: groups[pid] for pid in inside if pid != root and groups[pid]}

    def outgrows(self, limit: int) -> bool:
        """Whether there are more processes than `limit`, at a cost that follows the tree, not the host."""
        pending = [os.getpid()]
        count = -1
        while pending and count <= limit:
            pid = pending.pop()
            count += 1
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    fd = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY)
                    try:
                        children = b""
                        # A page at a time, whatever is asked for.
                        while piece := os.read(fd, 65536):
                            children += piece
                    finally:
                        os.close(fd)
                    pending += [int(child) for child in children.split()]
            except OSError:
                continue  # it ended meanwhile; or a kernel without this file, which then has no such limit
        return count + len(pending) > limit

    def send(self, number: int, members: dict[int, int]) -> None:
        # Whole groups first: the kernel signals a group in one step, no fork slips through between two members.
        # All groups are the command's own, as it leads a session of its own.
        for group in set(members.values()) - {os.getpgrp()}:
            _send(os.killpg, group, number)
        for pid in members:
            _send(os.kill, pid, number)

    def wait(self, seconds: float, wake: int) -> bool:
        """Wait until nothing lives, at most so long; return whether something still does."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        while self.reap():
            left = until - time.monotonic()
            if left <= 0:
                return True
            if poll.poll(left * 1000):
                os.read(wake, 4096)
        return False

    def end(self, grace: float, wake: int) -> None:
        """Ask, wait, insist, until nothing lives."""
        members = self.members()
        self.send(_signal.SIGTERM, members)
        self.send(_signal.SIGCONT, members)
        if not self.wait(grace, wake):
            return

        give_up = time.monotonic() + GIVE_UP
        pause = 0.005
        while time.monotonic() < give_up:
            # Stop before killing: a fork bomb makes new ones faster than they can be killed, but a stopped one forks
            # no more. A round that finds nobody new has them all.
            seen: dict[int, int] = {}
            for _ in range(100):
                new = {pid: group for pid, group in self.members().items() if pid not in seen}
                if not new:
                    break
                self.send(_signal.SIGSTOP, new)
                seen.update(new)
            self.send(_signal.SIGKILL, seen)
            if not self.wait(pause, wake):
                return
            pause = min(pause * 2, 0.2)


def _send(kill: Kill, target: int, number: int) -> None:
    try:
        kill(target, number)
    except OSError:
        return  # it ended meanwhile, or is another user's: then it is counted among the survivors


def _prctl(option: int, argument: int) -> None:
    this_process = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the stub does not know NULL
    _ctypes.call_function(_ctypes.dlsym(this_process, "prctl"), (option, argument, 0, 0, 0))


def _start(request: dict[str, Any]) -> tuple[int, str, int]:
    """Start the command; return its process id and, if it could not start, the step that failed and its errno."""
    runner = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        step = "start"
        try:
            os.setsid()
            # Should this runner itself be killed, at least the command ends at once; the worker sweeps up the rest.
            _prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
            if os.getppid() != runner:
                os._exit(127)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            for number in range(1, _signal.NSIG):
                # Ignored signals survive exec, and Python ignores SIGPIPE and SIGXFSZ.
                try:
                    _signal.signal(number, _signal.SIG_DFL)
                except (OSError, ValueError):
                    continue
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            _prefer_for_oom_kill()
            step = "cwd"
            os.chdir(request["cwd"])
            step = "limit"
            for kind, limit, reserve in request["limits"]:
                _limit(kind, limit, reserve)
            step = "exec"
            os.execve(request["argv"][0], request["argv"], request["environment"])
        except (OSError, MemoryError) as error:
            os.write(tell, b"%s %d" % (step.encode(), getattr(error, "errno", None) or errno.ENOMEM))
        finally:
            os._exit(127)
    os.close(tell)
    problem = os.read(told, 100)
    os.close(told)
    if not problem:
        return pid, "", 0
    failed, code = problem.decode().split()
    return pid, failed, int(code)


def _limit(kind: int, limit: int, reserve: int) -> None:
    # Only ever downwards: raising a hard limit is refused to all but root. `reserve` keeps the hard limit above the
    # soft one, where passing the soft one is a signal that the command may answer.
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        limit = min(limit, ceiling)
        reserve = min(reserve, ceiling - limit)
    resource.setrlimit(kind, (limit, limit + reserve))


def _prefer_for_oom_kill() -> None:
    # When memory ends, the kernel should take the command, never the runner or the worker.
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(fd, b"500")
    except OSError:
        pass
    finally:
        os.close(fd)


def _watch(tree: Tree, channel: int, wake: int, worker: int, timeout: float, processes: int) -> str:
    """Wait until the command ends (empty answer) or must end (why)."""
    deadline = time.monotonic() + timeout
    count_at = time.monotonic() + COUNT_EVERY
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        tree.reap()
        if tree.status is not None:
            return ""
        left = deadline - time.monotonic()
        if left <= 0:
            return "timeout"
        if processes and time.monotonic() >= count_at:
            if tree.outgrows(processes):
                return "crowded"
            count_at = time.monotonic() + COUNT_EVERY
        # At least so often: should another process have inherited the worker's end of the socket, its death shows
        # only here. (PR_SET_PDEATHSIG would follow the worker's thread, not its process.)
        for fd, _ in poll.poll(min(left, COUNT_EVERY) * 1000):
            if fd == channel:
                return "stopped" if _receive(channel, 1) else "orphaned"
            if _signal.SIGTERM in os.read(wake, 4096):
                return "terminated"
        if os.getppid() != worker:
            return "orphaned"


def _receive(channel: int, size: int) -> bytes:
    """Read exactly `size` bytes; fewer only at end of file."""
    data = b""
    while len(data) < size:
        try:
            piece = os.read(channel, size - len(data))
        except ConnectionError:
            break
        if not piece:
            break
        data += piece
    return data


def _send_all(channel: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(channel, data) :]
    except OSError:
        return  # nobody is left to be told


def main() -> None:
    """Run one command as the worker asks on standard input, and report."""
    channel = 0
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    for number in (_signal.SIGCHLD, _signal.SIGTERM):
        _signal.signal(number, lambda *_: None)
    _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    request = marshal.loads(_receive(channel, int.from_bytes(_receive(channel, 4), "big")))
    try:
        pid, failed, number = _start(request)
    except OSError as error:
        pid, failed, number = 0, "fork", error.errno or errno.EAGAIN
    _send_all(channel, pid.to_bytes(4, "big"))

    tree = Tree(pid)
    cause = ""
    left = 0
    if not failed:
        cause = _watch(tree, channel, woken, request["worker"], request["timeout"], request["processes"])
    if cause:
        tree.end(request["grace"], woken)
    elif tree.wait(SETTLE, woken):
        left = len(tree.members())
        tree.end(LEFTOVER_GRACE, woken)

    survivors = len(tree.members()) if tree.reap() else 0
    report = {
        "cause": cause,
        "failed": failed,
        "errno": number,
        "status": tree.status,
        "left": left,
        "survivors": survivors,
        "cpu": tree.cpu,
        "rss": tree.rss,
    }
    _send_all(channel, marshal.dumps(report))
    if cause == "orphaned" and request["remove"]:
        # The worker would have done it; the directory may hold results and scripts with secrets.
        import shutil

        shutil.rmtree(request["remove"], ignore_errors=True)
    os._exit(0)
