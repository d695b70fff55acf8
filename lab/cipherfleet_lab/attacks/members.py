"""Attacks by one member that lies, sends garbage, or does not answer. They aim at the other nodes.

The member n0 has valid keys, so its signatures are valid. The value of each attack is the share of
the other nodes that it has harmed, by a limit that each attack states.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from gmpy2 import mpz

from cipherfleet_node.core.messages import Answer, Message, Query, Reply
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, Layout
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.quantiser import VALUE_BITS

from .result import AttackResult, percent
from .round_fleet import RoundFleet, RoundScene, circulant, complete
from .subjects import AttackCase

LIAR = "n0"
FAR = 10**12
MUTE_ROUNDS, SETTLED_ROUND = 120, 20
SLOW = 1.5  # times the median round of a fleet without the liar
GARBAGE_ROUNDS = 50
STUCK = 0.5  # of the way to the estimate of a fleet without the liar is still ahead
OVERREACH_ROUNDS = 40
SHARE_OF_RANGE = 0.9  # of what the range check allows
FAR_S = 5.0
AHEAD = 4.0  # times the rounds of a fleet without the liar
OVERREACHED = RoundScene(complete(6), encrypted=True)
Tap = Callable[[str, str, Message], Message | None]


def far_round(case: AttackCase) -> AttackResult | None:
    """Takes other nodes to a far round: queries of round 10^12, also retained, and a reboot."""
    if case.subject.kind is None:
        return None
    scene = RoundScene(circulant(6, 2))
    moved, furthest, usual = [], 0, 0
    for trial in range(case.fleets):
        honest, attacked = (
            _run_for(scene.fleet(case, trial)),
            _run_for(_claiming(scene, case, trial)),
        )
        usual = max(usual, *_rounds_of(honest))
        furthest = max(furthest, *_rounds_of(attacked))
        moved += [there > AHEAD * usual for there in _rounds_of(attacked)]
    note = f"the furthest node is in round {furthest:,}, without the liar in round {usual:,}"
    return _harm(case, "far-round", "the round number of the other nodes", moved, note)


def overreach(case: AttackCase) -> AttackResult | None:
    """Ends other nodes: answers as large as the range check allows, until an estimate overflows."""
    if case.subject.kind is None:
        return None
    ended, errors = [], []
    for trial in range(case.fleets):
        honest, attacked = (OVERREACHED.fleet(case, trial) for _ in range(2))
        attacked.tap = exaggerating(attacked, SHARE_OF_RANGE)
        for fleet in (honest, attacked):
            fleet.begin()
            fleet.run_rounds(OVERREACH_ROUNDS, others(fleet))
        ended += [name in attacked.ended for name in others(attacked)]
        errors += list(_distances(attacked, honest))
    note = f"{sum(ended)} of {len(ended)} processes ended"
    if errors:
        note += (
            f"; the others are {np.median(errors):.2g} times as far from the estimates without the "
            "liar as these are from the start"
        )
    return _harm(case, "overreach", "the processes of the other nodes", ended, note)


def mute_member(case: AttackCase) -> AttackResult | None:
    """Slows other nodes down: asks and announces presence, but never answers."""
    if case.subject.kind is None:
        return None
    scene = RoundScene(complete(6))
    ratios = []
    for trial in range(case.fleets):
        honest, attacked = scene.fleet(case, trial), scene.fleet(case, trial)
        attacked.tap = _never_answering
        for fleet in (honest, attacked):
            fleet.begin()
            fleet.run_rounds(MUTE_ROUNDS, others(fleet))
        ratios += [median / _median(honest, n) for n, median in _medians(attacked)]
    slowed = [ratio > SLOW for ratio in ratios]
    note = (
        f"median round {np.median(ratios):.3g} times that without the liar, "
        f"after round {SETTLED_ROUND}"
    )
    return _harm(case, "mute-member", "the duration of the other nodes' rounds", slowed, note)


def garbage(case: AttackCase) -> AttackResult | None:
    """Stops its neighbours' learning: answers with random ciphertexts."""
    if case.subject.kind is None:
        return None
    scene = RoundScene(circulant(8, 4), encrypted=True)
    left: list[float] = []
    for trial in range(case.fleets):
        honest, attacked = scene.without(LIAR).fleet(case, trial), scene.fleet(case, trial)
        attacked.tap = _answering_at_random(attacked)
        for fleet in (honest, attacked):
            fleet.begin()
            fleet.run_rounds(GARBAGE_ROUNDS, others(fleet))
        left += [distance(attacked, honest, name) for name in attacked.neighbours[LIAR]]
    stuck = [distance > STUCK for distance in left]
    note = (
        f"after {GARBAGE_ROUNDS} rounds its neighbours are off the estimates without the liar by "
        f"{percent(float(np.median(left)))} of the way there (largest {percent(max(left))})"
    )
    return _harm(case, "garbage", "what the liar's neighbours learn", stuck, note)


def _harm(case: AttackCase, name: str, sought: str, harmed: list[bool], note: str) -> AttackResult:
    return AttackResult(
        attack=name,
        system=case.name,
        sought=sought,
        saw="what a member receives",
        knew="its own keys",
        measure="harm",
        value=sum(harmed) / len(harmed),
        chance=0.0,
        guess="a fleet without the liar",
        trials=len(harmed),
        note=note,
    )


# -- what the liar does -------------------------------------------------------------------------


def _claiming(scene: RoundScene, case: AttackCase, trial: int) -> RoundFleet:
    """Return a fleet in which every query of the liar is followed by one of a far round."""
    fleet = scene.fleet(case, trial)

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        if sender == LIAR and isinstance(message, Query):
            far = msgspec.structs.replace(message, round=FAR)
            fleet.send(receiver, far, 0.02)
            fleet.send(receiver, far, 0.0, retained=True)
        return message

    fleet.tap = tap
    return fleet


def exaggerating(fleet: RoundFleet, share: float) -> Tap:
    """Add to every answer of the liar a *share* of what the range check allows."""

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        if sender != LIAR or not isinstance(message, Answer):
            return message
        key = fleet.keys[receiver].public
        added = int(share * _reach(fleet, receiver) * 2.0 ** (HALF_WEIGHT_BITS + VALUE_BITS))
        layout = Layout(key.bits, fleet.dimension, 1 if fleet.sealed else 2)
        more = layout.pack([added] * fleet.dimension)
        changed = [_add(key, c, plain) for c, plain in zip(message.ciphertexts, more, strict=True)]
        return msgspec.structs.replace(message, ciphertexts=changed)

    return tap


def _reach(fleet: RoundFleet, asker: str) -> float:
    """Return the largest answer that is in range by itself, or with all others if sealed."""
    degree = len(fleet.neighbours[asker])
    return degree * (64 // (degree + 1)) if fleet.sealed else 1.0


def _add(key: PublicKey, ciphertext: bytes, plaintext: int) -> bytes:
    changed = mpz(int.from_bytes(ciphertext, "big")) * (1 + key.n * plaintext) % key.n_squared
    return int(changed).to_bytes(len(ciphertext), "big")


def _answering_at_random(fleet: RoundFleet) -> Tap:
    chance = random.Random(fleet.seed)

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        if sender != LIAR or not isinstance(message, Answer):
            return message
        bound = int(fleet.keys[receiver].public.n_squared)
        drawn = [chance.randrange(1, bound).to_bytes(len(c), "big") for c in message.ciphertexts]
        return msgspec.structs.replace(message, ciphertexts=drawn)

    return tap


def _never_answering(sender: str, _receiver: str, message: Message) -> Message | None:
    return None if sender == LIAR and isinstance(message, Reply) else message


# -- what becomes of the others -----------------------------------------------------------------


def others(fleet: RoundFleet) -> list[str]:
    """Return the names of all nodes except the liar."""
    return [name for name in fleet.seats if name != LIAR]


def _run_for(fleet: RoundFleet) -> RoundFleet:
    """Run for FAR_S seconds; one neighbour of the liar reboots after a quarter of them."""
    fleet.begin()
    fleet.advance(FAR_S / 4)
    rebooted = fleet.neighbours[LIAR][0]
    fleet.kill(rebooted)
    fleet.start(rebooted)
    fleet.advance(FAR_S)
    return fleet


def _rounds_of(fleet: RoundFleet) -> list[int]:
    seats = (fleet.seats[name] for name in others(fleet))
    return [seat.saved.round for seat in seats if seat.saved is not None]


def _median(fleet: RoundFleet, name: str) -> float:
    return float(np.median(fleet.durations(name, SETTLED_ROUND)))


def _medians(fleet: RoundFleet) -> Iterator[tuple[str, float]]:
    return ((name, _median(fleet, name)) for name in others(fleet))


def _distances(fleet: RoundFleet, honest: RoundFleet) -> Iterator[float]:
    return (distance(fleet, honest, n) for n in others(fleet) if n not in fleet.ended)


def distance(fleet: RoundFleet, honest: RoundFleet, name: str) -> float:
    """Return how far *name* is from its estimate in *honest*; 1 is as far as the start."""
    there = honest.estimate(name)  # the objective `mean` starts at zero
    return float(np.linalg.norm(fleet.estimate(name) - there) / np.linalg.norm(there))
