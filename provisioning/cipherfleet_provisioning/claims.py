"""Claims: a device claims the public keys that it has made, and the operator reviews each claim."""

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
from .ledger import Entry, Ledger, PublicKeyBytes


@dataclass(frozen=True)
class ReviewedClaim:
    """One claim: its node, its keys, and the problem found in it, if any."""

    node: str
    fingerprint: str  # empty where the keys cannot be read
    problem: str  # empty: the claim is valid
    is_known: bool = False  # its keys are in the ledger already: there is nothing to do
    claim: Claim | None = None

    @property
    def is_acceptable(self) -> bool:
        """True if the claim is valid, proven and new."""
        return not self.problem and not self.is_known


class _SelfSigned:
    """Verifies a claim with the identity key that the claim itself contains."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature unless the claim is signed with its own identity key."""
        prefix = f"cipherfleet/v2/{Claim.KIND}\0".encode()
        if not data.startswith(prefix):
            raise InvalidSignature
        try:
            claim = msgspec.msgpack.decode(data.removeprefix(prefix), type=Claim)
            Ed25519PublicKey.from_public_bytes(claim.identity).verify(signature, data)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise InvalidSignature from None


def examine(ledger: Ledger, token: bytes | None, topic: str, payload: bytes) -> ReviewedClaim:
    """Review the claim in *payload*, which the broker retains on *topic*.

    *token* is the node's enrolment token, None once it has been used. Cheap checks come first. All
    faults of the modulus are reported together.
    """
    node = topics.sender_of(topic)
    entry = ledger.members.get(node)
    if entry is None or entry.status == "revoked":
        why = "is no node of the fleet" if entry is None else "is revoked"
        return ReviewedClaim(node, "", why)
    try:
        claim = wire.decode(payload, topic, ledger.fleet, {node: _SelfSigned()})
    except WireError as error:
        return ReviewedClaim(node, "", f"bad claim ({error.reason}): {error}")
    assert isinstance(claim, Claim)  # the only kind of message on this topic
    public = PublicKeyBytes(paillier=claim.paillier, identity=claim.identity, seal=claim.seal)
    try:
        keys = public.keys
        fingerprint = keys.fingerprint
    except ValueError:
        return ReviewedClaim(node, "", "unsound keys: the seal does not have 32 bytes")
    if public == entry.public_keys:
        return ReviewedClaim(node, fingerprint, "", is_known=True, claim=claim)
    return ReviewedClaim(
        node, fingerprint, _find_problem(ledger, entry, token, claim, public), claim=claim
    )


def _find_problem(
    ledger: Ledger, entry: Entry, token: bytes | None, claim: Claim, public: PublicKeyBytes
) -> str:
    n = int.from_bytes(claim.paillier, "big")
    if n.bit_length() != ledger.key_bits:  # before any arithmetic: n may have a million bits
        return f"wrong size: the modulus has {n.bit_length()} bits, not {ledger.key_bits}"
    faults = list(faults_of_modulus(n, ledger.key_bits))
    if faults:
        return f"unsound modulus: n {', '.join(faults)}"
    if shared := _owner_of_shared_key(ledger, claim.sender, public):
        return f"contains a key of {shared!r}"
    if entry.public_keys is not None:
        if not entry.rekey:
            return "enrolled already, with other keys"
        if not _is_proven_by(entry.public_keys, claim):
            return "not proven with the keys that it replaces"
    elif token is None:
        return "has no token: get its bundle again"
    elif not hmac.compare_digest(token_proof(token, claim), claim.proof):
        return "wrong token"
    return _find_request_problem(ledger, claim)


def _is_proven_by(public: PublicKeyBytes, claim: Claim) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public.identity).verify(claim.proof, claim.proven)
    except InvalidSignature:
        return False
    return True


def _owner_of_shared_key(ledger: Ledger, node: str, public: PublicKeyBytes) -> str | None:
    """Return another member with one of these keys: from a copied card, or an impersonated node."""
    mine = {public.paillier, public.identity, public.seal}
    for name, entry in ledger.members.items():
        other = entry.public_keys
        if name != node and other and mine & {other.paillier, other.identity, other.seal}:
            return name
    return None


def _find_request_problem(ledger: Ledger, claim: Claim) -> str:
    if not ledger.broker.tls:
        return ""
    try:
        requested_key(claim.request, claim.sender)
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"bad certificate request: {error or 'does not parse'}"
    return ""


def accept_claim(
    ledger: Ledger, reviewed: ReviewedClaim, authority: Certified | None, now: datetime
) -> Ledger:
    """Return the ledger with the keys of an acceptable claim.

    With an *authority* it also has a certificate for the connection key that the claim requests.
    """
    assert reviewed.is_acceptable
    assert reviewed.claim is not None
    claim, entry = reviewed.claim, ledger.members[reviewed.node]
    certificate = entry.certificate
    if authority is not None:
        key = requested_key(claim.request, claim.sender)
        certificate = certify_client(authority, claim.sender, key, now).decode()
    entry = msgspec.structs.replace(
        entry,
        status="enrolled",
        made_by="device",
        public_keys=PublicKeyBytes.from_claim(claim),
        fingerprint=reviewed.fingerprint,
        certificate=certificate,
        rekey=False,
    )
    return ledger.replace_entries({reviewed.node: entry})
