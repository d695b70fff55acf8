"""Command-line names of guards and graphs, in a module that imports quickly."""

from __future__ import annotations

from typing import Literal, get_args

Guard = Literal["dither", "rerandomise", "half-weights", "stepsizes", "attenuation", "masks"]
GraphName = Literal["chord", "ring", "complete"]

GUARDS: tuple[Guard, ...] = get_args(Guard)
GRAPHS: tuple[GraphName, ...] = get_args(GraphName)  # of the five nodes
