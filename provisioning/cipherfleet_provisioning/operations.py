"""Operations on a provisioned set: create, accept keys, update the graph, renew.

Every function changes a staged set. The changes take effect when the caller commits it. The
file is long, since every operation is one function that shares the steps of the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cipherfleet_broker.security import HEALTH, WATCHER
from cipherfleet_node.core.messages import OPERATOR, Membership
from cipherfleet_node.core.topics import claim_client
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    NodeKeys,
    PublicKeys,
    identity_to_text,
    read_private,
    read_signing_key,
)
from cipherfleet_node.runtime.enrolment import TOKEN_BYTES, TOKEN_FILE
from cipherfleet_node.runtime.membership import CURRENT as HOLDING
from cipherfleet_node.runtime.membership import MEMBERSHIP_FOLDER
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, TLS_FOLDER
from cipherfleet_node.settings.sections import MAX_PARTICIPANTS, Simulation
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member

from .broker_files import BROKER_FOLDER, list_broker_folders, make_broker_files
from .bundles import node_config, plan_generations, write_bundle
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
from .claims import ReviewedClaim, accept_claim
from .generations import Schedule, adapt_schedule
from .key_making import Progress, make_keys
from .ledger import (
    LEDGER_FILE,
    Entry,
    Ledger,
    Maker,
    PublicKeyBytes,
    ledger_bytes,
    new_ledger,
    read_ledger,
    settings_digest,
)
from .memberships import (
    plan_updates,
    record_contents,
    sign_rekey_request,
    sign_updates,
)
from .sets import ARCHIVES, NODES, StagedSet, put_archives

OPERATOR_FOLDER, SIGNED_MEMBERSHIPS = "operator", "memberships"
OPERATOR_FILE, CLIENT, TOKENS = "operator.pem", "client", "tokens"
SETTINGS = "settings"  # settings and readings of nodes whose bundles are no longer valid
ENROLMENT_DAYS = 90  # validity of the certificate with which a device connects to claim its keys


@dataclass(frozen=True, repr=False)
class OperatorKeys:
    """The operator's own keys in a set."""

    signer: Ed25519PrivateKey
    authority: Certified | None  # None without TLS

    @property
    def public(self) -> str:
        """The operator's public key as text, as nodes pin it."""
        return identity_to_text(self.signer.public_key())


def read_operator_keys(place: Path, *, tls: bool) -> OperatorKeys:
    """Read the operator's keys in the set *place*; raises ConfigError."""
    folder = place / OPERATOR_FOLDER
    signer = read_signing_key(folder / OPERATOR_FILE, RESTORE)
    return OperatorKeys(signer, read_authority(folder) if tls else None)


def read_token(place: Path, node: str) -> bytes | None:
    """Read the enrolment token of *node*; None if it has been used."""
    file = place / OPERATOR_FOLDER / TOKENS / node
    return read_private(file) if file.exists() else None


# -- making a set -------------------------------------------------------------------------------


def make_set(
    staged: StagedSet, fleet: Fleet, maker: Maker, progress: Progress, now: datetime
) -> Ledger:
    """Make the first set of *fleet*; with *maker* "operator" it includes the nodes' private keys.

    If *staged* contains a set of the same fleet already, its keys stay, and the files derived from
    them are regenerated. Raises ConfigError if that set belongs to another fleet.
    """
    if staged.present is not None:
        ledger = read_ledger(staged.place)
        _check_same(ledger, fleet)
    else:
        operator = _make_operator_keys(staged, fleet, now)
        members = _make_bundles(
            staged, fleet, fleet.members, operator, maker=maker, progress=progress, now=now
        )
        ledger = _record_bundle_digests(new_ledger(fleet, operator.public, members))
    return refresh_derived(staged, ledger)


def _make_operator_keys(staged: StagedSet, fleet: Fleet, now: datetime) -> OperatorKeys:
    signer = Ed25519PrivateKey.generate()
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    staged.put(f"{OPERATOR_FOLDER}/{OPERATOR_FILE}", signer.private_bytes(*form))
    if not fleet.file.broker.tls:
        return OperatorKeys(signer, None)
    authority = make_authority(fleet.file.fleet, now)
    folder, broker = staged.place / OPERATOR_FOLDER, staged.place / BROKER_FOLDER
    write_authority(folder, authority)
    _write(issue_client(authority, OPERATOR, now), folder, CLIENT)
    _write(issue_client(authority, WATCHER, now), folder, WATCHER_STEM)
    brokers = fleet.file.broker
    for host, place in zip(brokers.hosts, list_broker_folders(brokers.cluster or []), strict=True):
        put = f"{BROKER_FOLDER}/{place}"
        staged.put(f"{put}{CA_FILE}", authority.pem)
        _write(issue_broker(authority, [host], now), broker / place, BROKER)
        _write(issue_client(authority, HEALTH, now), broker / place, "health")
        if brokers.cluster is not None:
            _write(issue_link(authority, [host], now), broker / place, "link")
    return OperatorKeys(signer, authority)


def _write(made: Certified, folder: Path, name: str) -> None:
    made.write(folder / f"{name}.pem", folder / f"{name}.key")


def _make_bundles(
    staged: StagedSet,
    fleet: Fleet,
    newcomers: Iterable[Member],
    operator: OperatorKeys,
    *,
    maker: Maker,
    progress: Progress,
    now: datetime,
    first_index: int = 0,
    schedule: Schedule | None = None,
) -> dict[str, Entry]:
    """Make a folder in nodes/ for each of *newcomers*; return their ledger entries.

    The newcomers get the indices from *first_index* on. *schedule* is that of a running fleet.
    """
    newcomers = list(newcomers)
    indices = {member.id: first_index + place for place, member in enumerate(newcomers)}
    keys: Mapping[str, NodeKeys] = {}
    if maker == "operator":
        keys = make_keys([m.id for m in newcomers], fleet.file.crypto.key_bits, progress)
    public = {name: pair.public for name, pair in keys.items()}
    # Without the keys of all nodes, memberships give the neighbours later.
    complete = public if len(public) == len(fleet.members) else None
    generations = plan_generations(fleet, complete or {}, indices, schedule)
    entries, brokers = {}, fleet.brokers()
    (staged.place / NODES).mkdir(mode=0o700, exist_ok=True)
    for member in newcomers:
        folder = staged.place / NODES / member.id
        broker = brokers[member.id]
        config = node_config(
            fleet,
            member,
            complete,
            broker,
            Simulation(),
            operator.public,
            generations.get(member.id),
        )
        write_bundle(folder, fleet, member, config, keys.get(member.id), public)
        if maker == "device":
            entries[member.id] = prepare_claim(staged, member.id, operator, now)
            progress(member.id)
        else:
            entries[member.id] = certify_keys(folder, public[member.id], operator, now)
    return {
        name: msgspec.structs.replace(entry, index=indices[name]) for name, entry in entries.items()
    }


def prepare_claim(staged: StagedSet, name: str, operator: OperatorKeys, now: datetime) -> Entry:
    """Put a token and, with TLS, a certificate for claiming into the bundle of *name*."""
    token = secrets.token_bytes(TOKEN_BYTES)
    staged.put(f"{NODES}/{name}/{TOKEN_FILE}", token)
    staged.put(f"{OPERATOR_FOLDER}/{TOKENS}/{name}", token)
    if operator.authority is not None:
        folder = staged.place / NODES / name
        write_client(folder, operator.authority, claim_client(name), now, ENROLMENT_DAYS)
    is_claiming = operator.authority is not None
    return Entry(status="pending", made_by="device", is_claiming=is_claiming)


def certify_keys(folder: Path, public: PublicKeys, operator: OperatorKeys, now: datetime) -> Entry:
    """Return the entry of a node whose keys the operator has made; *folder* is its bundle.

    With TLS the bundle gets a certificate.
    """
    certificate = ""
    if operator.authority is not None:
        certificate = write_client(folder, operator.authority, folder.name, now).pem.decode()
    return Entry(
        status="enrolled",
        made_by="operator",
        public_keys=PublicKeyBytes.from_keys(public),
        fingerprint=public.fingerprint,
        certificate=certificate,
    )


def _record_bundle_digests(ledger: Ledger) -> Ledger:
    """Record the memberships that complete bundles contain, so that they are not sent again."""
    updates = plan_updates(ledger)
    return record_contents(ledger, updates.contents, updates.participants)


def _check_same(ledger: Ledger, fleet: Fleet) -> None:
    """Raise ConfigError if *fleet* is not what the set was made for."""
    check_settings(ledger, fleet)
    members = {name for name, entry in ledger.members.items() if entry.status != "revoked"}
    edges = {frozenset(edge) for edge in ledger.edges}
    if members != {m.id for m in fleet.members} or edges != {
        frozenset(edge) for edge in fleet.graph.edges
    }:
        raise ConfigError(
            f"the set was made for {len(members)} nodes and {len(edges)} edges, and the file has "
            f"{len(fleet.members)} and {len(fleet.graph.edges)}, or other ones: run cipherfleet "
            "provision update, which keeps the keys, or name another folder"
        )


def check_settings(ledger: Ledger, fleet: Fleet) -> None:
    """Raise ConfigError for a changed setting that no membership can give to a running node."""
    if ledger.fleet != fleet.file.fleet:
        raise ConfigError(
            f"the set belongs to the fleet {ledger.fleet!r}, the file to "
            f"{fleet.file.fleet!r}: name another folder"
        )
    if ledger.exchange != fleet.exchange:
        raise ConfigError(
            f"the exchange would become {fleet.exchange}, and the fleet runs {ledger.exchange}: "
            f"write crypto.exchange: {ledger.exchange} if the graph allows it, or make a new set"
        )
    if ledger.settings != settings_digest(fleet):
        raise ConfigError(
            "algorithm, objective, crypto, broker or privacy (or with the section privacy the list "
            "of nodes) differs from the one that the set was made with, and nodes read these from "
            "their folders only: undo the change, or make a new set"
        )


# -- changing it --------------------------------------------------------------------------------


def update_set(
    staged: StagedSet, fleet: Fleet, maker: Maker, progress: Progress, now: datetime
) -> Ledger:
    """Change the set to the nodes and edges of *fleet*, without signing memberships.

    Until the next update the broker still allows messages over the former edges, for the rounds
    before the new edges take effect. Raises ConfigError.
    """
    ledger = read_ledger(staged.place)
    check_settings(ledger, fleet)
    returning = next((m for m in fleet.members if m.id in ledger.list_members("revoked")), None)
    if returning is not None:
        raise ConfigError(
            f"{returning.id!r} is revoked: remove it from nodes, or give the device another id"
        )
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    newcomers = [m for m in fleet.members if m.id not in ledger.members]
    ledger = _adapt_generations(ledger, fleet, len(newcomers))
    known = ledger.members
    if newcomers:
        fresh = _make_bundles(
            staged,
            fleet,
            newcomers,
            operator,
            maker=maker,
            progress=progress,
            now=now,
            first_index=ledger.next_index - len(newcomers),
            schedule=ledger.schedule,
        )
        known = {**known, **fresh}
    staying = {member.id: known[member.id] for member in fleet.members}
    revoked = {name: ledger.members[name] for name in ledger.list_members("revoked")}
    edges = list(fleet.graph.edges)
    former = [edge for edge in ledger.edges if edge not in edges]
    for name in ledger.present:
        if name not in staying:
            remove_node_files(staged, name)
    ledger = msgspec.structs.replace(
        ledger, members={**staying, **revoked}, edges=edges, former=former
    )
    return refresh_derived(staged, ledger)


def _adapt_generations(ledger: Ledger, fleet: Fleet, newcomers: int) -> Ledger:
    """Return the ledger with indices for *newcomers*, and a roll call for the graph of *fleet*.

    Raises ConfigError for too many nodes, or for a graph that is too wide for the schedule.
    """
    count = ledger.next_index + newcomers
    ledger = msgspec.structs.replace(ledger, next_index=count)
    if ledger.schedule is None:
        return ledger
    if count > MAX_PARTICIPANTS:
        raise ConfigError(
            f"the fleet would have had {count:,} nodes, those that were removed included; "
            f"a shield allows {MAX_PARTICIPANTS:,}",
            remedy="make a new set with: cipherfleet provision bundle FILE DIR",
        )
    schedule = adapt_schedule(ledger.schedule, fleet.graph)
    if not schedule.fits(fleet.graph):
        raise ConfigError(
            f"the graph would have diameter {fleet.graph.diameter}, and the generations of this "
            f"set, which begin every {schedule.every:,} rounds, allow at most "
            f"{schedule.longest_roll_call // 2}",
            remedy="add edges to fleet.yaml, or make a new set with: cipherfleet provision bundle "
            "FILE DIR",
        )
    return msgspec.structs.replace(ledger, schedule=schedule)


def accept_claims(
    staged: StagedSet, ledger: Ledger, reviewed: Iterable[ReviewedClaim], now: datetime
) -> Ledger:
    """Enter the keys of acceptable claims into the ledger, and delete the used tokens."""
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    for each in reviewed:
        ledger = accept_claim(ledger, each, operator.authority, now)
        staged.remove(f"{OPERATOR_FOLDER}/{TOKENS}/{each.node}")
        bundle = staged.place / NODES / each.node
        if (bundle / KEYS_FOLDER).exists():  # keys that have been replaced
            for file in filter(Path.is_file, bundle.iterdir()):
                staged.put(
                    f"{OPERATOR_FOLDER}/{SETTINGS}/{each.node}/{file.name}", file.read_bytes()
                )
            staged.remove(f"{NODES}/{each.node}")
    return refresh_derived(staged, ledger)


def issue_memberships(
    staged: StagedSet,
    ledger: Ledger,
    contents: Mapping[str, Membership],
    from_round: int,
    *,
    at_once: bool = False,
) -> Ledger:
    """Sign the memberships *contents* (see `compose_updates`) and store them for publication."""
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    ledger, signed = sign_updates(ledger, contents, from_round, operator.signer, at_once=at_once)
    return _store_signed(staged, ledger, signed)


def close_claims(staged: StagedSet, ledger: Ledger, names: Iterable[str]) -> Ledger:
    """Withdraw the access of the `claim_client` of *names*, which have their own certificates."""
    closed = {
        name: msgspec.structs.replace(ledger.members[name], is_claiming=False) for name in names
    }
    return refresh_derived(staged, ledger.replace_entries(closed))


def request_new_keys(staged: StagedSet, ledger: Ledger, name: str) -> Ledger:
    """Request new keys from *name*, unless a request is pending already."""
    if ledger.members[name].rekey:
        return ledger
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    ledger, signed = sign_rekey_request(ledger, name, operator.signer)
    return _store_signed(staged, ledger, signed)


def recertify(staged: StagedSet, ledger: Ledger, name: str, now: datetime) -> Ledger:
    """Issue a new certificate for the connection key of *name*, without signing a membership."""
    operator = read_operator_keys(staged.place, tls=ledger.broker.tls)
    entry = ledger.members[name]
    if operator.authority is None:
        raise ConfigError("broker.tls is off in this fleet: there are no certificates")
    pem = certify_client(operator.authority, name, certified_key(entry.certificate), now)
    file = f"{NODES}/{name}/{TLS_FOLDER}/{CERTIFICATE_FILE}"
    if (staged.place / NODES / name / KEYS_FOLDER).exists():
        staged.put(file, pem)
    entry = msgspec.structs.replace(entry, certificate=pem.decode())
    return ledger.replace_entries({name: entry})


def remove_node_files(staged: StagedSet, name: str) -> None:
    """Remove the bundle, the token and the membership of *name* from the set."""
    for place in (
        f"{NODES}/{name}",
        f"{ARCHIVES}/{name}.tar.gz",
        f"{OPERATOR_FOLDER}/{TOKENS}/{name}",
        f"{OPERATOR_FOLDER}/{SETTINGS}/{name}",
        f"{SIGNED_MEMBERSHIPS}/{name}",
    ):
        staged.remove(place)


def _store_signed(staged: StagedSet, ledger: Ledger, signed: Mapping[str, bytes]) -> Ledger:
    """Store signed memberships for publication, and in bundles for a device installed again."""
    for name, data in signed.items():
        staged.put(f"{SIGNED_MEMBERSHIPS}/{name}", data)
        if (staged.place / NODES / name / KEYS_FOLDER).exists() and not ledger.members[name].rekey:
            staged.put(f"{NODES}/{name}/{MEMBERSHIP_FOLDER}/{HOLDING}", data)
    return refresh_derived(staged, ledger)


def refresh_derived(staged: StagedSet, ledger: Ledger) -> Ledger:
    """Write the ledger and all files that are derived from it and from the keys."""
    staged.put(LEDGER_FILE, ledger_bytes(ledger))
    put_archives(staged)
    for name, text in make_broker_files(ledger).items():
        staged.put(f"{BROKER_FOLDER}/{name}", text.encode())
    return ledger
