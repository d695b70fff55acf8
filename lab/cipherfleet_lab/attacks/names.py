"""Command-line names of guards and graphs, in a module that imports quickly."""

from __future__ import annotations

from typing import Literal, get_args

ExchangeGuard = Literal[
    "dither",
    "rerandomise",
    "half-weights",
    "stepsizes",
    "attenuation",
    "masks",
    "shield",
    "quadratic",
]
# The rules of rounds; guards.py says what a node does without each of them.
RoundGuard = Literal[
    "rosters",
    "kicks",
    "draws",
    "claims",
    "headroom",
    "back-off",
    "halves",
    "digests",
    "own-presence",
]
Guard = ExchangeGuard | RoundGuard
GraphName = Literal["chord", "ring", "complete"]

EXCHANGE_GUARDS: tuple[ExchangeGuard, ...] = get_args(ExchangeGuard)
ROUND_GUARDS: tuple[RoundGuard, ...] = get_args(RoundGuard)
GUARDS: tuple[Guard, ...] = (*EXCHANGE_GUARDS, *ROUND_GUARDS)
GRAPHS: tuple[GraphName, ...] = get_args(GraphName)  # of the five nodes
