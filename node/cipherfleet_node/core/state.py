"""The state of a node that must survive a restart, saved before any message that depends on it.

The reason is one rule: **no round number ever covers two different queries of one node.** If a node
sent two different estimates under one round number, a neighbour could compute a half weight from
the two exchanges, and with it an estimate. So a node saves a round before it sends the query: the
quantised estimate, the seed of its random choices and the ciphertexts. After a restart it repeats
them exactly.

Two generations of the state are kept. If the latest one is damaged, `after_damage` makes a state
from the one before. The node may then have sent the query of one more round than it knows of, so
that number is skipped.
"""

from __future__ import annotations

import msgspec

STATE_VERSION = 1
HISTORY_ROUNDS = 4  # records kept, the open round's included; neighbours drift apart by one round


class RoundRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round that was opened, with all that is needed to repeat its query and answers exactly."""

    number: int
    quantised: list[int]  # q_i, in resolutions
    seed: bytes  # of all random choices of the round; see randomness.py
    query: list[bytes]  # the ciphertexts of the query
    attempt: int = 0  # number of earlier attempts, each with a larger roster
    roster: list[str] = []  # of this attempt; empty in the pairwise exchange

    def __repr__(self) -> str:
        return f"<RoundRecord {self.number}>"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The saved state of a node. It is private as a whole: never logged, files have mode 0600."""

    version: int
    fleet: str
    node: str
    parameters: bytes  # digest of the settings that all nodes share; see Query.parameters
    epoch: int  # durable count of this node's starts
    round: int  # the open round, or the next one to open
    estimate: list[float] | None  # x_i of that round; None before the first round is opened
    records: list[RoundRecord]  # the latest HISTORY_ROUNDS, oldest first
    epochs: dict[str, int]  # the latest epoch of each neighbour
    continuous: bool  # False if the start found an older generation or nothing

    def __repr__(self) -> str:
        return f"<State of {self.node} at round {self.round}, epoch {self.epoch}>"

    @property
    def open_record(self) -> RoundRecord | None:
        """The record of the open round, or None if no round is open."""
        latest = self.records[-1] if self.records else None
        return latest if latest is not None and latest.number == self.round else None


def after_damage(previous: State) -> State:
    """Return the state to continue from when the generation after *previous* is lost.

    The node may already have sent a query of the round after that of *previous*, so that number is
    not used again. Checked by test_no_round_number_ever_covers_two_queries.
    """
    return msgspec.structs.replace(previous, round=previous.round + 2, continuous=False)
