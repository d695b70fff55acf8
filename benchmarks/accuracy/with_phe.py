"""What phe alone does: the article's iteration with it, and a server that adds its ciphertexts.

Both encrypt one number per ciphertext, as phe's own example does, and run in one process. No
message is sent: bytes are those of the ciphertexts alone, and wall time is CPU time shared by all
cores at best. Both favour phe in the comparison.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from phe import paillier

from cipherfleet_analysis.random_choices import Array
from cipherfleet_deploy.local.results import relative_error
from cipherfleet_node.core.optimiser import mean_stepsize

from .daemons import best_schedule, describe
from .result import Course, MethodResult, costs
from .scene import QuadraticProblem, Scene


@dataclass(frozen=True)
class PheMethod:
    """A method with phe; *rounds* yields the estimates and the ciphertexts sent of each round."""

    name: str
    title: str
    hides: str
    processes: str
    cores: int  # that share the CPU time at best
    rounds: Callable[[Scene], Iterator[tuple[Array, int]]]
    settings: Callable[[Scene], str]
    simulated: Callable[[Scene], Sequence[float]]
    is_available: bool = True

    def measure(self, scene: Scene) -> MethodResult:
        """Run some rounds, and return the costs, which follow from a simulation beyond them."""
        course = self._run(scene)
        return MethodResult(
            name=self.name,
            title=self.title,
            settings=self.settings(scene),
            hides=self.hides,
            processes=self.processes,
            rounds_run=course.rounds,
            last_error=course.errors[-1],
            costs=costs(course, self.simulated(scene)),
        )

    def _run(self, scene: Scene) -> Course:
        errors, sent, cpu_s = [], [0.0], []
        rounds = self.rounds(scene)
        next(rounds)  # keys
        began = time.process_time()
        for _ in range(scene.phe_rounds):
            estimates, ciphertexts = next(rounds)
            errors.append(relative_error(estimates, scene.problem.optimum))
            sent.append(sent[-1] + ciphertexts * ciphertext_bytes(scene))
            cpu_s.append(time.process_time() - began)
        return Course(errors, sent[1:], cpu_s, [each / self.cores for each in cpu_s])


def ciphertext_bytes(scene: Scene) -> int:
    """Return the bytes of one ciphertext, a number modulo n squared."""
    return 2 * scene.key_bits // 8


# -- the article's iteration --------------------------------------------------------------------


def _naive_rounds(scene: Scene) -> Iterator[tuple[Array, int]]:
    """Yield the rounds of x_i + sum_j a_ij (x_j - x_i) - lambda_k g_i, pairwise, keys first.

    Each node encrypts -x_i entry by entry for its neighbours. A neighbour answers
    h_j (x_j - x_i) under the same key, and the node opens it and multiplies by m_ij h_i.
    """
    problem, rng = scene.problem, np.random.default_rng(1)
    pairs = [
        paillier.generate_paillier_keypair(n_length=scene.key_bits) for _ in range(problem.nodes)
    ]
    x, d = np.zeros_like(problem.offsets), problem.dimension
    stepsize = best_schedule(scene)
    yield x, 0
    for k in count():
        half = rng.uniform(0.5, 1.0, (problem.nodes, problem.nodes))
        flows = np.zeros_like(x)
        for i, near in enumerate(problem.neighbours):
            public, private = pairs[i]
            query = [public.encrypt(-float(entry)) for entry in x[i]]
            for j in near:
                answer = [half[j, i] * c for c in query]
                own = [public.encrypt(float(half[j, i] * entry)) for entry in x[j]]
                opened = [private.decrypt(a + b) for a, b in zip(answer, own, strict=True)]
                flows[i] += problem.mixing[i, j] * half[i, j] * np.array(opened)
        x = x + flows - mean_stepsize(stepsize, k) * problem.gradients(x)
        yield x, 2 * problem.edges * 2 * d  # a query and an answer over each direction of a link


def _simulate_article(scene: Scene) -> list[float]:
    return scene.problem.simulate_article(best_schedule(scene), scene.simulated_rounds)


# -- a server -----------------------------------------------------------------------------------


def _server_rounds(scene: Scene) -> Iterator[tuple[Array, int]]:
    """Yield the rounds of a server that adds the clients' encrypted gradients, keys first."""
    problem = scene.problem
    public, private = paillier.generate_paillier_keypair(n_length=scene.key_bits)
    x, d = np.zeros(problem.dimension), problem.dimension
    yield np.tile(x, (problem.nodes, 1)), 0
    while True:
        gradients = problem.gradients(np.tile(x, (problem.nodes, 1)))
        total: list[Any] = [public.encrypt(float(entry)) for entry in gradients[0]]
        for own in gradients[1:]:
            encrypted = [public.encrypt(float(entry)) for entry in own]
            total = [a + b for a, b in zip(total, encrypted, strict=True)]
        mean = np.array([private.decrypt(each) for each in total]) / problem.nodes
        x = x - problem.best_step * mean
        yield np.tile(x, (problem.nodes, 1)), problem.nodes * d


def _simulate_server(scene: Scene) -> list[float]:
    return simulate_descent(scene.problem)


def simulate_descent(problem: QuadraticProblem, until: float = 1e-9) -> list[float]:
    """Return the errors of gradient descent on the mean objective with the best constant step."""
    x, errors = np.zeros(problem.dimension), [1.0]
    while errors[-1] > until:
        each = np.tile(x, (problem.nodes, 1))
        x = x - problem.best_step * problem.gradients(each).mean(axis=0)
        errors.append(relative_error(x[None], problem.optimum))
    return errors[1:]


PHE_METHODS = (
    PheMethod(
        "naive-phe",
        "article's method with phe, one ciphertext per number",
        hides="as the article's method; without its dither",
        processes=f"one; wall time as if {os.cpu_count()} cores shared it without loss",
        cores=os.cpu_count() or 1,
        rounds=_naive_rounds,
        settings=lambda scene: f"pairwise, stepsize {describe(best_schedule(scene))}",
        simulated=_simulate_article,
    ),
    PheMethod(
        "phe-server",
        "a server that adds phe ciphertexts",
        hides="single gradients; one key holder opens every sum, and the server knows the model",
        processes="one; clients and server in turn, as in phe's example",
        cores=1,
        rounds=_server_rounds,
        settings=lambda scene: f"gradient descent, step {scene.problem.best_step:.3g}",
        simulated=_simulate_server,
    ),
)
