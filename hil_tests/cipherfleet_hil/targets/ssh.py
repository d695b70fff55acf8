"""Boards as targets, reached with the system's OpenSSH client over one multiplexed connection.

A lost connection is opened again. ssh never prompts at the terminal, and it refuses hosts whose key
is not in known_hosts.
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

from .payload import check_machine, gather_payload
from .target import (
    LEASE_S,
    SITE,
    LeasedTarget,
    LinkDropped,
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
_ADD_HOST_KEY = "add its key to known_hosts: run ssh-keyscan and compare the fingerprint"
_REMEDIES = (
    ("Host key verification failed", _ADD_HOST_KEY),
    ("No ED25519 host key is known", _ADD_HOST_KEY),
    ("Permission denied", "add your public key to ~/.ssh/authorized_keys on the target"),
    ("Connection refused", "start sshd on the target, or correct the port"),
    ("timed out", "switch the target on, and connect it to this network"),
    ("Could not resolve", "correct the host name"),
    ("no such identity", "correct the path of identity"),
)


@dataclass(frozen=True)
class Address:
    """The address of a target; None leaves a setting to the user's own ssh configuration."""

    host: str
    port: int = 22
    user: str | None = None
    identity: Path | None = None
    known_hosts: Path | None = None

    def options(self) -> list[str]:
        """Return the options of the ssh command for this address."""
        arguments = {**_OPTIONS, "Port": str(self.port)}
        if self.user is not None:
            arguments["User"] = self.user
        if self.identity is not None:
            arguments |= {"IdentityFile": _quote(self.identity), "IdentitiesOnly": "yes"}
        if self.known_hosts is not None:
            arguments |= {
                "UserKnownHostsFile": _quote(self.known_hosts),
                "GlobalKnownHostsFile": "/dev/null",
            }
        return [f"-o{name}={value}" for name, value in arguments.items()]


def _quote(path: Path) -> str:
    return f'"{path.absolute()}"'


class SshLink:
    """A multiplexed ssh connection to one target."""

    def __init__(self, name: str, address: Address, python: str = "python3") -> None:
        program = shutil.which("ssh")
        if program is None:
            raise ConfigError(f"target {name!r} needs OpenSSH's ssh, which is missing here")
        self.python = python
        self._name, self._address, self._program = name, address, program
        self._folder: Path | None = None  # holds the socket; the path of a socket must be short
        self._master: subprocess.Popen[bytes] | None = None
        self._connecting = threading.Lock()  # another thread renews the lease

    def open(self) -> None:
        """Connect. Raises TargetUnreachable with ssh's message and the remedy."""
        self._folder = Path(tempfile.mkdtemp(prefix="cfb-"))
        try:
            self._ensure_connected()
        except LinkDropped as dropped:
            self.close()
            words = str(dropped)
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in words), "try to connect with ssh"
            )
            where = f"{self._address.host}:{self._address.port}"
            raise TargetUnreachable(
                f"target {self._name!r} at {where} cannot be reached, ssh says {words!r}",
                remedy=remedy,
            ) from None

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Run *argv* on the target through the open connection, or through a new one."""
        master = self._ensure_connected()
        command = self._command("-oControlMaster=no", self._address.host, shlex.join(argv))
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            self._disconnect(master)
            raise LinkDropped(f"no answer within {timeout_s:g} s") from None
        if done.returncode == CONNECTION_LOST:
            self._disconnect(master)
            raise LinkDropped(last_line(done.stderr))
        if done.returncode != 0:
            raise TargetFailed(
                f"{self._name}: {argv[0]} ended on the target with exit code {done.returncode}: "
                f"{last_line(done.stderr)}"
            )
        return done.stdout

    def close(self) -> None:
        """Disconnect from the target. Safe to repeat."""
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

    def _ensure_connected(self) -> subprocess.Popen[bytes]:
        """Return the process that holds the connection; reconnect if it was lost.

        Raises LinkDropped.
        """
        with self._connecting:
            if self._master is None or self._master.poll() is not None:
                self._master = self._connect()
            return self._master

    def _connect(self) -> subprocess.Popen[bytes]:
        if self._folder is None:
            raise LinkDropped("the connection was closed")
        self._socket.unlink(missing_ok=True)
        with (self._folder / "err").open("wb") as words:
            master = subprocess.Popen(
                self._command("-oControlMaster=yes", "-N", self._address.host),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                # Ctrl-C must reach only the harness, which then releases the lease
                start_new_session=True,
            )
        deadline = time.monotonic() + 2 * CONNECT_WITHIN_S
        while not self._socket.exists():
            if master.poll() is not None or time.monotonic() > deadline:
                _terminate(master)
                raise LinkDropped(last_line((self._folder / "err").read_bytes()))
            time.sleep(0.02)
        return master

    def _disconnect(self, master: subprocess.Popen[bytes] | None) -> None:
        """Terminate *master*, unless a new connection has replaced it already."""
        with self._connecting:
            if master is not None and master is self._master:
                _terminate(master)
                self._master = None


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class SshTarget(LeasedTarget):
    """A board; the packages are copied to it, unless *python* names one that has cipherfleet."""

    def __init__(
        self, name: str, address: Address, python: str | None = None, lease_s: float = LEASE_S
    ) -> None:
        super().__init__(name, SshLink(name, address, python or "python3"), lease_s=lease_s)
        self._copies = python is None

    def _set_up(self) -> None:
        if not self._copies:
            return
        check_machine(self.name, self.machine)
        self._unpack(gather_payload(self.machine.python[:2], self.machine.architecture), SITE)
        self.environ["PYTHONPATH"] = f"{self.folder}/{SITE}"
        self.environ["PYTHONNOUSERSITE"] = "1"
