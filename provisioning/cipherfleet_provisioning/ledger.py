"""The ledger: the operator's record of a fleet's topology and of every member's public keys.

It contains no secret. Its version rises whenever memberships are signed; a node never accepts a
membership with a lower version than its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from gmpy2 import mpz
from msgspec import Meta

from cipherfleet_node.core.messages import Claim
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import PublicKeys
from cipherfleet_node.settings.sections import Broker, Crypto, ExchangeName
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.topology.graph import Graph

from .generations import Participant, Schedule, adapt_schedule, plan_schedule

LEDGER_FILE = "ledger.json"
LEDGER_VERSION = 1

Status = Literal["pending", "enrolled", "revoked"]
Maker = Literal["operator", "device"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PublicKeyBytes(_Record, frozen=True, kw_only=True):
    """The three public keys of a node, as bytes."""

    paillier: bytes  # n, big endian
    identity: bytes  # Ed25519
    seal: bytes  # X25519

    @classmethod
    def from_claim(cls, claim: Claim) -> PublicKeyBytes:
        """Return the keys that *claim* names."""
        return cls(paillier=claim.paillier, identity=claim.identity, seal=claim.seal)

    @classmethod
    def from_keys(cls, keys: PublicKeys) -> PublicKeyBytes:
        """Return the bytes of *keys*."""
        return cls(
            paillier=keys.paillier.to_bytes(),
            identity=keys.identity.public_bytes_raw(),
            seal=keys.seal.public_bytes_raw(),
        )

    @property
    def keys(self) -> PublicKeys:
        """The keys as objects; raises ValueError if identity or seal does not have 32 bytes."""
        return PublicKeys(
            PublicKey(mpz(int.from_bytes(self.paillier, "big"))),
            Ed25519PublicKey.from_public_bytes(self.identity),
            X25519PublicKey.from_public_bytes(self.seal),
        )


class Entry(_Record, frozen=True, kw_only=True):
    """The ledger's record of one node."""

    status: Status
    made_by: Maker  # of the keys in use
    public_keys: PublicKeyBytes | None = None  # None: not claimed yet
    fingerprint: str = ""  # of its public keys
    certificate: str = ""  # in PEM; empty without TLS, or before the device has requested one
    version: int = 0  # of its latest membership; 0: the neighbours in its bundle are valid
    from_round: int = 0  # of that membership
    membership_digest: str = ""  # of its latest membership, or of its bundle's; empty: none yet
    rekey: bool = False  # the operator has requested new keys, and the node has claimed none yet
    replaced: str = ""  # fingerprint of the keys of the device that this one replaces
    index: int = 0  # among the participants of generations; never that of another node
    list_digest: str = ""  # of the list of participants in its latest membership or bundle
    is_claiming: bool = False  # the broker admits its `claim_client`, even if it is enrolled now


class Ledger(_Record, frozen=True, kw_only=True):
    """The record of the whole fleet; members are in the order of fleet.yaml."""

    ledger_version: Annotated[int, Meta(ge=LEDGER_VERSION, le=LEDGER_VERSION)] = LEDGER_VERSION
    fleet: str
    version: int
    from_round: int  # of the latest memberships
    operator: str  # the operator's public key, as nodes pin it
    settings: str  # digest of the settings that only a bundle can change
    exchange: ExchangeName
    leaves: Literal["refuse", "open"]
    key_bits: int
    period_s: float | None
    broker: Broker  # the first of a cluster
    cluster: list[str] = []  # the hosts of all its brokers; empty for a single one
    edges: list[tuple[str, str]]
    former: list[tuple[str, str]] = []  # edges removed by the latest update: allowed until the next
    members: dict[str, Entry]
    next_index: int = 0  # the lowest index that no node has ever had
    schedule: Schedule | None = None  # of generations; None: the fleet has no shield
    is_quadratic: bool = False  # the fleet has the quadratic shield
    participants: list[Participant] = []  # the list in the latest memberships or bundles

    @property
    def enrolled(self) -> list[Participant]:
        """The members whose keys are known, as participants of generations."""
        return [
            Participant(name, entry.index, entry.public_keys.seal)
            for name, entry in self.members.items()
            if entry.status != "revoked" and entry.public_keys is not None
        ]

    @property
    def graph(self) -> Graph:
        """The graph over the members that are not revoked."""
        return Graph(tuple(self.present), tuple(self.edges))

    @property
    def present(self) -> list[str]:
        """Ids of the members that are not revoked."""
        return [name for name, entry in self.members.items() if entry.status != "revoked"]

    def list_members(self, status: Status) -> list[str]:
        """Return the ids of the members with *status*."""
        return [name for name, entry in self.members.items() if entry.status == status]

    @property
    def claiming(self) -> list[str]:
        """Ids of the nodes that may use the certificate with which they claim their keys."""
        return [name for name, entry in self.members.items() if entry.is_claiming]

    def entry(self, name: str) -> Entry:
        """Return the record of *name*; raises ConfigError if it is no node of the fleet."""
        if name not in self.members:
            known = ", ".join(list(self.members)[:5])
            raise ConfigError(
                f"{name[:80]!r} is no node of the fleet {self.fleet}, its nodes are {known}"
            )
        return self.members[name]

    def replace_entries(self, entries: Mapping[str, Entry]) -> Ledger:
        """Return the ledger with *entries* added or replaced."""
        return msgspec.structs.replace(self, members={**self.members, **entries})

    @property
    def allowed_links(self) -> dict[str, list[str]]:
        """Each member's neighbours in the access rules: by the present and by the former edges."""
        links: dict[str, dict[str, None]] = {name: {} for name in self.present}
        for a, b in [*self.edges, *self.former]:
            links.setdefault(a, {})[b] = None
            links.setdefault(b, {})[a] = None
        return {name: sorted(others) for name, others in links.items()}


def settings_digest(fleet: Fleet) -> str:
    """Return a digest of the settings that a node reads from its folder only.

    No membership can change them while the node runs.
    """
    file = fleet.file
    brokers = file.broker
    plain = Broker(host=brokers.host, port=brokers.port, tls=brokers.tls)
    found = [file.fleet, file.algorithm, file.objective, file.crypto, plain]
    if brokers.cluster is not None:
        found.append(brokers.cluster)
    if fleet.privacy is not None:
        # The noise is shared out among these nodes: with other ones the result is another release.
        found += [fleet.privacy, [member.id for member in fleet.members]]
    return hashlib.sha256(msgspec.json.encode(found)).hexdigest()


def new_ledger(fleet: Fleet, operator: str, members: Mapping[str, Entry]) -> Ledger:
    """Return the first ledger of *fleet*."""
    crypto: Crypto = fleet.file.crypto
    return Ledger(
        fleet=fleet.file.fleet,
        version=1,
        from_round=0,
        operator=operator,
        settings=settings_digest(fleet),
        exchange=fleet.exchange,
        leaves=crypto.leaves,
        key_bits=crypto.key_bits,
        period_s=fleet.file.algorithm.period_s,
        broker=fleet.file.broker.at(0),
        cluster=fleet.file.broker.cluster or [],
        edges=list(fleet.graph.edges),
        members=dict(members),
        next_index=len(members),
        schedule=plan_schedule(fleet.graph) if fleet.has_shield else None,
        is_quadratic=fleet.has_shield and fleet.file.algorithm.shield == "quadratic",
    )


def revoke_member(ledger: Ledger, gone: str) -> Ledger:
    """Return the ledger with *gone* revoked, whatever this leaves of the graph."""
    edges = [edge for edge in ledger.edges if gone not in edge]
    former = [edge for edge in ledger.former if gone not in edge]
    before = ledger.entry(gone)
    entry = Entry(status="revoked", made_by=before.made_by, index=before.index)
    changed = msgspec.structs.replace(ledger, edges=edges, former=former)
    changed = changed.replace_entries({gone: entry})
    if changed.schedule is None or not changed.present:
        return changed
    schedule = adapt_schedule(changed.schedule, changed.graph)
    return msgspec.structs.replace(changed, schedule=schedule)


# -- on disk ------------------------------------------------------------------------------------


def ledger_bytes(ledger: Ledger) -> bytes:
    """Return the ledger as JSON, as its file contains it."""
    return msgspec.json.format(msgspec.json.encode(ledger), indent=1) + b"\n"


def read_ledger(folder: Path) -> Ledger:
    """Read the ledger in *folder*; raises ConfigError."""
    file = folder / LEDGER_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Ledger)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}",
            remedy="make the set with: cipherfleet provision bundle FILE DIR",
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not a ledger of version {LEDGER_VERSION}: {error}") from None
