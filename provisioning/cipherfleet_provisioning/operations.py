"""What an operator does to a provisioned set: make, enter keys, change the graph, renew, revoke.

Every function changes a draft; nothing holds before the draft is committed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cipherfleet_broker.program import LOOPBACK, ClusterMember, Peer
from cipherfleet_broker.security import HEALTH, WATCHER, Identity, Security, fleet_access
from cipherfleet_broker.service_files import installation
from cipherfleet_node.core.messages import OPERATOR, Membership
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    NodeKeys,
    identity_to_text,
    read_private,
    read_signing_key,
)
from cipherfleet_node.runtime.enrolment import TOKEN_BYTES, TOKEN_FILE
from cipherfleet_node.runtime.membership import CURRENT as HOLDING
from cipherfleet_node.runtime.membership import MEMBERSHIP_FOLDER
from cipherfleet_node.settings.node_yaml import (
    CA_FILE,
    CERTIFICATE_FILE,
    TLS_FOLDER,
    is_loopback,
)
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member

from .bundles import Progress, make_keys, node_config, write_bundle
from .certificates import (
    BROKER,
    RESTORE,
    WATCHER_STEM,
    Certified,
    certified_key,
    certify_client,
    issue_broker,
    issue_client,
    issue_link,
    make_authority,
    read_authority,
    write_authority,
    write_client,
)
from .claims import Examined, believe
from .ledger import (
    LEDGER_FILE,
    Entry,
    Halves,
    Ledger,
    Maker,
    ledger_bytes,
    new_ledger,
    read_ledger,
    settings_digest,
    without,
)
from .memberships import awaited, content_of, digest, due, rekeying, renewed
from .sets import ARCHIVES, NODES, Draft, put_archives

OPERATOR_FOLDER, BROKER_FOLDER, SAID = "operator", "broker", "memberships"
OPERATOR_FILE, CLIENT, TOKENS = "operator.pem", "client", "tokens"
INSTALLED = Path("/etc/cipherfleet-broker")
ENROLMENT_DAYS = 90  # of the certificate with which a device makes its claim


@dataclass(frozen=True, repr=False)
class Desk:
    """The operator's own keys, read from a set."""

    signer: Ed25519PrivateKey
    authority: Certified | None  # None without TLS

    @property
    def public(self) -> str:
        """As nodes pin it."""
        return identity_to_text(self.signer.public_key())


def read_desk(place: Path, *, tls: bool) -> Desk:
    """The operator's keys in the set *place*; raises ConfigError."""
    folder = place / OPERATOR_FOLDER
    signer = read_signing_key(folder / OPERATOR_FILE, RESTORE)
    return Desk(signer, read_authority(folder) if tls else None)


def read_token(place: Path, node: str) -> bytes | None:
    """The token of *node*, None once it has served."""
    file = place / OPERATOR_FOLDER / TOKENS / node
    return read_private(file) if file.exists() else None


# -- making a set -------------------------------------------------------------------------------


def make_set(draft: Draft, fleet: Fleet, maker: Maker, progress: Progress, now: datetime) -> Ledger:
    """The first set of *fleet*; with the keys of its nodes if the operator is their *maker*.

    Where *draft* holds a set already, that of the same fleet, its keys stay, and what follows from
    them is made anew. Raises ConfigError for another fleet.
    """
    if draft.present is not None:
        ledger = read_ledger(draft.place)
        _check_same(ledger, fleet)
    else:
        desk = _make_desk(draft, fleet, now)
        members = _make_bundles(draft, fleet, fleet.members, maker, desk, progress, now)
        ledger = _as_told(new_ledger(fleet, desk.public, members))
    return _settled(draft, ledger)


def _make_desk(draft: Draft, fleet: Fleet, now: datetime) -> Desk:
    signer = Ed25519PrivateKey.generate()
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft.put(f"{OPERATOR_FOLDER}/{OPERATOR_FILE}", signer.private_bytes(*form))
    if not fleet.file.broker.tls:
        return Desk(signer, None)
    authority = make_authority(fleet.file.fleet, now)
    folder, broker = draft.place / OPERATOR_FOLDER, draft.place / BROKER_FOLDER
    write_authority(folder, authority)
    _write(issue_client(authority, OPERATOR, now), folder, CLIENT)
    _write(issue_client(authority, WATCHER, now), folder, WATCHER_STEM)
    brokers = fleet.file.broker
    for host, place in zip(brokers.hosts, _member_folders(brokers.cluster or []), strict=True):
        put = f"{BROKER_FOLDER}/{place}"
        draft.put(f"{put}{CA_FILE}", authority.pem)
        _write(issue_broker(authority, [host], now), broker / place, BROKER)
        _write(issue_client(authority, HEALTH, now), broker / place, "health")
        if brokers.cluster is not None:
            _write(issue_link(authority, [host], now), broker / place, "link")
    return Desk(signer, authority)


def _write(made: Certified, folder: Path, name: str) -> None:
    made.write(folder / f"{name}.pem", folder / f"{name}.key")


def _make_bundles(
    draft: Draft,
    fleet: Fleet,
    newcomers: Iterable[Member],
    maker: Maker,
    desk: Desk,
    progress: Progress,
    now: datetime,
) -> dict[str, Entry]:
    """A folder in nodes/ for each of *newcomers*; what the ledger says of them."""
    newcomers = list(newcomers)
    keys: Mapping[str, NodeKeys] = {}
    if maker == "operator":
        keys = make_keys([m.id for m in newcomers], fleet.file.crypto.key_bits, progress)
    public = {name: pair.public for name, pair in keys.items()}
    complete = public if len(public) == len(fleet.members) else None  # else a membership says it
    entries, brokers = {}, fleet.brokers()
    (draft.place / NODES).mkdir(mode=0o700, exist_ok=True)
    for member in newcomers:
        folder = draft.place / NODES / member.id
        broker = brokers[member.id]
        config = node_config(fleet, member, complete, broker, Simulation(), desk.public)
        write_bundle(folder, fleet, member, config, keys.get(member.id), public)
        if maker == "device":
            token = secrets.token_bytes(TOKEN_BYTES)
            draft.put(f"{NODES}/{member.id}/{TOKEN_FILE}", token)
            draft.put(f"{OPERATOR_FOLDER}/{TOKENS}/{member.id}", token)
            if desk.authority is not None:
                write_client(folder, desk.authority, member.id, now, ENROLMENT_DAYS)
            entries[member.id] = Entry(status="pending", made_by=maker)
            progress(member.id)
        else:
            certificate = ""
            if desk.authority is not None:
                certificate = write_client(folder, desk.authority, member.id, now).pem.decode()
            own = public[member.id]
            entries[member.id] = Entry(
                status="enrolled",
                made_by=maker,
                halves=Halves.of(own),
                fingerprint=own.fingerprint,
                certificate=certificate,
            )
    return entries


def _as_told(ledger: Ledger) -> Ledger:
    """The ledger knowing that complete bundles tell their nodes all."""
    told = {}
    graph = ledger.graph
    for name, entry in ledger.members.items():
        content = content_of(ledger, graph, name)
        if content is not None:
            told[name] = msgspec.structs.replace(entry, holds=digest(content))
    return ledger.with_entries(told)


def _check_same(ledger: Ledger, fleet: Fleet) -> None:
    """Raise ConfigError if *fleet* is not what the set was made for."""
    check_settings(ledger, fleet)
    members = {name for name, entry in ledger.members.items() if entry.status != "revoked"}
    edges = {frozenset(edge) for edge in ledger.edges}
    if members != {m.id for m in fleet.members} or edges != {
        frozenset(edge) for edge in fleet.graph.edges
    }:
        raise ConfigError(
            f"the set exists for {len(members)} nodes and {len(edges)} edges, the file has "
            f"{len(fleet.members)} and {len(fleet.graph.edges)}, or others: say cipherfleet "
            "provision update, which keeps the keys, or name another folder"
        )


def check_settings(ledger: Ledger, fleet: Fleet) -> None:
    """Raise ConfigError for a change that no membership can tell a running node."""
    if ledger.fleet != fleet.file.fleet:
        raise ConfigError(
            f"the set is that of the fleet {ledger.fleet!r}, the file that of "
            f"{fleet.file.fleet!r}: name another folder"
        )
    if ledger.exchange != fleet.exchange:
        raise ConfigError(
            f"the exchange would become {fleet.exchange}, the fleet runs {ledger.exchange}: say "
            f"crypto.exchange: {ledger.exchange} if its graph allows it, or make a new set"
        )
    if ledger.settings != settings_digest(fleet):
        raise ConfigError(
            "algorithm, objective, crypto or broker is not what the set was made with, and nodes "
            "take these from their folders only: undo the change, or make a new set"
        )


# -- changing it --------------------------------------------------------------------------------


def update_set(
    draft: Draft, fleet: Fleet, maker: Maker, progress: Progress, now: datetime
) -> Ledger:
    """Let the set be that of *fleet*, which has other nodes or edges; nobody is told yet.

    Until the next update the former edges stay open at the broker, for the rounds before the new
    ones hold. Raises ConfigError.
    """
    ledger = read_ledger(draft.place)
    check_settings(ledger, fleet)
    back = next((m for m in fleet.members if m.id in ledger.named("revoked")), None)
    if back is not None:
        raise ConfigError(
            f"{back.id!r} is revoked: take it out of nodes, or give the device another id"
        )
    desk = read_desk(draft.place, tls=ledger.broker.tls)
    newcomers = [m for m in fleet.members if m.id not in ledger.members]
    fresh = _make_bundles(draft, fleet, newcomers, maker, desk, progress, now) if newcomers else {}
    known = {**ledger.members, **fresh}
    staying = {member.id: known[member.id] for member in fleet.members}
    revoked = {name: ledger.members[name] for name in ledger.named("revoked")}
    edges = list(fleet.graph.edges)
    former = [edge for edge in ledger.edges if edge not in edges]
    for name in ledger.present:
        if name not in staying:
            _forget(draft, name)
    ledger = msgspec.structs.replace(
        ledger, members={**staying, **revoked}, edges=edges, former=former
    )
    return _settled(draft, ledger)


def accept(draft: Draft, ledger: Ledger, examined: Iterable[Examined], now: datetime) -> Ledger:
    """Enter the keys of acceptable claims."""
    desk = read_desk(draft.place, tls=ledger.broker.tls)
    for each in examined:
        ledger = believe(ledger, each, desk.authority, now)
        draft.remove(f"{OPERATOR_FOLDER}/{TOKENS}/{each.node}")
        if (draft.place / NODES / each.node / KEYS_FOLDER).exists():  # keys that have been replaced
            draft.remove(f"{NODES}/{each.node}")
    return _settled(draft, ledger)


def tell(
    draft: Draft,
    ledger: Ledger,
    contents: Mapping[str, Membership],
    from_round: int,
    *,
    at_once: bool = False,
) -> Ledger:
    """Sign *contents* (see memberships.due) and put them where they are published from."""
    desk = read_desk(draft.place, tls=ledger.broker.tls)
    ledger, said = renewed(ledger, contents, from_round, desk.signer, at_once=at_once)
    return _said(draft, ledger, said)


def ask_for_keys(draft: Draft, ledger: Ledger, name: str) -> Ledger:
    """Let *name* be asked for new keys, if it has not been."""
    if ledger.members[name].rekey:
        return ledger
    desk = read_desk(draft.place, tls=ledger.broker.tls)
    ledger, said = rekeying(ledger, name, desk.signer)
    return _said(draft, ledger, said)


def recertify(draft: Draft, ledger: Ledger, name: str, now: datetime) -> Ledger:
    """A new certificate for the connection key that *name* has; nobody is told yet."""
    desk = read_desk(draft.place, tls=ledger.broker.tls)
    entry = ledger.members[name]
    if desk.authority is None:
        raise ConfigError("broker.tls is off in this fleet: there are no certificates")
    pem = certify_client(desk.authority, name, certified_key(entry.certificate), now)
    file = f"{NODES}/{name}/{TLS_FOLDER}/{CERTIFICATE_FILE}"
    if (draft.place / NODES / name / KEYS_FOLDER).exists():
        draft.put(file, pem)
    entry = msgspec.structs.replace(entry, certificate=pem.decode())
    return ledger.with_entries({name: entry})


def revoke(draft: Draft, ledger: Ledger, name: str) -> Ledger:
    """Take *name* out of the graph, the rules and the set, and tell all whom it concerns at once.

    Raises ConfigError if the rest would be no fleet, or cannot be told because keys are missing.
    """
    ledger = without(ledger, name)
    contents = due(ledger)
    if untold := [other for other in awaited(ledger) if ledger.members[other].holds]:
        pending = ", ".join(map(repr, ledger.named("pending")[:5]))
        raise ConfigError(
            f"{untold[0]!r} cannot be told while the keys of {pending} are missing: enrol them, "
            "or take them out of fleet.yaml and run cipherfleet provision update first"
        )
    _forget(draft, name)
    return _settled(draft, tell(draft, ledger, contents, 0, at_once=True))


def _forget(draft: Draft, name: str) -> None:
    for place in (
        f"{NODES}/{name}",
        f"{ARCHIVES}/{name}.tar.gz",
        f"{OPERATOR_FOLDER}/{TOKENS}/{name}",
        f"{SAID}/{name}",
    ):
        draft.remove(place)


def _said(draft: Draft, ledger: Ledger, said: Mapping[str, bytes]) -> Ledger:
    """Keep what was signed: to be published, and in bundles for whoever installs one again."""
    for name, data in said.items():
        draft.put(f"{SAID}/{name}", data)
        if (draft.place / NODES / name / KEYS_FOLDER).exists() and not ledger.members[name].rekey:
            draft.put(f"{NODES}/{name}/{MEMBERSHIP_FOLDER}/{HOLDING}", data)
    return _settled(draft, ledger)


def _settled(draft: Draft, ledger: Ledger) -> Ledger:
    """All that follows from the ledger and the keys."""
    draft.put(LEDGER_FILE, ledger_bytes(ledger))
    put_archives(draft)
    for name, text in installations(ledger).items():
        draft.put(f"{BROKER_FOLDER}/{name}", text.encode())
    return ledger


# -- the broker ---------------------------------------------------------------------------------


def _member_folders(cluster: Sequence[str]) -> list[str]:
    """Where the files of each broker are in broker/: in HOST/ for those of a cluster."""
    return [f"{host}/" for host in cluster] or [""]


def installations(ledger: Ledger) -> dict[str, str]:
    """Files by name, in broker/: a folder for each member of a cluster."""
    security = security_in(INSTALLED, ledger) if ledger.broker.tls else None
    port, peers = (
        ledger.broker.port,
        tuple(Peer(host, ledger.broker.port) for host in ledger.cluster),
    )
    files = {}
    for own, folder in enumerate(_member_folders(ledger.cluster)):
        member = ClusterMember(ledger.fleet, peers, own) if peers else None
        for name, text in installation(port, security, INSTALLED, member).items():
            files[f"{folder}{name}"] = text
    return files


def security_in(folder: Path, ledger: Ledger) -> Security:
    """What a broker needs whose certificates are in *folder*, a copy of the set's broker/."""

    def identity(name: str) -> Identity:
        return Identity(folder / f"{name}.pem", folder / f"{name}.key")

    security = Security(
        folder / CA_FILE,
        identity(BROKER),
        identity("health"),
        fleet_access(ledger.fleet, ledger.linked),
        link=identity("link") if ledger.cluster else None,
    )
    everywhere = "0.0.0.0"  # noqa: S104  # other machines are to reach it, in TLS
    return replace(security, listen=LOOPBACK if is_loopback(ledger.broker.host) else everywhere)
