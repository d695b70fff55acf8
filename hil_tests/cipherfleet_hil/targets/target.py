"""A measurement target: leased exclusively, driven over a link, cleaned up on release.

A target is this machine, a container or a board. A lease agent (lease_agent.py) runs on it, and a
link carries commands to the agent. Jobs continue while the link is down: every command is safe to
repeat, and output stays in files on the target until the harness fetches it.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import secrets
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import msgspec

from cipherfleet_hil.measurement.document import Kind
from cipherfleet_hil.measurement.environment import Environment
from cipherfleet_node.errors import CipherfleetError, one_line

from . import lease_agent

LEASE_S = 90.0  # from the last renewal until the target is free again
RENEWALS = 4  # during the time of one lease
RECONNECT_WITHIN_S = 60.0
LEAVE_WITHIN_S = 5.0  # the same when the lease is released
RETRY_AFTER_S = 0.2
CALL_TIMEOUT_S = 120.0
WAIT_S = 15.0  # the longest time that one `wait` command stays on the target
SITE = "site"  # folder of the copied packages
# A library does not see a CPU quota and starts more threads than can run: they would wait for each
# other.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
AGENT_SOURCE = Path(lease_agent.__file__).read_text()
_NO_AGENT = "can't open file"  # Python's message if the program does not exist
_BOOT = (
    "import json, sys; exec(compile(json.loads(sys.argv[2])['source'], 'lease_agent.py', 'exec'))"
)


class TargetUnreachable(CipherfleetError):
    """A target does not answer."""

    exit_code: ClassVar[int] = 4


class TargetHeld(CipherfleetError):
    """The target is leased to another holder."""

    exit_code: ClassVar[int] = 4


class TargetFailed(CipherfleetError):
    """A job on a target failed; the text quotes the last line of its standard error."""


class LinkDropped(Exception):
    """The link broke during a command; the command may or may not have run."""


class TargetLink(Protocol):
    """Carries a command to a target, and its output back."""

    @property
    def python(self) -> str:
        """The Python interpreter on the target."""

    def open(self) -> None:
        """Connect. Raises TargetUnreachable, with the remedy."""

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Run *argv* on the target and return its standard output.

        Raises LinkDropped, and TargetFailed with the last line of its standard error.
        """

    def close(self) -> None:
        """Close the link to the target. Calling it again changes nothing."""


@dataclass(frozen=True)
class TargetMachine:
    """The properties of a target that decide which packages run on it."""

    python: tuple[int, int, int]
    executable: str
    architecture: str
    libc: tuple[str, str]
    boot: str
    user: int
    cpus: int


@dataclass(frozen=True)
class JobStates:
    """Exit codes of jobs, None for a running one, and seconds since a watched file was written."""

    codes: Mapping[str, int | None]
    idle_s: float | None

    @property
    def have_ended(self) -> bool:
        return None not in self.codes.values()


class LeasedTarget:
    """A target behind any link, as a context manager.

    On entry it takes the lease exclusively; it raises TargetHeld or TargetUnreachable. On exit it
    kills all jobs and removes all files of the lease.
    """

    def __init__(
        self, name: str, link: TargetLink, *, emulated: bool = False, lease_s: float = LEASE_S
    ) -> None:
        self.name = name
        self.folder = ""  # on the target, used only by this lease
        self.environ: dict[str, str] = dict(ONE_THREAD)  # environment of the jobs
        self.agent_pid = 0  # process id of the lease agent, the parent of all jobs
        self._link, self._emulated, self._lease_s = link, emulated, lease_s
        self._nonce = secrets.token_hex(16)
        self._kind: Kind | None = None
        self._machine: TargetMachine | None = None
        self._jobs = 0
        self._ending = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lease-{name}", daemon=True)

    # -- the lease -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._link.open()
        try:
            self._take()
            self._renewer.start()
            self._set_up()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _take(self) -> None:
        request = {
            "nonce": self._nonce,
            "holder": holder(),
            "seconds": self._lease_s,
            "source": AGENT_SOURCE,
        }
        found = self._call_agent([self._link.python, "-I", "-S", "-c", _BOOT, "take"], request)
        if (held := found.get("held")) is not None:
            raise TargetHeld(f"target {self.name!r} is held by {_describe_holder(held)}")
        self.folder, self.agent_pid = found["taken"]["folder"], found["pid"]
        self._machine = msgspec.convert(found["machine"], TargetMachine)

    def _renew(self) -> None:
        while not self._ending.wait(self._lease_s / RENEWALS):
            try:
                self._request("renew", seconds=self._lease_s)
            except CipherfleetError:
                return  # the next command of the caller reports it

    def _leave(self) -> None:
        """Release the lease if the target can be reached; otherwise the lease expires by itself."""
        self._ending.set()
        try:
            if self.folder:
                if self._renewer.is_alive():
                    self._renewer.join()
                self._request("release")
        except CipherfleetError:
            pass
        finally:
            self.folder = ""
            self._link.close()

    def _set_up(self) -> None:
        """Copy missing packages to the target; this class assumes that they are installed."""

    # -- jobs and files --------------------------------------------------------------------------

    @property
    def machine(self) -> TargetMachine:
        """The properties of the target; known while the lease is held."""
        assert self._machine is not None
        return self._machine

    @property
    def kind(self) -> Kind:
        """`device` for a board, `emulated` for a limited container, otherwise `host`."""
        if self._kind is None:
            board = not self._emulated and self.environment().is_board
            self._kind = "emulated" if self._emulated else "device" if board else "host"
        return self._kind

    def module(self, name: str, *arguments: str) -> list[str]:
        """Return the command that runs one of our modules on the target."""
        return [self._link.python, "-m", name, *arguments]

    def environment(self) -> Environment:
        """Return the state of the target.

        CPU time of the lease's processes counts as its own load.
        """
        own = ("--own", str(self.agent_pid))
        done = self.run(self.module("cipherfleet_hil.measuring.worker", "environment", *own), 60.0)
        return msgspec.json.decode(done, type=Environment)

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        """Run *argv* as a job to its end and return its standard output. Raises TargetFailed."""
        job = self.start(argv)
        deadline = time.monotonic() + timeout_s
        while not (waited := self.wait([job], deadline - time.monotonic())).have_ended:
            if time.monotonic() >= deadline:
                raise TargetFailed(f"{self.name}: {argv[0]} did not end within {timeout_s:g} s")
        if waited.codes[job] != 0:
            raise TargetFailed(
                f"{self.name}: {' '.join(argv[1:4])} ended with exit code {waited.codes[job]}; "
                "last "
                f"line of its standard error: {self.last_error_line(job)}"
            )
        return self.read(f"jobs/{job}/out").decode()

    def start(self, argv: Sequence[str]) -> str:
        """Start *argv* as a job; return the name of the job."""
        self._jobs += 1
        job = f"job{self._jobs}"
        found = self._request("start", job=job, argv=list(argv), env=self.environ)
        if "error" in found:
            raise TargetFailed(f"{self.name}: {found['error']}")
        return job

    def wait(self, jobs: Sequence[str], within_s: float, watch: Sequence[str] = ()) -> JobStates:
        """Return the states of *jobs* when all have ended, or after *within_s* (WAIT_S at most)."""
        seconds = min(max(within_s, 0.0), WAIT_S, self._lease_s / 3)
        found = self._request("wait", jobs=list(jobs), watch=list(watch), seconds=seconds)
        return JobStates(found["codes"], found["idle_s"])

    def last_error_line(self, job: str) -> str:
        """Return the last line that a job wrote to its standard error."""
        text = self.read(f"jobs/{job}/err").decode(errors="replace").strip()
        return one_line(text.splitlines()[-1])[:300] if text else "nothing"

    def put(self, local: Path, remote: str) -> None:
        """Copy the folder *local* to *remote*, relative to the lease's folder."""
        self._unpack(pack(local), remote)

    def _unpack(self, data: bytes, remote: str) -> None:
        self._request("put", data, name=remote)

    def get(self, remote: str, local: Path) -> None:
        local.write_bytes(self.read(remote))

    def read(self, remote: str) -> bytes:
        data, page = b"", b" " * lease_agent.PAGE
        while len(page) == lease_agent.PAGE:
            request = {"nonce": self._nonce, "name": remote, "offset": len(data)}
            page = self._call([*self._agent_command, "get", json.dumps(request)])
            data += page
        return data

    # -- commands to the lease agent -------------------------------------------------------------

    @property
    def _agent_command(self) -> list[str]:
        return [self._link.python, "-I", "-S", f"{self.folder}/{lease_agent.SOURCE_FILE}"]

    def _request(self, command: str, stdin: bytes = b"", **request: Any) -> dict[str, Any]:
        answer = self._call_agent(
            [*self._agent_command, command], {"nonce": self._nonce, **request}, stdin
        )
        if answer.get("lost"):
            raise self._lease_lost()
        return answer

    def _lease_lost(self) -> TargetUnreachable:
        return TargetUnreachable(
            f"{self.name}: the lease has ended, and its jobs were killed: the target could not be "
            f"reached for {self._lease_s:g} s, or was restarted"
        )

    def _call_agent(
        self, argv: Sequence[str], request: Mapping[str, Any], stdin: bytes = b""
    ) -> dict[str, Any]:
        answer = self._call([*argv, json.dumps(request)], stdin)
        try:
            return dict(json.loads(answer))
        except ValueError:
            text = answer.decode(errors="replace")
            raise TargetFailed(
                f"{self.name}: the target did not answer with a line of JSON, but with "
                f"{one_line(text)[:200]!r}",
                remedy="does its login shell print a greeting?",
            ) from None

    @property
    def _patience_s(self) -> float:
        """The time during which a lost link is retried.

        The lease ends what remains on the target.
        """
        if self._ending.is_set():
            return min(LEAVE_WITHIN_S, self._lease_s)
        return min(RECONNECT_WITHIN_S, self._lease_s)

    def _call(self, argv: Sequence[str], stdin: bytes = b"") -> bytes:
        """Run *argv* on the target and return its output; retry while the link is down."""
        began = time.monotonic()
        while True:
            try:
                return self._link.call(argv, stdin, CALL_TIMEOUT_S)
            except LinkDropped as dropped:
                if time.monotonic() - began > self._patience_s:
                    raise TargetUnreachable(
                        f"{self.name}: the connection was lost and did not come back: {dropped}; "
                        "the target cleans up by itself when the lease ends"
                    ) from None
            except TargetFailed as failed:
                if _NO_AGENT in str(failed):  # removed with the lease's folder
                    raise self._lease_lost() from None
                raise
            time.sleep(RETRY_AFTER_S)


def _describe_holder(held: Mapping[str, Any]) -> str:
    """Describe the holder of a target, and the remedy."""
    if held["seconds"] <= 0:  # its lease agent was killed; another user owns the file
        return f"no process, but {held['holder']} left {held['file']}; remove it as that user"
    return (
        f"{held['holder']} until {held['until']} UTC by its clock, {held['seconds']:.0f} s from "
        "now, or longer if the holder renews; wait, or ask the holder"
    )


def holder() -> str:
    """Return user, machine and process of this harness, for other users of the target."""
    return f"{getpass.getuser()}@{platform.node()}, process {os.getpid()}"


def pack(folder: Path) -> bytes:
    """Return *folder* as a tar file without owners and groups."""

    def strip_owner(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in file.name:
            return None
        file.uid = file.gid = 0
        file.uname = file.gname = ""
        return file

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, ".", filter=strip_owner)
    return made.getvalue()


class LocalLink:
    """Runs commands on the machine of the harness."""

    python = sys.executable

    def open(self) -> None:
        pass

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise TargetFailed(f"this machine: {last_line(done.stderr)}")
        return done.stdout

    def close(self) -> None:
        pass


def last_line(text: bytes) -> str:
    """Return the last line of a program's output."""
    lines = text.decode(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:300] if lines else "nothing"
