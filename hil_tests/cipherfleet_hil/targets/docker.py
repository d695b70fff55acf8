"""Containers on this machine as targets; with the limits of a profile one emulates a device.

A container uses the network of this machine: it reaches the broker as any local process does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from docker.errors import DockerException, NotFound
from docker.types import Mount

from cipherfleet_deploy.containers.engine import (
    FLEET_LABEL,
    MAX_PROCESSES,
    NAME_LABEL,
    OUT_LABEL,
    ContainerEngine,
)
from cipherfleet_deploy.containers.engine_errors import engine_errors
from cipherfleet_deploy.containers.limits import Profile
from cipherfleet_deploy.containers.plan import IMAGE, hand_over

from .lease_agent import LEASE_FILE
from .target import LEASE_S, LeasedTarget, TargetFailed, TargetUnreachable, last_line

INBOX = "/inbox"
_NS = 1_000_000_000
# The container ends, and Docker removes it, as soon as it contains no lease.
STAY = f"sleep 60; while [ -s /tmp/{LEASE_FILE} ]; do sleep 2; done"
_WITH_INPUT = 'file=$1; shift; exec "$@" <"$file"'


class DockerLink:
    """One container: `open` creates it, `close` removes it."""

    python = "python"

    def __init__(self, name: str, image: str, profile: Profile | None) -> None:
        self._name, self._image, self._profile = name, image, profile
        self._engine: ContainerEngine | None = None
        self._container: str | None = None
        self._inbox: Path | None = None  # standard input of the commands, as files
        self._numbers = count()

    def open(self) -> None:
        """Create the container. Raises CipherfleetError, with the remedy, if no engine answers."""
        self._engine = engine = ContainerEngine()
        try:
            engine.image_mib(self._image)
            self._inbox = Path(tempfile.mkdtemp(prefix="cipherfleet-inbox-"))
            hand_over(self._inbox, engine.user)
            with engine_errors(f"the container of target {self._name}"):
                container = engine.client.containers.create(
                    self._image,
                    ["sh", "-c", STAY],
                    labels=self._labels(),
                    mounts=[Mount(INBOX, str(self._inbox), type="bind", read_only=True)],
                    network_mode="host",
                    user=engine.user,
                    working_dir="/tmp",  # noqa: S108  # in the container
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    pids_limit=MAX_PROCESSES,
                    init=True,
                    auto_remove=True,
                    **self._limits(),
                )
                self._container = str(container.id)
                container.start()
        except BaseException:
            self.close()
            raise

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Run *argv* in the container; the engine is local, so that this link never drops."""
        del timeout_s  # the engine's client has a timeout of its own
        assert self._engine is not None
        api = self._engine.client.api
        try:
            with engine_errors(f"target {self._name}"):
                made = api.exec_create(self._container, self._command(argv, stdin))
                out, err = api.exec_start(made["Id"], demux=True)
                code = api.exec_inspect(made["Id"])["ExitCode"]
        except NotFound:
            raise TargetUnreachable(
                f"target {self._name!r}: its container no longer exists"
            ) from None
        if code != 0:
            found = f"exit code {code}, last line of the output: {last_line(err or out or b'')}"
            raise TargetFailed(f"{self._name}: {found}")
        return bytes(out or b"")

    def close(self) -> None:
        """Remove the container. Safe to repeat."""
        if self._engine is not None:
            if self._container is not None:
                with suppress(DockerException):  # Docker may have removed it already
                    self._engine.client.api.remove_container(self._container, v=True, force=True)
            self._engine.client.close()
            self._engine = self._container = None
        if self._inbox is not None:
            shutil.rmtree(self._inbox, ignore_errors=True)
            self._inbox = None

    def _command(self, argv: Sequence[str], stdin: bytes) -> list[str]:
        if not stdin:
            return list(argv)
        assert self._inbox is not None
        assert self._engine is not None
        for old in self._inbox.iterdir():
            old.unlink()
        file = self._inbox / str(next(self._numbers))
        file.write_bytes(stdin)
        file.chmod(0o600)
        hand_over(self._inbox, self._engine.user)
        return ["sh", "-c", _WITH_INPUT, "sh", f"{INBOX}/{file.name}", *argv]

    def _labels(self) -> dict[str, str]:
        # The labels of a fleet, so that `cipherfleet fleet down` finds the container.
        fleet = f"bench-{os.getpid()}"
        return {FLEET_LABEL: fleet, NAME_LABEL: self._name, OUT_LABEL: str(self._inbox)}

    def _limits(self) -> dict[str, Any]:
        if self._profile is None:
            return {}
        return {
            "nano_cpus": round(self._profile.cpu * _NS),
            "mem_limit": self._profile.memory,
            "memswap_limit": self._profile.memory,  # equal to mem_limit: no swap
        }


class DockerTarget(LeasedTarget):
    """A container: with a profile it emulates a device, without one it has no limits."""

    def __init__(
        self,
        name: str,
        profile: Profile | None = None,
        image: str = IMAGE,
        lease_s: float = LEASE_S,
    ) -> None:
        link = DockerLink(name, image, profile)
        super().__init__(name, link, emulated=profile is not None, lease_s=lease_s)
