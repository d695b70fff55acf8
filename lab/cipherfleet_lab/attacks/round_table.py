"""The attacks on rounds as a table: each in a pair, without its guard and with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .catalogue import ATTACKS
from .names import RoundGuard
from .result import AttackResult
from .subjects import AttackCase

HEAD = ("attack", "system", "guard", "without the guard", "with all guards")


@dataclass(frozen=True)
class Pair:
    """An attack on a system, and the guard against it."""

    attack: str
    system: str
    guard: RoundGuard


@dataclass(frozen=True)
class PairResult:
    """The results of an attack without its guard, and with all guards."""

    pair: Pair
    off: AttackResult
    on: AttackResult

    def row(self) -> list[str]:
        """Return the cells of the table."""
        pair = self.pair
        return [pair.attack, pair.system, pair.guard, *map(_describe, (self.off, self.on))]


_ON_THE_ARTICLE: Sequence[Pair] = (
    Pair("late-answers", "sealed", "rosters"),
    Pair("last-will", "sealed", "rosters"),
    Pair("departure", "sealed", "kicks"),
    Pair("separation", "sealed", "draws"),
    Pair("second-query-after-restart", "pairwise", "digests"),
    Pair("second-query-after-restart", "sealed", "digests"),
    Pair("old-card", "sealed", "own-presence"),
    Pair("far-round", "sealed", "claims"),
    Pair("overreach", "pairwise", "headroom"),
    Pair("overreach", "sealed", "headroom"),
    Pair("garbage", "sealed", "halves"),
    Pair("mute-member", "sealed", "back-off"),
)
# Each on both methods.
PAIRS: Sequence[Pair] = tuple(
    replace(pair, system=pair.system + method)
    for pair in _ON_THE_ARTICLE
    for method in ("", "-exact")
)

QUICK_PAIRS = PAIRS[:2]  # for a trial of the page


def run_pairs(seed: int, trials: int, pairs: Iterable[Pair] = PAIRS) -> Iterator[PairResult]:
    """Run every one of *pairs*; the same seed gives the same results."""
    for pair in pairs:
        off, on = (
            _run(pair, guards, seed, trials) for guards in (frozenset([pair.guard]), frozenset())
        )
        yield PairResult(pair, off, on)


def pairs_on(system: str, guards: Iterable[str]) -> list[Pair]:
    """Return the pairs on *system*, with one of *guards* if there are any."""
    wanted = set(guards)
    return [p for p in PAIRS if p.system == system and (not wanted or p.guard in wanted)]


def markdown(results: Iterable[PairResult]) -> str:
    """Return the table in Markdown; empty without results."""
    rows = [result.row() for result in results]
    lines = [list(HEAD), ["---"] * len(HEAD), *rows] if rows else []
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _run(pair: Pair, off: frozenset[RoundGuard], seed: int, trials: int) -> AttackResult:
    finding = ATTACKS[pair.attack].run(
        AttackCase(system=pair.system, off=frozenset(off), trials=trials, seed=seed)
    )
    assert finding is not None, f"{pair.attack} applies to {pair.system}"
    return finding


def _describe(finding: AttackResult) -> str:
    return f"{finding.number}: {finding.note}" if finding.note else finding.number
