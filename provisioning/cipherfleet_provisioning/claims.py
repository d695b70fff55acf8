"""Claims of keys that devices made, looked at one by one before the operator believes them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Claim
from cipherfleet_node.core.paillier import faults_of_modulus
from cipherfleet_node.errors import WireError
from cipherfleet_node.runtime.enrolment import token_proof

from .certificates import Certified, certify_client, requested_key
from .ledger import Entry, Halves, Ledger


@dataclass(frozen=True)
class Examined:
    """One claim: who makes it, with which keys, and what is wrong with it, if anything."""

    node: str
    fingerprint: str  # empty where the keys cannot be read
    trouble: str  # empty: it may be believed
    known: bool = False  # its keys are in the ledger already: nothing is to be done
    claim: Claim | None = None

    @property
    def acceptable(self) -> bool:
        """Whether it is sound, proven, and new."""
        return not self.trouble and not self.known


class _SelfSigned:
    """Verifies a claim with the identity that it claims."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature unless the claim is signed with its own identity."""
        prefix = f"cipherfleet/v1/{Claim.KIND}\0".encode()
        if not data.startswith(prefix):
            raise InvalidSignature
        claim = msgspec.msgpack.decode(data.removeprefix(prefix), type=Claim)
        try:
            Ed25519PublicKey.from_public_bytes(claim.identity).verify(signature, data)
        except ValueError:
            raise InvalidSignature from None


def examine(ledger: Ledger, token: bytes | None, topic: str, payload: bytes) -> Examined:
    """What to think of *payload*, retained on *topic*; *token* is the node's, if it has one left.

    Cheap checks come first; everything that is wrong with the keys is said together.
    """
    node = topics.sender_of(topic)
    entry = ledger.members.get(node)
    if entry is None or entry.status == "revoked":
        why = "is no node of the fleet" if entry is None else "is revoked"
        return Examined(node, "", why)
    try:
        claim = wire.decode(payload, topic, ledger.fleet, {node: _SelfSigned()})
    except WireError as error:
        return Examined(node, "", f"bad claim ({error.reason}): {error}")
    assert isinstance(claim, Claim)  # nothing else travels on this topic
    halves = Halves(paillier=claim.paillier, identity=claim.identity, seal=claim.seal)
    try:
        keys = halves.keys
        fingerprint = keys.fingerprint
    except ValueError:
        return Examined(node, "", "unsound keys: the seal has not 32 bytes")
    if halves == entry.halves:
        return Examined(node, fingerprint, "", known=True, claim=claim)
    return Examined(node, fingerprint, _trouble(ledger, entry, token, claim, halves), claim=claim)


def _trouble(
    ledger: Ledger, entry: Entry, token: bytes | None, claim: Claim, halves: Halves
) -> str:
    n = int.from_bytes(claim.paillier, "big")
    if n.bit_length() != ledger.key_bits:  # before any arithmetic: it may be a mebibit long
        return f"wrong size: the modulus has {n.bit_length()} bits, not {ledger.key_bits}"
    faults = list(faults_of_modulus(n, ledger.key_bits))
    if faults:
        return f"unsound modulus: n {', '.join(faults)}"
    if shared := _owner_of_same(ledger, claim.sender, halves):
        return f"holds a key of {shared!r}"
    if entry.halves is not None:
        if not entry.rekey:
            return "enrolled already, with other keys"
        if not _proven_by(entry.halves, claim):
            return "not proven by the keys that it is to replace"
    elif token is None:
        return "has no token: get its bundle anew"
    elif not hmac.compare_digest(token_proof(token, claim), claim.proof):
        return "wrong token"
    return _trouble_of_request(ledger, claim)


def _proven_by(halves: Halves, claim: Claim) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(halves.identity).verify(claim.proof, claim.proven)
    except InvalidSignature:
        return False
    return True


def _owner_of_same(ledger: Ledger, node: str, halves: Halves) -> str | None:
    """Another member with one of these keys: a copied card, or a thief of names."""
    mine = {halves.paillier, halves.identity, halves.seal}
    for name, entry in ledger.members.items():
        other = entry.halves
        if name != node and other and mine & {other.paillier, other.identity, other.seal}:
            return name
    return None


def _trouble_of_request(ledger: Ledger, claim: Claim) -> str:
    if not ledger.broker.tls:
        return ""
    try:
        requested_key(claim.request, claim.sender)
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"bad certificate request: {error or 'does not parse'}"
    return ""


def believe(
    ledger: Ledger, examined: Examined, authority: Certified | None, now: datetime
) -> Ledger:
    """The ledger with the keys of an acceptable claim, and a certificate where it asks for one."""
    assert examined.acceptable
    assert examined.claim is not None
    claim, entry = examined.claim, ledger.members[examined.node]
    certificate = entry.certificate
    if authority is not None:
        key = requested_key(claim.request, claim.sender)
        certificate = certify_client(authority, claim.sender, key, now).decode()
    entry = msgspec.structs.replace(
        entry,
        status="enrolled",
        made_by="device",
        halves=Halves(paillier=claim.paillier, identity=claim.identity, seal=claim.seal),
        fingerprint=examined.fingerprint,
        certificate=certificate,
        rekey=False,
    )
    return ledger.with_entries({examined.node: entry})
