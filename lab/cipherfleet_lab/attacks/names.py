"""Command-line names of attacks, systems, guards and graphs, in a module that imports quickly."""

from __future__ import annotations

from typing import Literal, get_args

Guard = Literal["dither", "rerandomise", "half-weights", "stepsizes", "attenuation", "masks"]
GraphName = Literal["chord", "ring", "complete"]

GUARDS: tuple[Guard, ...] = get_args(Guard)
GRAPHS: tuple[GraphName, ...] = get_args(GraphName)  # of the five nodes
ALL = "all"
ATTACKS = (
    "wiretap",
    "eavesdropper",
    "observer",
    "key-holder",
    "common-factor",
    "divisor",
    "randomness",
    "direction",
    "triangulation",
    "triangulation-two",
    "one-round",
    "telescoping",
    "telescoping-but-one",
    "leakage-round",
    "leakage-telescoped",
    "leakage-several",
    "leakage-true",
)
SYSTEMS = (
    "pairwise",
    "sealed",
    "dsgd",
    "ternary",
    "obfuscation",
    "differential-privacy",
    "gradient-tracking",
    "push-sum",
    "paillier-ring",
    "consensus",
)
