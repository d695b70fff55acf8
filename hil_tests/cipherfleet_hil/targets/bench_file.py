"""The bench: which machines there are to measure on, from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cipherfleet_deploy.containers.limits import read_profile
from cipherfleet_deploy.containers.plan import IMAGE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Section
from cipherfleet_node.settings.type_errors import meant
from cipherfleet_node.settings.yaml_document import Document, read_document

from .docker import DockerTarget
from .ssh import Address, SshTarget
from .target import KeptTarget, LocalLink

BENCH_VERSION = 1
HERE = "127.0.0.1"
# Nothing that the ssh command could take for an option.
_NAME = Meta(
    pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$(?!\n)",
    description="1 to 63 letters, digits, - . and _, the first no - or .",
)
Name = Annotated[str, _NAME]
Host = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_:\[][A-Za-z0-9_.:%\]-]*$(?!\n)",
        description="a host's name or address, for example raspberrypi.local",
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]


class LocalSpec(Section, frozen=True, tag_field="kind", tag="local"):
    """The machine that the harness runs on."""

    name: Name


class DockerSpec(Section, frozen=True, tag_field="kind", tag="docker"):
    """A container of this machine."""

    name: Name
    profile: str | None = None  # pi-4, or cpu=0.5,memory=512m; None: no limits
    image: Annotated[str, Meta(min_length=1)] = IMAGE


class SshSpec(Section, frozen=True, tag_field="kind", tag="ssh"):
    """A board."""

    name: Name
    host: Host
    port: Port = 22
    user: Name | None = None
    identity: str | None = None  # the private key's file
    known_hosts: str | None = None
    python: Annotated[str, Meta(min_length=1)] | None = None  # has cipherfleet; None: copy it


Spec = LocalSpec | DockerSpec | SshSpec


class BrokerSpec(Section, frozen=True):
    """The broker that rounds are measured with: on this machine, started for the measurement."""

    kind: Literal["embedded", "mosquitto"] = "embedded"
    address: Host = HERE  # of this machine, as the targets reach it
    port: Port | None = None  # None: a free one


class BenchFile(Section, frozen=True):
    """All of the file."""

    targets: Annotated[list[Spec], Meta(min_length=1)]
    bench_version: Annotated[int, Meta(ge=BENCH_VERSION, le=BENCH_VERSION)] = BENCH_VERSION
    broker: BrokerSpec = msgspec.field(default_factory=BrokerSpec)


@dataclass(frozen=True)
class Bench:
    """Machines to measure on; paths are relative to *folder*."""

    targets: tuple[Spec, ...] = (LocalSpec(name="local"),)
    broker: BrokerSpec = field(default_factory=BrokerSpec)
    folder: Path = Path()
    document: Document | None = None

    def target(self, name: str) -> KeptTarget:
        """The target called *name*. Raises ConfigError."""
        names = [spec.name for spec in self.targets]
        if name not in names:
            raise ConfigError(
                f"--target is {name!r}{meant(name, names)}; the bench has {', '.join(names)}"
            )
        return self.make(self.targets[names.index(name)])

    def make(self, spec: Spec) -> KeptTarget:
        """The target that *spec* describes."""
        match spec:
            case LocalSpec(name=name):
                return KeptTarget(name, LocalLink())
            case DockerSpec(name=name, profile=profile, image=image):
                return DockerTarget(name, read_profile(profile) if profile else None, image)
            case SshSpec():
                address = Address(
                    spec.host,
                    spec.port,
                    spec.user,
                    _path(self.folder, spec.identity),
                    _path(self.folder, spec.known_hosts),
                )
                return SshTarget(spec.name, address, spec.python)

    def check_reach(self) -> None:
        """Raise ConfigError where a target could not reach the broker."""
        if not is_here(self.broker.address):
            return
        for spec in self.targets:
            if isinstance(spec, SshSpec) and not is_here(spec.host):
                told = (
                    f"is {self.broker.address!r}, which on target {spec.name!r} is the board "
                    "itself: give this machine's address as the board reaches it, for example "
                    "192.168.1.5"
                )
                place = ("broker", "address")
                raise self.document.error(place, told) if self.document else ConfigError(told)


def is_here(host: str) -> bool:
    """Whether *host* names whatever machine it is said on."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_bench(file: Path) -> Bench:
    """The bench in *file*. Raises ConfigError with all that is wrong."""
    document = read_document(file)
    draft = document.draft(BenchFile)
    draft.note(_mistakes(draft.value, document, file.parent))
    told = draft.checked()
    return Bench(tuple(told.targets), told.broker, file.parent, document)


def _mistakes(told: BenchFile, document: Document, folder: Path) -> Iterator[ConfigError]:
    first: dict[str, int] = {}
    for index, spec in enumerate(told.targets):
        place = ("targets", index)
        if spec.name in first:
            words = f"is {spec.name!r}, which targets[{first[spec.name]}] is called already"
            yield document.error((*place, "name"), words)
        first.setdefault(spec.name, index)
        if isinstance(spec, DockerSpec) and spec.profile is not None:
            yield from _of_profile(spec.profile, document, (*place, "profile"))
        if isinstance(spec, SshSpec):
            for name in ("identity", "known_hosts"):
                path = _path(folder, getattr(spec, name))
                if path is not None and not path.is_file():
                    yield document.error((*place, name), f"is {str(path)!r}, which is no file")


def _of_profile(
    profile: str, document: Document, place: tuple[str | int, ...]
) -> Iterator[ConfigError]:
    try:
        read_profile(profile)
    except ConfigError as error:
        yield document.error(place, re.sub("^the profile ", "", str(error)))


def _path(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / Path(name).expanduser()


def bench_of(file: Path | None) -> Bench:
    """The bench in *file*; without one, this machine."""
    return Bench() if file is None else read_bench(file)
