"""A real sshd on loopback for tests, with its own user, over a connection that can be cut."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cipherfleet_hil.targets.ssh import Address

READY_WITHIN_S = 10.0
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class SshServer:
    """Where it listens, and what its user has."""

    port: int
    user: str
    folder: Path  # of keys, readable to us alone
    home: Path
    tmp: Path  # the user's temporary folder

    def address(self, port: int | None = None) -> Address:
        """How its user is reached, through *port* if given."""
        keys = self.folder / "id", self.folder / "known_hosts"
        return Address(LOOPBACK, port or self.port, self.user, *keys)

    def left_behind(self) -> list[str]:
        """All files of the user, and all processes; without those that sshd makes of itself."""
        files = [str(file) for place in (self.home, self.tmp) for file in place.rglob("*")]
        everywhere = ["find", "/tmp", "/var/tmp", "/dev/shm", "-xdev", "-user", self.user]
        outside = _lines([*everywhere, "-not", "-path", f"{self.home.parent}/*"])
        own = {str(self.home), str(self.tmp)}
        listed = [
            line.split(maxsplit=1) for line in _lines(["ps", "-u", self.user, "-o", "s=,args="])
        ]
        processes = [args for state, args in listed if state != "Z"]  # a zombie has ended
        ours = [args for args in processes if not args.startswith("sshd:")]
        return sorted({*files, *outside} - own) + ours


def _lines(command: Sequence[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.strip()]


@contextmanager
def running_sshd() -> Iterator[SshServer]:
    """An sshd with a user made for it; skips the test where none can be had."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or os.geteuid() != 0:
        pytest.skip("NO SSHD, OR NOT ROOT, WHO ALONE CAN MAKE A USER FOR IT: SSH IS NOT TESTED")
    folder = Path(tempfile.mkdtemp(prefix="cipherfleet-sshd-"))
    world = Path(tempfile.mkdtemp(prefix="cipherfleet-user-"))
    user = f"cfb{os.getpid()}"
    try:
        server = _settled(folder, world, user)
        with (folder / "log").open("wb") as log:
            command = [sshd, "-D", "-e", "-f", str(folder / "config")]
            process = subprocess.Popen(command, stderr=log, start_new_session=True)
        try:
            _await_port(server.port, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait()
    finally:
        subprocess.run(["userdel", "--force", user], capture_output=True, check=False)
        shutil.rmtree(folder)
        shutil.rmtree(world)


def _settled(folder: Path, world: Path, user: str) -> SshServer:
    """The user, with an empty home and temporary folder, and sshd's files."""
    world.chmod(0o755)
    home, tmp = world / "home", world / "tmp"
    home.mkdir()
    tmp.mkdir()
    new = [
        "useradd",
        "--no-create-home",
        "--home-dir",
        str(home),
        "--shell",
        "/bin/sh",
        "-p",
        "*",
        user,
    ]
    subprocess.run(new, check=True, capture_output=True)
    for place in (home, tmp):
        shutil.chown(place, user)
    for name in ("host", "id"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    port = free_port()
    kind, key_text, *_ = (folder / "host.pub").read_text().split()
    hosts = f"[{LOOPBACK}]:*"  # whatever wire leads there
    (folder / "known_hosts").write_text(f"{hosts} {kind} {key_text}\n")
    world_keys = world / "authorized_keys"
    shutil.copy(folder / "id.pub", world_keys)
    world_keys.chmod(0o644)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives its rights away
    (folder / "config").write_text(
        f"""\
ListenAddress {LOOPBACK}:{port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {world_keys}
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv TMPDIR={tmp}
"""
    )
    return SshServer(port, user, folder, home, tmp)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"SSHD DOES NOT START HERE, NOT TESTED: {log.read_text().strip()[-200:]}")
        time.sleep(0.05)


class Wire:
    """A TCP connection to *port* by way of another port, which can be cut, and fixed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self.is_cut = False
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End all connections; new ones end at once, until `remedy`."""
        self.is_cut = True
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def remedy(self) -> None:
        """Let connections through again."""
        self.is_cut = False

    def close(self) -> None:
        """No more of it."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            self.connections += 1
            thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection((LOOPBACK, self._target)) as far:
            others = {near: far, far: near}
            self._ends += [near, far]
            if self.is_cut:
                return
            with suppress(OSError):
                while True:
                    for end in select.select(others, [], [])[0]:
                        if not (data := end.recv(65536)):
                            return
                        others[end].sendall(data)
