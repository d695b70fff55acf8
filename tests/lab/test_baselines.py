"""The systems that cipherfleet is compared with, each against a solution known without it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_lab import problems
from cipherfleet_lab.baselines import (
    AdaGrad,
    Consensus,
    DifferentialPrivacy,
    Dsgd,
    Extra,
    GradientTracking,
    Nids,
    Obfuscation,
    PaillierRing,
    PlainMetric,
    PushSum,
    RmsProp,
    Ternary,
)
from cipherfleet_lab.baselines.differential_privacy import clip_gradients, epsilon
from cipherfleet_lab.baselines.ring import generate_small_key, sum_along_ring
from cipherfleet_lab.baselines.ternary import ternary
from cipherfleet_lab.measures import mean_squared_error, relative_error, stationarity
from cipherfleet_lab.mixing import equal_shares, metropolis
from cipherfleet_lab.systems import Array, Log, Problem, System
from cipherfleet_node.settings.sections import Stepsize

EXACT = problems.five_nodes(noise=0.0)
OPTIMUM = np.asarray(EXACT.optimum)
SHRINKING = Stepsize(initial=0.3, decay=0.05, exponent=1.0)
CONSTANT = Stepsize(initial=0.05, decay=0.0)
# One way round, with two short cuts: nodes hear from one to three others.
ARCS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (1, 0)]
STARTS = np.array([[1.0, 0.0], [2.0, 5.0], [6.0, 1.0], [-3.0, 4.0], [4.0, 0.0]])
AVERAGES = problems.averages(STARTS, problems.FIVE_EDGES)

SYSTEMS: list[System] = [
    Dsgd(SHRINKING),
    Consensus(),
    Ternary(SHRINKING, bound=8.0),
    Obfuscation(SHRINKING, deviation=1.0),
    DifferentialPrivacy(SHRINKING, clip=1.0, multiplier=5.0),
    AdaGrad(SHRINKING),
    RmsProp(SHRINKING),
    GradientTracking(0.1),
    Nids(0.1),
    Extra(0.1),
    PushSum(SHRINKING, ARCS),
    PaillierRing(SHRINKING),
]


def named(system: System) -> str:
    return system.name


def pulls_of(log: Log) -> Array:
    """A_i (x_i - y_i) of five nodes, from their estimates before each round."""
    away = log.estimates[:-1] - problems.FIVE_CENTRES
    pulls: Array = np.einsum("nij,knj->kni", problems.FIVE_CURVATURES, away)
    return pulls


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_a_log_is_repeated_by_its_seed_alone(system: System) -> None:
    problem = problems.five_nodes()
    first, again, other = (system.run(problem, 20, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.estimates, again.estimates)
    assert isinstance(system, Consensus) or not np.array_equal(first.estimates, other.estimates)
    assert first.system == system.name
    assert first.estimates.shape == (21, 5, 2)
    assert first.estimates[0] == pytest.approx(problem.start)


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_the_logged_gradients_are_those_at_the_logged_estimates(system: System) -> None:
    log = system.run(EXACT, 20, 1)
    truth = np.zeros_like(log.gradients) if isinstance(system, Consensus) else pulls_of(log)
    assert log.gradients == pytest.approx(truth, abs=1e-12)


def test_one_seed_gives_all_systems_the_same_noise_on_their_gradients() -> None:
    problem = problems.five_nodes()
    noise = [(log := s.run(problem, 5, 3)).gradients - pulls_of(log) for s in SYSTEMS[2:]]
    for other in noise:
        assert other == pytest.approx(noise[0], abs=1e-12)


@pytest.mark.parametrize("nodes", [12, 400])
def test_metropolis_weights_are_symmetric_and_their_rows_sum_to_one(nodes: int) -> None:
    star = problems.averages(np.zeros((nodes, 1)), [(0, i) for i in range(1, nodes)])
    mix = metropolis(star)
    assert mix.matrix is not None
    assert mix.matrix == pytest.approx(mix.matrix.T)
    assert mix.matrix.sum(axis=0) == pytest.approx(1.0)
    assert mix.matrix[0, 1] == pytest.approx(1 / nodes)
    x = np.random.default_rng(0).normal(size=(nodes, 3))
    assert mix(x) == pytest.approx(mix.matrix @ x)


# -- descent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "problem", [EXACT, problems.logistic(), problems.intel_lab()], ids=lambda p: str(p.name)
)
def test_descent_approaches_the_optimum(problem: Problem) -> None:
    log = Dsgd(Stepsize(initial=0.4, decay=0.02)).run(problem, 2000, 1)
    error = relative_error(log, problem)
    assert error[0] == pytest.approx(1.0)
    assert error[-1] < 0.03
    assert error[-1] < 0.65 * error[1000]  # it follows lambda_k, which halves
    assert log.broadcast == pytest.approx(log.estimates[:-1])


def test_descent_with_constant_steps_rests_where_a_linear_system_says() -> None:
    log = Dsgd(CONSTANT).run(EXACT, 3000, 1)
    assert log.weights is not None
    # (I - W) x + lambda (A_i x_i - A_i y_i) = 0, all entries of all nodes in one vector
    blocks = np.zeros((10, 10))
    for node, curvature in enumerate(problems.FIVE_CURVATURES):
        blocks[2 * node : 2 * node + 2, 2 * node : 2 * node + 2] = 0.05 * curvature
    right = blocks @ problems.FIVE_CENTRES.ravel()
    rest = np.linalg.solve(np.kron(np.eye(5) - log.weights, np.eye(2)) + blocks, right)
    assert log.estimates[-1].ravel() == pytest.approx(rest, abs=1e-9)
    assert np.abs(rest.reshape(5, 2) - OPTIMUM).max() > 0.01


def test_descent_finds_a_stationary_point_of_a_problem_that_is_not_convex() -> None:
    problem = problems.non_convex()
    log = Dsgd(Stepsize(initial=1.0, decay=0.005)).run(problem, 2000, 1)
    left = stationarity(log, problem)
    assert left[-1] < 0.01 < left[0]
    assert log.estimates[-1].mean(axis=0) == pytest.approx([0.5, -1.0], abs=0.1)


def test_consensus_reaches_the_mean_as_fast_as_the_second_eigenvalue_says() -> None:
    log = Consensus().run(AVERAGES, 60, 1)
    assert log.weights is not None
    assert log.estimates[-1] == pytest.approx(np.tile([2.0, 2.0], (5, 1)), abs=1e-9)
    error = np.sqrt(mean_squared_error(log, AVERAGES))
    second = np.sort(np.abs(np.linalg.eigvalsh(log.weights)))[-2]
    assert np.all(error <= error[0] * second ** np.arange(61) + 1e-12)


def test_gradient_tracking_reaches_the_optimum_itself_with_constant_steps() -> None:
    for problem, rounds in ((EXACT, 1500), (problems.logistic(), 1500)):
        log = GradientTracking(0.1).run(problem, rounds, 1)
        assert relative_error(log, problem)[-1] < 1e-9


@pytest.mark.parametrize("system", [Nids(0.4), Extra(0.2)], ids=named)
def test_corrected_iterations_reach_the_optimum_itself_with_constant_steps(system: System) -> None:
    log = system.run(EXACT, 600, 1)
    assert relative_error(log, EXACT)[-1] < 1e-9


def test_the_first_rounds_of_nids_are_those_of_its_formula() -> None:
    log = Nids(0.4).run(EXACT, 2, 1)
    assert log.weights is not None
    x, (first, second) = EXACT.start, log.gradients
    mean = 0.5 * (np.eye(5) + log.weights)
    once = x - 0.4 * first
    assert log.estimates[1] == pytest.approx(once)
    assert log.estimates[2] == pytest.approx(mean @ (2 * once - x - 0.4 * (second - first)))


def test_the_first_rounds_of_extra_are_those_of_its_formula() -> None:
    log = Extra(0.2).run(EXACT, 2, 1)
    assert log.weights is not None
    x, (first, second) = EXACT.start + 0.0, log.gradients
    mean = 0.5 * (np.eye(5) + log.weights)
    once = log.weights @ x - 0.2 * first
    twice = once + log.weights @ once - mean @ x - 0.2 * (second - first)
    assert log.estimates[1] == pytest.approx(once)
    assert log.estimates[2] == pytest.approx(twice)


def test_gradient_tracking_solves_the_lab_problem_to_a_thousandth_in_a_thousand_rounds() -> None:
    problem = problems.intel_lab()
    assert relative_error(GradientTracking(0.1).run(problem, 1000, 1), problem)[-1] < 1e-3


def test_trackers_sum_to_the_gradients_in_every_round() -> None:
    log = GradientTracking(0.1).run(problems.five_nodes(), 50, 1)
    assert log.broadcast is not None
    assert log.broadcast[:, :, :2] == pytest.approx(log.estimates[:-1])
    assert log.broadcast[:, :, 2:].sum(axis=1) == pytest.approx(log.gradients.sum(axis=1))


# -- ternary ------------------------------------------------------------------------------------


def test_ternary_values_are_three_and_unbiased() -> None:
    """Within five standard errors. Fixed seed: deterministic."""
    values, rng = np.array([-3.0, -0.5, 0.0, 1.0, 2.9]), np.random.default_rng(1)
    drawn = np.array([ternary(values, 3.0, rng) for _ in range(20_000)])
    assert set(np.unique(drawn)) == {-3.0, 0.0, 3.0}
    variance = np.abs(values) * 3.0 - values**2
    assert np.abs(drawn.mean(axis=0) - values) == pytest.approx(
        0.0, abs=5 * math.sqrt(variance.max() / len(drawn))
    )
    assert drawn.var(axis=0) == pytest.approx(variance, rel=0.05, abs=0.05)


def test_ternary_values_beyond_the_bound_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reached 3\.5, .* up to 3"):
        ternary(np.array([[1.0, -3.5]]), 3.0, np.random.default_rng(1))
    with pytest.raises(ValueError, match="reached nan"):
        ternary(np.array([[np.nan]]), 3.0, np.random.default_rng(1))


def test_ternary_descent_sends_three_values_and_approaches_the_optimum() -> None:
    system = Ternary(Stepsize(initial=0.3, decay=0.05), bound=8.0)
    logs = [system.run(EXACT, 3000, seed) for seed in range(5)]
    assert logs[0].broadcast is not None
    assert set(np.unique(logs[0].broadcast)) == {-8.0, 0.0, 8.0}
    errors = np.mean([relative_error(log, EXACT) for log in logs], axis=0)
    assert errors[-1] < 0.3 < errors[20]


def test_ternary_mixing_leaves_the_mean_alone() -> None:
    log = Ternary(SHRINKING, bound=12.0).run(AVERAGES, 200, 1)
    assert log.estimates.mean(axis=1) == pytest.approx(np.full((201, 2), 2.0))


# -- obfuscation --------------------------------------------------------------------------------


def test_obfuscations_hide_what_is_sent_and_cancel_over_the_network() -> None:
    log = Obfuscation(SHRINKING, deviation=3.0).run(problems.five_nodes(), 40, 1)
    assert log.broadcast is not None
    assert log.stepsizes is not None
    off = log.broadcast - log.estimates[:-1]
    assert off.sum(axis=1) == pytest.approx(0.0, abs=1e-12)
    assert np.sqrt((off**2).mean(axis=(1, 2)) / log.stepsizes**2).min() > 1.0
    expected = np.zeros_like(off)
    for (sender, receiver), result in log.between.items():
        expected[:, receiver] += log.stepsizes[:, None] * result
        expected[:, sender] -= log.stepsizes[:, None] * result
    assert off == pytest.approx(expected, abs=1e-12)
    assert len(log.between) == 2 * len(problems.FIVE_EDGES)


def test_the_mean_of_obfuscated_estimates_descends_as_if_nothing_were_hidden() -> None:
    log = Obfuscation(SHRINKING, deviation=3.0).run(problems.five_nodes(), 40, 1)
    assert log.stepsizes is not None
    moved = np.diff(log.estimates.mean(axis=1), axis=0)
    assert moved == pytest.approx(-log.stepsizes[:, None] * log.gradients.mean(axis=1))


# -- differential privacy -----------------------------------------------------------------------


def test_epsilon_is_the_one_worked_out_by_hand() -> None:
    # 50 messages, the first of them public: rho = 49/(2 * 10^2) = 0.245
    # epsilon = 0.245 + 2 sqrt(0.245 ln 10^5) = 0.245 + 2 sqrt(2.8206667) = 3.6039682
    log = DifferentialPrivacy(SHRINKING, clip=1.0, multiplier=10.0).run(EXACT, 50, 1)
    assert log.figures["rho"] == pytest.approx(0.245)
    assert log.figures["epsilon"] == pytest.approx(3.6039682, abs=1e-6)
    assert epsilon(0.0, 1e-5) == 0.0


def test_no_noise_is_no_privacy() -> None:
    log = DifferentialPrivacy(SHRINKING, clip=1.0, multiplier=0.0).run(EXACT, 5, 1)
    assert log.figures["epsilon"] == math.inf


def test_the_noise_on_a_message_has_the_deviation_that_is_accounted() -> None:
    """Fixed seeds: deterministic."""
    system = DifferentialPrivacy(SHRINKING, clip=0.7, multiplier=5.0)
    noise = []
    for seed in range(600):
        log = system.run(EXACT, 4, seed)
        assert log.broadcast is not None
        noise.append(log.broadcast - log.estimates[:-1])
    assert log.stepsizes is not None
    wanted = [0.0, *(5.0 * 2.0 * 0.7 * log.stepsizes[:-1])]
    assert np.std(noise, axis=(0, 2, 3)) == pytest.approx(np.array(wanted), rel=0.05)
    assert np.mean(noise, axis=(0, 2, 3)) == pytest.approx(0.0, abs=0.2)


def test_other_readings_move_a_message_no_further_than_the_sensitivity() -> None:
    system = DifferentialPrivacy(SHRINKING, clip=0.7, multiplier=5.0)

    def pulled(strength: float) -> Problem:
        def together(x: Array, rng: np.random.Generator) -> Array:
            del rng
            return np.concatenate([[[strength, 0.0]], np.zeros((len(x) - 1, 2))])

        return replace(EXACT, vectorised=together)

    ways = [system.run(pulled(strength), 1, 1).estimates[1, 0] for strength in (-9.0, 9.0, 0.1)]
    assert np.linalg.norm(ways[0] - ways[1]) == pytest.approx(2 * 0.3 * 0.7)
    assert np.linalg.norm(ways[0] - ways[2]) < 2 * 0.3 * 0.7


def test_clipping_shortens_what_is_long_and_nothing_else() -> None:
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert clip_gradients(rows, 1.0) == pytest.approx(
        np.array([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    )


# -- adaptive stepsizes -------------------------------------------------------------------------


def test_newton_as_a_plain_stepsize_settles_where_the_local_newton_steps_cancel() -> None:
    """Independently solved: sum_i M_i (A_i x - A_i y_i) = 0. It is far from the optimum."""
    problem = problems.five_nodes(noise=0.0)
    bounds = problems.FIVE_CURVATURES * np.array([1, 8, 1, 3, 1])[:, None, None]
    method = ExactMethod(0.1, np.ones(5), 1.0, metric="newton", bounds=bounds)
    log = PlainMetric(Stepsize(initial=0.5, decay=0.05), method).run(problem, 3000, 1)
    inverse = np.linalg.inv(bounds)  # every eigenvalue exceeds REACH c0
    pulls = np.einsum("nij,njk->nik", inverse, problems.FIVE_CURVATURES)
    rest = np.linalg.solve(pulls.sum(0), np.einsum("nij,nj->i", pulls, problems.FIVE_CENTRES))
    assert problem.optimum is not None
    assert np.linalg.norm(rest - problem.optimum) > 0.1
    np.testing.assert_allclose(log.estimates[-1].mean(axis=0), rest, rtol=0, atol=0.02)


def test_adagrad_settles_where_the_weighted_gradients_cancel() -> None:
    log = AdaGrad(Stepsize(initial=0.5, decay=0.0)).run(EXACT, 40_000, 1)
    steps = 1.0 / np.sqrt(np.sum(log.gradients**2, axis=0))  # D_i, from the truth alone
    # sum_i D_i A_i (x - y_i) = 0 is a linear system
    weighted = steps[:, :, None] * problems.FIVE_CURVATURES
    right = np.einsum("nij,nj->i", weighted, problems.FIVE_CENTRES)
    biased = np.linalg.solve(weighted.sum(axis=0), right)
    assert log.estimates[-1].mean(axis=0) == pytest.approx(biased, abs=0.01)
    assert np.linalg.norm(biased - OPTIMUM) > 0.1


def test_rmsprop_settles_where_scaled_gradients_cancel() -> None:
    floor = 0.5
    system = RmsProp(Stepsize(initial=0.2, decay=0.01, exponent=1.0), floor=floor)
    log = system.run(EXACT, 40_000, 1)

    def balance(x: Array) -> Array:
        pulls = np.einsum("nij,nj->ni", problems.FIVE_CURVATURES, x - problems.FIVE_CENTRES)
        total: Array = np.sum(pulls / (np.abs(pulls) + floor), axis=0)
        return total

    from scipy.optimize import root

    biased = root(balance, OPTIMUM)
    assert biased.success
    assert log.estimates[-1].mean(axis=0) == pytest.approx(biased.x, abs=0.01)
    assert np.linalg.norm(biased.x - OPTIMUM) > 0.1


# -- one-way links ------------------------------------------------------------------------------


def test_push_sum_corrects_what_one_way_links_distort() -> None:
    shares = equal_shares(5, ARCS).matrix
    assert shares is not None
    assert shares.sum(axis=0) == pytest.approx(1.0)
    assert np.abs(shares.sum(axis=1) - 1.0).max() > 0.3
    corrected = PushSum(SHRINKING, ARCS).run(AVERAGES, 200, 1)
    plain = PushSum(SHRINKING, ARCS, corrected=False).run(AVERAGES, 200, 1)
    assert corrected.estimates[-1] == pytest.approx(np.tile([2.0, 2.0], (5, 1)), abs=1e-9)
    # Plain mixing ends at the eigenvector of eigenvalue 1, times the sum of the starts.
    values, vectors = np.linalg.eig(shares)
    perron = np.real(vectors[:, np.argmax(np.real(values))])
    expected = np.outer(perron / perron.sum(), STARTS.sum(axis=0))
    assert plain.estimates[-1] == pytest.approx(expected, abs=1e-9)
    assert np.abs(plain.estimates[-1] - 2.0).max() > 0.5


def test_push_sum_descends_to_the_optimum_over_one_way_links() -> None:
    steps = Stepsize(initial=0.3, decay=0.05)
    corrected = PushSum(steps, ARCS).run(EXACT, 3000, 1)
    plain = PushSum(steps, ARCS, corrected=False).run(EXACT, 3000, 1)
    assert relative_error(corrected, EXACT)[-1] < 0.01
    assert relative_error(plain, EXACT)[-1] > 0.1


# -- a key holder -------------------------------------------------------------------------------


def test_the_ring_sums_exactly_with_signs() -> None:
    rng = np.random.default_rng(1)
    key = generate_small_key(256, rng)
    assert key.public.bits == 256
    values = np.array([[3.0, -7.0, 0.0], [-5.0, -(2.0**40), 1.0], [1.0, 2.0, -1.0]])
    assert sum_along_ring(key, values, rng) == [-1, -5 - 2**40, 0]


def test_the_key_holder_sees_the_sum_that_steers_the_fleet() -> None:
    problem = problems.five_nodes()
    log = PaillierRing(SHRINKING).run(problem, 30, 1)
    assert log.served is not None
    assert log.stepsizes is not None
    assert log.served == pytest.approx(log.estimates[:-1].sum(axis=1), abs=1e-6)
    expected = log.served[:, None] / 5 - log.stepsizes[:, None, None] * log.gradients
    assert log.estimates[1:] == pytest.approx(expected)
    assert log.broadcast is None
    assert relative_error(PaillierRing(SHRINKING).run(EXACT, 300, 1), EXACT)[-1] < 0.05
