"""Whom a node exchanges with, when its operator says so while rounds go on.

A membership comes as a message signed by the operator, whose key the node's settings pin, and is
kept in those very bytes: membership/next until the round from which it holds, then
membership/current. Current takes the place of the neighbours in node.yaml. Versions only rise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from gmpy2 import mpz

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, Membership
from cipherfleet_node.core.paillier import PublicKey, faults_of_modulus
from cipherfleet_node.core.topics import membership_topic
from cipherfleet_node.errors import ConfigError, WireError, remedy_for
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    PublicKeys,
    identity_from_text,
    read_keys,
    read_private,
    seal_to_text,
)
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER
from cipherfleet_node.settings.sections import MAX_ID, Neighbour, NodeConfig

from .store import sync_folder, write_synced

MEMBERSHIP_FOLDER = "membership"
CURRENT, NEXT = "current", "next"
TLS_KEY_FILE = "tls.key"  # in keys/, where the node has made its own
ANEW = "get the bundle anew from provisioning"


@dataclass(frozen=True, repr=False)
class Joined:
    """A membership with its keys checked: what takes the place of a configuration's neighbours."""

    message: Membership
    neighbours: dict[str, PublicKeys]

    @property
    def version(self) -> int:
        """Rises with every word of the operator."""
        return self.message.epoch

    def configured(self, config: NodeConfig) -> NodeConfig:
        """*config* with these neighbours."""
        return msgspec.structs.replace(
            config,
            neighbours=[
                Neighbour(
                    id=member.id,
                    neighbours=member.neighbours,
                    fingerprint=self.neighbours[member.id].fingerprint,
                )
                for member in self.message.members
            ],
            seals={
                name: seal_to_text(X25519PublicKey.from_public_bytes(raw))
                for name, raw in self.message.seals
            },
        )


def check_membership(message: Membership, config: NodeConfig) -> Joined:
    """Its keys as objects; raises WireError for what no operator of sound mind sends."""
    neighbours: dict[str, PublicKeys] = {}
    for member in message.members:
        keys = _keys_of(member.paillier, member.identity, member.seal, config.crypto.key_bits)
        named = [member.id, *member.neighbours]
        if not all(0 < len(name) <= MAX_ID for name in named) or member.id in neighbours:
            raise WireError("membership", f"{member.id[:MAX_ID]!r} is named twice, or is no id")
        if member.id == config.node or config.node not in member.neighbours:
            raise WireError("membership", f"{member.id!r} is no neighbour of this node")
        neighbours[member.id] = keys
    if any(len(raw) != 32 for _, raw in message.seals):
        raise WireError("membership", "a seal has not 32 bytes")
    joined = Joined(message, neighbours)
    missing = joined.configured(config).co_neighbours - dict(message.seals).keys()
    if config.crypto.exchange == "sealed" and missing:
        raise WireError("membership", f"the seal of {min(missing)!r} is missing")
    return joined


def _keys_of(paillier: bytes, identity: bytes, seal: bytes, bits: int) -> PublicKeys:
    n = int.from_bytes(paillier, "big")
    faults = list(faults_of_modulus(n, bits))
    if faults:
        raise WireError("membership", f"a modulus {', '.join(faults)}")
    try:
        return PublicKeys(
            PublicKey(mpz(n)),
            Ed25519PublicKey.from_public_bytes(identity),
            X25519PublicKey.from_public_bytes(seal),
        )
    except ValueError:
        raise WireError("membership", "a public key has not 32 bytes") from None


# -- on disk ------------------------------------------------------------------------------------


def read_membership(folder: Path, config: NodeConfig, name: str = CURRENT) -> Joined | None:
    """The membership kept under *name*, None if there is none; raises ConfigError if tampered with.

    The operator's signature is checked at every start: whoever changes the file is found out.
    """
    file = folder / MEMBERSHIP_FOLDER / name
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = remedy_for(error, ANEW)
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; {remedy}") from None
    if config.operator is None:
        raise ConfigError(f"{file}: {config.node!r} pins no operator's key, and so takes no word")
    operator = {OPERATOR: identity_from_text(config.operator)}
    topic = membership_topic(config.fleet, config.node)
    try:
        message = wire.decode(data, topic, config.fleet, operator)
        assert isinstance(message, Membership)  # nothing else is sent on this topic
        return check_membership(message, config)
    except WireError as error:
        raise ConfigError(
            f"{file}: is not what the operator signed ({error.reason}: {error}); {ANEW}"
        ) from None


def keep(folder: Path, data: bytes) -> None:
    """Make the bytes of a checked membership durable, to hold from its round on."""
    place = folder / MEMBERSHIP_FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    write_synced(place / "fresh", data)
    (place / "fresh").replace(place / NEXT)
    sync_folder(place)


def due(folder: Path, config: NodeConfig, round_number: int) -> bool:
    """Whether the next membership holds from *round_number*, the round to open next, or before."""
    pending = read_membership(folder, config, NEXT)
    return pending is not None and pending.message.from_round <= round_number


def promote(folder: Path, config: NodeConfig) -> None:
    """Let the next membership hold, with the keys and the certificate that belong to it.

    Each step is atomic, and all can be taken again: it may end between any two of them.
    """
    pending = read_membership(folder, config, NEXT)
    if pending is None:
        return
    message, place = pending.message, folder / MEMBERSHIP_FOLDER
    fresh_keys = folder / f"{KEYS_FOLDER}.next"
    if fresh_keys.exists() and _fingerprint(folder, config, fresh_keys.name) == message.fingerprint:
        _swap(folder, KEYS_FOLDER)
    if message.certificate:
        _prepare_tls(folder, message.certificate)
        _swap(folder, TLS_FOLDER)
    (place / NEXT).replace(place / CURRENT)
    sync_folder(place)


def _fingerprint(folder: Path, config: NodeConfig, keys: str) -> str:
    return read_keys(folder, config.crypto, keys).public.fingerprint


def _prepare_tls(folder: Path, certificate: bytes) -> None:
    """tls.next: the authority as it is, the new certificate, and the key it is for.

    That is keys/tls.key, for which the node requested a certificate when it made the keys beside
    it. A node that has made no keys keeps the key that it was given: the file in tls/, or else the
    service's credential, which is not copied.
    """
    current, fresh = folder / TLS_FOLDER, folder / f"{TLS_FOLDER}.next"
    _remove(fresh)
    fresh.mkdir(mode=0o700)
    own = folder / KEYS_FOLDER / TLS_KEY_FILE
    key = own if own.exists() else current / KEY_FILE
    files = {CA_FILE: (current / CA_FILE).read_bytes(), CERTIFICATE_FILE: certificate}
    if key.exists():
        files[KEY_FILE] = read_private(key)
    for name, data in files.items():
        write_synced(fresh / name, data)
    sync_folder(fresh)


def _swap(folder: Path, name: str) -> None:
    """Put the folder *name*.next in the place of *name*."""
    current, fresh, old = (folder / f"{name}{end}" for end in ("", ".next", ".old"))
    if current.exists():
        _remove(old)
        current.rename(old)
    fresh.rename(current)
    sync_folder(folder)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def settle(folder: Path) -> None:
    """Finish what an interruption left half way: a folder taken away, its successor not yet put."""
    for name in (KEYS_FOLDER, TLS_FOLDER):
        current, fresh = folder / name, folder / f"{name}.next"
        if not current.exists() and fresh.exists() and (folder / f"{name}.old").exists():
            fresh.rename(current)
    if os.path.lexists(folder / MEMBERSHIP_FOLDER / "fresh"):
        (folder / MEMBERSHIP_FOLDER / "fresh").unlink()
