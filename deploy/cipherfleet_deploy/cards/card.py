"""What a card carries for one node: a cloud-init seed, the node's bundle, and the programs.

cloud-init runs cipherfleet/first-boot.sh of the boot partition once. Settings that are on the card
already, those of an imaging program for instance, are kept. Everything is read back and compared.
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
from typing import Any

import yaml

from cipherfleet_node.errors import CipherfleetError, ConfigError, IdentityClash
from cipherfleet_node.runtime.store import STATE_FOLDER, sync_folder
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER, NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import NodeConfig
from cipherfleet_provisioning.sets import tar_gz

from .boot_partition import Volume
from .systemd_unit import devices_folder

FOLDER = "cipherfleet"  # on the boot partition
CARD_FILE = f"{FOLDER}/card.json"
CARDS = "cards"  # beside the set
FIRST_BOOT = ["sh", f"/boot/firmware/{FOLDER}/first-boot.sh"]
HEADER = "#cloud-config\n"
NETWORK: dict[str, Any] = {
    "version": 2,
    "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
}
SCRIPTS = ("first-boot.sh", "install.sh")
_INSTANCE = re.compile(rb"(\bds=nocloud(?:-net)?(?:;[^\s;]*)*?;(?:i|instance-id)=)[^\s;]*")


@dataclass(frozen=True)
class Source:
    """A node's bundle, and where the records of its fleet's cards are kept."""

    config: NodeConfig
    archive: bytes  # .tar.gz
    home: Path


@dataclass(frozen=True)
class Extras:
    """What the operator gives beside the bundle."""

    wheels: Path | None = None
    user_data: Path | None = None
    network: Path | None = None
    replace: bool = False


# -- the bundle ---------------------------------------------------------------------------------


def find_source(node: str, home: Path) -> Source:
    """The bundle of *node* in *home*: a provisioned set, a folder of bundles, or the bundle itself.

    Raises ConfigError if there is none, or its settings are wrong.
    """
    places = {
        home / "current" / "nodes" / node: home,
        home / node: home,
        home: home.parent,
    }
    for folder, beside in places.items():
        if (folder / NODE_FILE).is_file():
            config = load_node_config(folder)
            if config.node == node:
                return Source(config, pack(folder, node), beside)
    raise ConfigError(
        f"{home}: holds no bundle of {node[:80]!r}; see: cipherfleet provision --help"
    )


def pack(folder: Path, node: str) -> bytes:
    """*folder* as a .tar.gz under the name *node*, without what a node that ran here has left.

    Its bytes follow from the files alone: a device knows by them what it has already.
    """
    left = {STATE_FOLDER, LOGS_FOLDER}
    return tar_gz(
        (f"{node}/{file.relative_to(folder)}", file, 0o600 | (file.stat().st_mode & 0o100))
        for file in sorted(folder.rglob("*"))
        if file.relative_to(folder).parts[0] not in left and (file.is_file() or file.is_dir())
    )


# -- the seed -----------------------------------------------------------------------------------


def seed_files(source: Source, extras: Extras, present: Mapping[str, bytes]) -> dict[str, bytes]:
    """All that is written but the card's own mark; *present* are the seed files on the card.

    Those that start the installation come last: a card half written does nothing.
    """
    payload = {name: (devices_folder() / name).read_bytes() for name in SCRIPTS}
    payload["bundle.tar.gz"] = source.archive
    if extras.replace:
        payload["replace"] = b""
    if extras.wheels is not None:
        payload |= _wheels(extras.wheels)
    sums = "".join(f"{_digest(data)}  {name}\n" for name, data in sorted(payload.items())).encode()
    network = network_config(extras.network, present.get("network-config", b""))
    user = user_data(source.config, extras.user_data, present.get("user-data", b""))
    instance = instance_id(source.config, _digest(sums + network + user))
    files = {
        **{f"{FOLDER}/{name}": data for name, data in payload.items()},
        f"{FOLDER}/SHA256SUMS": sums,
        "network-config": network,
        "user-data": user,
        "meta-data": meta_data(source.config, instance, present.get("meta-data", b"")),
    }
    start = present.get("cmdline.txt", b"")
    if (fresh := kernel_line(start, instance)) != start:
        files["cmdline.txt"] = fresh
    return files


def _wheels(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.glob("*.whl"))
    if not any(file.name.startswith("cipherfleet-") for file in files):
        raise ConfigError(
            f"{folder}: holds no wheel of cipherfleet; docs/devices.md says how to fill it"
        )
    return {f"wheels/{file.name}": file.read_bytes() for file in files}


def user_data(config: NodeConfig, given: Path | None, present: bytes) -> bytes:
    """cloud-config with all that is in *given*, else in *present*, and the first boot's command."""
    where = str(given) if given else "user-data on the card"
    text = given.read_bytes() if given else present
    told = _mapping(where, text)
    if told and not text.startswith(HEADER.strip().encode()):
        raise ConfigError(
            f"{where}: does not begin with #cloud-config, so nothing can be added to it; "
            "give one that does with --user-data FILE"
        )
    commands = told.get("runcmd", [])
    if not isinstance(commands, list):
        raise ConfigError(f"{where}: runcmd is not a list")
    told.setdefault("hostname", host_name(config))
    told["runcmd"] = [*(command for command in commands if command != FIRST_BOOT), FIRST_BOOT]
    return (HEADER + yaml.safe_dump(told, sort_keys=False)).encode()


def network_config(given: Path | None, present: bytes) -> bytes:
    """The operator's file as it is, else what is on the card, else Ethernet with DHCP."""
    text = given.read_bytes() if given else present
    told = _mapping(str(given) if given else "network-config on the card", text)
    if told:
        return text
    if given:
        raise ConfigError(f"{given}: is empty; write a network-config, version 2 (netplan)")
    return yaml.safe_dump(NETWORK, sort_keys=False).encode()


def instance_id(config: NodeConfig, digest: str) -> str:
    """Another one for every new seed, or cloud-init would take it for the old one."""
    return f"cipherfleet-{config.fleet}-{config.node}-{digest[:12]}"


def kernel_line(present: bytes, instance: str) -> bytes:
    """cmdline.txt with our instance where it names one: it would overrule that of meta-data."""
    return _INSTANCE.sub(lambda found: found[1] + instance.encode(), present)


def meta_data(config: NodeConfig, instance: str, present: bytes) -> bytes:
    """What the instance is called, beside what else the card says."""
    told = _mapping("meta-data on the card", present)
    for name in ("instance-id", "instance_id", "local-hostname"):
        told.pop(name, None)
    mine = {
        "instance-id": instance,
        "local-hostname": host_name(config),
    }
    return yaml.safe_dump(mine | told, sort_keys=False).encode()


def host_name(config: NodeConfig) -> str:
    """The node's id as a host name: no underscores, no dash at an end."""
    return config.node.replace("_", "-").strip("-").lower()


def _mapping(where: str, text: bytes) -> dict[str, Any]:
    try:
        told = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: is no YAML; mend it, or give another file") from None
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise ConfigError(f"{where}: is not a mapping of settings; give another file")
    return told


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- one card for one identity ------------------------------------------------------------------


def bind(source: Source, volume: Volume, hardware: str, *, replace: bool) -> str:
    """The mark of the card that is to be the node's; raises IdentityClash for a second card.

    *hardware* is the card's own serial number, '' where it has none to read. The mark is on the
    card before it is on record, so that an interrupted command can be given again.
    """
    config, record_file = source.config, source.home / CARDS / f"{source.config.node}.json"
    record, mark = _json(record_file), _mark_on(volume)
    name = f"{config.fleet}/{config.node}"
    if mark and mark.get("node") != name and not replace:
        raise IdentityClash(
            f"{volume.where}: the card is that of {str(mark.get('node'))[:128]!r}; "
            "say --replace to make it another"
        )
    same = record and (
        (mark and mark.get("card") == record.get("card"))
        or (hardware and hardware == record.get("hardware"))
    )
    if record and not same and not replace:
        raise IdentityClash(
            f"{volume.where}: {config.node!r} has a card already, {str(record.get('card'))[:16]!r} "
            f"({record_file}): two with one identity would shut each other out for ever; "
            "say --replace if that one is lost, broken or written anew"
        )
    # A card that took another's place must not be taken for it if that one turns up again.
    kept = mark.get("card") if mark and mark.get("node") == name else None
    card = str(kept or (record.get("card") if same else None) or secrets.token_hex(8))
    data = json.dumps({"card": card, "node": name}).encode() + b"\n"
    volume.write(CARD_FILE, data)
    _record(record_file, {"card": card, "hardware": hardware, "written_to": volume.where})
    return card


def _mark_on(volume: Volume) -> dict[str, Any]:
    data = volume.read(CARD_FILE)
    return _told(data) if data is not None else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        return _told(file.read_bytes())
    except FileNotFoundError:
        return {}


def _told(data: bytes) -> dict[str, Any]:
    """A mark or record; what cannot be read is some other card's."""
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    return told if isinstance(told, dict) and told else {"card": "unreadable"}


def _record(file: Path, told: Mapping[str, str]) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = file.with_suffix(".fresh")
    with fresh.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(told) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
    sync_folder(file.parent)


def hardware_serial(image: Path, sysfs: Path = Path("/sys")) -> str:
    """What the card in the reader *image* calls itself; '' for a file, or where none is told."""
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
    source: Source, volume: Volume, extras: Extras, hardware: str = ""
) -> dict[str, Any]:
    """Write everything, read it back, and say what was done; the card is bound to the node."""
    names = ("user-data", "meta-data", "network-config", "cmdline.txt")
    present = {name: data for name in names if (data := volume.read(name)) is not None}
    files = seed_files(source, extras, present)  # first: a mistake in them touches no card
    card = bind(source, volume, hardware, replace=extras.replace)
    for name in ("wheels", "bundle.tar.gz", "replace", "first-boot.log"):
        volume.remove(f"{FOLDER}/{name}")
    for name, data in files.items():
        volume.write(name, data)
    volume.close()
    for name, data in files.items():
        if volume.read(name) != data:
            raise CipherfleetError(
                f"{volume.where}: {name} does not read back as it was written: the card is full, "
                "broken, or was taken out; try another one with --replace"
            )
    return {
        "node": source.config.node,
        "fleet": source.config.fleet,
        "card": card,
        "written_to": volume.where,
        "files": len(files),
        "bytes": sum(map(len, files.values())),
        "private_keys": _has_keys(source.archive),
        "programs": extras.wheels is not None,
    }


def _has_keys(archive: bytes) -> bool:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return any("/keys/" in name for name in tar.getnames())
