"""The problem that all methods solve: motes of the Intel lab, as a fleet and as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cipherfleet_analysis.gradients import Linear
from cipherfleet_analysis.random_choices import Array
from cipherfleet_broker import RunningBroker
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_deploy.local.results import relative_error
from cipherfleet_lab.cipherfleet import MEAN_HALF_WEIGHT
from cipherfleet_lab.simulation.scenario import scenario_of_fleet
from cipherfleet_node.core.optimiser import mean_stepsize
from cipherfleet_node.settings.sections import Stepsize
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

_FLEET = """\
config_version: 1
fleet: accuracy
crypto: {{exchange: sealed, rerandomise: full, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}, answer_timeout_s: 30, {algorithm}}}
objective:
  kind: least_squares
  target: {{field: humidity_pct, offset: 40, scale: 10}}
  features:
    - {{constant: 1}}
    - {{field: temperature_c, offset: 20, scale: 5}}
    - {{daily: hour, harmonics: 1}}
topology: {{kind: geometric, neighbours: 4, seed: 4}}
nodes:
  - each: 50
    id: "mote{{n:02}}"
    sensor: {{kind: csv, path: {readings}, where: {{sensor: "{{n}}"}}}}
"""


@dataclass(frozen=True)
class Scene:
    """The settings of one run of the benchmark."""

    folder: Path
    broker: RunningBroker
    nodes: int
    key_bits: int
    simulated_rounds: int
    # How many rounds run: daemons of the exact method, of others, plaintext nodes, phe.
    exact_rounds: int
    article_rounds: int
    plain_rounds: int
    phe_rounds: int
    # The interpreter of the environment of Flower, and how many rounds run where it is deployed.
    flower_python: Path | None = None
    flower_rounds: int = 0

    def fleet(self, name: str, algorithm: str, rounds: int) -> Fleet:
        """Write and load the fleet with these settings of the *algorithm*."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "fleet.yaml"
        readings = example_folder("intel_lab") / "intel_lab.csv"
        file.write_text(_FLEET.format(rounds=rounds, algorithm=algorithm, readings=readings))
        return load_fleet(file, Overrides(nodes=self.nodes, key_bits=self.key_bits))

    @cached_property
    def problem(self) -> QuadraticProblem:
        """The problem as arrays."""
        fleet = self.fleet("problem", "method: article", 1)
        scenario = scenario_of_fleet(fleet)
        assert isinstance(scenario.gradients, Linear), "least squares over whole windows"
        return QuadraticProblem(
            scenario.gradients.hessians, scenario.gradients.offsets, _neighbours(fleet)
        )


@dataclass(frozen=True)
class QuadraticProblem:
    """f_i(x) = x'H_i x/2 + b_i'x of every node; *neighbours* by the number of a node."""

    hessians: Array  # (n, d, d)
    offsets: Array  # (n, d)
    neighbours: Sequence[Sequence[int]]

    @property
    def nodes(self) -> int:
        return len(self.offsets)

    @property
    def edges(self) -> int:
        """The number of undirected edges."""
        return sum(map(len, self.neighbours)) // 2

    @property
    def dimension(self) -> int:
        return int(self.offsets.shape[1])

    @cached_property
    def optimum(self) -> Array:
        """The centralised answer, shape (d,)."""
        answer: Array = -np.linalg.solve(self.hessians.sum(axis=0), self.offsets.sum(axis=0))
        return answer

    @cached_property
    def mixing(self) -> Array:
        """Metropolis weights, shape (n, n): w_ij = 1/(1 + max(deg i, deg j)), w_ii the rest."""
        weights = np.zeros((self.nodes, self.nodes))
        for i, near in enumerate(self.neighbours):
            for j in near:
                weights[i, j] = 1.0 / (1 + max(len(near), len(self.neighbours[j])))
        return weights + np.diag(1.0 - weights.sum(axis=1))

    def simulate_article(self, stepsize: Stepsize, rounds: int) -> list[float]:
        """Return the errors of the article's method with its mean weights and mean stepsizes."""
        flows = MEAN_HALF_WEIGHT**2 * (self.mixing - np.eye(self.nodes))
        x, errors = np.zeros_like(self.offsets), []
        for k in range(rounds):
            x = x + flows @ x - mean_stepsize(stepsize, k) * self.gradients(x)
            errors.append(relative_error(x, self.optimum))
        return errors

    @cached_property
    def best_step(self) -> float:
        """2/(mu + L) of the mean objective: the best constant step of gradient descent."""
        curvatures = np.linalg.eigvalsh(self.hessians.mean(axis=0))
        return float(2.0 / (curvatures[0] + curvatures[-1]))

    def gradients(self, x: Array) -> Array:
        """Return g_i(x_i) of every node, shape (n, d)."""
        result: Array = np.matmul(self.hessians, x[:, :, None])[:, :, 0] + self.offsets
        return result


def _neighbours(fleet: Fleet) -> list[list[int]]:
    place = {name: number for number, name in enumerate(fleet.graph.ids)}
    near: list[list[int]] = [[] for _ in place]
    for a, b in fleet.graph.edges:
        near[place[a]].append(place[b])
        near[place[b]].append(place[a])
    return near
