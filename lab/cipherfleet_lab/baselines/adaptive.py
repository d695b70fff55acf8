"""Stepsizes that nodes adapt to their own gradients or curvature; they miss the optimum.

    x_i <- sum_j w_ij x_j - lambda_k D_i g_i      D_i = 1/(sqrt(v_i) + floor), entry by entry
    AdaGrad:  v_i <- v_i + g_i^2
    RMSProp:  v_i <- memory v_i + (1 - memory) g_i^2
    a metric of the exact method instead of D_i: see cipherfleet_node.core.metric
The nodes converge to a point where sum_i D_i grad f_i = 0. It is not the minimum of F unless all
D_i are equal: stepsizes may be private and random, but their means must be equal.
Checked by test_adagrad_settles_where_the_weighted_gradients_cancel and
test_newton_as_a_plain_stepsize_settles_where_the_local_newton_steps_cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cipherfleet_analysis.exact_run import ExactMethod, Stepping
from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams


@dataclass(frozen=True)
class AdaGrad:
    """Divides by the root of the sum of all squares.

    D_i shrinks, so that lambda_k may be constant.
    """

    stepsize: Stepsize
    floor: float = 1e-8
    name: str = "AdaGrad"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""

        def remember(squares: Array, gradients: Array) -> Array:
            return squares + gradients**2

        return _run(self.name, problem, rounds, seed, self.stepsize, self.floor, remember)


@dataclass(frozen=True)
class RmsProp:
    """Divides by the root of an exponentially weighted mean of squares."""

    stepsize: Stepsize
    memory: float = 0.9
    floor: float = 1e-2
    name: str = "RMSProp"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""

        def remember(squares: Array, gradients: Array) -> Array:
            return self.memory * squares + (1.0 - self.memory) * gradients**2

        return _run(self.name, problem, rounds, seed, self.stepsize, self.floor, remember)


@dataclass(frozen=True)
class PlainMetric:
    """The Lambda_i of *method*, without random factors, as plain stepsizes; its scale is given."""

    stepsize: Stepsize
    method: ExactMethod

    @property
    def name(self) -> str:
        """The name of this baseline in tables and legends."""
        return f"{self.method.metric}, plain"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""
        rng, _ = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        assert not isinstance(self.method.scale, str)
        stepping, zero = Stepping(self.method, self.method.scale), np.zeros_like(x)
        for k, step in enumerate(steps):
            gradients = problem.all_gradients(x, rng)
            trail.keep(x, gradients, x)
            x = mix(x) - step * stepping.steps(k, x, gradients, zero, np.ones_like(x))
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix)


def _run(
    name: str,
    problem: Problem,
    rounds: int,
    seed: int,
    stepsize: Stepsize,
    floor: float,
    remember: Callable[[Array, Array], Array],
) -> Log:
    rng, _ = streams(seed)
    mix, steps = metropolis(problem), mean_stepsizes(stepsize, rounds)
    trail, x = Trail(problem, rounds, problem.dimension), problem.start
    squares = np.zeros(x.shape)
    for step in steps:
        gradients = problem.all_gradients(x, rng)
        trail.keep(x, gradients, x)
        squares = remember(squares, gradients)
        x = mix(x) - step * gradients / (np.sqrt(squares) + floor)
    return trail.log(name, x, stepsizes=steps, weights=mix.matrix)
