"""What nodes say to each other. Immutable values; bytes are wire's business."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Literal

import msgspec

# A node's own account of itself; `lost` is said by the broker on its behalf (the last will).
PresenceState = Literal["init", "ready", "waiting", "alert", "finished", "disconnected", "lost"]
PhaseName = Literal["starting", "reading", "collecting", "finished"]

OPERATOR = "_operator"  # who sends memberships; no node's id begins with such a sign
DIGEST_BYTES = 32
TAG_BYTES = 8
MAX_CIPHERTEXTS = 4096  # of the smallest key there is, in the largest message there is
DEGREES = range(-273, 1000)  # Celsius, of a processor
MAX_REASONS = 64  # under which a node counts messages: twice as many as there are

# A longer list is refused before its entries are read: empty ones would fill a mebibyte.
Ciphertexts = Annotated[list[bytes], msgspec.Meta(max_length=MAX_CIPHERTEXTS)]
Names = Annotated[list[str], msgspec.Meta(max_length=MAX_CIPHERTEXTS)]
Reason = Annotated[str, msgspec.Meta(pattern=r"\A[a-z_]{1,32}\Z")]
Counts = Annotated[dict[Reason, int], msgspec.Meta(max_length=MAX_REASONS)]


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What every message says: which fleet, from whom, and at which start of the sender."""

    KIND: ClassVar[str] = ""

    fleet: str
    sender: str
    epoch: int  # durable count of the sender's starts


class Query(Message, frozen=True):
    """The sender's negated, quantised estimate of *round* under its own key.

    One message for all neighbours: the half weights are applied by those who answer. In the sealed
    exchange only those of the roster answer, and attempts differ in nothing but their rosters.
    """

    KIND: ClassVar[str] = "query"

    round: int
    attempt: int
    roster: Names  # whose answers open together, in order; empty in the pairwise exchange
    parameters: bytes  # digest of what all nodes must agree on, TAG_BYTES
    key: bytes  # first TAG_BYTES of the fingerprint of the sender's Paillier key
    ciphertexts: Ciphertexts

    @property
    def digest(self) -> bytes:
        """What an answer refers to: the very ciphertexts and roster of one attempt of a round.

        Every number and length is hashed as well, so that no other lists give the same bytes.
        """
        hashed = hashlib.sha256(b"cipherfleet/v1/query-digest\0")
        hashed.update(_eight(self.round) + _eight(self.attempt))
        for items in ([name.encode() for name in self.roster], self.ciphertexts):
            hashed.update(_eight(len(items)))
            for item in items:
                hashed.update(_eight(len(item)) + item)
        return hashed.digest()


class Answer(Message, frozen=True):
    """The sender's contribution to the coupling term of *receiver*, under the receiver's key."""

    KIND: ClassVar[str] = "answer"

    receiver: str
    round: int
    attempt: int
    query: bytes  # digest of the query answered
    ciphertexts: Ciphertexts


class Member(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A neighbour as the operator names it: who its own neighbours are, and its public keys."""

    id: str
    neighbours: list[str]
    paillier: bytes  # n, big endian
    identity: bytes  # Ed25519
    seal: bytes  # X25519


class Membership(Message, frozen=True):
    """The operator's word on whom the receiver exchanges with, from a round on.

    Its epoch is the version of the list: a node goes forward only.
    """

    KIND: ClassVar[str] = "membership"

    receiver: str
    from_round: int
    fingerprint: str  # of the receiver's own keys from then on
    members: list[Member]  # its neighbours
    seals: list[tuple[str, bytes]]  # X25519 keys of all with whom it shares a neighbour
    certificate: bytes  # the receiver's, in PEM; empty: as it is
    rekey: bool  # the receiver is to make new keys, and to claim them


class Claim(Message, frozen=True):
    """The public halves of the keys that the sender has made, signed with the new identity."""

    KIND: ClassVar[str] = "claim"

    paillier: bytes
    identity: bytes
    seal: bytes
    request: bytes  # for a certificate, PKCS 10 in DER; empty: none is wanted
    proof: bytes  # of the sender, over `proven`: see enrolment

    @property
    def proven(self) -> bytes:
        """What the proof is over: every field but itself."""
        told = (self.fleet, self.sender, self.paillier, self.identity, self.seal, self.request)
        return b"cipherfleet/v1/claim\0" + msgspec.msgpack.encode(told)


class Presence(Message, frozen=True):
    """How the sender fares; retained by the broker."""

    KIND: ClassVar[str] = "presence"

    state: PresenceState


class Health(Message, frozen=True):
    """What the sender tells its operator of itself: counts and times, nothing that it measures.

    Nodes are not to hear it.
    """

    KIND: ClassVar[str] = "health"

    number: int  # of what it has told since its start: a repetition is none
    phase: PhaseName
    round: int
    round_us: int  # how long its latest rounds took, their median; 0 before the first is closed
    silent: int  # neighbours without an answer in the latest round
    missed: int  # answers that did not come, since the start
    rejected: Counts  # messages refused since the start, by reason
    surplus: Counts  # messages that came late or twice
    pool: int  # obfuscators ready, for the key that has the fewest
    pool_size: int
    inline: int  # obfuscators made on the spot, since a pool was empty
    temperature: int | None  # of the processor, whole degrees Celsius; None: not to be told


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "big")
