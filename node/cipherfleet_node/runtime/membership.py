"""Membership updates: the operator changes the neighbours of a running node.

A membership is a message that the operator has signed; the node's settings pin the operator's key.
The node stores the received bytes: as membership/next until the round at which it takes effect, and
as membership/current from then on. membership/current replaces the neighbours in node.yaml. The
node never goes back to a lower version.
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
from cipherfleet_node.core.messages import DIGEST_BYTES, OPERATOR, GenerationsEntry, Membership
from cipherfleet_node.core.paillier import PublicKey, faults_of_modulus
from cipherfleet_node.core.topics import membership_topic
from cipherfleet_node.errors import REISSUE_BUNDLE, ConfigError, WireError, remedy_for
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    PublicKeys,
    identity_from_text,
    read_keys,
    read_private,
    seal_to_text,
)
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER
from cipherfleet_node.settings.sections import (
    MAX_ID,
    Generations,
    Neighbour,
    NodeConfig,
    Partner,
    has_shield,
)

from .synced_files import sync_folder, write_synced

MEMBERSHIP_FOLDER = "membership"
CURRENT, NEXT = "current", "next"
TLS_KEY_FILE = "tls.key"  # in keys/, if the node has generated its own


@dataclass(frozen=True, repr=False)
class CheckedMembership:
    """A membership that has passed all checks, and the public keys of its members."""

    message: Membership
    neighbours: dict[str, PublicKeys]

    @property
    def version(self) -> int:
        """The version of the membership, which rises with each one of the operator."""
        return self.message.epoch

    def apply_to(self, config: NodeConfig) -> NodeConfig:
        """Return *config* with the neighbours, seals and partners of this membership."""
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
            seals={name: _seal_text(raw) for name, raw in self.message.seals},
            generations=self.message.generations and make_section(self.message.generations),
        )


def make_section(given: GenerationsEntry) -> Generations:
    """Return *given* as the section of node.yaml; raises ValueError if a key has no 32 bytes."""
    return Generations(
        index=given.index,
        every=given.every,
        roll_call=given.roll_call,
        averaging=given.averaging,
        mean_partners=given.mean_partners,
        members=given.members.hex(),
        partners={
            each.id: Partner(index=each.index, seal=_seal_text(each.seal))
            for each in given.partners
        },
    )


def _seal_text(raw: bytes) -> str:
    return seal_to_text(X25519PublicKey.from_public_bytes(raw))


def check_membership(message: Membership, config: NodeConfig) -> CheckedMembership:
    """Check *message* and parse its keys. Raises WireError if the membership is inconsistent.

    That is a duplicate or invalid id, a member that is not a neighbour of this node, an invalid
    key, a missing seal, or a list of partners that is missing or inconsistent.
    """
    neighbours: dict[str, PublicKeys] = {}
    for member in message.members:
        keys = _keys_of(member.paillier, member.identity, member.seal, config.crypto.key_bits)
        named = [member.id, *member.neighbours]
        if not all(0 < len(name) <= MAX_ID for name in named) or member.id in neighbours:
            raise WireError("membership", f"{member.id[:MAX_ID]!r} is a duplicate or invalid id")
        if member.id == config.node or config.node not in member.neighbours:
            raise WireError("membership", f"{member.id!r} is not a neighbour of this node")
        neighbours[member.id] = keys
    if any(len(raw) != 32 for _, raw in message.seals):
        raise WireError("membership", "a seal does not have 32 bytes")
    _check_generations(message, config)
    membership = CheckedMembership(message, neighbours)
    missing = membership.apply_to(config).co_neighbours - dict(message.seals).keys()
    if config.crypto.exchange == "sealed" and missing:
        raise WireError("membership", f"the seal of {min(missing)!r} is missing")
    return membership


def _check_generations(message: Membership, config: NodeConfig) -> None:
    """Raise WireError unless *message* has partners exactly if the fleet has a shield."""
    given = message.generations
    if (given is not None) != has_shield(config.algorithm, config.objective):
        missing = "lacks" if given is None else "has"
        raise WireError(
            "membership",
            f"it {missing} generations, and algorithm.shield is {config.algorithm.shield}",
        )
    if given is None:
        return
    if len(given.members) != DIGEST_BYTES or any(len(p.seal) != 32 for p in given.partners):
        raise WireError("membership", "the digest or a key of generations does not have 32 bytes")
    if len({partner.id for partner in given.partners}) < len(given.partners):
        raise WireError("membership", "two partners have the same id")
    for fault in make_section(given).list_faults(config.node):
        raise WireError("membership", f"generations {fault}")


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
        raise WireError("membership", "a public key does not have 32 bytes") from None


# -- on disk ------------------------------------------------------------------------------------


def read_membership(
    folder: Path, config: NodeConfig, name: str = CURRENT
) -> CheckedMembership | None:
    """Return the membership that is stored as *name*, or None if there is none.

    The operator's signature is verified each time. Raises ConfigError if it does not fit the file.
    """
    file = folder / MEMBERSHIP_FOLDER / name
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = remedy_for(error, REISSUE_BUNDLE)
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", remedy=remedy) from None
    if config.operator is None:
        raise ConfigError(
            f"{file}: {config.node!r} accepts no membership: its settings pin no operator's key"
        )
    operator = {OPERATOR: identity_from_text(config.operator)}
    topic = membership_topic(config.fleet, config.node)
    try:
        message = wire.decode(data, topic, config.fleet, operator)
        assert isinstance(message, Membership)  # nothing else is sent on this topic
        return check_membership(message, config)
    except WireError as error:
        raise ConfigError(
            f"{file}: is not what the operator signed ({error.reason}: {error})",
            remedy=REISSUE_BUNDLE,
        ) from None


def store_membership(folder: Path, data: bytes) -> None:
    """Store the bytes of a checked membership durably; it takes effect at its `from_round`."""
    place = folder / MEMBERSHIP_FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    write_synced(place / "fresh", data)
    (place / "fresh").replace(place / NEXT)
    sync_folder(place)


def is_due(folder: Path, config: NodeConfig, round_number: int) -> bool:
    """True if the stored next membership takes effect at *round_number* or before."""
    pending = read_membership(folder, config, NEXT)
    return pending is not None and pending.message.from_round <= round_number


def promote(folder: Path, config: NodeConfig) -> None:
    """Activate the next membership together with its keys and certificate.

    Each step is atomic and can be repeated, so an interruption at any point does no harm.
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
    """Write the folder tls.next: the present authority, the new certificate and its private key.

    The private key is keys/tls.key if the node has generated its own keys: it requested the
    certificate for that key. Otherwise the node keeps the key that it was given. This is the file
    in tls/, or else the service's credential, which is not copied.
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
    """Replace the folder *name* by the folder *name*.next."""
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


def complete_promotion(folder: Path) -> None:
    """Complete an interrupted `promote`: move *name*.next into place if *name* is missing."""
    for name in (KEYS_FOLDER, TLS_FOLDER):
        current, fresh = folder / name, folder / f"{name}.next"
        if not current.exists() and fresh.exists() and (folder / f"{name}.old").exists():
            fresh.rename(current)
    if os.path.lexists(folder / MEMBERSHIP_FOLDER / "fresh"):
        (folder / MEMBERSHIP_FOLDER / "fresh").unlink()
