"""Scenarios: a fleet file as arrays, the same enlarged to more nodes, or a synthetic fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cipherfleet_analysis.exact_run import ExactMethod, Places, exact_method
from cipherfleet_analysis.forecast import answer_of, objectives_to_simulate
from cipherfleet_analysis.gradients import Gradients, Linear, OneByOne, Targets, gradients_of
from cipherfleet_analysis.random_choices import Array
from cipherfleet_analysis.simulation import Links
from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.statistics import find_solutions
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import AGREE, Algorithm, ObjectiveSection, Stepsize
from cipherfleet_provisioning.fleet.fleet import Fleet

from .large_graphs import large_graph, random_regular

SYNTHETIC_ROWS = 4  # readings per node


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The input of the vector engine."""

    name: str
    links: Links
    starts: Array  # (n, d)
    gradients: Gradients
    algorithm: Algorithm
    sealed: bool
    optimum: Array | None  # (d,), None if it is unknown
    readings: str  # description of the readings
    method: ExactMethod | None = None  # None: the article's
    names: Sequence[str] = ()  # names of real nodes, whose random choices can be repeated
    objective: ObjectiveSection | None = None  # None: the solutions are the estimates

    @property
    def nodes(self) -> int:
        return len(self.starts)

    def solutions(self, estimates: Array) -> Array:
        """Return the solutions that follow from *estimates*, one row per node."""
        if self.objective is None:
            return estimates
        return find_solutions(estimates, self.algorithm, self.objective)

    @property
    def edges(self) -> int:
        """The number of undirected edges."""
        return len(self.links.askers) // 2


def scenario_of_fleet(fleet: Fleet) -> Scenario:
    """Return the fleet of a file unchanged, with all readings available from the first round."""
    objectives, readings = _objectives(fleet)
    return Scenario(
        name=fleet.file.fleet,
        links=Links.of(fleet.graph),
        starts=np.array([objective.start() for objective in objectives]),
        gradients=gradients_of(objectives, fleet.file.objective),
        algorithm=fleet.file.algorithm,
        sealed=fleet.exchange == "sealed",
        optimum=answer_of(fleet, objectives),
        readings=readings,
        method=exact_method(objectives, fleet.file.algorithm, fleet.file.objective),
        names=[member.id for member in fleet.members],
        objective=fleet.file.objective,
    )


def spread_fleet(fleet: Fleet, nodes: int, degree: int | None) -> Scenario:
    """Enlarge the fleet to *nodes* nodes; number i has the readings of the file's node i mod n.

    The graph is of the file's kind, or a random regular one of *degree*.
    """
    objectives, readings = _objectives(fleet)
    topology = fleet.file.topology
    edges = (
        large_graph(topology, nodes)
        if degree is None
        else random_regular(nodes, degree, topology.seed or 0)
    )
    own = len(objectives)
    place = np.arange(nodes) % own
    starts = np.array([objective.start() for objective in objectives])[place]
    method = exact_method(objectives, fleet.file.algorithm, fleet.file.objective)
    # If some nodes' readings are used more often, the file's answer is not the optimum.
    optimum = answer_of(fleet, objectives) if nodes % own == 0 else None
    return Scenario(
        name=fleet.file.fleet,
        links=Links.between(edges, nodes),
        starts=starts,
        gradients=_assign_gradients(
            place, objectives, gradients_of(objectives, fleet.file.objective)
        ),
        algorithm=fleet.file.algorithm,
        sealed=fleet.exchange == "sealed",
        method=method and method.chosen(place),
        optimum=optimum,
        readings=f"{readings} readings of {own} nodes, each set used by {nodes / own:.6g} nodes",
        objective=fleet.file.objective,
    )


def make_synthetic(nodes: int, degree: int, dimension: int, seed: int) -> Scenario:
    """Return a sealed fleet with least squares on synthetic readings and a random regular graph."""
    rng = np.random.default_rng([seed, nodes])
    phi = rng.uniform(-1.0, 1.0, (nodes, SYNTHETIC_ROWS, dimension))
    theta = np.arange(1.0, dimension + 1.0)
    y = phi @ theta + 0.1 * rng.standard_normal((nodes, SYNTHETIC_ROWS))
    hessians = np.matmul(phi.swapaxes(1, 2), phi) / SYNTHETIC_ROWS
    offsets = -np.einsum("nrd,nr->nd", phi, y) / SYNTHETIC_ROWS
    return Scenario(
        name="made up",
        links=Links.between(random_regular(nodes, degree, seed), nodes),
        starts=np.zeros((nodes, dimension)),
        gradients=Linear(hessians, offsets),
        algorithm=Algorithm(rounds=10),
        method=ExactMethod(AGREE, np.linalg.eigvalsh(hessians)[:, -1], Stepsize().spread),
        sealed=True,
        optimum=np.linalg.solve(hessians.mean(axis=0), -offsets.mean(axis=0)),
        readings=f"made up, {SYNTHETIC_ROWS} of every node",
    )


def _objectives(fleet: Fleet) -> tuple[Sequence[Objective], str]:
    objectives, readings = objectives_to_simulate(fleet)
    if not objectives:
        raise ConfigError(
            f"{fleet.file.fleet!r} has live sensors, or readings that its objective rejects",
            remedy="simulate a fleet with csv or synthetic sensors",
        )
    return objectives, readings


def _assign_gradients(
    place: Places, objectives: Sequence[Objective], gradients: Gradients
) -> Gradients:
    """Assign to node i the gradient of the objective at place[i]."""
    if isinstance(gradients, Linear):
        return Linear(gradients.hessians[place], gradients.offsets[place])
    if isinstance(gradients, Targets):
        return Targets(gradients.targets[place], gradients.members[place])
    return OneByOne([objectives[index] for index in place])
