"""The command `cipherfleet-node run`: enrolment, the daemon, and its restarts in one process."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from cipherfleet_node.core.statistics import find_solutions
from cipherfleet_node.errors import IdentityClash
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import NodeConfig

from .bundle import read_bundle
from .daemon import Daemon
from .enrolment import enrol, needs_enrolment
from .membership import complete_promotion, is_due, promote, read_membership
from .store import read_state
from .systemd import ServiceManager

log = logging.getLogger(__name__)

CLASH_PAUSE_S = 600.0  # before a service ends because of a clash and is started again


def run_node(folder: Path, stopping: threading.Event) -> None:
    """Run the node of *folder* until it has finished or *stopping* is set.

    If necessary it enrols first. When its neighbours change, it restarts within this process.
    """
    manager = ServiceManager()  # one for all daemons: it removes its address from the environment
    complete_promotion(folder)
    config = load_node_config(folder)
    if needs_enrolment(folder, config) and not enrol(folder, config, stopping, manager):
        return
    epoch: int | None = None
    while not stopping.is_set():
        if is_due(folder, config, _next_round(folder, config)):
            promote(folder, config)
        daemon = Daemon(read_bundle(folder), stopping, manager, epoch)
        try:
            daemon.run()
        except IdentityClash:
            manager.pause(CLASH_PAUSE_S, stopping)
            raise
        if not daemon.restart_requested:
            return
        epoch = daemon.next_epoch
        log.info("restarting with %s", "other neighbours" if epoch is None else "another epoch")


def _next_round(folder: Path, config: NodeConfig) -> int:
    """Return the round that the node opens next; without neighbours no round is too early."""
    membership, saved = read_membership(folder, config), read_state(folder)
    if membership is not None and not membership.neighbours:
        return 2**63
    return saved.round if saved else 0


def node_summary(folder: Path, *, with_estimate: bool) -> dict[str, object]:
    """Return the output of `show-state`; the estimate is private and included on request only."""
    state = read_state(folder)
    if state is None:
        return {"saved": False}
    summary: dict[str, object] = {
        "saved": True,
        "fleet": state.fleet,
        "node": state.node,
        "epoch": state.epoch,
        "round": state.round,
        "continuous": state.continuous,
    }
    if with_estimate:
        summary["estimate"] = state.estimate
        summary["solution"] = _solution(state.estimate, load_node_config(folder))
    return summary


def _solution(estimate: list[float] | None, config: NodeConfig) -> list[float] | None:
    """Return the solution that follows from *estimate*, None if there is none yet."""
    if estimate is None:
        return None
    found = find_solutions(np.array(estimate), config.algorithm, config.objective)
    return found.tolist() if np.isfinite(found).all() else None
