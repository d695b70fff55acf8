"""The Debian package of a node, and a Debian in a folder to install it in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cipherfleet_node.errors import StateCorrupt
from cipherfleet_node.runtime.store import read_state
from tests.support.paths import ROOT
from tests.tools.device_root import renumber

PACKAGE = "cipherfleet-node"
BUILD = ROOT / "deploy/debian/build_deb.py"
NEWER = "0.1.1"
PLACES = ("opt/cipherfleet", "etc/cipherfleet", "var/lib/cipherfleet")
WITHIN_S = 600.0


def build_package(out: Path, *arguments: str | Path) -> Path:
    """Build the package for amd64 in the folder *out*, with *arguments* of build_deb.py."""
    command = [sys.executable, BUILD, "--arch", "amd64", "--out", out, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def unpacked(package: Path, folder: Path) -> Path:
    """The files of *package*, in *folder*."""
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder


def newer_package(package: Path, folder: Path) -> Path:
    """A package like *package* whose cipherfleet says that it is version NEWER."""
    files = unpacked(package, folder / "files")
    wheels = files / "usr/share/cipherfleet/wheels"
    renumber(wheels, NEWER, breaks=False, folder=folder)
    return build_package(folder, "--wheels", wheels)


def in_folder(root: Path) -> list[str]:
    """The words that run a command in the Debian in *root*, which is not booted."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(root)]


def agree(nodes: Sequence[Path], after: int = 0) -> bool:
    """Whether the *nodes*, folders, have nearly the same estimate, beyond round *after*.

    It need not be the right one yet: the others have begun without the node that is installed.
    """
    try:
        states = [read_state(node) for node in nodes]
    except StateCorrupt:
        return False  # between two looks at it a node has replaced it
    estimates = [
        state.estimate[0]
        for state in states
        if state is not None and state.estimate is not None and state.round > after
    ]
    return len(estimates) == len(nodes) and max(estimates) - min(estimates) < 1e-3


@dataclass(frozen=True)
class DebianRoot:
    """A Debian in the folder *path*, and the words that run a command in it."""

    path: Path
    prefix: Sequence[str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the root, whatever its exit code. Both outputs are in stdout."""
        return subprocess.run(
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=WITHIN_S,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )

    def must(self, *command: str) -> str:
        """Return the output of *command*, which must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def put(self, file: Path) -> str:
        """Copy *file* into the root. Return its path there."""
        shutil.copy(file, self.path / "root")
        return f"/root/{file.name}"

    def install(self, package: Path) -> str:
        """Install *package* with dpkg. Return the output."""
        return self.must("dpkg", "--install", self.put(package))

    def install_interrupted(self, package: Path) -> None:
        """End dpkg and all that it started, at once, while postinst installs the wheels."""
        before = set(self.versions())
        dpkg = subprocess.Popen(
            [*self.prefix, "dpkg", "--install", self.put(package)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + WITHIN_S
        while not any((new / "lib").exists() for new in set(self.versions()) - before):
            assert dpkg.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(dpkg.pid, signal.SIGKILL)
        dpkg.wait()

    def versions(self) -> list[Path]:
        """The folders of the installed versions, unfinished ones included."""
        return list((self.path / "opt/cipherfleet/versions").glob("*"))

    def runs(self) -> str:
        """The version to run."""
        link = self.path / "opt/cipherfleet/current"
        return link.readlink().name.split("-")[0]

    def state(self) -> str:
        """The package's state, as dpkg writes it."""
        return self.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", PACKAGE).stdout

    def left_behind(self) -> list[str]:
        """All that has our name, but for the user's entry and the journal."""
        found = self.must(
            *("find", "/", "-xdev", "-name", "*cipherfleet*"),
            *("-not", "-path", "/proc/*", "-not", "-path", "/root/*"),
        )
        return found.splitlines()
