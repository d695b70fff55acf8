"""How the saved state changes: each function takes a state and returns the next one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from .randomness import Draw, FloatVector, state_fingerprint
from .state import HISTORY_ROUNDS, Known, Outcome, RoundRecord, State


def next_draw(state: State, estimate: FloatVector) -> Draw:
    """Return the draw of the next round: it belongs to the state."""
    drawing = state.drawing
    pending = state.generation.pending
    integers = [*state.ledger, *(pending.vector if pending else [])]
    fingerprint = state_fingerprint(estimate.tolist(), drawing.kick, integers)
    return Draw(fingerprint, drawing.number, drawing.since)


def draw_name(state: State, seed: bytes, *, sealed: bool) -> bytes:
    """Return the name under which the answers of the present draw are remembered.

    In the sealed exchange a step of the estimate alone does not change it: the terms of a neighbour
    that has moved by one coupled step still resemble the ones before. (In the exact method the
    block of rounds is added: see `entry.py`.) In the pairwise exchange it
    belongs to the *seed*, since other half weights suffice.
    """
    return state.drawing.number.to_bytes(8, "big") if sealed else seed[:8]


def redrawn(state: State, kick: float) -> State:
    """Return *state* with the next draw, and a kick of the deviation *kick*."""
    drawing = state.drawing
    changed = msgspec.structs.replace(
        drawing,
        number=drawing.number + 1,
        kick=kick,
        at_round=state.round,
        times=drawing.times + 1,
    )
    return msgspec.structs.replace(state, drawing=changed)


def opened(state: State, record: RoundRecord, estimate: FloatVector) -> State:
    """Return *state* with the open round *record*, and without what is too old."""
    kept = [*state.records, record][-HISTORY_ROUNDS:]
    dropped = [r for r in state.records if r.number < kept[0].number and r.outcome == "held"]
    draws = {r.draw for r in kept}
    return msgspec.structs.replace(
        state,
        estimate=estimate.tolist(),
        records=kept,
        rosters={draw: seen for draw, seen in state.rosters.items() if draw in draws},
        continuous=True,
        has_lost_round=False,
        unbalanced=state.unbalanced or any(r.roster and r.answered for r in dropped),
    )


def closed(
    state: State,
    number: int,
    outcome: Outcome,
    counted: Collection[str] = (),
    answers: Mapping[str, Sequence[bytes]] | None = None,
) -> State:
    """Return *state* with the record of round *number* closed."""
    records = list(state.records)
    for index, record in enumerate(records):
        if record.number == number:
            kept = {name: list(answer) for name, answer in (answers or {}).items()}
            records[index] = msgspec.structs.replace(
                record, outcome=outcome, counted=sorted(counted), answers=kept
            )
    return msgspec.structs.replace(state, records=records)


def moved(state: State, estimate: FloatVector, since: int) -> State:
    """Return *state* with another estimate, from round *since* on: it has numbers of its own."""
    drawing = msgspec.structs.replace(state.drawing, since=since, kick=0.0, times=0)
    return msgspec.structs.replace(state, estimate=estimate.tolist(), drawing=drawing)


def booked(state: State, term: Sequence[int], sign: int = 1) -> State:
    """Return *state* with the integers of a coupling term added to its ledger, or taken from it."""
    size = len(term)
    ledger, flows = (
        texts(old + sign * new for old, new in zip(integers(before, size), term, strict=True))
        for before in (state.ledger, state.generation.flows)
    )
    generation = msgspec.structs.replace(state.generation, flows=flows)
    return msgspec.structs.replace(state, ledger=ledger, generation=generation)


def ledger_of(state: State, dimension: int) -> list[int]:
    """Return the ledger of *state* as integers, shape (d,)."""
    return integers(state.ledger, dimension)


def integers(vector: Sequence[str], size: int) -> list[int]:
    """Return a vector of the state as integers, shape (size,); an empty one is zero."""
    return [int(entry) for entry in vector] or [0] * size


def texts(vector: Iterable[int]) -> list[str]:
    """Return the integers of *vector* as the state keeps them: of any size, in decimal."""
    return [str(entry) for entry in vector]


def replaced(state: State, **changes: object) -> State:
    """Return *state* with other fields."""
    return msgspec.structs.replace(state, **changes)


def knowing(state: State, name: str, known: Known) -> State:
    """Return *state* with what is known of the neighbour *name*."""
    return msgspec.structs.replace(state, neighbours={**state.neighbours, name: known})
