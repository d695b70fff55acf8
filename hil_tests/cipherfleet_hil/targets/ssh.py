"""A board behind the system's OpenSSH client: one connection for all commands, made anew when lost.

Nothing is asked at a terminal, and a host whose key is not known is not spoken to.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cipherfleet_node.errors import ConfigError

from .payload import check_machine, gathered
from .target import (
    LEASE_S,
    SITE,
    Dropped,
    KeptTarget,
    TargetFailed,
    TargetUnreachable,
    last_line,
)

CONNECT_WITHIN_S = 10
CONNECTION_LOST = 255  # ssh's own exit code
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_WITHIN_S),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
_MENDS = (
    ("Host key verification failed", "put its key into known_hosts: ssh-keyscan, and compare it"),
    ("No ED25519 host key is known", "put its key into known_hosts: ssh-keyscan, and compare it"),
    ("Permission denied", "put our public key into ~/.ssh/authorized_keys there"),
    ("Connection refused", "is sshd running there, on this port?"),
    ("timed out", "is it on, and on this network?"),
    ("Could not resolve", "is the name right?"),
    ("no such identity", "is the path of identity right?"),
)


@dataclass(frozen=True)
class Address:
    """How a target is reached; what is None is as the user's own ssh configuration has it."""

    host: str
    port: int = 22
    user: str | None = None
    identity: Path | None = None
    known_hosts: Path | None = None

    def options(self) -> list[str]:
        """The command line's part of it."""
        told = {**_OPTIONS, "Port": str(self.port)}
        if self.user is not None:
            told["User"] = self.user
        if self.identity is not None:
            told |= {"IdentityFile": _quoted(self.identity), "IdentitiesOnly": "yes"}
        if self.known_hosts is not None:
            told |= {
                "UserKnownHostsFile": _quoted(self.known_hosts),
                "GlobalKnownHostsFile": "/dev/null",
            }
        return [f"-o{name}={value}" for name, value in told.items()]


def _quoted(path: Path) -> str:
    return f'"{path.absolute()}"'


class SshLink:
    """One multiplexed connection."""

    def __init__(self, name: str, address: Address, python: str = "python3") -> None:
        program = shutil.which("ssh")
        if program is None:
            raise ConfigError(f"target {name!r} needs OpenSSH's ssh, which is missing here")
        self.python = python
        self._name, self._address, self._program = name, address, program
        self._folder: Path | None = None  # of the socket, whose path must be short
        self._master: subprocess.Popen[bytes] | None = None
        self._connecting = threading.Lock()  # the lease is renewed in a thread of its own

    def open(self) -> None:
        """Connect. Raises TargetUnreachable, with ssh's words and the mend."""
        self._folder = Path(tempfile.mkdtemp(prefix="cfb-"))
        try:
            self._connected()
        except Dropped as dropped:
            self.close()
            words = str(dropped)
            mend = next((mend for sign, mend in _MENDS if sign in words), "try it: ssh")
            where = f"{self._address.host}:{self._address.port}"
            raise TargetUnreachable(
                f"target {self._name!r} at {where} is out of reach: ssh says {words!r}: {mend}"
            ) from None

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Run *argv* there, through the connection that is open, or a new one."""
        master = self._connected()
        command = self._command("-oControlMaster=no", self._address.host, shlex.join(argv))
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            self._disconnect(master)
            raise Dropped(f"no answer within {timeout_s:g} s") from None
        if done.returncode == CONNECTION_LOST:
            self._disconnect(master)
            raise Dropped(last_line(done.stderr))
        if done.returncode != 0:
            raise TargetFailed(
                f"{self._name}: {argv[0]} ended there with exit code {done.returncode}: "
                f"{last_line(done.stderr)}"
            )
        return done.stdout

    def close(self) -> None:
        """Disconnect; harmless when repeated."""
        self._disconnect(self._master)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # -- the connection --------------------------------------------------------------------------

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder / "s"

    def _command(self, *more: str) -> list[str]:
        return [self._program, *self._address.options(), f"-S{self._socket}", *more]

    def _connected(self) -> subprocess.Popen[bytes]:
        """What holds the connection, made anew where it was lost. Raises Dropped."""
        with self._connecting:
            if self._master is None or self._master.poll() is not None:
                self._master = self._connect()
            return self._master

    def _connect(self) -> subprocess.Popen[bytes]:
        """Raises Dropped where that fails."""
        if self._folder is None:
            raise Dropped("the connection was closed")
        self._socket.unlink(missing_ok=True)
        with (self._folder / "err").open("wb") as words:
            master = subprocess.Popen(
                self._command("-oControlMaster=yes", "-N", self._address.host),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,  # Ctrl-C is for us, who then release the lease
            )
        deadline = time.monotonic() + 2 * CONNECT_WITHIN_S
        while not self._socket.exists():
            if master.poll() is not None or time.monotonic() > deadline:
                _end(master)
                raise Dropped(last_line((self._folder / "err").read_bytes()))
            time.sleep(0.02)
        return master

    def _disconnect(self, master: subprocess.Popen[bytes] | None) -> None:
        """End *master*, unless another has taken its place already."""
        with self._connecting:
            if master is not None and master is self._master:
                _end(master)
                self._master = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class SshTarget(KeptTarget):
    """A board that is given our programs, unless it has a Python with them."""

    def __init__(
        self, name: str, address: Address, python: str | None = None, lease_s: float = LEASE_S
    ) -> None:
        super().__init__(name, SshLink(name, address, python or "python3"), lease_s=lease_s)
        self._copies = python is None

    def _settle(self) -> None:
        if not self._copies:
            return
        check_machine(self.name, self.machine)
        self._unpack(gathered(self.machine.python[:2], self.machine.architecture), SITE)
        self.environ["PYTHONPATH"] = f"{self.folder}/{SITE}"
        self.environ["PYTHONNOUSERSITE"] = "1"
