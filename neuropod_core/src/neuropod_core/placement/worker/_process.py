"""Another process: started, listened to, and ended with everything that it started."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from neuropod_core._workplaces import Workplace
from neuropod_core.errors import WorkerProtocolError, shown, visible
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import IN, LONGEST_POLL_MS, Doorbell, new_poll
from neuropod_core.placement.worker._recipe import Home
from neuropod_core.placement.worker._spin import registered

_SEND_TIMEOUT_S = 5
_LAST_LINES = 10
_LOOK_S = 0.005
"""How often to look for the end of a process where no descriptor shows it."""
_LONGEST_LINE = 4096
_LONGEST_SHOWN = 400  # In an error, which has ten of them.
_NOT_FOR_OTHER_PYTHONS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")

_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # The current folder may be a package that nobody trusts.
import json, socket
link = socket.socket(fileno=int(sys.argv[1]))
size = int.from_bytes(link.recv(4, socket.MSG_WAITALL), "big")
first = json.loads(link.recv(size, socket.MSG_WAITALL))
sys.argv[:] = ["neuropod-worker"]
sys.path[:] = first["path"] or [entry for entry in sys.path if entry]
sys.path += first["lent"]
from neuropod_core._settling import settle
settle(first)
if first["cage"] and not first["path"]:  # The environment's own comes first, whatever its age.
    sys.path[:] = [entry for entry in sys.path if entry not in first["lent"]] + first["lent"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "neuropod_core"]:
        del sys.modules[name]
from neuropod_core.placement.worker._host import main
main(link)
"""

_logger = logging.getLogger("neuropod.worker")


class Process:
    """A worker process, as its supervisor sees it. Made and used in the supervisor's thread: it dies with that.

    Attributes
    ----------
    link
        The socket to it.
    inbox
        What it says.
    wake
        Rung by other threads to have `watch` return.
    """

    def __init__(
        self, name: str, home: Home, variables: Mapping[str, str], settings: Mapping[str, Any], wake: Doorbell
    ) -> None:
        self.name, self.wake = name, wake
        self.link, theirs = socket.socketpair()
        self._scratch: Workplace | None = None
        # Whoever does not listen is waited for, but not for ever.
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_TIMEOUT_S, 0))
        self.inbox = _frames.Inbox(self.link)
        self._tail: deque[str] = deque(maxlen=_LAST_LINES)
        self._partial: dict[int, bytes] = {}
        self._killed_for = ""
        self._reaping, self._unknown = threading.Lock(), ""
        try:
            with theirs:
                if home.caged:
                    self._scratch = Workplace(Path(tempfile.gettempdir()), "scratch")
                first = self._first_message(home, settings)
                self._popen = self._started(home, variables, theirs.fileno())
        except BaseException:
            self.link.close()
            if self._scratch is not None:
                self._scratch.close()
            raise
        self.pid = self._popen.pid
        self._streams: list[IO[bytes]] = [stream for stream in (self._popen.stdout, self._popen.stderr) if stream]
        self._pidfd = _pidfd_of(self.pid)
        self._poll = new_poll()
        watched: list[Any] = [self.link, self._pidfd, self.wake.descriptor, *self._streams]
        for descriptor in watched:
            if descriptor is not None:
                self._poll.register(descriptor, IN)
        if self._pidfd is None:
            threading.Thread(target=registered(self._await_end), name=f"neuropod-{name}-end", daemon=True).start()
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
        with suppress(OSError):  # Gone already: whoever expects it to say something will see how it ended.
            _frames.send(self.link, first)

    def watch(self, also: Sequence[int] = (), timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Wait until something happens here, or on the descriptors `also`; give what the worker said.

        Raises
        ------
        WorkerProtocolError
            If it said what no worker says.
        """
        for descriptor in also:
            self._poll.register(descriptor, IN)
        try:
            nap_ms = None if timeout_s is None else min(max(timeout_s, 0) * 1000, LONGEST_POLL_MS)
            events = dict(self._poll.poll(nap_ms))
        finally:
            for descriptor in also:
                self._poll.unregister(descriptor)
        if self.wake.descriptor in events:
            self.wake.silence()
        for stream in list(self._streams):
            if stream.fileno() in events:
                self._log(stream)
        if self.link.fileno() not in events:
            return []
        said = self.inbox.messages()
        if self.inbox.ended:
            self._poll.unregister(self.link)
        return said

    def expect(self, key: str, until: float, left: Callable[[], bool] = bool) -> dict[str, Any] | None:
        """Wait for the message that has `key`, or is an error; None if the worker ended or the time is up.

        None as well where somebody wakes this side and nobody waits for it any more (`left`).
        """
        while not self.ended and not self.inbox.ended and time.monotonic() < until and not left():
            for message in self.watch(timeout_s=until - time.monotonic()):
                if key in message or "error" in message:
                    return message
                raise WorkerProtocolError(f"expected {key!r}, got {shown(message)}")
        return None

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._reaped(os.WNOHANG)

    @property
    def resident_bytes(self) -> int:
        """Memory that it has in use."""
        return _resident_bytes(self.pid)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What it wrote last to its standard error."""
        return tuple(self._tail)

    def how_it_ended(self) -> str:
        """Say how the process ended: by which signal, or with which exit code."""
        self._reaped()
        code = self._popen.returncode
        if self._unknown:
            return f"signal 9 (SIGKILL){self._killed_for}" if self._killed_for else self._unknown
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"signal {-code} ({signal.Signals(-code).name}){self._killed_for}"
        return f"signal {-code}{self._killed_for}"

    def await_end(self, timeout_s: float) -> bool:
        """Wait for the process to end by itself, for a while; tell whether it did."""
        until = time.monotonic() + timeout_s
        while not self.ended and (left_s := until - time.monotonic()) > 0:
            if self._pidfd is None:
                time.sleep(min(_LOOK_S, left_s))
                continue
            poll = new_poll()
            poll.register(self._pidfd, IN)
            if poll.poll(min(left_s * 1000, LONGEST_POLL_MS)):
                return self._reaped()
        return self.ended

    def kill(self, why: str = "") -> None:
        """End it, and what it started, at once."""
        if why and not self.ended:
            self._killed_for = f": {why}"
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, grace_s: float) -> None:
        """Let it end by itself, kill it if it does not, and close what belongs to it."""
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        if not grace_s:
            self.kill()
        elif not self.await_end(grace_s):
            _logger.warning("%s: the worker did not end within %g s and was killed", self.name, grace_s)
        self.kill()
        self._reaped()
        for stream in list(self._streams):
            self._log(stream)
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        self.link.close()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream:
                stream.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._scratch is not None:
            self._scratch.close()

    def forget(self) -> None:
        """Close the descriptors in a forked child, so that the worker still sees when its parent ends."""
        self._popen.returncode = 0  # It is not ours to wait for.
        if self._scratch is not None:
            self._scratch.forget()
            self._scratch = None
        self.close()

    def drain(self) -> None:
        """Read what it wrote before it ended."""
        for stream in list(self._streams):
            self._log(stream)

    def _await_end(self) -> None:
        """See the end of the process where no descriptor shows it."""
        self._reaped()
        self.wake.ring()

    def _reaped(self, flags: int = 0) -> bool:
        """Wait for the end of the process, or ask for it by ``WNOHANG``; `subprocess` would make up how it ended."""
        popen = self._popen
        if popen.returncode is None and self._reaping.acquire(blocking=not flags):
            try:
                if popen.returncode is None:
                    popen.returncode = self._code(flags)
            finally:
                self._reaping.release()
        return popen.returncode is not None

    def _code(self, flags: int) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, flags)
        except ChildProcessError:
            ignores = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
            why = "this process ignores SIGCHLD" if ignores else "something else in this process waited for it"
            self._unknown = f"unknown, since {why}"
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def _started(self, home: Home, variables: Mapping[str, str], link: int) -> subprocess.Popen[bytes]:
        flags = [*(["-I"] if home.python else []), *(["-S"] if home.caged else [])]
        ends: list[int] = []  # Not pipes of `subprocess`: old ones lose them where there are no more descriptors.
        try:
            ends += os.pipe()
            ends += os.pipe()
            ends.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            out, its_out, err, its_err, nothing = ends
            popen = subprocess.Popen(  # noqa: S603 - the interpreter is ours, or the caller chose it
                [home.python or sys.executable, *flags, "-c", _BOOT, str(link)],
                stdin=nothing,
                stdout=its_out,
                stderr=its_err,
                pass_fds=[link],
                env=self._environment(home, variables),
                start_new_session=True,  # Ctrl-C is for the parent; and the worker's own children end with it.
            )
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        for end in (its_out, its_err, nothing):
            os.close(end)
        popen.stdout, popen.stderr = os.fdopen(out, "rb", 0), os.fdopen(err, "rb", 0)
        return popen

    def _environment(self, home: Home, variables: Mapping[str, str]) -> dict[str, str]:
        """Give the environment variables: the parent's, but for what would lead to its Python or tell its secrets."""
        inherited = dict(os.environ)
        if self._scratch is not None:
            from neuropod_core import sandbox

            inherited = sandbox.clean_environment(inherited, self._scratch.folder)
        if home.python is not None:
            for name in _NOT_FOR_OTHER_PYTHONS:
                inherited.pop(name, None)
        return {**inherited, **variables}

    def _first_message(self, home: Home, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Say what a worker needs to know before it can import anything."""
        path = _own_path(home) if home.python is None else []
        scratch = str(self._scratch.folder) if self._scratch is not None else None
        cage = {"scratch": scratch, "readable": list(home.readable)} if home.caged else None
        debug = _logger.isEnabledFor(logging.DEBUG)
        return {**settings, "parent": os.getpid(), "path": path, "lent": list(home.lent), "cage": cage, "debug": debug}

    def _log(self, stream: IO[bytes]) -> None:
        for _ in range(64):  # As much as a pipe holds; what a worker writes without end must not keep us here.
            data = stream.read(1 << 16) if not stream.closed else b""
            if not data:
                break
            self._log_lines(stream, data)
        else:
            return
        if data == b"":
            self._streams.remove(stream)
            with suppress(KeyError, OSError, ValueError):
                self._poll.unregister(stream)
            self._log_lines(stream, b"\n" if self._partial.get(id(stream)) else b"")

    def _log_lines(self, stream: IO[bytes], data: bytes) -> None:
        *lines, rest = (self._partial.get(id(stream), b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[id(stream)] = rest
        for raw in lines:
            line = visible(raw[:_LONGEST_LINE].decode("utf-8", "replace").rstrip().expandtabs(4))
            if stream is self._popen.stderr and line:
                self._tail.append(line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}...")
            _logger.info("%s: %s", self.name, line)


def _own_path(home: Home) -> list[str]:
    """Give this interpreter's ``sys.path``; what was installed of it, if the worker is caged: it reads all of that."""
    try:
        here = [str(Path.cwd())]
    except OSError:  # Somebody removed the current folder.
        here = []
    entries = [name for entry in sys.path for name in ([entry] if entry else here)]
    if not home.caged:
        return entries
    from neuropod_core import sandbox

    return sandbox.installed_entries(entries, *map(Path, home.roots))


def _pidfd_of(pid: int) -> int | None:
    """Give what becomes readable when the process ends; None where the system has no such thing."""
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - read once a second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0 if sys.platform == "linux" else _told_by_ps(pid)


def _told_by_ps(pid: int) -> int:
    """Ask the tool that every Unix has, in kilobytes; slow, and there is no other way without a library."""
    try:
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=10, check=True)  # noqa: S603, S607 - a number, and a tool of the system
        return int(said.stdout) << 10
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
