"""Generations: a fleet shields its duals, and corrects their sum after losses and departures.

The dual of a node is kept as the ledger, an integer vector. The ledgers of a fleet must sum to
zero. A term that is counted at one end only, a node that is gone and a lost state make the sum
wrong. In a *generation* the participants correct it together. They also give shares of the shield
to those that have none (see `shield.py`). Generation g = 1, 2, ... begins at `first_round(g)`.

1. **Roll call**, in the rounds before. A node sets its own bit in the first half. It takes over the
   bits of its neighbours only if its own is set, so every list is connected. It takes none from
   neighbours that it has set aside (see `roster.py`): one that does not answer is not listed.
2. **The vector.** A node that reaches the first round by a regular step, with its bit set, takes
   the list as it is. The generation's name is a digest of its number, the list and the members of
   the fleet. The vector v is the ledger plus fresh shares of this name: they hide the ledger.
3. **Averaging.** For `averaging` rounds v is averaged beside the estimate, in the same messages. A
   term of v exists only between nodes with the same name that ask each other. Otherwise both ends
   add nothing. These rounds ask none of those set aside.
4. **Vote.** A node votes if in each of these rounds all that it asked and answered is counted in
   its own term, and none of the rounds was jumped over. A vote is never withdrawn.
5. **Application.** A node that sees the votes of all participants, at any round before the next
   generation, subtracts v from its ledger. It does so in small steps, which disturb the estimates
   less, and is ready before the next generation. All votes together say that no term of v was
   counted at one end only. So the sum of all v is the sum of the ledgers at the first round, and
   afterwards the ledgers sum to zero, whatever was wrong before.
6. **Outsiders.** A node that hears of a later generation than its own, which it cannot apply, keeps
   only the flows since that generation began. It goes on without its own gradient until it is a
   participant of a generation that is applied.

No message says that a generation has failed: silence means nothing. If some participants apply it
and others do not, the next generation corrects the sum.

**The first generation.** As long as no participant has a share there is nothing to average: v is
ready at once, and the shares become the duals. Until then all nodes go on without their gradients.
If only some participants have no share, their shares, and the counterparts of their partners, are
added in the same small steps.

**The quadratic shield** changes at once, when a generation with other participants is applied. With
the same participants it stays as it is. It is in the state, so it does not change when a membership
takes a partner away: the others keep their counterparts until the next generation as well.

**Standing out.** A node that was away during an averaging takes no part in the next 2^f - 1
generations, after f failures in a row. So a node that crashes again and again does not keep the
others from correcting their sum.

The file is long, since all rules act on one state, in one order.

Source: docs/explanation/generations.md; checked by
test_no_faults_leave_a_wrong_sum_or_a_node_without_its_gradient and
test_a_member_that_never_answers_stops_no_generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from cipherfleet_node.settings.sections import LEAST_PARTICIPANTS

from . import agreement, progress
from .coupling import headroom
from .events import Setup
from .exchange import UNIT
from .messages import NAME_BYTES, GenerationNote, GenerationVotes, Query
from .shield import Shield
from .state import HISTORY_ROUNDS, Change, Pending, RoundRecord, State

PATIENCE = 6  # deadlines in one generation at which a node repeats its query and goes on waiting
MOST_DOUBLINGS = 6
_SCALE = round(1 / UNIT)  # units of the ledger in one resolution


class Generations:
    """The generations of one node. It does nothing in a fleet without a shield."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._heard: dict[str, tuple[int, GenerationNote]] = {}  # by neighbour: round and note
        self._repeats = 0

    # -- what the agent asks --------------------------------------------------------------------

    def hear(self, query: Query, *, is_aside: bool) -> None:
        """Keep what *query* says; it counts when the next round is opened."""
        note = query.generation
        if self._setup.shield is None or note is None:
            return
        if is_aside:  # its list does not count
            note = msgspec.structs.replace(note, listed=b"", fresh=b"")
        self._heard[query.sender] = query.round, note

    def note(self, state: State, record: RoundRecord) -> GenerationNote | None:
        """Return what the query of *record* says of generations."""
        if self._setup.shield is None:
            return None
        own = state.generation
        votes = GenerationVotes(own.pending.name, own.pending.votes) if own.pending else None
        return GenerationNote(own.number, own.name, own.listed, own.fresh, record.averaging, votes)

    def is_follower(self, state: State) -> bool:
        """True if the node goes on without its own gradient."""
        is_early = self._setup.shield is not None and state.generation.number == 0
        return state.follows or is_early

    def is_patient(self, state: State) -> bool:
        """True if the open round is not closed at its deadline, for the sake of this node's vote.

        It counts the deadlines, so it is called once at each.
        """
        record = state.open_record
        can_vote = record is not None and record.averaging and self._repeats < PATIENCE
        if can_vote:
            self._repeats += 1
        return bool(can_vote)

    def is_averaging_at(self, round_number: int) -> bool:
        """True if a generation may average its vector in *round_number*."""
        shield = self._setup.shield
        if shield is None or round_number < shield.roll_call:
            return False
        return (round_number - shield.roll_call) % shield.every < shield.averaging

    def averaged(self, state: State) -> tuple[bytes, list[int]]:
        """Return the name and the vector, in resolutions, that the next round averages, if any."""
        shield, pending = self._setup.shield, state.generation.pending
        if shield is None or pending is None:
            return b"", []
        first = self.first_round(shield, pending.number)
        is_due = first <= state.round < first + self._length(shield, pending)
        vector = [(int(v) + _SCALE // 2) // _SCALE for v in pending.vector]
        limit = headroom(1.0)
        if not is_due or any(abs(v) >= limit for v in vector):
            return b"", []
        return pending.name, vector

    def with_term(self, state: State, name: bytes, term: Sequence[int] | None) -> State:
        """Return *state* after a coupled round whose averaged vector has the coupling *term*."""
        pending = state.generation.pending
        if pending is None or not name or pending.name != name:
            return state
        if term is None:  # it did not open: this node will not vote
            return _changed(state, pending=None)
        vector = [str(int(v) + t) for v, t in zip(pending.vector, term, strict=True)]
        return _changed(state, pending=msgspec.structs.replace(pending, vector=vector))

    # -- when a round is opened -----------------------------------------------------------------

    def advance(self, state: State) -> State:
        """Return *state* with all that is due when its next round is opened."""
        shield = self._setup.shield
        if shield is None:
            return state
        if state.agrees:  # on the scale: there is no ledger yet, but a roll call
            return self._listed(shield, state)
        state = self._applied(shield, state)
        state = self._checked(shield, state)
        state = self._moved(shield, state)
        state = self._passed(shield, state)
        return self._listed(shield, state)

    def _applied(self, shield: Shield, state: State) -> State:
        """Apply the pending generation if all have voted; become an outsider to another one."""
        own, k = state.generation, state.round
        notes = [note for _, note in self._heard.values()]
        pending = own.pending
        if pending is not None:
            votes = pending.votes
            for note in notes:
                if note.votes is not None and note.votes.name == pending.name:
                    votes = _union(votes, note.votes.votes)
            votes = _within(votes, pending.listed)
            if votes != pending.votes:
                pending = msgspec.structs.replace(pending, votes=votes)
                state = _changed(state, pending=pending)
            has_voted = shield.index in indices(votes)
            is_known = any(note.name == pending.name for note in notes)
            if has_voted and (votes == pending.listed or is_known):
                return self._with(state, pending)
        begun = [note for note in notes if self.first_round(shield, note.number) <= k]
        latest = max(begun, key=lambda note: note.number, default=None)
        if latest is None or latest.number <= state.generation.number:
            return state
        return self._without(shield, state, latest)

    def _with(self, state: State, pending: Pending) -> State:
        """Return *state* with *pending* applied: at once if all were fresh, or step by step."""
        size = len(pending.vector)
        added, vector = (progress.integers(v, size) for v in (pending.added, pending.vector))
        total = _minus(added, vector)
        own = msgspec.structs.replace(
            state.generation,
            number=pending.number,
            name=pending.name,
            has_share=True,
            quadratic=self._quadratic(state, pending),
            pending=None,
            change=Change(pending.number, progress.texts(total)),
            failures=0,
        )
        state = progress.replaced(state, generation=own, follows=False, calm=0)
        is_first = pending.fresh == pending.listed
        return _stepped(state, 1, 1) if is_first else state

    def _without(self, shield: Shield, state: State, latest: GenerationNote) -> State:
        """Return *state* of a node that has no part in the generation of *latest*."""
        own = state.generation
        pending, flows = own.pending, own.flows
        if pending is not None and pending.number == latest.number:
            if shield.index in indices(pending.votes):
                return state  # of the same number, but another list: wait for the own outcome
            pending = None
        if pending is not None and pending.number > latest.number:
            size = len(pending.vector)
            base = _minus(progress.ledger_of(state, size), progress.integers(flows, size))
            vector = _minus([int(v) for v in pending.vector], base)
            pending = msgspec.structs.replace(pending, vector=progress.texts(vector))
        own = msgspec.structs.replace(
            own,
            number=latest.number,
            name=latest.name,
            has_share=False,
            quadratic=[],
            pending=pending,
            change=None,
        )
        return progress.replaced(state, ledger=list(flows), generation=own, follows=True, calm=0)

    def _checked(self, shield: Shield, state: State) -> State:
        """Check the averaging round that is forgotten now; vote after the last one, or give up."""
        pending = state.generation.pending
        if pending is None or shield.index in indices(pending.votes):
            return state
        first, length = self.first_round(shield, pending.number), self._length(shield, pending)
        latest = state.records[-1].number if state.records else -1
        if latest != state.round - 1 and latest < first + length:
            return self._given_up(state, pending)  # a round of the averaging was jumped over
        full = len(state.records) == HISTORY_ROUNDS
        oldest = state.records[0] if full else None
        if oldest is None or not first <= oldest.number < first + length:
            return state
        if not _is_counted_at_both_ends(oldest, pending.name):
            return _changed(state, pending=None)
        pending = msgspec.structs.replace(pending, rounds=pending.rounds + 1)
        if pending.rounds == length:
            votes = _union(pending.votes, _bit(shield.index))
            pending = msgspec.structs.replace(pending, votes=votes)
        return _changed(state, pending=pending)

    def _given_up(self, state: State, pending: Pending) -> State:
        failures = state.generation.failures + 1
        stays_out = pending.number + 2 ** min(failures, MOST_DOUBLINGS)
        return _changed(state, pending=None, failures=failures, stays_out=stays_out)

    def _moved(self, shield: Shield, state: State) -> State:
        """Make the steps of the change that are due, once the estimate has moved.

        Steps of a node that stands still would show it with other numbers again and again.
        """
        change = state.generation.change
        if change is None:
            return state
        first = self.first_round(shield, change.number) + shield.averaging + shield.roll_call
        steps = max(shield.every - shield.averaging - 2 * shield.roll_call, 1)
        is_over = self._latest(shield, state.round) > change.number
        if state.drawing.since != state.round and not is_over:
            return state
        return _stepped(state, steps if is_over else state.round - first, steps)

    def _passed(self, shield: Shield, state: State) -> State:
        """Begin the generation whose first round is reached, or passed."""
        own, k = state.generation, state.round
        number = self._latest(shield, k)
        if number <= own.passed:
            return state
        self._repeats = 0
        if own.pending is not None and shield.index not in indices(own.pending.votes):
            state = _changed(state, pending=None)
        is_regular = bool(state.records) and state.records[-1].number == k - 1
        begins = is_regular and k == self.first_round(shield, number)
        listed, fresh = own.listed, own.fresh
        state = _changed(state, passed=number, flows=[], pending=None, listed=b"", fresh=b"")
        if begins and shield.index in indices(listed):
            return self._begun(shield, state, number, listed, fresh)
        return state

    def _begun(
        self, shield: Shield, state: State, number: int, listed: bytes, fresh: bytes
    ) -> State:
        participants = indices(listed)
        if len(participants) < LEAST_PARTICIPANTS or state.estimate is None:
            return state
        name = self._name(shield, number, listed, fresh)
        dimension = len(state.estimate)
        shares = shield.shares(name, participants, dimension, self._unit)
        ledger = progress.ledger_of(state, dimension)
        vector = [a + b for a, b in zip(ledger, shares, strict=True)]
        pending = Pending(number, name, listed, fresh, progress.texts(vector))
        if fresh == listed:
            pending = msgspec.structs.replace(pending, votes=_bit(shield.index))
        elif fresh:
            added = shield.added_shares(name, participants, indices(fresh), dimension, self._unit)
            pending = msgspec.structs.replace(pending, added=progress.texts(added))
        return _changed(state, pending=pending)

    def _listed(self, shield: Shield, state: State) -> State:
        """Return *state* with the bits of the roll call that are known."""
        own, k = state.generation, state.round
        number = self._latest(shield, k) + 1
        first = self.first_round(shield, number)
        begins = first - shield.roll_call
        if k < begins:
            return state
        listed, fresh = own.listed, own.fresh
        is_in_time = k < first - shield.roll_call // 2
        if is_in_time and number >= own.stays_out:
            listed = _union(listed, _bit(shield.index))
            fresh = fresh if own.has_share else _union(fresh, _bit(shield.index))
        if shield.index not in indices(listed):
            return state
        for round_number, note in self._heard.values():
            if begins <= round_number < first:
                listed, fresh = _union(listed, note.listed), _union(fresh, note.fresh)
        return _changed(state, listed=listed, fresh=_within(fresh, listed))

    # -- numbers --------------------------------------------------------------------------------

    def _quadratic(self, state: State, pending: Pending) -> list[float]:
        shield, scale = self._setup.shield, self._setup.exact_scale
        if shield is None or not shield.is_quadratic or scale is None:
            return []
        used = agreement.used_scale(scale, state)
        return list(shield.quadratic(indices(pending.listed), len(pending.vector), used))

    @property
    def _unit(self) -> float:
        return self._setup.resolution * UNIT

    @staticmethod
    def first_round(shield: Shield, number: int) -> int:
        """Return the first round of generation *number*, which is 1 or more."""
        return shield.roll_call + (number - 1) * shield.every

    @staticmethod
    def _latest(shield: Shield, k: int) -> int:
        """Return the number of the generation whose first round is *k* or the latest before it."""
        return 0 if k < shield.roll_call else 1 + (k - shield.roll_call) // shield.every

    @staticmethod
    def _length(shield: Shield, pending: Pending) -> int:
        """Return the number of rounds in which *pending* averages its vector."""
        return 0 if pending.fresh == pending.listed else shield.averaging

    def _name(self, shield: Shield, number: int, listed: bytes, fresh: bytes) -> bytes:
        """Return the name of a generation: equal names have equal participants and shares."""
        fleet = self._setup.fleet.encode()
        parts = [fleet, shield.members, number.to_bytes(8, "big"), listed, fresh]
        data = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hashlib.sha256(b"cipherfleet/v2/generation\0" + data).digest()[:NAME_BYTES]


def _is_counted_at_both_ends(record: RoundRecord, name: bytes) -> bool:
    """True if *record* averages *name*, and counts all whose answer had a term of its vector."""
    counted = set(record.counted) if record.outcome == "coupled" else set()
    return record.averaging == name and record.answered.keys() - set(record.aside) <= counted


def _changed(state: State, **changes: object) -> State:
    generation = msgspec.structs.replace(state.generation, **changes)
    return progress.replaced(state, generation=generation)


def _stepped(state: State, step: int, steps: int) -> State:
    """Return *state* with *step* of the *steps* of its change in the ledger."""
    change = state.generation.change
    assert change is not None
    size, total = len(change.total), [int(entry) for entry in change.total]
    made = progress.integers(change.made, size)
    due = [t * max(0, min(step, steps)) // steps for t in total]
    ledger = progress.ledger_of(state, size)
    ledger = [x + d - m for x, d, m in zip(ledger, due, made, strict=True)]
    after = None if due == total else msgspec.structs.replace(change, made=progress.texts(due))
    return progress.replaced(_changed(state, change=after), ledger=progress.texts(ledger))


def _minus(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [x - y for x, y in zip(a, b, strict=True)]


# -- bits: participant i is bit i % 8 of byte i // 8; there are no zero bytes at the end -----------


def indices(bits: bytes) -> list[int]:
    """Return the indices whose bits are set, in order."""
    return [8 * place + i for place, byte in enumerate(bits) for i in range(8) if byte >> i & 1]


def _bit(index: int) -> bytes:
    return (1 << index).to_bytes(index // 8 + 1, "little")


def _union(a: bytes, b: bytes) -> bytes:
    return _bits(int.from_bytes(a, "little") | int.from_bytes(b, "little"))


def _within(a: bytes, b: bytes) -> bytes:
    return _bits(int.from_bytes(a, "little") & int.from_bytes(b, "little"))


def _bits(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "little")
