"""What a curious asker could compute from the answers to its queries.

The asker keeps every answer, the late ones and those that it never opens included. The broker helps
it: an answer that was published counts as received, even if the model delays or drops it.

**Unknowns.** A term is M (H_j q_j + e_ji) - q_i M H_j. The asker knows q_i. For each version of an
answerer (its q_j, half weight and dither) the unknowns are the vector U = M (H_j q_j + e_ji) and
the number M H_j. Each entry of a sum is one linear equation in these unknowns.

**Isolation.** A linear combination of sums *isolates* an answerer if all others drop out of it. The
number of independent combinations of this kind is the rank of all equations less the rank
of the equations without the columns of that answerer. It is computed modulo a prime. Ranks modulo
a large random-looking prime are too small only with negligible probability.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from .symbolic_exchange import STEP, Term, opens

ENTRIES = 3  # of an estimate, in the equations; the model's own estimates have one entry
PRIME = (1 << 61) - 1
WINDOW = 70  # so many of the latest sums of an asker are compared
Sum = frozenset[Term]
Version = tuple[str, int, bytes]  # of an answerer: see `Term.version`
Column = tuple[Version, int | str]  # a version, and an entry of U or the word `weight`
Row = dict[Column, int]


def isolated(sums: Iterable[Sum]) -> tuple[frozenset[str], frozenset[str]]:
    """Return what linear combinations of *sums* isolate.

    The first set names the answerers of which one single term is isolated. The second one names the
    answerers of which a combination of several terms is isolated: their changes.
    """
    return _isolated(_entangled(frozenset(sums)))


@lru_cache(maxsize=100_000)
def _isolated(sums: frozenset[Sum]) -> tuple[frozenset[str], frozenset[str]]:
    rows = [row for one in sums for row in _equations(one)]
    everything = _rank(rows)
    versions = {term.version for one in sums for term in one}
    single = {v[0] for v in versions if _rank(_without(rows, {v})) < everything}
    several = set[str]()
    for name in {version[0] for version in versions} - single:
        of_name = {version for version in versions if version[0] == name}
        if _rank(_without(rows, of_name)) < everything:
            several.add(name)
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


def _without(rows: Sequence[Row], versions: set[Version]) -> list[Row]:
    return [{c: v for c, v in row.items() if c[0] not in versions} for row in rows]


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


@lru_cache(maxsize=100_000)
def _places(one: Sum) -> frozenset[Hashable]:
    return frozenset(term.place for term in one)


def near(new: Sum, sums: Iterable[Sum]) -> tuple[frozenset[str], frozenset[str]]:
    """Return what *new* and one of *sums* isolate nearly, if draws were no difference.

    The first set names the answerers that are in one of two sums only, while all others stand
    still. The second one names those that have moved between two sums while all others stood still.
    """
    alone, moved = set[str](), set[str]()
    for one in sums:
        rest: frozenset[tuple[str, int]] = _places(new) ^ _places(one)  # type: ignore[assignment]
        names = {name for name, _ in rest}
        if len(names) == 1 and _places(new) & _places(one):
            (alone if len(rest) == 1 else moved).update(names)
    return frozenset(alone), frozenset(moved)


Findings = frozenset[tuple[str, str]]  # kind and answerer; `invariants.KINDS` explains the kinds


@dataclass(frozen=True)
class Knowledge:
    """The answers to the queries of one asker. Immutable, so that branches may share it."""

    groups: Mapping[bytes, frozenset[Term]] = field(default_factory=dict)  # by digest of the query
    sums: tuple[Sum, ...] = ()  # the latest that can be opened
    asked: Mapping[Hashable, frozenset[Hashable]] = field(default_factory=dict)  # pairwise answers
    print: int = 0  # equal for equal answers

    def with_answer(self, term: Term) -> tuple[Knowledge, Findings]:
        """Return the knowledge after one more answer, and what the answer shows."""
        group = self.groups.get(term.digest, frozenset())
        if term in group:
            return self, frozenset()
        groups = {**self.groups, term.digest: group | {term}}
        mark = self.print ^ hash(term)
        if not term.size:
            return self._with_single(term, groups, mark)
        # With two answers to one query the masks are equal: the difference shows the answerer.
        twice = {("isolated", t.answerer) for t in group if t.answerer == term.answerer}
        if not opens(groups[term.digest]):
            return Knowledge(groups, self.sums, print=mark), frozenset(twice)
        sums = (*self.sums, groups[term.digest])[-WINDOW:]
        return Knowledge(groups, sums, print=mark), frozenset(twice) | _findings(sums)

    def _with_single(
        self, term: Term, groups: Mapping[bytes, frozenset[Term]], mark: int
    ) -> tuple[Knowledge, Findings]:
        """Compare a pairwise answer with the earlier ones.

        With equal half weight and dither, the answers to two estimates differ by the half weight
        times the known difference of the estimates. With two half weights while both ends stand
        still, the quotient of the answers is nearly the quotient of the half weights, two short
        integers.
        """
        stands = term.place, term.asked // STEP
        asked = dict(self.asked)
        asked[term.version] = asked.get(term.version, frozenset()) | {term.asked}
        asked[stands] = asked.get(stands, frozenset()) | {term.draw}
        found = {("half_weight", term.answerer)} if len(asked[term.version]) > 1 else set()
        found |= {("redrawn", term.answerer)} if len(asked[stands]) > 1 else set()
        return Knowledge(groups, self.sums, asked, mark), frozenset(found)


def _findings(sums: tuple[Sum, ...]) -> Findings:
    single, several = isolated(sums)
    alone, moved = near(sums[-1], sums[:-1])
    kinds = {
        "isolated": single,
        "isolated_change": several,
        "nearly_isolated": alone,
        "nearly_isolated_change": moved,
    }
    return frozenset((kind, name) for kind, names in kinds.items() for name in names)
