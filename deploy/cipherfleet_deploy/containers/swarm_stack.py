"""Write the containers of a fleet as a stack for Docker Swarm: services on several hosts.

Hosts do not share folders. Each container therefore receives its folder as an archive. The archive
is a Swarm secret that only this container can read. At its first start, the container unpacks the
archive into a volume.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import NODE_FILE

from .engine import (
    HEALTH_EVERY_S,
    HEALTH_FROM_S,
    HEALTH_WITHIN_S,
    LOG_BYTES,
    MAX_PROCESSES,
    MAX_RESTARTS,
)
from .limits import MIB
from .plan import IMAGE_USER, STOP_WITHIN_S, Container

STACK_FILE, BUNDLES_FOLDER = "stack.yaml", "bundles"
VERSION = "3.9"  # of the file format: the first version that limits processes
NETWORK, SECRET = "fleet", "bundle"
SECRET_BYTES = 500 * 1024  # Swarm accepts no larger secret
# Swarm makes a service's name known in the network when the service is first healthy.
BROKER_HEALTH_EVERY_S = 5


@dataclass(frozen=True)
class Service:
    """One container with its packed folder."""

    container: Container
    bundle: bytes  # .tar.gz
    host: str | None = None  # the host that must run it; None: Swarm chooses one

    @property
    def name(self) -> str:
        """The name in Swarm, after the stack's name: letters, digits, '-' and '_'."""
        name = self.container.name
        return name.partition(".")[0] if self.container.is_broker else f"node-{name}"

    @property
    def storage_name(self) -> str:
        """The name of the secret and of the volume.

        It contains a digest of the bundle. A service with other keys gets another secret, and
        another volume that holds no state.
        """
        return f"{self.name}-{hashlib.sha256(self.bundle).hexdigest()[:8]}"


def pack(container: Container) -> bytes:
    """Return the container's folder as .tar.gz. Raises ConfigError if it is too large.

    The settings file is the last member: if it is in the volume, everything else is there, too.
    """
    last = NODE_FILE if not container.is_broker else "nats-server.conf"
    files = sorted(container.folder.rglob("*"), key=lambda file: (file.name == last, file))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=9) as tar:
        for file in files:
            tar.add(file, str(file.relative_to(container.folder)), False, filter=_remove_owner)
    if archive.tell() > SECRET_BYTES:
        raise ConfigError(
            f"{container.folder}: has {archive.tell() / 1024:.0f} KiB packed, a secret of "
            f"Docker Swarm holds at most {SECRET_BYTES // 1024}",
            remedy="give its sensor fewer recorded readings",
        )
    return archive.getvalue()


def _remove_owner(file: tarfile.TarInfo) -> tarfile.TarInfo:
    file.uid = file.gid = 0
    file.uname = file.gname = ""
    return file


def stack(services: Sequence[Service], image: str) -> dict[str, object]:
    """Return the content of a stack file beside the folder of bundles."""
    return {
        "version": VERSION,
        "services": {each.name: _service(each, image) for each in services},
        "networks": {
            NETWORK: {
                "driver": "overlay",
                "internal": True,
                "driver_opts": {"encrypted": "true"},
            }
        },
        "volumes": {each.storage_name: {} for each in services},
        "secrets": {each.storage_name: {"file": f"./{_bundle_file(each)}"} for each in services},
    }


def _bundle_file(service: Service) -> Path:
    return Path(BUNDLES_FOLDER) / f"{service.storage_name}.tar.gz"


def _service(service: Service, image: str) -> dict[str, object]:
    container = service.container
    own = {"uid": str(IMAGE_USER), "gid": str(IMAGE_USER), "mode": 0o400}
    limits: dict[str, int | str] = {"pids": MAX_PROCESSES}
    if container.profile is not None:
        limits["cpus"] = str(container.profile.cpu)
        limits["memory"] = f"{container.profile.memory // MIB}M"
    return {
        "image": image,
        "command": ["sh", "-c", _unpack_and_run(container)],
        "working_dir": container.place,
        "user": f"{IMAGE_USER}:{IMAGE_USER}",
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "stop_grace_period": f"{STOP_WITHIN_S}s",
        "secrets": [{"source": service.storage_name, "target": SECRET, **own}],
        "volumes": [
            f"{service.storage_name}:{container.place}",
            {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 16 * MIB}},  # noqa: S108
        ],
        "networks": {NETWORK: {"aliases": [container.name]}},
        "healthcheck": {
            "test": ["CMD", *container.health],
            "interval": f"{BROKER_HEALTH_EVERY_S if container.is_broker else HEALTH_EVERY_S}s",
            "timeout": f"{HEALTH_WITHIN_S}s",
            "start_period": f"{HEALTH_FROM_S}s",
            "retries": 3,
        },
        "logging": {"driver": "json-file", "options": {"max-size": LOG_BYTES, "max-file": "1"}},
        "deploy": {
            # Each service has one task. A virtual IP address has no use then, and needs IPVS in
            # the kernel.
            "endpoint_mode": "dnsrr",
            "placement": _placement(service),
            "restart_policy": {
                "condition": "on-failure",
                "delay": "2s",
                "max_attempts": MAX_RESTARTS,
                "window": "60s",
            },
            "resources": {"limits": limits},
        },
    }


def _placement(service: Service) -> dict[str, object]:
    if service.host is not None:
        return {"constraints": [f"node.hostname == {service.host}"]}
    return {"preferences": [{"spread": "node.id"}]}


def _unpack_and_run(container: Container) -> str:
    """Return the shell command that unpacks the bundle, if needed, and runs the container.

    A volume that holds settings is kept: a node changes its keys there.
    """
    last = NODE_FILE if not container.is_broker else "nats-server.conf"
    place = container.place
    unpack = f"test -e {place}/{last} || tar -xzf /run/secrets/{SECRET} -C {place}"
    return f"{{ {unpack}; }} && exec {' '.join(container.command)}"


def write_stack(
    containers: Sequence[Container], root: Path, image: str, hosts: Sequence[str] = ()
) -> Path:
    """Write <root>/stack.yaml and its bundles. The services are placed on *hosts* in turn."""
    services = [
        Service(each, pack(each), hosts[place % len(hosts)] if hosts else None)
        for place, each in enumerate(containers)
    ]
    (root / BUNDLES_FOLDER).mkdir(mode=0o700)
    for each in services:
        file = root / _bundle_file(each)
        file.touch(mode=0o600)
        file.write_bytes(each.bundle)
    file = root / STACK_FILE
    head = "# docker stack deploy; bundles/ beside this file holds private keys\n"
    file.write_text(head + yaml.safe_dump(stack(services, image), sort_keys=False))
    return file
