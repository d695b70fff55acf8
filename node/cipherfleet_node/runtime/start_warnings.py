"""What the log of a node says first: settings that protect nothing, and missing neighbours."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_node.settings.sections import NodeConfig, Simulation

from .telemetry import ESTIMATES_FILE


def start_warnings(config: NodeConfig) -> Iterator[str]:
    """Yield the warnings for *config*, one line each."""
    yield from simulation_warnings(config.simulation)
    if config.crypto.allow_weak_keys:
        yield "WEAK KEYS ARE ALLOWED: this node protects nothing"
    if (too_few := neighbour_warning(config)) is not None:
        yield too_few


def simulation_warnings(simulation: Simulation) -> Iterator[str]:
    """Yield a warning for each setting of *simulation* that is on: its effect and its purpose."""
    if simulation.seed is not None:
        yield (
            "SIMULATION SETTINGS ARE ON: simulation.seed makes every random number repeatable, so "
            "this node protects nothing; use it for trials only"
        )
    if simulation.trace_estimates:
        yield (
            "simulation.trace_estimates is on: the estimate of every round is written to "
            f"logs/{ESTIMATES_FILE}, for the plot of the run; keep that file private"
        )


def neighbour_warning(config: NodeConfig) -> str | None:
    """Return a warning if the node has too few neighbours to compute anything."""
    remedy = "until the operator adds one (cipherfleet provision update)"
    if not config.neighbours:
        return f"this node has no neighbours: it waits {remedy}"
    if config.is_idle_leaf:
        only = config.neighbours[0].id
        return (
            f"this node has one neighbour only, {only}: a sealed sum over one hides nothing, so it "
            f"keeps its estimate {remedy}"
        )
    return None
