"""A machine to measure on: held by one at a time, worked on from here, left as it was found.

Whatever it is, this machine, a container or a board, a keeper runs on it (keeper.py) and a link
brings commands there. Work goes on while the link is down: commands may be repeated, output stays
in files on the target until it is fetched.
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

from . import lease_agent as keeper

LEASE_S = 90.0  # the target is free again so long after we were last heard
RENEWALS = 4  # in the time of a lease
RECONNECT_WITHIN_S = 60.0
LEAVE_WITHIN_S = 5.0  # the same, at the end
RETRY_AFTER_S = 0.2
CALL_TIMEOUT_S = 120.0
WAIT_S = 15.0  # how long one question for the end of work stays on the target
SITE = "site"  # the folder of what was copied
# A quota or a board of one core is not told of by the system: threads would wait for each other.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
KEEPER_SOURCE = Path(keeper.__file__).read_text()
_NO_KEEPER = "can't open file"  # Python's words where there is no program
_BOOT = "import json, sys; exec(compile(json.loads(sys.argv[2])['source'], 'keeper.py', 'exec'))"


class TargetUnreachable(CipherfleetError):
    """A target does not answer."""

    exit_code: ClassVar[int] = 4


class TargetHeld(CipherfleetError):
    """Somebody else measures on the target."""

    exit_code: ClassVar[int] = 4


class TargetFailed(CipherfleetError):
    """Work on a target failed; its last words are in the text."""


class Dropped(Exception):
    """The link broke during a command, which may or may not have run."""


class Link(Protocol):
    """Brings a command to a target, and its output back."""

    @property
    def python(self) -> str:
        """The interpreter there."""

    def open(self) -> None:
        """Connect. Raises TargetUnreachable, with the mend."""

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """What *argv* prints there. Raises Dropped, and TargetFailed with its last words."""

    def close(self) -> None:
        """Disconnect."""


@dataclass(frozen=True)
class Machine:
    """What a target says of itself, as far as programs depend on it."""

    python: tuple[int, int, int]
    executable: str
    architecture: str
    libc: tuple[str, str]
    boot: str
    user: int
    cpus: int


@dataclass(frozen=True)
class Waited:
    """What became of jobs: exit codes, None where they still run; seconds since a sign of life."""

    codes: Mapping[str, int | None]
    idle_s: float | None

    @property
    def ended(self) -> bool:
        """Whether all have."""
        return None not in self.codes.values()


class KeptTarget:
    """A target behind any link.

    Entered, it is ours alone; left, nothing of ours is on it any more. Raises TargetHeld and
    TargetUnreachable when it is entered.
    """

    def __init__(
        self, name: str, link: Link, *, emulated: bool = False, lease_s: float = LEASE_S
    ) -> None:
        self.name = name
        self.folder = ""  # on the target, ours alone
        self.environ: dict[str, str] = dict(ONE_THREAD)  # of what runs there
        self.keeper_pid = 0  # the parent of all that runs there
        self._link, self._emulated, self._lease_s = link, emulated, lease_s
        self._nonce = secrets.token_hex(16)
        self._kind: Kind | None = None
        self._machine: Machine | None = None
        self._jobs = 0
        self._ending = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lease-{name}", daemon=True)

    # -- the lease -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._link.open()
        try:
            self._take()
            self._renewer.start()
            self._settle()
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
        wanted = {
            "nonce": self._nonce,
            "holder": holder(),
            "seconds": self._lease_s,
            "source": KEEPER_SOURCE,
        }
        told = self._repeated([self._link.python, "-I", "-S", "-c", _BOOT, "take"], wanted)
        if (held := told.get("held")) is not None:
            raise TargetHeld(f"target {self.name!r} is held by {_told_of(held)}")
        self.folder, self.keeper_pid = told["taken"]["folder"], told["pid"]
        self._machine = msgspec.convert(told["machine"], Machine)

    def _renew(self) -> None:
        while not self._ending.wait(self._lease_s / RENEWALS):
            try:
                self._ask("renew", seconds=self._lease_s)
            except CipherfleetError:
                return  # whoever works with the target is told by its next command

    def _leave(self) -> None:
        """Release the lease if the target can be reached; if not, it lets go by itself."""
        self._ending.set()
        try:
            if self.folder:
                if self._renewer.is_alive():
                    self._renewer.join()
                self._ask("release")
        except CipherfleetError:
            pass
        finally:
            self.folder = ""
            self._link.close()

    def _settle(self) -> None:
        """Bring there what is missing; nothing, where the programs are."""

    # -- work ------------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """What it says of itself; known while the lease is held."""
        assert self._machine is not None
        return self._machine

    @property
    def kind(self) -> Kind:
        """A board is a device; a limited container emulates one; all else is a host."""
        if self._kind is None:
            board = not self._emulated and self.environment().is_board
            self._kind = "emulated" if self._emulated else "device" if board else "host"
        return self._kind

    def module(self, name: str, *arguments: str) -> list[str]:
        """The command that runs a module of ours there."""
        return [self._link.python, "-m", name, *arguments]

    def environment(self) -> Environment:
        """Its state now; what runs there for us counts as its own load."""
        own = ("--own", str(self.keeper_pid))
        told = self.run(self.module("cipherfleet_hil.measuring.worker", "environment", *own), 60.0)
        return msgspec.json.decode(told, type=Environment)

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        """What *argv* prints, once it has ended. Raises TargetFailed."""
        job = self.start(argv)
        deadline = time.monotonic() + timeout_s
        while not (waited := self.wait([job], deadline - time.monotonic())).ended:
            if time.monotonic() >= deadline:
                raise TargetFailed(f"{self.name}: {argv[0]} did not end within {timeout_s:g} s")
        if waited.codes[job] != 0:
            raise TargetFailed(
                f"{self.name}: {' '.join(argv[1:4])} ended with exit code {waited.codes[job]}, its "
                f"last words: {self.last_words(job)}"
            )
        return self.read(f"jobs/{job}/out").decode()

    def start(self, argv: Sequence[str]) -> str:
        """Start *argv*; the name of the job."""
        self._jobs += 1
        job = f"job{self._jobs}"
        told = self._ask("start", job=job, argv=list(argv), env=self.environ)
        if "error" in told:
            raise TargetFailed(f"{self.name}: {told['error']}")
        return job

    def wait(self, jobs: Sequence[str], within_s: float, watch: Sequence[str] = ()) -> Waited:
        """How *jobs* fare, once all have ended or after *within_s*, a while at most."""
        seconds = min(max(within_s, 0.0), WAIT_S, self._lease_s / 3)
        told = self._ask("wait", jobs=list(jobs), watch=list(watch), seconds=seconds)
        return Waited(told["codes"], told["idle_s"])

    def last_words(self, job: str) -> str:
        """The last line that a job wrote on its standard error."""
        text = self.read(f"jobs/{job}/err").decode(errors="replace").strip()
        return one_line(text.splitlines()[-1])[:300] if text else "nothing"

    def put(self, local: Path, remote: str) -> None:
        """Copy the folder *local* to *remote*, beneath the lease's folder."""
        self._unpack(packed(local), remote)

    def _unpack(self, data: bytes, remote: str) -> None:
        self._ask("put", data, name=remote)

    def get(self, remote: str, local: Path) -> None:
        """Copy the file *remote* to *local*."""
        local.write_bytes(self.read(remote))

    def read(self, remote: str) -> bytes:
        """The file *remote*."""
        data, page = b"", b" " * keeper.PAGE
        while len(page) == keeper.PAGE:
            told = {"nonce": self._nonce, "name": remote, "offset": len(data)}
            page = self._raw([*self._keeper, "get", json.dumps(told)])
            data += page
        return data

    # -- commands to the keeper ------------------------------------------------------------------

    @property
    def _keeper(self) -> list[str]:
        return [self._link.python, "-I", "-S", f"{self.folder}/{keeper.SOURCE_FILE}"]

    def _ask(self, command: str, stdin: bytes = b"", **told: Any) -> dict[str, Any]:
        answer = self._repeated([*self._keeper, command], {"nonce": self._nonce, **told}, stdin)
        if answer.get("lost"):
            raise self._lost()
        return answer

    def _lost(self) -> TargetUnreachable:
        return TargetUnreachable(
            f"{self.name}: the lease has ended, and with it the work there: the target was out of "
            f"reach for {self._lease_s:g} s, or was started anew"
        )

    def _repeated(
        self, argv: Sequence[str], told: Mapping[str, Any], stdin: bytes = b""
    ) -> dict[str, Any]:
        answer = self._raw([*argv, json.dumps(told)], stdin)
        try:
            return dict(json.loads(answer))
        except ValueError:
            text = answer.decode(errors="replace")
            raise TargetFailed(
                f"{self.name}: the target says something else than it was asked for: "
                f"{one_line(text)[:200]!r}; does its login shell print a greeting?"
            ) from None

    @property
    def _patience_s(self) -> float:
        """How long a lost link is tried; what is left behind ends by itself with the lease."""
        if self._ending.is_set():
            return min(LEAVE_WITHIN_S, self._lease_s)
        return min(RECONNECT_WITHIN_S, self._lease_s)

    def _raw(self, argv: Sequence[str], stdin: bytes = b"") -> bytes:
        """What *argv* prints; repeated while the link is down, for a while."""
        began = time.monotonic()
        while True:
            try:
                return self._link.call(argv, stdin, CALL_TIMEOUT_S)
            except Dropped as dropped:
                if time.monotonic() - began > self._patience_s:
                    raise TargetUnreachable(
                        f"{self.name}: the connection was lost and did not come back: {dropped}; "
                        "the target cleans up by itself when the lease ends"
                    ) from None
            except TargetFailed as failed:
                if _NO_KEEPER in str(failed):  # it has gone with its folder
                    raise self._lost() from None
                raise
            time.sleep(RETRY_AFTER_S)


def _told_of(held: Mapping[str, Any]) -> str:
    """Who holds a target, and what to do about it."""
    if held["seconds"] <= 0:  # its keeper was killed, and its file is not ours to remove
        return f"nobody any more, but {held['holder']} left {held['file']}: remove it as they"
    return (
        f"{held['holder']} until {held['until']} UTC by its clock, {held['seconds']:.0f} s from "
        "now, or longer if they go on: wait for them, or ask them"
    )


def holder() -> str:
    """Who we are, for others who want the target."""
    return f"{getpass.getuser()}@{platform.node()}, process {os.getpid()}"


def packed(folder: Path) -> bytes:
    """*folder* as a tar file; nothing in it tells whose it was."""

    def plain(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in file.name:
            return None
        file.uid = file.gid = 0
        file.uname = file.gname = ""
        return file

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, ".", filter=plain)
    return made.getvalue()


class LocalLink:
    """The machine that the harness runs on."""

    python = sys.executable

    def open(self) -> None:
        """Nothing to do."""

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Run it as a child of ours."""
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise TargetFailed(f"this machine: {last_line(done.stderr)}")
        return done.stdout

    def close(self) -> None:
        """Nothing to do."""


def last_line(text: bytes) -> str:
    """The last line of what a program said."""
    lines = text.decode(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:300] if lines else "nothing"
