"""The messages of nodes and operator, as immutable values. `wire.py` converts them to bytes."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import msgspec

from cipherfleet_node.settings.sections import (
    MAX_ID,
    MAX_PARTICIPANTS,
    MAX_PARTNERS,
    GenerationRounds,
    NodeId,
    ParticipantIndex,
)

from .packing import MAX_DEGREE
from .state import HISTORY_ROUNDS

# A node publishes its presence itself. Only `lost` is its last will, which the broker publishes.
PresenceState = Literal["ready", "waiting", "alert", "done", "finished", "disconnected", "lost"]
PhaseName = Literal["starting", "reading", "collecting", "finished"]

RefusalReason = Literal["old", "closed", "roster", "stale_epoch"]

OPERATOR = "_operator"  # the sender of memberships; the id of a node cannot begin with "_"
DIGEST_BYTES = 32
TAG_BYTES = 8
MAX_LEVEL = 65_535  # of settled: more hops than a graph of any size that is in use
LARGEST_POWER = 320  # eighths of a power of two, of plausible curvatures: 2^-40 to 2^40
MAX_CIPHERTEXTS = 2048  # of 512-bit keys (128 bytes each) in the longest message
# A receiver has at most MAX_DEGREE neighbours, each with at most MAX_DEGREE - 1 others.
MAX_CO_NEIGHBOURS = MAX_DEGREE * (MAX_DEGREE - 1)
DEGREES = range(-273, 1000)  # plausible temperatures of a processor, in degrees Celsius
NAME_BYTES = 16  # of the name of a generation
MAX_UNCOUNTED = HISTORY_ROUNDS - 1  # rounds: the closed ones that a node has records of
MAX_REASONS = 64  # different reasons in a count of messages; twice as many as exist

# Every list has a maximum length. A longer list is refused before its entries are read: a message
# of empty entries would otherwise fill a mebibyte.
Ciphertexts = Annotated[list[bytes], msgspec.Meta(max_length=MAX_CIPHERTEXTS)]
Names = Annotated[list[NodeId], msgspec.Meta(max_length=MAX_DEGREE)]  # neighbours of one node
# One bit for each participant of a fleet, by its index, without zero bytes at the end.
Bits = Annotated[bytes, msgspec.Meta(max_length=MAX_PARTICIPANTS // 8)]
GenerationName = Annotated[bytes, msgspec.Meta(max_length=NAME_BYTES)]  # empty: none
Power = Annotated[int, msgspec.Meta(ge=-LARGEST_POWER, le=LARGEST_POWER)]
Level = Annotated[int, msgspec.Meta(ge=0, le=MAX_LEVEL)]
# A membership has up to 8,000 names. A pattern for each would take four milliseconds, so
# `are_node_ids` checks the characters of all together.
PlainName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
PlainNames = Annotated[list[PlainName], msgspec.Meta(max_length=MAX_DEGREE)]
Reason = Annotated[str, msgspec.Meta(pattern=r"\A[a-z_]{1,32}\Z")]
Counts = Annotated[dict[Reason, int], msgspec.Meta(max_length=MAX_REASONS)]


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The fields that all messages have."""

    KIND: ClassVar[str] = ""

    fleet: str
    sender: str
    epoch: int  # durable count of the sender's starts


class GenerationNote(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a query says of generations; see `generations.py`."""

    number: int  # of the latest generation that the sender has applied; 0: of none
    name: GenerationName  # its name
    listed: Bits  # the participants of the next generation, as far as the sender knows
    fresh: Bits  # those of them whose duals have no share
    averaging: GenerationName  # of the generation whose vector this query carries
    votes: GenerationVotes | None  # None: the sender holds no vector


class GenerationVotes(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The participants that have voted for the generation of this name, as far as is known."""

    name: GenerationName
    votes: Bits


class Uncounted(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The neighbours whose answers the sender has not counted in a closed round."""

    round: int
    names: Names  # sorted


UncountedRounds = Annotated[list[Uncounted], msgspec.Meta(max_length=MAX_UNCOUNTED)]


class Query(Message, frozen=True, dict=True):
    """The sender's negated, quantised estimate of *round*, encrypted under its own key.

    One message serves all neighbours, because the answerers apply the half weights. In the sealed
    exchange only the members of the roster answer. A round has one roster and one query: a
    repeated query has the same bytes in every field that the digest covers.
    """

    KIND: ClassVar[str] = "query"

    round: int
    roster: Names  # sorted; the neighbours whose answers open together; empty if pairwise
    uncounted: UncountedRounds  # pairwise: of closed rounds that did not count all, oldest first
    unbalanced: bool  # the sender knows of a term that was counted at one end only
    scale: Power | None  # exponent of an agreed scale of curvature; see agreement.py
    settled: Level  # 0: the sender is not settled; see settling.py
    parameters: bytes  # TAG_BYTES of the digest of the settings that all nodes share
    key: bytes  # the first TAG_BYTES of the fingerprint of the sender's Paillier key
    ciphertexts: Ciphertexts
    averaged: Ciphertexts = []  # of the vector that a generation averages; empty in other rounds
    generation: GenerationNote | None = None  # None in a fleet without generations

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the round, the roster, the ciphertexts and what is averaged.

        An answer names its query by this digest. Every number and length is hashed as well, so that
        no other lists give the same input.
        """
        hashed = [b"cipherfleet/v2/query-digest\0", _eight(self.round)]
        lists = [[name.encode() for name in self.roster], self.ciphertexts]
        if self.averaged:
            lists.append([self.averaging, *self.averaged])
        for items in lists:
            hashed.append(_eight(len(items)))
            hashed += [len(item).to_bytes(8, "big") + item for item in items]
        return hashlib.sha256(b"".join(hashed)).digest()

    @property
    def averaging(self) -> bytes:
        """The name of the generation whose vector the query carries; empty if it carries none."""
        return self.generation.averaging if self.generation and self.averaged else b""

    @cached_property
    def second(self) -> Query:
        """The query for the averaged vector alone. Its digest, and so its masks, are its own."""
        query = msgspec.structs.replace(self, ciphertexts=self.averaged, averaged=[])
        digest = hashlib.sha256(b"cipherfleet/v2/averaged-digest\0" + self.digest).digest()
        query.__dict__["digest"] = digest
        return query


class Reply(Message, frozen=True):
    """The fields that answers and refusals have: both reply to a query of *receiver*."""

    receiver: str
    round: int
    waited_ms: int  # how long the query waited at the sender for its round
    query: bytes  # digest of the query


class Answer(Reply, frozen=True):
    """The sender's part of the coupling term of *receiver*, encrypted under the receiver's key."""

    KIND: ClassVar[str] = "answer"

    ciphertexts: Ciphertexts
    averaged: Ciphertexts = []  # to the vector that the query averages


class Refusal(Reply, frozen=True):
    """Says why the sender does not answer a query; published on the topic of the answers.

    `old`: the sender does not have the round any more; *theirs* is its own round.
    `closed`: pairwise only; the sender closed the round without the receiver's answer.
    `roster`: the sender has answered another roster with the same draw; see `answerer.py`.
    `stale_epoch`: the query is of an earlier start of the receiver; *theirs* is the latest epoch of
    the receiver that the sender knows.
    """

    KIND: ClassVar[str] = "refusal"

    reason: RefusalReason
    theirs: int


class MembershipEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A neighbour in a membership: its id, the ids of its own neighbours, and its public keys."""

    id: PlainName
    neighbours: PlainNames
    paillier: bytes  # the modulus n, big endian
    identity: bytes  # Ed25519 public key
    seal: bytes  # X25519 public key


Members = Annotated[list[MembershipEntry], msgspec.Meta(max_length=MAX_DEGREE)]
Seals = Annotated[list[tuple[PlainName, bytes]], msgspec.Meta(max_length=MAX_CO_NEIGHBOURS)]


class PartnerEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A partner in a membership: its index in the fleet's list, its id and its X25519 key."""

    index: ParticipantIndex
    id: PlainName
    seal: bytes


class GenerationsEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The section `generations` of the receiver's settings; rounds are counts."""

    index: ParticipantIndex
    every: GenerationRounds
    roll_call: GenerationRounds
    averaging: GenerationRounds
    mean_partners: float
    members: bytes  # SHA-256 over the fleet's list of participants
    partners: Annotated[list[PartnerEntry], msgspec.Meta(max_length=MAX_PARTNERS)]


class Membership(Message, frozen=True):
    """The neighbours of the receiver, as the operator sets them; takes effect at *from_round*.

    Its epoch is the version of the list. A node never goes back to a lower version.
    """

    KIND: ClassVar[str] = "membership"

    receiver: str
    from_round: int
    fingerprint: str  # of the receiver's own keys from that round on
    members: Members  # the neighbours of the receiver
    seals: Seals  # ids and X25519 keys of the receiver's co-neighbours
    certificate: bytes  # a new certificate of the receiver, in PEM; empty: no change
    rekey: bool  # the receiver must generate new keys and claim them
    generations: GenerationsEntry | None = None  # None: the fleet has no shield

    @property
    def has_valid_names(self) -> bool:
        """True if all names are ids of nodes. The decoder has checked their lengths only."""
        names = [name for name, _ in self.seals]
        for member in self.members:
            names += [member.id, *member.neighbours]
        if self.generations is not None:
            names += [partner.id for partner in self.generations.partners]
        return are_node_ids(names)


class Claim(Message, frozen=True):
    """The public keys that the sender has generated, signed with the new identity."""

    KIND: ClassVar[str] = "claim"

    paillier: bytes
    identity: bytes
    seal: bytes
    request: bytes  # certificate request, PKCS 10 in DER; empty: no certificate is needed
    proof: bytes  # over `proven`: by the token, or by the identity that is replaced

    @property
    def proven(self) -> bytes:
        """The bytes that the proof covers: all fields except the epoch and the proof."""
        fields = (self.fleet, self.sender, self.paillier, self.identity, self.seal, self.request)
        return b"cipherfleet/v2/claim\0" + msgspec.msgpack.encode(fields)


class Presence(Message, frozen=True):
    """The condition of the sender; the broker retains it."""

    KIND: ClassVar[str] = "presence"

    state: PresenceState


class Health(Message, frozen=True):
    """The sender's report to the operator: counts and durations, nothing computed from readings.

    Nodes refuse it.
    """

    KIND: ClassVar[str] = "health"

    number: int  # rises by one with each report since the start, so that repetitions show
    phase: PhaseName
    round: int
    round_us: int  # median duration of the latest rounds; 0 before the first is closed
    silent: int  # neighbours without an answer in the latest round
    missed: int  # answers that did not come, since the start
    rejected: Counts  # messages refused since the start, by reason
    surplus: Counts  # messages that came late or twice since the start, by reason
    pool: int  # obfuscators ready, in the pool that has the fewest
    pool_size: int
    inline: int  # obfuscators made on demand, because a pool was empty
    left_out: Names  # neighbours that are not asked, since answers with theirs were out of range
    unanswered_s: int  # without an answer, although neighbours speak; 0: no such alert
    settled: bool | None  # None: the fleet has no accuracy to reach
    temperature: int | None  # of the processor, whole degrees Celsius; None: not reported
    generation: int | None  # the one that gave it its shares; 0: it has none; None: no shield


_ID_CHARACTERS = (string.ascii_letters + string.digits + "-_").encode()


def are_node_ids(names: Sequence[str]) -> bool:
    """True if each of *names* matches the pattern of NodeId; none is empty or longer than MAX_ID.

    Checked by test_names_are_checked_together_as_their_pattern_would.
    """
    lines = "\n".join(["", *names]).encode()
    only_ends = lines.translate(None, delete=_ID_CHARACTERS) == b"\n" * len(names)
    return only_ends and b"\n-" not in lines and b"\n_" not in lines


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "big")
