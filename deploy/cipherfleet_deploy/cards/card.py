"""Write a card for one node: the seed of its system, the node's bundle, and the programs.

The seed makes the system run enable-first-boot.sh. This installs the node from the boot partition,
and tries again until it has succeeded. The seed is one of cloud-init, or rpi-preseed.toml where the
card has that file. Settings that are already on the card, such as those of an imaging program,
are kept. Everything is read back and compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import CipherfleetError, ConfigError, IdentityClash
from cipherfleet_node.runtime.store import STATE_FOLDER, sync_folder
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER, NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import NodeConfig
from cipherfleet_provisioning.sets import tar_gz

from .boot_partition import PRESEED_FILE, Volume
from .preseed import preseed

FOLDER = "cipherfleet"  # on the boot partition
CARD_FILE = f"{FOLDER}/card.json"
CARDS = "cards"  # folder of the records of cards, beside the provisioned set
ENABLE = "enable-first-boot.sh"
ENABLE_FROM_CARD = f"sh /boot/firmware/{FOLDER}/{ENABLE}"
PENDING = f"{FOLDER}/pending"  # exists until the card is installed
HEADER = "#cloud-config\n"
NETWORK: dict[str, object] = {
    "version": 2,
    "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
}
SCRIPTS = ("first-boot.sh", "install.sh", ENABLE)
_INSTANCE = re.compile(rb"(\bds=nocloud(?:-net)?(?:;[^\s;]*)*?;(?:i|instance-id)=)[^\s;]*")


UNREADABLE = "unreadable"


class CardMark(msgspec.Struct, frozen=True):
    """The content of CARD_FILE on a card."""

    card: str  # identifies the card
    node: str  # FLEET/NODE, the node that the card belongs to


class CardRecord(msgspec.Struct, frozen=True):
    """The operator's record of the card of one node."""

    card: str  # as in the card's mark
    hardware: str  # serial number of the card; empty if it could not be read
    written_to: str  # the image, device or folder


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


Document = TypeVar("Document", CardMark, CardRecord)


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
    excluded = {STATE_FOLDER, LOGS_FOLDER}
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


def user_data(config: NodeConfig, given: Path | None, present: bytes) -> bytes:
    """Return the cloud-config of *given*, else of *present*, with the first boot enabled.

    The text of enable-first-boot.sh is a command of `bootcmd`, which cloud-init runs at every boot.
    A command of `runcmd` would run once for each seed, and not again after a power cut.
    """
    where = str(given) if given else "user-data on the card"
    text = given.read_bytes() if given else present
    result = _parse_mapping(where, text)
    if result and not text.startswith(HEADER.strip().encode()):
        raise ConfigError(
            f"{where}: does not begin with #cloud-config, so the first-boot command cannot be "
            "added",
            remedy="give a file that does with --user-data FILE",
        )
    commands = result.get("bootcmd", [])
    if not isinstance(commands, list):
        raise ConfigError(f"{where}: bootcmd is not a list", remedy="write a list of commands")
    result.setdefault("hostname", host_name(config))
    script = (devices_folder() / ENABLE).read_text()
    kept = (command for command in commands if not _enables_first_boot(command))
    result["bootcmd"] = [*kept, ["sh", "-c", script]]
    return (HEADER + yaml.safe_dump(result, sort_keys=False)).encode()


def _enables_first_boot(command: object) -> bool:
    """True if an earlier seed has added *command*."""
    return isinstance(command, list) and "cipherfleet-first-boot" in str(command)


def network_config(given: Path | None, present: bytes) -> bytes:
    """Return the operator's file, else the one on the card, else Ethernet with DHCP."""
    text = given.read_bytes() if given else present
    result = _parse_mapping(str(given) if given else "network-config on the card", text)
    if result:
        return text
    if given:
        raise ConfigError(
            f"{given}: is empty", remedy="write a network-config, version 2 (netplan)"
        )
    return yaml.safe_dump(NETWORK, sort_keys=False).encode()


def instance_id(config: NodeConfig, digest: str) -> str:
    """Return the instance id of a seed. Each seed has another one: cloud-init runs it only then."""
    return f"cipherfleet-{config.fleet}-{config.node}-{digest[:12]}"


def kernel_line(present: bytes, instance: str) -> bytes:
    """Replace the instance id in cmdline.txt, if there is one: it overrides that in meta-data."""
    return _INSTANCE.sub(lambda found: found[1] + instance.encode(), present)


def meta_data(config: NodeConfig, instance: str, present: bytes) -> bytes:
    """Return meta-data with our instance id and host name, and the card's other settings."""
    kept = _parse_mapping("meta-data on the card", present)
    for name in ("instance-id", "instance_id", "local-hostname"):
        kept.pop(name, None)
    ours: dict[str, object] = {
        "instance-id": instance,
        "local-hostname": host_name(config),
    }
    return yaml.safe_dump(ours | kept, sort_keys=False).encode()


def host_name(config: NodeConfig) -> str:
    """Return the node's id as a host name: without underscores, and no dash at either end."""
    return config.node.replace("_", "-").strip("-").lower()


def _parse_mapping(where: str, text: bytes) -> dict[str, object]:
    try:
        result = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}{place}: is not valid YAML", remedy="correct it, or give another file"
        ) from None
    if result is None:
        return {}
    if not isinstance(result, dict):
        raise ConfigError(f"{where}: is not a mapping of settings", remedy="give another file")
    return result


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- one card for one identity ------------------------------------------------------------------


def bind(bundle: PackedBundle, volume: Volume, hardware: str, *, replace: bool) -> str:
    """Bind the card to the node and return the id of the card.

    Raises IdentityClash if the node has another card, or the card belongs to another node.
    *hardware* is the serial number of the card, or '' if it cannot be read. The mark is written
    to the card first and to the record second: an interrupted command can then be repeated.
    """
    config, record_file = bundle.config, bundle.home / CARDS / f"{bundle.config.node}.json"
    record, mark = _read_record(record_file), _read_mark(volume)
    name = f"{config.fleet}/{config.node}"
    if mark and mark.node != name and not replace:
        raise IdentityClash(
            f"{volume.where}: the card belongs to {mark.node[:128]!r}",
            remedy=f"use --replace to make it the card of {name!r}",
        )
    same = record is not None and (
        (mark is not None and mark.card == record.card)
        or (hardware != "" and hardware == record.hardware)
    )
    if record and not same and not replace:
        raise IdentityClash(
            f"{volume.where}: {config.node!r} has a card already, "
            f"{record.card[:16]!r} ({record_file}): two devices with one identity "
            "would disconnect each other again and again",
            remedy="use --replace if the other card is lost, broken or overwritten",
        )
    # A replacement card gets a new mark: if the replaced card appears again, it is recognised.
    kept = mark.card if mark and mark.node == name else None
    card = kept or (record.card if record and same else None) or secrets.token_hex(8)
    volume.write(CARD_FILE, _encode(CardMark(card, name)).encode())
    _write_record(record_file, CardRecord(card, hardware, volume.where))
    return card


def _read_mark(volume: Volume) -> CardMark | None:
    data = volume.read(CARD_FILE)
    return None if data is None else _parse(data, CardMark(UNREADABLE, UNREADABLE))


def _read_record(file: Path) -> CardRecord | None:
    try:
        return _parse(file.read_bytes(), CardRecord(UNREADABLE, "", ""))
    except FileNotFoundError:
        return None


def _parse(data: bytes, unreadable: Document) -> Document:
    """Return a mark or record. An unreadable one counts as that of another card."""
    try:
        return msgspec.json.decode(data, type=type(unreadable))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return unreadable


def _encode(document: CardMark | CardRecord) -> str:
    return json.dumps(msgspec.to_builtins(document)) + "\n"


def _write_record(file: Path, record: CardRecord) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = file.with_suffix(".fresh")
    with fresh.open("w", encoding="utf-8") as stream:
        stream.write(_encode(record))
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
    sync_folder(file.parent)


def hardware_serial(image: Path, sysfs: Path = Path("/sys")) -> str:
    """Return the serial number of the card in the reader *image*, or '' if it has none."""
    if not image.is_block_device():
        return ""
    disk = (sysfs / "class" / "block" / image.resolve().name).resolve()
    for name in ("cid", "serial", "wwid"):
        for place in (disk / "device" / name, disk / name, disk.parent / "device" / name):
            if place.is_file() and (serial := place.read_text().strip()):
                return serial
    return ""


# -- writing ------------------------------------------------------------------------------------


def write_seed(
    bundle: PackedBundle, volume: Volume, extras: Extras, hardware: str = ""
) -> SeedResult:
    """Write all files, read them back, and bind the card to the node. Raises CipherfleetError."""
    names = ("user-data", "meta-data", "network-config", "cmdline.txt", PRESEED_FILE)
    present = {name: data for name in names if (data := volume.read(name)) is not None}
    files = seed_files(bundle, extras, present)  # first: an error in them leaves the card alone
    card = bind(bundle, volume, hardware, replace=extras.replace)
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
