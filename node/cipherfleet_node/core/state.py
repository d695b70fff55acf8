"""The state of a node that must survive a restart, saved before any message that depends on it.

The reason is one rule: **no round number ever covers two different queries of one node.** So a node
saves a round before it sends the query: the quantised estimate, the seed of its random choices and
the ciphertexts. After a restart it repeats them exactly.

Two generations of the state are kept. If the latest one is damaged, `after_damage` makes a state
from the one before. The node may then have sent the query of one more round than it knows of, so
that number is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

STATE_VERSION = 2
PENDING_ROUNDS = 4  # so many rounds later, a held round is dropped
HISTORY_ROUNDS = PENDING_ROUNDS + 1  # records kept, the open round's included
UNSEEN = -1  # the round of a neighbour that has not shown one

Outcome = Literal["open", "coupled", "held", "dropped"]


class RoundRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round that was opened, with all that is needed to repeat its query and answers exactly."""

    number: int
    draw: bytes  # names the numbers that rosters must not share; see `answerer.py`
    quantised: list[int]  # q_i, in resolutions
    seed: bytes  # of all random choices of the round; see randomness.py
    query: list[bytes]  # the ciphertexts of the query
    roster: list[str] = []  # empty in the pairwise exchange
    answered: dict[str, bytes] = {}  # by asker: the digest of the one query that was answered
    outcome: Outcome = "open"
    counted: list[str] = []  # the neighbours in the coupling term
    answers: dict[str, list[bytes]] = {}  # of a held round of the sealed exchange, by neighbour
    averaging: bytes = b""  # the generation whose vector the query carries
    averaged: list[int] = []  # that vector, in resolutions
    second: list[bytes] = []  # its ciphertexts
    aside: list[str] = []  # neighbours without a term of that vector: the round does not ask them
    listens: bool = False  # the node moves by its term, its neighbours do not; see `listening.py`

    def __repr__(self) -> str:
        return f"<RoundRecord {self.number}>"


class AnsweredQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query that was answered: no other one of this asker and round may be answered."""

    round: int
    asker: str
    digest: bytes
    roster: bytes  # what may not change while the draw lasts; see answerer.once_per_draw


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node remembers of a neighbour, as long as the neighbour keeps its identity."""

    identity: bytes  # tag of the identity key
    epoch: int = 0  # the latest epoch seen
    round: int = UNSEEN  # the latest round that the neighbour claimed


class Drawing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counter `draw` and what limits it; see `agent.py`."""

    number: int
    since: int = 0  # the first round with the present estimate
    kick: float = 0.0  # deviation of the kick, in the objective's units; 0 once the estimate moved
    at_round: int = -HISTORY_ROUNDS  # the round in which the counter rose last
    times: int = 0  # how often it rose while the estimate stood still


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation that lists this node and that is not applied yet."""

    number: int
    name: bytes
    listed: bytes  # bits of its participants
    fresh: bytes  # bits of those that had no share
    vector: list[str]  # v, integers in decimal, in units of the ledger
    added: list[str] = []  # shares for those without one, added when it is applied
    rounds: int = 0  # rounds of the averaging that were found good
    votes: bytes = b""  # bits of the participants whose votes are known


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an applied generation changes in the ledger, step by step."""

    number: int  # of the generation
    total: list[str]  # integers in decimal, in units of the ledger
    made: list[str] = []  # the part of it that is in the ledger; empty: nothing


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node knows of generations; see `generations.py`."""

    number: int = 0  # the latest one that the node has applied, or heard of as an outsider
    name: bytes = b""
    passed: int = 0  # the latest one whose first round is over
    flows: list[str] = []  # the part of the ledger since then
    has_share: bool = False
    quadratic: list[float] = []  # upper triangle of c0 Q_i, row by row; empty: no such shield
    listed: bytes = b""  # participants of the next one, as far as is known
    fresh: bytes = b""
    pending: Pending | None = None
    change: Change | None = None
    failures: int = 0  # generations in a row in which this node was away
    stays_out: int = 0  # it takes part in no generation before this one


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The saved state of a node. It is private as a whole: never logged, files have mode 0600."""

    version: int
    fleet: str
    node: str
    parameters: bytes  # digest of the settings that all nodes share; see Query.parameters
    epoch: int  # of this start
    round: int  # the open round, or the next one to open
    estimate: list[float] | None  # x_i of that round; None before the first round is opened
    records: list[RoundRecord]  # the latest HISTORY_ROUNDS, oldest first
    neighbours: dict[str, Known]
    continuous: bool  # False if the start found an older generation or nothing
    drawing: Drawing
    # Of the exact method: the sum of all coupling terms, integers of any size in decimal, in units
    # of an opened slot. Empty before the first term, and in other methods.
    ledger: list[str] = []
    moments: list[list[float]] = []  # of metric diagonal; see metric.Moments.rows
    listens: int = 0  # rounds that the node listens for at most, after it has entered
    follows: bool = False  # exact: its dual is lost, so it takes part without a gradient of its own
    generation: Generation = Generation()
    # Of the exact method with an agreed scale of curvature; see agreement.py.
    agrees: bool = False  # the estimate is the average of logarithms of curvatures
    own_power: int | None = None  # this node's own result, an exponent in eighths
    scale_power: int | None = None  # the largest one seen; None: a newcomer has seen none
    # Of `until`; see settling.py.
    calm: int = 0  # the number of calm rounds up to the latest one, without a break
    level: int = 0
    rosters: dict[bytes, dict[str, bytes]] = {}  # by draw and asker: AnsweredQuery.roster
    sizes: list[float] = []  # of the latest coupling terms, for the cap
    coupled: int = 0  # the number of rounds with a coupling term
    has_lost_round: bool = False  # the node has run, but does not know up to which round
    unbalanced: bool = False  # a term may have been counted at one end only

    def __repr__(self) -> str:
        return f"<State of {self.node} at round {self.round}, epoch {self.epoch}>"

    @property
    def open_record(self) -> RoundRecord | None:
        """The record of the open round, or None if no round is open."""
        latest = self.records[-1] if self.records else None
        return latest if latest is not None and latest.outcome == "open" else None

    def record(self, number: int) -> RoundRecord | None:
        """Return the record of round *number*, or None if it is not kept."""
        return next((r for r in self.records if r.number == number), None)

    def known(self, identities: Mapping[str, bytes]) -> dict[str, Known]:
        """Return what is known of the neighbours; nothing of those with another identity."""
        found = {}
        for name, identity in identities.items():
            known = self.neighbours.get(name)
            same = known is not None and known.identity == identity
            found[name] = known if known is not None and same else Known(identity)
        return found


def note_answered(state: State, entry: AnsweredQuery) -> State:
    """Return *state* with *entry*, or *state* itself if it does not have that round any more."""
    record = state.record(entry.round)
    if record is None:
        return state
    noted = msgspec.structs.replace(record, answered={**record.answered, entry.asker: entry.digest})
    records = [noted if r.number == entry.round else r for r in state.records]
    seen = {**state.rosters.get(record.draw, {}), entry.asker: entry.roster}
    rosters = {**state.rosters, record.draw: seen}
    return msgspec.structs.replace(state, records=records, rosters=rosters)


def first_state(fleet: str, node: str, parameters: bytes, epoch: int, draw: int) -> State:
    """Return the state of a node that has none; *draw* is random, as an earlier life may be lost.

    It is not continuous: the node must learn the round of its neighbours before it opens one.
    """
    return State(
        version=STATE_VERSION,
        fleet=fleet,
        node=node,
        parameters=parameters,
        epoch=epoch,
        round=0,
        estimate=None,
        records=[],
        neighbours={},
        continuous=False,
        drawing=Drawing(draw),
    )


def after_loss(state: State, draw: int) -> State:
    """Return the state of a node that does not know in which rounds it has sent queries.

    *state* is a first one, or an old copy. The node waits until its neighbours show it a round that
    it cannot have used. *draw* is random, since the answered rosters may be lost as well.
    """
    unseen = {
        name: msgspec.structs.replace(known, round=UNSEEN)
        for name, known in state.neighbours.items()
    }
    return msgspec.structs.replace(
        state,
        records=[],
        rosters={},
        neighbours=unseen,  # their old claims may be below rounds that this node has used
        continuous=False,
        has_lost_round=True,
        ledger=[],
        follows=True,
        generation=Generation(),
        calm=0,
        level=0,
        drawing=Drawing(draw),
    )


def after_damage(previous: State) -> State:
    """Return the state to continue from when the generation after *previous* is lost.

    The node may already have sent a query of the round after that of *previous*, so that number is
    not used again. Checked by test_no_round_number_ever_covers_two_queries.
    """
    return msgspec.structs.replace(
        previous, round=previous.round + 2, continuous=False, follows=True, calm=0, level=0
    )
