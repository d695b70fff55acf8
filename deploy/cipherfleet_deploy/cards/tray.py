"""Write the cards of all nodes of a set that have none yet: as images, or one card after the other.

An interrupted command can be repeated: it continues with the cards that are missing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.settings.node_yaml import NODE_FILE
from cipherfleet_provisioning.ledger import LEDGER_FILE, read_ledger
from cipherfleet_provisioning.sets import CURRENT, NODES

from .boot_partition import Volume, open_image
from .card import PENDING, Extras, SeedResult, find_bundle, write_seed
from .identity import read_record

FICLONE = 0x40049409  # linux/fs.h: let a file share the blocks of another one
CHUNK = 1024 * 1024

ShowProgress = Callable[[str], None]


class SeedAllResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cards that `provision seed --all` has written."""

    seeds: list[SeedResult]
    had_cards: list[str]  # nodes that had a card or an enrolled device, and got no other one
    skipped: list[str]  # nodes that the operator has left out


def seed_images(
    home: Path, image: Path, out: Path, extras: Extras, report: ShowProgress
) -> SeedAllResult:
    """Write out/NODE.img for each node without a card: a copy of *image*, seeded.

    Raises CipherfleetError.
    """
    open_image(image)  # an error in it leaves no copies
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    nodes = list_nodes(home)
    enrolled = _enrolled_devices(home)
    missing = [node for node in nodes if node not in enrolled and not _has_card(home, node, out)]
    seeds = []
    for number, node in enumerate(missing, 1):
        copy = out / f"{node}.img"
        report(f"{copy}: card {number} of {len(missing)}")
        if read_record(home, node) is None:
            copy_image(image, copy)
        seeds.append(write_seed(find_bundle(node, home), open_image(copy), extras))
    return SeedAllResult(seeds=seeds, had_cards=_without(nodes, missing), skipped=[])


def seed_in_turn(
    home: Path,
    open_card: Callable[[], tuple[Volume, str]],
    ask: Callable[[str], bool],
    extras: Extras,
    report: ShowProgress,
) -> SeedAllResult:
    """Write a card for each node without one, in one reader.

    *ask* gets the name of a node and returns True when its card is in the reader, or False to leave
    the node out. *open_card* returns the card's boot partition and serial number. If a card cannot
    be written, *ask* is asked again.
    """
    nodes = list_nodes(home)
    enrolled = _enrolled_devices(home)
    missing = [node for node in nodes if node not in enrolled and read_record(home, node) is None]
    seeds, skipped = [], []
    for number, node in enumerate(missing, 1):
        while True:
            if not ask(node):
                skipped.append(node)
                break
            try:
                volume, hardware = open_card()
                seeds.append(write_seed(find_bundle(node, home), volume, extras, hardware))
            except CipherfleetError as error:
                report(str(error))
            else:
                report(f"{node}: card {number} of {len(missing)} is written")
                break
    return SeedAllResult(seeds=seeds, had_cards=_without(nodes, missing), skipped=skipped)


def list_nodes(home: Path) -> list[str]:
    """Return the nodes of *home*, a provisioned set or a folder of bundles. Raises ConfigError."""
    for folder in (home / CURRENT / NODES, home):
        if found := sorted(file.parent.name for file in folder.glob(f"*/{NODE_FILE}")):
            return found
    raise ConfigError(
        f"{home}: holds no bundles", remedy="make them with cipherfleet provision bundle"
    )


def _enrolled_devices(home: Path) -> set[str]:
    """Return the nodes with keys that their device has made: a second device would be refused."""
    place = home / CURRENT
    if not (place / LEDGER_FILE).is_file():
        return set()  # a folder of bundles
    members = read_ledger(place).members
    return {
        name
        for name, entry in members.items()
        if entry.status == "enrolled" and entry.made_by == "device"
    }


def _has_card(home: Path, node: str, out: Path) -> bool:
    """Return True if *node* has a complete card: one elsewhere, or its image in *out*."""
    record, copy = read_record(home, node), out / f"{node}.img"
    if record is None:
        return False
    # The mark of a card is written before its files, and the file PENDING is the last of them.
    is_ours = record.written_to == str(copy) and copy.is_file()
    return not is_ours or open_image(copy).read(PENDING) is not None


def _without(nodes: list[str], missing: list[str]) -> list[str]:
    return [node for node in nodes if node not in missing]


def copy_image(image: Path, copy: Path) -> None:
    """Copy *image* to *copy*, which only its owner can read; it appears when it is complete.

    The copy shares the blocks of *image* where the file system can do that. Elsewhere it has holes
    where *image* has zeros.
    """
    fresh = copy.with_name(f".{copy.name}.fresh")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target, image.open("rb") as source:
            try:
                fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
            except OSError:
                for place, data in _filled_chunks(source):
                    target.seek(place)
                    target.write(data)
                target.truncate(image.stat().st_size)
        fresh.replace(copy)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _filled_chunks(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks of *source* that are not only zeros, with their places."""
    place = 0
    while data := source.read(CHUNK):
        if data.count(0) != len(data):
            yield place, data
        place += len(data)
