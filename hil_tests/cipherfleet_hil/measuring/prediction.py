"""What a calibration card foretells of the rounds that are to be measured."""

from __future__ import annotations

from collections.abc import Sequence

from cipherfleet_analysis.cost.board_card import Calibration
from cipherfleet_analysis.cost.round_time import predict
from cipherfleet_hil.measurement.round_figures import ROUND
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import Fleet

SETTLING = 15  # rounds in which neighbours fall into step and pools find their level


def settled_after(fleet: Fleet, card: Calibration) -> int:
    """Rounds before those that the card speaks of: tables are made in the first ones."""
    return predict(fleet, card).first_rounds + SETTLING


def foretold(fleet: Fleet, card: Calibration, targets: Sequence[str]) -> dict[str, float]:
    """Seconds of a round on each of *targets*, by the name of the figure that is measured.

    Either all nodes share one target, or each has one of its own; ConfigError for what is between,
    of which a card of one board says nothing.
    """
    found, nodes = predict(fleet, card), len(fleet.members)
    if len(targets) not in (1, nodes):
        raise ConfigError(
            f"--calibration: {nodes} nodes on {len(targets)} targets cannot be predicted: one "
            "target for all nodes can, and one for each"
        )
    round_ms = found.together_ms if len(targets) == 1 else found.apart_ms
    return {f"{ROUND}, {target}": round_ms / 1000.0 for target in targets}
