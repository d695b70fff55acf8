"""The methods of cipherfleet's own daemons: real keys, real ciphertexts, one process per node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.results import Trajectory, relative_error, stays_below
from cipherfleet_node.settings.sections import Algorithm, Broker, Simulation, Stepsize
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import Fleet

from .result import Course, MethodResult, costs
from .scene import Scene

STALLED_AFTER_S = 300.0
HIDES = "estimates and gradients, from broker and neighbours; no node decrypts for others"
PROCESSES = "one daemon per node, over the broker"
# Schedules of the article's method, without attenuation, which is worse at this resolution
# (docs/results/attenuation.md). The best one for this problem is chosen by simulation. Spread 0
# favours the article's method: long steps of random size would diverge.
SCHEDULES = tuple(
    Stepsize(initial=initial, decay=decay, spread=0.0)
    for initial in (0.3, 0.45, 0.6, 0.9)
    for decay in (0.01, 0.02, 0.03, 0.05)
)
CHOSEN_AT = 1e-3


@dataclass(frozen=True)
class DaemonMethod:
    """A method of the daemons, by its settings in fleet.yaml."""

    name: str
    title: str
    method: str  # as in `algorithm.method`
    is_tuned: bool = False  # with the best of SCHEDULES

    @property
    def is_available(self) -> bool:
        """True if the settings of this version accept the method."""
        return self.method in get_args(get_type_hints(Algorithm)["method"])

    def measure(self, scene: Scene) -> MethodResult:
        """Run the fleet, and return its costs."""
        algorithm, simulated = f"method: {self.method}", list[float]()
        if self.method == "article":
            stepsize = best_schedule(scene) if self.is_tuned else Stepsize()
            algorithm += f", stepsize: {describe(stepsize)}"
            simulated = scene.problem.simulate_article(stepsize, scene.simulated_rounds)
        rounds = scene.article_rounds if self.method == "article" else scene.exact_rounds
        course = run_daemons(scene, scene.fleet(self.name, algorithm, rounds))
        return MethodResult(
            name=self.name,
            title=self.title,
            settings=algorithm,
            hides=HIDES,
            processes=PROCESSES,
            rounds_run=course.rounds,
            last_error=course.errors[-1],
            costs=costs(course, simulated),
        )


DAEMON_METHODS = (
    DaemonMethod("exact", "exact method", "exact"),
    DaemonMethod("statistics", "mean of the normal equations", "statistics"),
    DaemonMethod("article", "article's method, default schedule", "article"),
    DaemonMethod("article-best", "article's method, best schedule", "article", is_tuned=True),
)


def best_schedule(scene: Scene) -> Stepsize:
    """Return the schedule that is soonest below CHOSEN_AT in simulation, or nearest to it."""

    def score(stepsize: Stepsize) -> tuple[float, float]:
        errors = scene.problem.simulate_article(stepsize, scene.simulated_rounds)
        reached = stays_below(errors, CHOSEN_AT)
        return float("inf") if reached is None else reached, errors[-1]

    return min(SCHEDULES, key=score)


def describe(stepsize: Stepsize) -> str:
    """Return *stepsize* as in fleet.yaml."""
    values = f"initial: {stepsize.initial:g}, decay: {stepsize.decay:g}"
    return f"{{{values}, spread: {stepsize.spread:g}}}"


def run_daemons(scene: Scene, fleet: Fleet) -> Course:
    """Run *fleet* as daemons to its last round."""
    bundles = write_bundles(
        fleet,
        scene.folder / f"nodes-{time.monotonic_ns()}",
        Broker(host=scene.broker.host, port=scene.broker.port, tls=False),
        Simulation(trace_estimates=True),
    )
    began = time.monotonic()
    with LocalFleet(bundles, STALLED_AFTER_S) as nodes:
        nodes.start()
        nodes.wait(every_s=1.0)
    trajectory = Trajectory.of(nodes, fleet.solution_dimension)
    records = list(nodes.nodes.values())
    rounds = range(min(len(node.rounds) for node in records))
    optimum = scene.problem.optimum
    return Course(
        errors=[relative_error(x, optimum) for x in trajectory.latest][: len(rounds)],
        sent=[_sum(records, "bytes_sent", k) for k in rounds],
        cpu_s=[_sum(records, "cpu_s", k) for k in rounds],
        wall_s=[max(_closed_at(node, k) for node in records) - began for k in rounds],
    )


def _sum(nodes: Sequence[NodeRecord], counter: str, k: int) -> float:
    return float(sum(node.rounds[k][counter] for node in nodes))


def _closed_at(node: NodeRecord, k: int) -> float:
    span = node.rounds[k]
    return span["at"] + span["ms"] / 1000.0
