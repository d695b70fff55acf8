"""One card for one node: the mark on the card, and the operator's record of it."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from cipherfleet_node.errors import IdentityClash
from cipherfleet_node.runtime.synced_files import sync_folder
from cipherfleet_node.settings.sections import NodeConfig

from .boot_partition import Volume

CARD_FILE = "cipherfleet/card.json"
CARDS = "cards"  # folder of the records of cards, beside the provisioned set
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


Document = TypeVar("Document", CardMark, CardRecord)


def bind(config: NodeConfig, home: Path, volume: Volume, hardware: str, *, replace: bool) -> str:
    """Bind the card to the node and return the id of the card. The record is in home/cards.

    Raises IdentityClash if the node has another card, or the card belongs to another node.
    *hardware* is the serial number of the card, or '' if it cannot be read. The mark is written
    to the card first and to the record second: an interrupted command can then be repeated.
    """
    record_file = _record_file(home, config.node)
    record, mark = read_record(home, config.node), _read_mark(volume)
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


def forget_card(home: Path, node: str) -> str | None:
    """Forget the card of *node*, so that it may have another one; return the former card's id."""
    record = read_record(home, node)
    _record_file(home, node).unlink(missing_ok=True)
    return record.card if record else None


def _read_mark(volume: Volume) -> CardMark | None:
    data = volume.read(CARD_FILE)
    return None if data is None else _parse(data, CardMark(UNREADABLE, UNREADABLE))


def _record_file(home: Path, node: str) -> Path:
    return home / CARDS / f"{node}.json"


def read_record(home: Path, node: str) -> CardRecord | None:
    """Return the record of the card of *node* in *home*; None if the node has no card yet."""
    try:
        return _parse(_record_file(home, node).read_bytes(), CardRecord(UNREADABLE, "", ""))
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
