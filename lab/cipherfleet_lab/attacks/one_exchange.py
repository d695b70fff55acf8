"""One asker and its neighbours in one round: the node's own exchange, with real Paillier.

The adversary is the asker, who owns the key: it follows the protocol and looks at the answers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.core.exchange import Edge, Pairwise, half_weight, metropolis
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, Layout
from cipherfleet_node.core.paillier import PrivateKey, PublicKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import Draws
from cipherfleet_node.core.sealed import Seal, Sealed, own_weight
from cipherfleet_node.errors import RemoteProtocolError

from .guards import GuardedDraws
from .names import Guard

Kind = Literal["pairwise", "sealed"]
TOY_BITS = 512  # labelled keys, which anybody can make again: quick, safe for nothing
HALF_WEIGHTS = range(2 ** (HALF_WEIGHT_BITS - 1) + 1, 2**HALF_WEIGHT_BITS, 2)
ASKER, NEIGHBOURS = "asker", ("b", "c")
STATE_BITS = 27  # of the states tried: about 8 in the objective's units


@dataclass(frozen=True)
class Seen:
    """What the asker holds after its round, and beside it what it must not learn."""

    key: PrivateKey
    layout: Layout
    metropolis: int
    own: Sequence[int]  # its quantised estimate
    query: Sequence[mpz]
    answers: Mapping[str, Sequence[mpz]]
    sealed: bool
    truth: Mapping[str, Sequence[int]]  # of each neighbour, its quantised estimate
    weights: Mapping[str, int]  # and its half weight

    def opened(self, names: Collection[str]) -> list[int] | None:
        """The slots of the product of the answers of *names*, or None if it is no small numbers."""
        columns = zip(*(self.answers[name] for name in names), strict=True)
        plain = [self.key.decrypt_combined(column, [1] * len(names)) for column in columns]
        factor = self.metropolis if self.sealed else 1
        bound = factor * len(names) << (HALF_WEIGHT_BITS + VALUE_BITS)
        try:
            slots = self.layout.unpack(plain, self.key.public.n, bound)
        except RemoteProtocolError:
            return None
        return [slot // factor for slot in slots]

    def best(self, name: str) -> list[int]:
        """The slots of the answer of *name* if it opens by itself, else of all answers."""
        slots = self.opened([name]) or self.opened(NEIGHBOURS)
        assert slots is not None, "the sum over a roster always opens"
        return slots

    def state_from(self, weight: int, slots: Sequence[int]) -> list[int]:
        """q_j from H and the slots of its answer: dither does not hide it from who knows H."""
        half = (weight - 1) // 2
        return [(slot + half) // weight + q for slot, q in zip(slots, self.own, strict=True)]


@dataclass(frozen=True)
class SeededBlinding:
    """Obfuscators that can be repeated: right in form, secret to nobody."""

    own_key: PublicKey
    their_key: PublicKey
    chance: random.Random
    rerandomise: bool

    def own(self) -> mpz:
        """A fresh obfuscator."""
        return _power(self.own_key, self.chance)

    def towards(self, neighbour: str) -> mpz:
        """A fresh obfuscator, or none where the guard is off."""
        del neighbour
        return _power(self.their_key, self.chance) if self.rerandomise else mpz(1)


@dataclass(frozen=True)
class Tried:
    """Of some rounds, the shares in which an attack found the truth, to the last digit."""

    states: float
    weights: float


def trials_of(
    find: Callable[[Seen, str], int | None],
    kind: Kind,
    off: Collection[Guard],
    rounds: Iterable[str],
    dimension: int,
    bits: int = TOY_BITS,
) -> Tried:
    """How often *find* names the half weight of a neighbour, and with it the state.

    The state follows from the slots of that neighbour's answer alone, if it opens, else from the
    sum, which is all there is then.
    """
    name, states, weights = NEIGHBOURS[0], [], []
    for trial in rounds:
        seen = ask(kind, off, dimension, trial, bits)
        weight = find(seen, name)
        weights.append(weight == seen.weights[name])
        states.append(
            weight is not None and seen.state_from(weight, seen.best(name)) == seen.truth[name]
        )
    return Tried(sum(states) / len(states), sum(weights) / len(weights))


class NoMasks(Seal):
    """A seal whose masks are zero."""

    def masks(self, query: Query, modulus: mpz) -> list[mpz]:
        """Nothing is hidden."""
        del modulus
        return [mpz(0)] * len(query.ciphertexts)


def ask(
    kind: Kind, off: Collection[Guard], dimension: int, trial: str, bits: int = TOY_BITS
) -> Seen:
    """One round of an asker with two neighbours; the same *trial*, the same round."""
    chance = random.Random(trial)
    keys = {name: labelled_key(name, bits) for name in (ASKER, *NEIGHBOURS)}
    states = {name: _state(chance, dimension) for name in keys}
    draws = {name: GuardedDraws(chance.randbytes(32), off) for name in keys}
    asker = _exchange(kind, off, ASKER, keys, dimension, chance)
    roster = asker.roster(NEIGHBOURS)
    query = Query("lab", ASKER, 1, 1, 0, roster, bytes(8), bytes(8), asker.query(states[ASKER]))
    answers = {}
    for name in NEIGHBOURS:
        neighbour = _exchange(kind, off, name, keys, dimension, chance)
        prepared = neighbour.prepare(ASKER, states[name], draws[name])
        answers[name] = asker.accept(neighbour.answer(query, draws[name], prepared))
    return Seen(
        keys[ASKER],
        Layout(bits, dimension, asker.half_weights),
        _METROPOLIS,
        states[ASKER],
        [mpz(int.from_bytes(item, "big")) for item in query.ciphertexts],
        answers,
        kind == "sealed",
        {name: states[name] for name in NEIGHBOURS},
        {name: _weight(kind, draws[name]) for name in NEIGHBOURS},
    )


@cache
def labelled_key(label: str, bits: int) -> PrivateKey:
    """A key that is always the same one for *label*: for trials only."""
    chance = random.Random(f"cipherfleet lab key {label} {bits}")
    half = bits // 2
    while True:
        p, q = (gmpy2.next_prime(mpz(chance.getrandbits(half) | 3 << (half - 2))) for _ in "pq")
        if p != q and gmpy2.bit_length(p * q) == bits:
            return PrivateKey(p, q)


_METROPOLIS = metropolis(len(NEIGHBOURS), len(NEIGHBOURS))


def _exchange(
    kind: Kind,
    off: Collection[Guard],
    name: str,
    keys: Mapping[str, PrivateKey],
    dimension: int,
    chance: random.Random,
) -> Pairwise | Sealed:
    """The exchange of *name* in a triangle, in which only the asker asks."""
    others = [other for other in keys if other != name]
    edges = {other: Edge(keys[other].public, _METROPOLIS) for other in others}
    blinding = SeededBlinding(
        keys[name].public, keys[ASKER].public, chance, "rerandomise" not in off
    )
    if kind == "pairwise":
        return Pairwise(keys[name], edges, dimension, blinding)
    rosters = {other: frozenset(keys) - {other} for other in others}
    secrets = {other: _secret(name, other) for other in others}
    seal = (NoMasks if "masks" in off else Seal)("lab", name, rosters, secrets)
    return Sealed(keys[name], edges, dimension, blinding, seal)


def _weight(kind: Kind, draws: Draws) -> int:
    return own_weight(draws) if kind == "sealed" else half_weight(draws, ASKER)


def _state(chance: random.Random, dimension: int) -> list[int]:
    return [chance.randrange(-(2**STATE_BITS), 2**STATE_BITS) for _ in range(dimension)]


def _secret(a: str, b: str) -> bytes:
    return hashlib.sha256(f"lab secret {sorted((a, b))}".encode()).digest()


def _power(key: PublicKey, chance: random.Random) -> mpz:
    return gmpy2.powmod(chance.randrange(1, int(key.n)), key.n, key.n_squared)
