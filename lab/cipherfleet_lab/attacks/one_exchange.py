"""One round of one asker and its neighbours: the node's own exchange, with real Paillier.

The adversary is the asker, which owns the key; it follows the protocol and analyses the answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import TOY_BITS, SeededBlinding, shared_secret, toy_key
from cipherfleet_node.core.exchange import Edge, Pairwise, half_weight, metropolis
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, Layout
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sealed import Seal, Sealed, own_weight
from cipherfleet_node.errors import RemoteProtocolError

from .guards import GuardedRandomness
from .names import Guard

Kind = Literal["pairwise", "sealed"]
HALF_WEIGHTS = range(2 ** (HALF_WEIGHT_BITS - 1) + 1, 2**HALF_WEIGHT_BITS, 2)
FLEET, ASKER, NEIGHBOURS = "lab", "asker", ("b", "c")
STATE_BITS = 27  # bits of the random states: about 8 in the objective's units


@dataclass(frozen=True, kw_only=True)
class AskerView:
    """The asker's view after its round, and the secrets that it must not learn."""

    key: PrivateKey
    layout: Layout
    metropolis: int
    own: Sequence[int]  # the asker's quantised estimate
    query: Sequence[mpz]
    answers: Mapping[str, Sequence[mpz]]
    sealed: bool
    truth: Mapping[str, Sequence[int]]  # quantised estimate of each neighbour
    weights: Mapping[str, int]  # half weight of each neighbour

    def open_answers(self, names: Collection[str]) -> list[int] | None:
        """Decrypt the product of the answers of *names* to slots; None if they are out of range."""
        columns = zip(*(self.answers[name] for name in names), strict=True)
        plain = [self.key.decrypt_combined(column, [1] * len(names)) for column in columns]
        factor = self.metropolis if self.sealed else 1
        bound = factor * len(names) << (HALF_WEIGHT_BITS + VALUE_BITS)
        try:
            slots = self.layout.unpack(plain, self.key.public.n, bound)
        except RemoteProtocolError:
            return None
        return [slot // factor for slot in slots]

    def best_slots(self, name: str) -> list[int]:
        """Return the slots of *name*'s answer if it opens by itself, otherwise of all answers."""
        slots = self.open_answers([name]) or self.open_answers(NEIGHBOURS)
        assert slots is not None, "the sum over a roster always opens"
        return slots

    def compute_state(self, weight: int, slots: Sequence[int]) -> list[int]:
        """Compute q_j from H and the slots of its answer.

        Dither does not protect against a known H.
        """
        half = (weight - 1) // 2
        return [(slot + half) // weight + q for slot, q in zip(slots, self.own, strict=True)]


@dataclass(frozen=True)
class SuccessRates:
    """Shares of the rounds in which an attack found the exact state and half weight."""

    states: float
    weights: float


def measure_success(
    find: Callable[[AskerView, str], int | None],
    kind: Kind,
    off: Collection[Guard],
    rounds: Iterable[str],
    dimension: int,
    bits: int = TOY_BITS,
) -> SuccessRates:
    """Measure how often *find* returns the half weight of a neighbour, and with it the state.

    The state follows from the slots of that neighbour's answer if it opens by itself, otherwise
    from the sum.
    """
    name, states, weights = NEIGHBOURS[0], [], []
    for trial in rounds:
        seen = run_exchange(kind, off, dimension, trial, bits)
        weight = find(seen, name)
        weights.append(weight == seen.weights[name])
        states.append(
            weight is not None
            and seen.compute_state(weight, seen.best_slots(name)) == seen.truth[name]
        )
    return SuccessRates(sum(states) / len(states), sum(weights) / len(weights))


class NoMasks(Seal):
    """A seal whose masks are zero."""

    def masks(self, query: Query, modulus: mpz) -> list[mpz]:
        """Return zeros, which hide nothing."""
        del modulus
        return [mpz(0)] * len(query.ciphertexts)


def run_exchange(
    kind: Kind, off: Collection[Guard], dimension: int, trial: str, bits: int = TOY_BITS
) -> AskerView:
    """Run one round of an asker with two neighbours; the same *trial* gives the same round."""
    rng = random.Random(trial)
    keys = {name: toy_key(name, bits) for name in (ASKER, *NEIGHBOURS)}
    states = {name: _state(rng, dimension) for name in keys}
    randomness = {name: GuardedRandomness(rng.randbytes(32), off) for name in keys}
    asker = _exchange(kind, off, ASKER, keys, dimension, trial)
    roster = asker.roster(NEIGHBOURS)
    query = Query(
        fleet=FLEET,
        sender=ASKER,
        epoch=1,
        round=1,
        roster=roster,
        uncounted=[],
        unbalanced=False,
        scale=None,
        settled=0,
        parameters=bytes(8),
        key=bytes(8),
        ciphertexts=asker.query(states[ASKER]),
    )
    answers = {}
    for name in NEIGHBOURS:
        neighbour = _exchange(kind, off, name, keys, dimension, trial)
        prepared = neighbour.prepare(ASKER, states[name], randomness[name])
        answers[name] = asker.accept(neighbour.answer(query, randomness[name], prepared))
    return AskerView(
        key=keys[ASKER],
        layout=Layout(bits, dimension, asker.half_weights),
        metropolis=_METROPOLIS,
        own=states[ASKER],
        query=[mpz(int.from_bytes(item, "big")) for item in query.ciphertexts],
        answers=answers,
        sealed=kind == "sealed",
        truth={name: states[name] for name in NEIGHBOURS},
        weights={name: _weight(kind, randomness[name]) for name in NEIGHBOURS},
    )


_METROPOLIS = metropolis(len(NEIGHBOURS), len(NEIGHBOURS))


def _exchange(
    kind: Kind,
    off: Collection[Guard],
    name: str,
    keys: Mapping[str, PrivateKey],
    dimension: int,
    trial: str,
) -> Pairwise | Sealed:
    """Create the exchange of *name* in a triangle in which only the asker sends queries."""
    others = [other for other in keys if other != name]
    edges = {other: Edge(keys[other].public, _METROPOLIS) for other in others}
    blinding = SeededBlinding(
        keys[name], edges, f"{trial} {name}", rerandomise="rerandomise" not in off
    )
    if kind == "pairwise":
        return Pairwise(keys[name], edges, dimension, blinding)
    rosters = {other: frozenset(keys) - {other} for other in others}
    secrets = {other: shared_secret(FLEET, name, other) for other in others}
    seal = (NoMasks if "masks" in off else Seal)(FLEET, name, rosters, secrets)
    return Sealed(keys[name], edges, dimension, blinding, seal)


def _weight(kind: Kind, randomness: RoundRandomness) -> int:
    return own_weight(randomness) if kind == "sealed" else half_weight(randomness, ASKER)


def _state(rng: random.Random, dimension: int) -> list[int]:
    return [rng.randrange(-(2**STATE_BITS), 2**STATE_BITS) for _ in range(dimension)]
