"""Write a card for one node: the seed of its system, the node's bundle, and the programs.

The seed makes the system run enable-first-boot.sh. This installs the node from the boot partition,
and tries again until it has succeeded. The seed is one of cloud-init, or rpi-preseed.toml where the
card has that file. Settings that are already on the card, such as those of an imaging program,
are kept. Everything is read back and compared.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.runtime.store import STARTED_FILE, STATE_FOLDER
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER, NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import NodeConfig
from cipherfleet_provisioning.sets import tar_gz

from .boot_partition import PRESEED_FILE, Volume
from .cloud_init import (
    ENABLE,
    host_name,
    instance_id,
    kernel_line,
    meta_data,
    network_config,
    user_data,
)
from .identity import bind
from .preseed import preseed

FOLDER = "cipherfleet"  # on the boot partition
ENABLE_FROM_CARD = f"sh /boot/firmware/{FOLDER}/{ENABLE}"
PENDING = f"{FOLDER}/pending"  # exists until the card is installed
SCRIPTS = ("first-boot.sh", "install.sh", ENABLE)


class SeedResult(msgspec.Struct, frozen=True, kw_only=True):
    """The card that `provision seed` has written; `--json` prints these keys."""

    node: str
    fleet: str
    card: str  # identifies the card
    written_to: str
    files: int
    bytes: int
    private_keys: bool  # True: the card carries private keys until its first boot
    programs: bool  # True: the card carries the wheels to install


@dataclass(frozen=True)
class PackedBundle:
    """The bundle of a node, and the folder of its provisioned set."""

    config: NodeConfig
    archive: bytes  # .tar.gz
    home: Path  # the records of cards are in home/cards


@dataclass(frozen=True)
class Extras:
    """The files and the option that the operator gives in addition to the bundle."""

    wheels: Path | None = None
    user_data: Path | None = None
    network: Path | None = None
    replace: bool = False


# -- the bundle ---------------------------------------------------------------------------------


def find_bundle(node: str, home: Path) -> PackedBundle:
    """Find the bundle of *node*.

    *home* is a provisioned set, a folder of bundles, or the bundle itself. Raises ConfigError if
    there is no bundle, or if its settings are wrong.
    """
    homes = {
        home / "current" / "nodes" / node: home,
        home / node: home,
        home: home.parent,
    }
    for folder, set_folder in homes.items():
        if (folder / NODE_FILE).is_file():
            config = load_node_config(folder)
            if config.node == node:
                return PackedBundle(config, pack(folder, node), set_folder)
    raise ConfigError(
        f"{home}: holds no bundle of {node[:80]!r}",
        remedy="make one with cipherfleet provision bundle",
    )


def pack(folder: Path, node: str) -> bytes:
    """Return *folder* as a .tar.gz under the name *node*, without the state and logs of a run.

    Equal files give equal bytes. A device recognises by the digest that it has a bundle already.
    """
    excluded = {STATE_FOLDER, STARTED_FILE, LOGS_FOLDER}
    return tar_gz(
        (f"{node}/{file.relative_to(folder)}", file, 0o600 | (file.stat().st_mode & 0o100))
        for file in sorted(folder.rglob("*"))
        if file.relative_to(folder).parts[0] not in excluded and (file.is_file() or file.is_dir())
    )


# -- the seed -----------------------------------------------------------------------------------


def seed_files(
    bundle: PackedBundle, extras: Extras, present: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return all files to write, by name, except the card's mark.

    *present* are the seed files that are on the card already. The files that start the installation
    come last: a card that is only partly written installs nothing.
    """
    payload = {name: (devices_folder() / name).read_bytes() for name in SCRIPTS}
    payload["bundle.tar.gz"] = bundle.archive
    if extras.replace:
        payload["replace"] = b""
    if extras.wheels is not None:
        payload |= _read_wheels(extras.wheels)
    sums = "".join(f"{_digest(data)}  {name}\n" for name, data in sorted(payload.items())).encode()
    seed = _preseed_files if PRESEED_FILE in present else _cloud_init_files
    return {
        **{f"{FOLDER}/{name}": data for name, data in payload.items()},
        f"{FOLDER}/SHA256SUMS": sums,
        **seed(bundle.config, extras, present, sums),
        PENDING: b"",
    }


def _preseed_files(
    config: NodeConfig, extras: Extras, present: Mapping[str, bytes], _sums: bytes
) -> dict[str, bytes]:
    if extras.network is not None:
        raise ConfigError(
            f"--network {extras.network}: this card's system reads {PRESEED_FILE}, not netplan",
            remedy=f"write [ethernet] or [wlan] into {PRESEED_FILE}, and leave --network out",
        )
    text = present[PRESEED_FILE]
    seed = preseed(host_name(config), ENABLE_FROM_CARD, extras.user_data, text)
    return {PRESEED_FILE: seed}


def _cloud_init_files(
    config: NodeConfig, extras: Extras, present: Mapping[str, bytes], sums: bytes
) -> dict[str, bytes]:
    network = network_config(extras.network, present.get("network-config", b""))
    user = user_data(config, extras.user_data, present.get("user-data", b""))
    instance = instance_id(config, _digest(sums + network + user))
    files = {
        "network-config": network,
        "user-data": user,
        "meta-data": meta_data(config, instance, present.get("meta-data", b"")),
    }
    old_line = present.get("cmdline.txt", b"")
    if (new_line := kernel_line(old_line, instance)) != old_line:
        files["cmdline.txt"] = new_line
    return files


def _read_wheels(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.glob("*.whl"))
    if not any(file.name.startswith("cipherfleet-") for file in files):
        raise ConfigError(
            f"{folder}: holds no wheel of cipherfleet",
            remedy="docs/how-to/devices.md says how to fill it",
        )
    return {f"wheels/{file.name}": file.read_bytes() for file in files}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- writing ------------------------------------------------------------------------------------


def write_seed(
    bundle: PackedBundle, volume: Volume, extras: Extras, hardware: str = ""
) -> SeedResult:
    """Write all files, read them back, and bind the card to the node. Raises CipherfleetError."""
    names = ("user-data", "meta-data", "network-config", "cmdline.txt", PRESEED_FILE)
    present = {name: data for name in names if (data := volume.read(name)) is not None}
    files = seed_files(bundle, extras, present)  # first: an error in them leaves the card alone
    card = bind(bundle.config, bundle.home, volume, hardware, replace=extras.replace)
    for name in ("pending", "wheels", "bundle.tar.gz", "replace", "installed", "first-boot.log"):
        volume.remove(f"{FOLDER}/{name}")
    for name, data in files.items():
        volume.write(name, data)
    volume.close()
    for name, data in files.items():
        if volume.read(name) != data:
            raise CipherfleetError(
                f"{volume.where}: {name} does not read back as it was written: the card is "
                "full, broken, or was removed",
                remedy="try another card with --replace",
            )
    return SeedResult(
        node=bundle.config.node,
        fleet=bundle.config.fleet,
        card=card,
        written_to=volume.where,
        files=len(files),
        bytes=sum(map(len, files.values())),
        private_keys=_has_keys(bundle.archive),
        programs=extras.wheels is not None,
    )


def _has_keys(archive: bytes) -> bool:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return any("/keys/" in name for name in tar.getnames())
