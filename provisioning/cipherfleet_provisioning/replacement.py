"""A node gets a new device: a new bundle, and other keys than the device before.

The settings come from the former bundle, so fleet.yaml is not needed. The other nodes keep their
memberships, and with them the former keys, until the keys of the new device are known.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import write_keys
from cipherfleet_node.settings.node_yaml import NODE_FILE, checksum_of, load_node_config

from .bundles import READINGS_FILE, settings_text
from .key_making import Progress, make_keys
from .ledger import Ledger, Maker, read_ledger
from .operations import (
    OPERATOR_FOLDER,
    SETTINGS,
    certify_keys,
    prepare_claim,
    read_operator_keys,
    refresh_derived,
    remove_node_files,
)
from .sets import NODES, StagedSet


def replace_device(
    staged: StagedSet, name: str, maker: Maker, progress: Progress, now: datetime
) -> Ledger:
    """Make a new bundle for *name* and drop its former keys; signs no membership.

    With *maker* "device" the node is pending until the claim of its new device is accepted. Raises
    ConfigError for a node that is revoked, or whose settings the set does not have.
    """
    ledger = read_ledger(staged.place)
    before = ledger.entry(name)
    if before.status == "revoked":
        raise ConfigError(
            f"{name!r} is revoked",
            remedy="give the new device another id in fleet.yaml, and run: cipherfleet provision "
            "update FILE DIR",
        )
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    files = _read_settings(staged.place, name)
    remove_node_files(staged, name)
    for file, data in files.items():
        staged.put(f"{NODES}/{name}/{file}", data)
    if maker == "device":
        entry = prepare_claim(staged, name, operator, now)
        progress(name)
    else:
        keys = make_keys([name], ledger.key_bits, progress)[name]
        folder = staged.place / NODES / name
        write_keys(folder, keys)
        entry = certify_keys(folder, keys.public, operator, now)
    entry = msgspec.structs.replace(
        entry,
        replaced=before.fingerprint or before.replaced,
        from_round=before.from_round,
        index=before.index,
    )
    return refresh_derived(staged, ledger.replace_entries({name: entry}))


def _read_settings(place: Path, name: str) -> dict[str, bytes]:
    """Return node.yaml of *name* without neighbours and keys, and the readings if there are any."""
    homes = place / NODES / name, place / OPERATOR_FOLDER / SETTINGS / name
    folder = next((each for each in homes if (each / NODE_FILE).exists()), None)
    if folder is None:
        raise ConfigError(
            f"{place}: has no settings of {name!r}",
            remedy="remove it from fleet.yaml, run cipherfleet provision update, and add it again",
        )
    config = msgspec.structs.replace(
        load_node_config(folder),
        neighbours=[],
        seals={},
        generations=None,
        keys=None,
        checksum=None,
    )
    config = msgspec.structs.replace(config, checksum=checksum_of(config))
    files = {NODE_FILE: settings_text(config).encode()}
    if (folder / READINGS_FILE).exists():
        files[READINGS_FILE] = (folder / READINGS_FILE).read_bytes()
    return files
