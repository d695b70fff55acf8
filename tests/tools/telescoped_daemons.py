"""What all neighbours of each node together know of its gradient, after a run of real daemons.

    cipherfleet run FILE --out RUN
    python -m tests.tools.telescoped_daemons RUN

A node's neighbours (in a sealed fleet with those that they ask together with it) know every flow
into its dual. The sum of the flows is taken from the state files: without a shield it is the
ledger, with one the flows since the latest generation began. In the first generation what flowed
before is not in the dual any more. The attackers multiply it by BETA c0 and take it for the
gradient at the optimum, scaled by the factor that fits best over all nodes: nobody can do better
with it. The error is relative to a guess of zero, which has the error 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cipherfleet_node.core.agreement import used_scale
from cipherfleet_node.core.exact import dual
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.store import read_state
from cipherfleet_node.settings.sections import exact_scale_of, resolution_of


def known_and_true(folder: Path, optimum: FloatVector) -> tuple[FloatVector, FloatVector]:
    """What the neighbours of the node of *folder* know, and its gradient; each of shape (d,)."""
    bundle, state = read_bundle(folder), read_state(folder)
    assert state is not None
    bundle.objective.absorb(bundle.sensor.read())
    scale = exact_scale_of(bundle.config.algorithm, bundle.config.objective)
    assert scale is not None
    has_shield = bundle.config.generations is not None
    flows = [int(entry) for entry in (state.generation.flows if has_shield else state.ledger)]
    unit = resolution_of(bundle.config.algorithm) * UNIT
    known = -dual(flows, used_scale(scale, state), unit)
    return known, bundle.objective.gradient(optimum, RoundRandomness(bytes(32)))


def error(run: Path) -> float:
    """The error of what all neighbours of each node find, relative to a guess of zero."""
    optimum = np.array(json.loads((run / "result.json").read_text())["optimum"])
    folders = sorted((run / "nodes").iterdir())
    found, true = (
        np.array(part)
        for part in zip(*(known_and_true(folder, optimum) for folder in folders), strict=True)
    )
    factor = float((found * true).sum() / (found**2).sum())
    return float(np.linalg.norm(factor * found - true) / np.linalg.norm(true))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    print(f"error relative to a guess: {error(parser.parse_args(arguments).run):.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
