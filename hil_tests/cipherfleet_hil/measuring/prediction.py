"""Round times that a calibration card predicts, for comparison with measured ones."""

from __future__ import annotations

from collections.abc import Sequence

from cipherfleet_analysis.cost.board_card import Calibration
from cipherfleet_analysis.cost.round_time import predict
from cipherfleet_hil.measurement.round_figures import ROUND
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import Fleet

SETTLING = 15  # rounds until neighbours are synchronised and pool levels are steady


def warm_up_rounds(fleet: Fleet, card: Calibration) -> int:
    """Return the number of rounds before those that the card predicts; the first build tables."""
    return predict(fleet, card).first_rounds + SETTLING


def predict_rounds(fleet: Fleet, card: Calibration, targets: Sequence[str]) -> dict[str, float]:
    """Predict the seconds of a round on each of *targets*, by the name of the measured figure.

    A card describes one board, so that either all nodes share one target, or each node has its own.
    Raises ConfigError for any other distribution.
    """
    found, nodes = predict(fleet, card), len(fleet.members)
    if len(targets) not in (1, nodes):
        raise ConfigError(
            f"--calibration: {nodes} nodes on {len(targets)} targets cannot be predicted",
            remedy="use one target for all nodes, or one target per node",
        )
    round_ms = found.together_ms if len(targets) == 1 else found.apart_ms
    return {f"{ROUND}, {target}": round_ms / 1000.0 for target in targets}
