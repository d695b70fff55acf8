"""Fleets without encryption over the same broker: gradient tracking and DSGD."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from cipherfleet_analysis.random_choices import Array
from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_deploy.local.results import relative_error, stays_below

from .plain_node import PlainKind, PlainRound, PlainSettings
from .result import Course, MethodResult, costs
from .scene import QuadraticProblem, Scene

HERE = Path(__file__).parent
SETTLED = 1e-3  # the steps are the best ones to this level
ENDS_WITHIN_S = 1800.0


@dataclass(frozen=True)
class PlainMethod:
    """An iteration in plaintext, with the (initial, decay) to choose its steps from."""

    name: PlainKind
    title: str
    steps: Sequence[tuple[float, float]]
    simulate: Callable[[QuadraticProblem, float, float, int], list[float]]
    is_available: bool = True

    def measure(self, scene: Scene) -> MethodResult:
        """Choose the steps by simulation, run the nodes, and return the costs."""
        initial, decay, simulated = self._best(scene)
        course = run_plain_nodes(scene, self.name, initial, decay)
        return MethodResult(
            name=self.name,
            title=self.title,
            settings=f"stepsize {initial:g}" + (f"/(1 + {decay:g} k)" if decay else ""),
            hides="nothing",
            processes="one small process per node, over the broker; no signatures, nothing saved",
            rounds_run=course.rounds,
            last_error=course.errors[-1],
            costs=costs(course, simulated),
        )

    def _best(self, scene: Scene) -> tuple[float, float, list[float]]:
        tried = [
            (initial, decay, self.simulate(scene.problem, initial, decay, scene.simulated_rounds))
            for initial, decay in self.steps
        ]

        def score(one: tuple[float, float, list[float]]) -> tuple[float, float]:
            reached = stays_below(one[2], SETTLED)
            return np.inf if reached is None else reached, float(
                np.nan_to_num(one[2][-1], nan=np.inf)
            )

        return min(tried, key=score)


def _simulate_dsgd(
    problem: QuadraticProblem, initial: float, decay: float, rounds: int
) -> list[float]:
    x, errors = np.zeros_like(problem.offsets), []
    for k in range(rounds):
        x = problem.mixing @ x - initial / (1.0 + decay * k) * problem.gradients(x)
        errors.append(_error(x, problem))
    return errors


def _simulate_tracking(
    problem: QuadraticProblem, initial: float, decay: float, rounds: int
) -> list[float]:
    assert decay == 0.0, "gradient tracking has a constant step"
    x = np.zeros_like(problem.offsets)
    tracker = gradients = problem.gradients(x)
    errors: list[float] = []
    while len(errors) < rounds and (not errors or 1e-9 < errors[-1] < 1e9):
        x = problem.mixing @ x - initial * tracker
        fresh = problem.gradients(x)
        tracker, gradients = problem.mixing @ tracker + fresh - gradients, fresh
        errors.append(_error(x, problem))
    return errors


def _error(x: Array, problem: QuadraticProblem) -> float:
    return relative_error(x, problem.optimum)


PLAIN_METHODS = (
    PlainMethod(
        "gradient-tracking",
        "gradient tracking in plaintext",
        [(step, 0.0) for step in (0.05, 0.1, 0.14, 0.2, 0.3, 0.5)],
        _simulate_tracking,
    ),
    PlainMethod(
        "dsgd",
        "DSGD in plaintext",
        list(product((0.3, 0.5, 0.9), (0.01, 0.03, 0.1))),
        _simulate_dsgd,
    ),
)


def run_plain_nodes(scene: Scene, kind: PlainKind, initial: float, decay: float) -> Course:
    """Run a process for each node to its last round."""
    problem, folder = scene.problem, scene.folder / kind
    folder.mkdir()
    for node in range(problem.nodes):
        near = [node, *problem.neighbours[node]]
        settings = PlainSettings(
            kind=kind,
            node=node,
            weights={j: float(problem.mixing[node, j]) for j in near},
            hessian=problem.hessians[node].tolist(),
            offset=problem.offsets[node].tolist(),
            initial=initial,
            decay=decay,
            rounds=scene.plain_rounds,
            host=scene.broker.host,
            port=scene.broker.port,
            log=str(folder / f"{node}.jsonl"),
        )
        (folder / f"{node}.json").write_bytes(msgspec.json.encode(settings))
    began = time.monotonic()
    files = [folder / f"{node}.json" for node in range(problem.nodes)]
    _run_all([[sys.executable, "-m", "accuracy.plain_node", str(file)] for file in files])
    lines = [_read(folder / f"{node}.jsonl") for node in range(problem.nodes)]
    rounds = list(zip(*lines, strict=True))
    return Course(
        errors=[_error(np.array([one.estimate for one in each]), problem) for each in rounds],
        sent=[float(sum(one.bytes_sent for one in each)) for each in rounds],
        cpu_s=[sum(one.cpu_s for one in each) for each in rounds],
        wall_s=[max(one.at for one in each) - began for each in rounds],
    )


def _run_all(commands: Sequence[list[str]]) -> None:
    """Run all *commands* side by side. Raises CalledProcessError if one of them fails."""
    running = [subprocess.Popen(die_with_parent(one), cwd=HERE.parent) for one in commands]
    try:
        for process in running:
            code = process.wait(ENDS_WITHIN_S)
            if code != 0:
                raise subprocess.CalledProcessError(code, process.args)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _read(log: Path) -> list[PlainRound]:
    return [msgspec.json.decode(line, type=PlainRound) for line in log.read_bytes().splitlines()]
