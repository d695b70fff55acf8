"""Results of the commands of `cipherfleet fleet`. `--json` prints their keys."""

from __future__ import annotations

import msgspec

from cipherfleet_deploy.local.results import ContainerMemory


class UpResult(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet that `fleet up` has started without --wait."""

    fleet: str
    nodes: int
    out: str  # the folder of keys, logs and results
    emulated: str | None  # the profile; None: no limits
    start: dict[str, float]  # seconds, by phase
    memory_mib: ContainerMemory


class ContainerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one container."""

    name: str  # the node's id, or the broker's host name
    state: str  # such as "running" or "exited"
    status: str  # in the engine's words, such as "Up 5 minutes"
    memory_mib: float | None  # None: it does not run
    round: int | None  # number of closed rounds; None for a broker


class StatusResult(msgspec.Struct, frozen=True, kw_only=True):
    """The containers that `fleet status` has found."""

    fleet: str
    containers: list[ContainerStatus]


class DownResult(msgspec.Struct, frozen=True, kw_only=True):
    """The containers and networks that `fleet down` has removed."""

    fleet: str
    removed: list[str]  # their names in the engine


class ComposeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The Compose file that `fleet compose` has written."""

    written: str
    containers: int


class StackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The stack file that `fleet stack` has written."""

    written: str
    services: int


class ImageResult(msgspec.Struct, frozen=True, kw_only=True):
    """The image that `fleet image` has built. A build argument that was not given is left out."""

    image: str
    mib: float
    platform: str | None  # None: that of the Docker engine
    base_image: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="BASE_IMAGE")
    pip_args: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="PIP_ARGS")
