"""What a curious asker could compute from the answers to its queries.

The asker keeps every answer, the late ones and those that it never opens included. The broker helps
it: an answer that was published counts as received, even if the model delays or drops it.

**Unknowns.** A term is M (H_j q_j + e_ji) - q_i M H_j. The asker knows q_i. For each version of an
answerer (its q_j, half weight and dither) the unknowns are the vector U = M (H_j q_j + e_ji) and
the number M H_j. Each entry of a sum is one linear equation in these unknowns.

**Isolation.** A linear combination of sums *isolates* an answerer if all other answerers drop out of
it. The number of independent combinations of this kind is the rank of all equations less the rank
of the equations without the columns of that answerer. It is computed modulo a prime. Ranks modulo
a large random-looking prime are too small only with negligible probability.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from .symbolic_exchange import Term, opens

ENTRIES = 3  # of an estimate, in the equations; the model's own estimates have one entry
PRIME = (1 << 61) - 1
Sum = frozenset[Term]
Column = tuple[object, ...]
Row = dict[Column, int]


@cache
def isolated(sums: frozenset[Sum]) -> tuple[frozenset[str], ...]:
    """Return what linear combinations of *sums* isolate.

    The first set names the answerers of which one single term is isolated. The second one names the
    answerers of which a combination of several terms is isolated: their changes.
    """
    rows = [row for one in _entangled(sums) for row in _equations(one)]
    everything = _rank(rows)
    versions = {term.version for one in sums for term in one}
    single = {
        version[0]
        for version in versions
        if _rank(_without(rows, lambda c, v=version: c[0] == v)) < everything
    }
    names = {version[0] for version in versions} - single
    several = {
        name
        for name in names
        if _rank(_without(rows, lambda c, n=name: c[0][0] == n)) < everything
    }
    return frozenset(single), frozenset(several)


def _entangled(sums: frozenset[Sum]) -> frozenset[Sum]:
    """Leave out the sums that can be in no such combination.

    A term that is in no other sum does not cancel. A sum with such terms of two answerers is of no
    use, and without it other sums may become useless too.
    """
    while True:
        uses = Counter(version for one in sums for version in {t.version for t in one})
        useful = frozenset(
            one for one in sums if len({t.answerer for t in one if uses[t.version] == 1}) < 2
        )
        if useful == sums:
            return sums
        sums = useful


def _equations(one: Sum) -> list[Row]:
    rows: list[Row] = []
    for entry in range(ENTRIES):
        row: Row = {}
        for term in one:
            row[term.version, entry] = 1
            row[term.version, "weight"] = -_entry(term.asked, entry) % PRIME
        rows.append(row)
    return rows


@cache
def _entry(asked: int, entry: int) -> int:
    """Return an entry of the estimate that the asker's quantised number stands for."""
    return int.from_bytes(hashlib.sha256(f"{asked} {entry}".encode()).digest()[:4], "big")


def _without(rows: Sequence[Row], is_left_out: Callable[[Column], bool]) -> list[Row]:
    return [{c: v for c, v in row.items() if not is_left_out(c)} for row in rows]


def _rank(rows: Iterable[Row]) -> int:
    """Return the rank modulo PRIME."""
    pivots: dict[Column, Row] = {}
    for row in rows:
        left = dict(row)
        while left:
            column = min(left, key=repr)
            pivot = pivots.get(column)
            if pivot is None:
                inverse = pow(left[column], -1, PRIME)
                pivots[column] = {c: v * inverse % PRIME for c, v in left.items()}
                break
            factor = left[column]
            for c, v in pivot.items():
                value = (left.get(c, 0) - factor * v) % PRIME
                left[c] = value
                if not value:
                    del left[c]
    return len(pivots)


def near(sums: Iterable[Sum]) -> tuple[frozenset[str], frozenset[str]]:
    """Return what is isolated nearly, if draws were no difference: of states that stand still.

    The first set names the answerers that are in one of two sums only, while all others stand still.
    The second one names those that have moved between two sums while all others stood still.
    """
    alone, moved = set[str](), set[str]()
    places = {frozenset(term.place for term in one) for one in sums}
    for a in places:
        for b in places:
            rest = a ^ b
            if a & b and len({place[0] for place in rest}) == 1:
                (alone if len(rest) == 1 else moved).update(place[0] for place in rest)
    return frozenset(alone), frozenset(moved)


class Knowledge:
    """The answers to the queries of one asker. Immutable, so that branches may share it."""

    def __init__(self, answers: frozenset[Term] = frozenset()) -> None:
        self.answers = answers

    def with_answer(self, term: Term) -> Knowledge:
        """Return the knowledge after one more answer."""
        return self if term in self.answers else Knowledge(self.answers | {term})

    def sums(self) -> frozenset[Sum]:
        """Return the sums that can be opened: each of one query, with its whole roster."""
        groups = defaultdict[bytes, set[Term]](set)
        for term in self.answers:
            groups[term.digest].add(term)
        sealed = frozenset(
            frozenset(terms) for terms in groups.values() if opens(frozenset(terms))
        )
        return frozenset(one for one in sealed if all(term.size for term in one))

    def twice_answered(self) -> frozenset[str]:
        """Return the answerers that gave two different answers to one query.

        Their masks are equal, so the difference shows these answerers alone.
        """
        counts = Counter((term.answerer, term.digest) for term in self.answers)
        return frozenset(name for (name, _), count in counts.items() if count > 1)

    def solved_weights(self) -> frozenset[str]:
        """Return the pairwise answerers whose half weight follows from two of their answers.

        With equal half weight and dither, two answers to two different estimates differ by the half
        weight times the known difference of these estimates.
        """
        asked = defaultdict[tuple[str, int, bytes], set[int]](set)
        for term in self.answers:
            if not term.size:
                asked[term.version].add(term.asked)
        return frozenset(version[0] for version, estimates in asked.items() if len(estimates) > 1)

    def redrawn(self) -> frozenset[str]:
        """Return the pairwise answerers that used two half weights while both ends stood still.

        The quotient of two such answers is nearly the quotient of the half weights, which are short.
        """
        draws = defaultdict[tuple[tuple[str, int], int], set[bytes]](set)
        for term in self.answers:
            if not term.size:
                draws[term.place, term.asked // 64].add(term.draw)
        return frozenset(place[0] for (place, _), found in draws.items() if len(found) > 1)

    def findings(self) -> frozenset[tuple[str, str]]:
        """Return every leak as a pair of kind and answerer; the kinds are in `model.KINDS`."""
        sums = self.sums()
        single, several = isolated(sums)
        alone, moved = near(sums)
        return frozenset(
            (kind, name)
            for kind, names in (
                ("isolated", single | self.twice_answered()),
                ("isolated_change", several),
                ("nearly_isolated", alone),
                ("nearly_isolated_change", moved),
                ("half_weight", self.solved_weights()),
                ("redrawn", self.redrawn()),
            )
            for name in names
        )
