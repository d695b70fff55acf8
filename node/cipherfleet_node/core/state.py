"""What a node must not forget: saved before anything of it is sent."""

from __future__ import annotations

import msgspec

STATE_VERSION = 1
HISTORY_ROUNDS = 4  # rounds answered for after they are closed; neighbours drift by one


class RoundRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round that was opened: enough to repeat its query and its answers exactly."""

    number: int
    quantised: list[int]  # q_i, in resolutions
    seed: bytes  # of the round's draws
    query: list[bytes]  # the ciphertexts sent
    attempt: int = 0  # with how many rosters they were sent before
    roster: list[str] = []  # of that attempt; empty in the pairwise exchange

    def __repr__(self) -> str:
        return f"<RoundRecord {self.number}>"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node between two messages. Private as a whole: never logged, files are 0600."""

    version: int
    fleet: str
    node: str
    parameters: bytes  # of the fleet it was made under
    epoch: int
    round: int  # being run, or next to open
    estimate: list[float] | None  # x_i of that round; None before the first reading
    records: list[RoundRecord]  # the latest HISTORY_ROUNDS, oldest first
    epochs: dict[str, int]  # the neighbours' latest
    continuous: bool  # False when an older generation, or nothing, was found at the start

    def __repr__(self) -> str:
        return f"<State of {self.node} at round {self.round}, epoch {self.epoch}>"

    @property
    def open_record(self) -> RoundRecord | None:
        """The record of the round being run, if its query may have been sent."""
        latest = self.records[-1] if self.records else None
        return latest if latest is not None and latest.number == self.round else None


def after_damage(previous: State) -> State:
    """The state to go on from when the generation after *previous* is lost.

    The round after that of *previous* may have been sent already: its number is not used again.
    Checked by test_no_round_number_ever_covers_two_queries.
    """
    return msgspec.structs.replace(previous, round=previous.round + 2, continuous=False)
