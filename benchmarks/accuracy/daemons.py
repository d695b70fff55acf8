"""The methods of cipherfleet's own daemons: real keys, real ciphertexts, one process per node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args, get_type_hints

from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.results import Trajectory, relative_error, stays_below
from cipherfleet_node.settings.sections import Algorithm, Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import Fleet

from .result import Course, MethodResult, costs
from .scene import Scene

STALLED_AFTER_S = 300.0
HIDES = "estimates and gradients, from broker and neighbours; no node decrypts for others"
PROCESSES = "one daemon per node, over the broker"
# Schedules of the article's method, without attenuation, which is worse at this resolution
# (docs/results/attenuation.md). The best one for this problem is chosen by simulation.
SCHEDULES = tuple(
    f"{{initial: {initial}, decay: {decay}, spread: {spread}}}"
    for initial, decay in ((0.3, 0.01), (0.5, 0.05), (0.45, 0.01), (0.9, 0.03), (0.9, 0.05))
    for spread in (1.0, 0.0)
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
        schedule = best_schedule(scene) if self.is_tuned else None
        algorithm = f"method: {self.method}"
        if schedule is not None:
            algorithm += f", stepsize: {schedule}"
        is_article = self.method == "article"
        rounds = scene.article_rounds if is_article else scene.exact_rounds
        course = run_daemons(scene, scene.fleet(self.name, algorithm, rounds))
        return MethodResult(
            name=self.name,
            title=self.title,
            settings=algorithm,
            hides=HIDES,
            processes=PROCESSES,
            rounds_run=course.rounds,
            last_error=course.errors[-1],
            costs=costs(course, _simulated(scene, algorithm) if is_article else ()),
        )


DAEMON_METHODS = (
    DaemonMethod("exact", "exact method", "exact"),
    DaemonMethod("statistics", "mean of the normal equations", "statistics"),
    DaemonMethod("article", "article's method, default schedule", "article"),
    DaemonMethod("article-best", "article's method, best schedule", "article", is_tuned=True),
)


@cache
def best_schedule(scene: Scene) -> str:
    """Return the schedule that is soonest below CHOSEN_AT in simulation, or nearest to it."""

    def score(schedule: str) -> tuple[float, float]:
        errors = _simulated(scene, f"method: article, stepsize: {schedule}")
        reached = stays_below(errors, CHOSEN_AT)
        return float("inf") if reached is None else reached, errors[-1]

    return min(SCHEDULES, key=score)


@cache
def _simulated(scene: Scene, algorithm: str) -> Sequence[float]:
    return scene.simulate(algorithm)


def simulated_best(scene: Scene) -> Sequence[float]:
    """Return the simulated errors of the article's method with its best schedule."""
    return _simulated(scene, f"method: article, stepsize: {best_schedule(scene)}")


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
    trajectory = Trajectory.of(nodes, fleet.dimension)
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
