"""The bench file: a YAML file that lists the targets and the broker of measurements."""

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
from cipherfleet_node.settings.type_errors import did_you_mean
from cipherfleet_node.settings.yaml_document import Document, read_document

from .docker import DockerTarget
from .ssh import Address, SshTarget
from .target import LeasedTarget, LocalLink

BENCH_VERSION = 1
LOOPBACK = "127.0.0.1"
# A name never begins with "-": the ssh command could read it as an option.
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
    """The machine on which the harness runs."""

    name: Name


class DockerSpec(Section, frozen=True, tag_field="kind", tag="docker"):
    """A container on this machine."""

    name: Name
    profile: str | None = None  # pi-4, or cpu=0.5,memory=512m; None: no limits
    image: Annotated[str, Meta(min_length=1)] = IMAGE


class SshSpec(Section, frozen=True, tag_field="kind", tag="ssh"):
    """A board that is reached with ssh."""

    name: Name
    host: Host
    port: Port = 22
    user: Name | None = None
    identity: str | None = None  # file of the private key
    known_hosts: str | None = None
    python: Annotated[str, Meta(min_length=1)] | None = (
        None  # a Python with cipherfleet; None: copy the packages
    )


Spec = LocalSpec | DockerSpec | SshSpec


class BrokerSpec(Section, frozen=True):
    """The broker of `bench rounds`: it runs on this machine and is started for the measurement."""

    kind: Literal["embedded", "mosquitto"] = "embedded"
    address: Host = LOOPBACK  # address at which the targets reach this machine
    port: Port | None = None  # None: any free port


class BenchFile(Section, frozen=True):
    """The content of a whole bench file."""

    targets: Annotated[list[Spec], Meta(min_length=1)]
    bench_version: Annotated[int, Meta(ge=BENCH_VERSION, le=BENCH_VERSION)] = BENCH_VERSION
    broker: BrokerSpec = msgspec.field(default_factory=BrokerSpec)


@dataclass(frozen=True)
class Bench:
    """The targets and the broker; paths are relative to *folder*."""

    targets: tuple[Spec, ...] = (LocalSpec(name="local"),)
    broker: BrokerSpec = field(default_factory=BrokerSpec)
    folder: Path = Path()
    document: Document | None = None

    def target(self, name: str) -> LeasedTarget:
        """Return the target called *name*.

        Raises ConfigError if the bench has none of that name.
        """
        names = [spec.name for spec in self.targets]
        if name not in names:
            raise ConfigError(
                f"--target is {name!r}{did_you_mean(name, names)}; the bench has {', '.join(names)}"
            )
        return self.open_target(self.targets[names.index(name)])

    def open_target(self, spec: Spec) -> LeasedTarget:
        """Create the target that *spec* describes."""
        match spec:
            case LocalSpec(name=name):
                return LeasedTarget(name, LocalLink())
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
        """Raise ConfigError if a target cannot reach the broker at its address."""
        if not is_loopback(self.broker.address):
            return
        for spec in self.targets:
            if isinstance(spec, SshSpec) and not is_loopback(spec.host):
                text = (
                    f"is {self.broker.address!r}, which on target {spec.name!r} means the board "
                    "itself, must be the address at which the board reaches this machine, for "
                    "example "
                    "192.168.1.5"
                )
                place = ("broker", "address")
                raise self.document.error(place, text) if self.document else ConfigError(text)


def is_loopback(host: str) -> bool:
    """True if *host* is a loopback address: every machine means itself by it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_bench(file: Path) -> Bench:
    """Read the bench file. Raises ConfigError with all its errors."""
    document = read_document(file)
    unchecked = document.unchecked(BenchFile)
    unchecked.report(_bench_errors(unchecked.value, document, file.parent))
    bench_file = unchecked.finish()
    return Bench(tuple(bench_file.targets), bench_file.broker, file.parent, document)


def _bench_errors(bench_file: BenchFile, document: Document, folder: Path) -> Iterator[ConfigError]:
    first: dict[str, int] = {}
    for index, spec in enumerate(bench_file.targets):
        place = ("targets", index)
        if spec.name in first:
            words = f"is {spec.name!r}, which is already the name of targets[{first[spec.name]}]"
            yield document.error((*place, "name"), words)
        first.setdefault(spec.name, index)
        if isinstance(spec, DockerSpec) and spec.profile is not None:
            yield from _profile_errors(spec.profile, document, (*place, "profile"))
        if isinstance(spec, SshSpec):
            for name in ("identity", "known_hosts"):
                path = _path(folder, getattr(spec, name))
                if path is not None and not path.is_file():
                    yield document.error((*place, name), f"is {str(path)!r}, which is not a file")


def _profile_errors(
    profile: str, document: Document, place: tuple[str | int, ...]
) -> Iterator[ConfigError]:
    try:
        read_profile(profile)
    except ConfigError as error:
        yield document.error(place, re.sub("^the profile ", "", str(error)))


def _path(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / Path(name).expanduser()


def load_bench(file: Path | None) -> Bench:
    """Read the bench in *file*; None gives a bench with only this machine."""
    return Bench() if file is None else read_bench(file)
