"""An attack by a curious node: it computes its neighbours' states from all it sees of a round.

Written from node/PROTOCOL.md alone, without any module of the node: it would not inherit a mistake.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

HALF_WEIGHTS = range(2049, 4096, 2)
MEAN_HALF_WEIGHT = 3072


@dataclass(frozen=True)
class View:
    """What a node holds when its round is over: its key, its state, and the answers it got."""

    p: int
    q: int
    slot_bits: int
    own: Sequence[int]  # its quantised state
    metropolis: Mapping[str, int]  # M of each neighbour
    weighted: bool  # whether answers carry M already, as sealed ones do
    answers: Mapping[str, Sequence[int]]  # the ciphertexts of each neighbour

    @property
    def n(self) -> int:
        """The node's modulus."""
        return self.p * self.q


def decrypt(view: View, ciphertext: int) -> int:
    """Paillier's decryption by the textbook."""
    n, order = view.n, math.lcm(view.p - 1, view.q - 1)
    lifted = (pow(ciphertext, order, n * n) - 1) // n
    return lifted * pow(order, -1, n) % n


def slots(view: View, plaintext: int, count: int) -> list[int] | None:
    """The signed entries of *plaintext*, or None if it holds anything above them."""
    signed = plaintext - view.n if plaintext > view.n // 2 else plaintext
    values = []
    for _ in range(count):
        half = 1 << (view.slot_bits - 1)
        entry = (signed + half) % (2 * half) - half
        values.append(entry)
        signed = (signed - entry) >> view.slot_bits
    return None if signed else values


def opened(view: View, names: Iterable[str]) -> list[int] | None:
    """The sum of the answers of *names*, entry by entry, if it is one of small numbers."""
    columns = zip(*(view.answers[name] for name in names), strict=True)
    plaintexts = [decrypt(view, math.prod(column) % view.n**2) for column in columns]
    per_ciphertext = (view.n.bit_length() - 2) // view.slot_bits
    values: list[int] = []
    for plaintext in plaintexts:
        entries = slots(view, plaintext, min(per_ciphertext, len(view.own) - len(values)))
        if entries is None:
            return None
        values += entries
    limit = 2**44 * sum(view.metropolis[name] if view.weighted else 1 for name in names)
    return values if all(abs(value) <= limit for value in values) else None


def common_factor(values: Sequence[int]) -> int | None:
    """The half weight that divides all *values*, if there is only one such."""
    divisor = math.gcd(*values)
    found = [weight for weight in HALF_WEIGHTS if divisor and divisor % weight == 0]
    return found[0] if len(found) == 1 else None


def recover(view: View) -> dict[str, list[int]]:
    """The states that are certain, by neighbour.

    Every single answer, and what any proper subset of the answers has beyond any smaller one.
    """
    found: dict[str, list[int]] = {}
    for name, differences in single_terms(view):
        factor = view.metropolis[name] if view.weighted else 1
        weight = common_factor([value // factor for value in differences])
        if weight is not None and all(value % (factor * weight) == 0 for value in differences):
            found[name] = [
                own + value // (factor * weight)
                for own, value in zip(view.own, differences, strict=True)
            ]
    return found


def single_terms(view: View) -> Iterator[tuple[str, list[int]]]:
    """One neighbour's term by itself: opened, or as the difference of two sums that open."""
    names = sorted(view.answers)
    sums = {
        subset: values
        for size in range(1, len(names) + 1)
        for subset in itertools.combinations(names, size)
        if (values := opened(view, subset)) is not None
    }
    for subset, values in sums.items():
        for name in subset:
            rest = tuple(other for other in subset if other != name)
            less = sums.get(rest) if rest else [0] * len(values)
            if less is not None:
                yield name, [value - other for value, other in zip(values, less, strict=True)]


def guess_from_sum(view: View) -> list[float] | None:
    """A neighbour's state as far as the sum tells it: as if all had the same."""
    total = opened(view, sorted(view.answers))
    if total is None:
        return None
    scale = MEAN_HALF_WEIGHT * sum(view.metropolis[name] for name in view.answers)
    return [own + value / scale for own, value in zip(view.own, total, strict=True)]
