"""Convergence estimates and advice, against random weights and plain simulations.

All of it is in one file: estimates and the advice made of them are checked on the same graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cipherfleet_analysis.convergence import (
    HIGHEST,
    LOWEST,
    MEAN_SQUARE,
    USUAL_NOISE,
    AccuracyError,
    check_schedule,
    disagreement_floor,
    mean_square_contraction,
    noise_floor,
    round_noise,
    rounds_to_consensus,
    worst_contraction,
)
from cipherfleet_node.core.exchange import half_weight
from cipherfleet_node.core.quantiser import START_NOISE
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import Algorithm, Attenuation, Stepsize
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import MEAN, metropolis_laplacian, spectral_gap
from cipherfleet_provisioning.topology.section import Topology, TopologyError
from tests.support.tolerances import rounding_of_sums

Matrix = npt.NDArray[np.float64]

both = pytest.mark.parametrize("sealed", [False, True], ids=["pairwise", "sealed"])
TRIALS = 24
TOPOLOGIES = {
    "ring": Topology(kind="ring"),
    "line": Topology(kind="line"),
    "star": Topology(kind="star"),
    "grid": Topology(kind="grid"),
    "complete": Topology(kind="complete"),
    "random": Topology(kind="erdos_renyi", probability=0.6, seed=1),
    "geometric": Topology(kind="geometric", neighbours=4, seed=1),
}


def graph_of(kind: str, count: int) -> Graph:
    return build_graph(TOPOLOGIES[kind], [f"n{i}" for i in range(count)])


def some_graphs() -> list[Graph]:
    return [graph_of(kind, count) for kind in TOPOLOGIES for count in (4, 7, 11)]


@dataclass
class Averaging:
    """TRIALS independent runs of x <- x - B' (a * B x), every weight drawn as nodes draw it."""

    graph: Graph
    seed: int
    sealed: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        place = {node: i for i, node in enumerate(self.graph.ids)}
        self.ends = np.array([(place[a], place[b]) for a, b in self.graph.edges])
        self.incidence: Matrix = np.zeros((len(self.ends), len(place)))
        for row, (a, b) in enumerate(self.ends):
            self.incidence[row, a], self.incidence[row, b] = 1, -1
        degrees = [max(self.graph.degree(a), self.graph.degree(b)) for a, b in self.graph.edges]
        self.metropolis = np.array([64 // (1 + degree) / 64 for degree in degrees])

    def half_weights(self, trials: int = TRIALS) -> Matrix:
        """h of both ends of every edge, shape (2, trials, edges)."""
        if self.sealed:
            drawn = self.rng.integers(1024, 2048, (trials, len(self.graph.ids)))
            drawn = np.array([drawn[:, self.ends[:, side]] for side in (0, 1)])
        else:
            drawn = self.rng.integers(1024, 2048, (2, trials, len(self.ends)))
        return (2 * drawn + 1) / 4096

    def weights(self, trials: int = TRIALS) -> Matrix:
        """a of every edge, shape (trials, edges)."""
        here, there = self.half_weights(trials)
        result: Matrix = self.metropolis * here * there
        return result

    def readings(self) -> Matrix:
        """A third uniform, a third split along the slowest mode, a third one node apart."""
        n = len(self.graph.ids)
        x = self.rng.random((TRIALS, n))
        slowest = np.linalg.eigh(metropolis_laplacian(self.graph))[1][:, 1]
        x[: TRIALS // 3] = slowest > np.median(slowest)
        x[TRIALS // 3 : 2 * TRIALS // 3] = np.arange(n) == n - 1
        return x

    def step(self, x: Matrix) -> Matrix:
        result: Matrix = x - ((x @ self.incidence.T) * self.weights()) @ self.incidence
        return result

    def quantised_step(self, x: Matrix, resolution: float) -> Matrix:
        """The protocol's own arithmetic: rounding of the state, dither on either answer."""
        q = np.floor(x / resolution + self.rng.random(x.shape))
        h = self.half_weights()
        difference = q[:, self.ends[:, 1]] - q[:, self.ends[:, 0]]
        for own, sign, side in ((0, 1, 0), (1, -1, 1)):
            answerer = 4096 * h[1 - own]
            dither = np.floor(self.rng.random(h[0].shape) * answerer) - (answerer - 1) / 2
            term = self.metropolis * h[own] * (answerer * sign * difference + dither) / 4096
            x = x + resolution * term @ (self.incidence == (1, -1)[side]).astype(float)
        return x


# -- the law of the weights ---------------------------------------------------------------------


def test_half_weights_are_those_that_the_exchange_draws() -> None:
    """Fixed seeds: deterministic."""
    weights = np.array(
        [
            half_weight(RoundRandomness(bytes([i] * 32)), f"n{j}")
            for i in range(64)
            for j in range(64)
        ]
    )
    h = weights / 4096
    assert np.all(weights % 2 == 1)
    assert LOWEST == (2049 / 4096) ** 2 <= h.min() ** 2
    assert HIGHEST == (4095 / 4096) ** 2 >= h.max() ** 2
    assert MEAN == 0.75**2
    assert np.mean(h) == pytest.approx(np.sqrt(MEAN), abs=0.01)
    assert np.mean(h**2) == pytest.approx(np.sqrt(MEAN_SQUARE), abs=0.01)


@both
def test_mean_square_contraction_is_that_of_drawn_weights(sealed: bool) -> None:
    """Fixed seed: deterministic."""
    for graph in some_graphs():
        run = Averaging(graph, 3, sealed)
        n = len(graph.ids)
        weights = run.weights(20_000)
        total = np.zeros((n, n))
        for part in np.split(weights, 10):
            laplacians = (run.incidence.T * part[:, None]) @ run.incidence
            steps = (np.eye(n) - laplacians).reshape(-1, n)
            total += steps.T @ steps
        drawn = np.linalg.eigvalsh(total / len(weights) - np.full((n, n), 1 / n))[-1]
        assert mean_square_contraction(graph, sealed=sealed) == pytest.approx(drawn, abs=0.004)


def test_two_nodes_mix_as_their_one_weight_says() -> None:
    # a = h h'/2 on the one edge: a round multiplies the difference by 1 - h h'
    pair = graph_of("ring", 2)
    assert spectral_gap(pair) == pytest.approx(0.5625)
    for sealed in (False, True):
        rho = mean_square_contraction(pair, sealed=sealed)
        assert rho == pytest.approx(1 - 2 * 0.5625 + MEAN_SQUARE)
    assert worst_contraction(pair) == pytest.approx(1 - (2049 / 4096) ** 2)


def test_no_round_exceeds_the_worst_contraction() -> None:
    for graph in some_graphs():
        run = Averaging(graph, seed=4)
        x = run.readings()
        mean = x.mean(axis=1, keepdims=True)
        for _ in range(20):
            before, x = x, run.step(x)
            size = np.linalg.norm(x - mean, axis=1)
            most = worst_contraction(graph) * np.linalg.norm(before - mean, axis=1)
            assert np.all(
                size <= most + rounding_of_sums(10 * len(graph.ids), float(np.abs(x).max()))
            )


def test_the_worst_contraction_of_dense_bipartite_graphs_is_their_fastest_mode_s() -> None:
    # two sides of 31 nodes: m = 2/64, greatest eigenvalue 62 m; heavy weights overshoot the mean
    ids = [f"n{i}" for i in range(62)]
    edges = [(a, b) for a in ids[:31] for b in ids[31:]]
    graph = build_graph(Topology(edges=edges), ids)
    assert worst_contraction(graph) == pytest.approx(HIGHEST * 62 * 2 / 64 - 1)


@settings(max_examples=40)
@given(st.sampled_from(sorted(TOPOLOGIES)), st.integers(2, 64), st.booleans())
def test_every_connected_graph_mixes(kind: str, count: int, sealed: bool) -> None:
    try:
        graph = graph_of(kind, count)
    except TopologyError:
        return
    assert 0 < spectral_gap(graph) <= 1
    rho = mean_square_contraction(graph, sealed=sealed)
    assert (1 - spectral_gap(graph)) ** 2 <= rho + 1e-12 < 1
    assert rho <= worst_contraction(graph) ** 2 + 1e-12 < 1


# -- rounds -------------------------------------------------------------------------------------


def check_predicted_rounds(graph: Graph, seed: int, accuracy: float, *, sealed: bool) -> None:
    """Average for the predicted rounds: every node must be near enough, and not long before."""
    run = Averaging(graph, seed, sealed)
    x = run.readings()
    mean, reading_range = x.mean(axis=1, keepdims=True), np.ptp(x, axis=1)
    predicted = rounds_to_consensus(graph, accuracy, sealed=sealed).rounds
    needed = 0
    for k in range(predicted):
        if np.any(np.abs(x - mean).max(axis=1) > accuracy * reading_range):
            needed = k + 1
        x = run.step(x)
    assert np.all(np.abs(x - mean).max(axis=1) <= accuracy * reading_range)
    assert predicted <= 3 * needed


@both
@pytest.mark.parametrize("kind", sorted(TOPOLOGIES))
@pytest.mark.parametrize("count", range(2, 13))
def test_every_node_is_within_the_accuracy_after_the_predicted_rounds(
    kind: str, count: int, sealed: bool
) -> None:
    check_predicted_rounds(graph_of(kind, count), 100 + count, 1e-4, sealed=sealed)


@settings(max_examples=30)
@given(st.integers(3, 12), st.floats(0.2, 0.9), st.integers(0, 1000), st.booleans())
def test_predicted_rounds_suffice_on_random_graphs(
    count: int, probability: float, seed: int, sealed: bool
) -> None:
    topology = Topology(kind="erdos_renyi", probability=probability, seed=seed)
    try:
        graph = build_graph(topology, [f"n{i}" for i in range(count)])
    except TopologyError:
        assume(False)
    check_predicted_rounds(graph, seed, 1e-4, sealed=sealed)


@both
@pytest.mark.parametrize("kind", sorted(TOPOLOGIES))
def test_the_predicted_rounds_suffice_with_quantisation(kind: str, sealed: bool) -> None:
    accuracy, resolution, reading_range = 1e-2, 2.0**-14, 0.25
    graph = graph_of(kind, 8)
    run = Averaging(graph, 5, sealed)
    x = run.readings()
    x = reading_range * (x - x.min(axis=1, keepdims=True)) / np.ptp(x, axis=1)[:, None]
    mean = x.mean(axis=1, keepdims=True)
    x = x + resolution * START_NOISE * run.rng.uniform(-1, 1, x.shape)
    predicted = rounds_to_consensus(graph, accuracy, reading_range, resolution, sealed=sealed)
    for _ in range(predicted.rounds):
        x = run.quantised_step(x, resolution)
    assert np.all(np.abs(x - mean) <= accuracy * reading_range)


@both
@pytest.mark.parametrize("kind", sorted(TOPOLOGIES))
def test_one_round_adds_the_round_noise(kind: str, sealed: bool) -> None:
    """Fixed seed: deterministic."""
    # At 1/2 rounding goes up as often as down, which is where its variance is greatest.
    graph = graph_of(kind, 5)
    run = Averaging(graph, 8, sealed)
    start = np.full((TRIALS, 5), 0.5)
    change = np.concatenate([run.quantised_step(start, 1.0) - start for _ in range(2000)])
    noise = round_noise(graph, sealed=sealed)
    drawn = change.T @ change / len(change)
    assert np.abs(drawn - noise).max() < 0.02 * noise.max()
    assert drawn.sum() == pytest.approx(noise.sum(), rel=0.05)


def test_the_noise_floor_grows_with_the_drift_of_the_mean() -> None:
    graph = graph_of("line", 6)
    start, later = (
        noise_floor(graph, 1.0, 0, sealed=False),
        noise_floor(graph, 1.0, 1000, sealed=False),
    )
    assert later**2 - start**2 == pytest.approx(1000 * round_noise(graph, sealed=False).sum() / 36)
    assert start**2 == pytest.approx(
        disagreement_floor(graph, 1.0, sealed=False) ** 2 + START_NOISE**2 / 18
    )


@both
@pytest.mark.parametrize("kind", sorted(TOPOLOGIES))
def test_quantised_averaging_is_no_noisier_than_the_noise_floor(kind: str, sealed: bool) -> None:
    graph, rounds = graph_of(kind, 8), 400
    run = Averaging(graph, 6, sealed)
    x = START_NOISE * run.rng.uniform(-1, 1, (TRIALS, 8))
    settled = []
    for k in range(rounds):
        x = run.quantised_step(x, resolution=1.0)
        if k >= rounds / 2:
            settled.append((x - x.mean(axis=1, keepdims=True)) ** 2)
    disagreement = np.sqrt(np.mean(settled, axis=(0, 1)).max())
    floor = disagreement_floor(graph, 1.0, sealed=sealed)
    assert floor / 3 < disagreement <= 1.02 * floor
    error = np.sqrt(np.mean(x**2))
    drifted = noise_floor(graph, 1.0, rounds, sealed=sealed)
    assert drifted / 2 < error < 1.3 * drifted


def test_quantisation_noise_is_about_half_a_resolution_on_usual_graphs() -> None:
    usual = [
        *some_graphs(),
        build_graph(Topology(kind="geometric", neighbours=6, seed=1), [f"n{i}" for i in range(50)]),
    ]
    for graph in usual:
        assert 0.2 < disagreement_floor(graph, 1.0, sealed=False) < USUAL_NOISE
        assert disagreement_floor(graph, 1e-3, sealed=False) == pytest.approx(
            1e-3 * disagreement_floor(graph, 1.0, sealed=False)
        )


def test_a_fine_resolution_costs_no_rounds() -> None:
    graph = graph_of("geometric", 12)
    exact = rounds_to_consensus(graph, sealed=False).rounds
    assert (
        exact <= rounds_to_consensus(graph, resolution=2.0**-24, sealed=False).rounds <= exact + 1
    )


def test_an_accuracy_below_the_noise_is_refused_with_a_resolution_that_would_do() -> None:
    graph = graph_of("ring", 5)
    with pytest.raises(AccuracyError, match=r"2\^-\d+ is fine enough$") as caught:
        rounds_to_consensus(graph, 1e-4, 1.0, resolution=1e-3, sealed=False)
    power = int(str(caught.value).split("2^")[1].split()[0])
    assert rounds_to_consensus(graph, 1e-4, 1.0, 2.0**power, sealed=False).rounds > 1
    with pytest.raises(AccuracyError):
        rounds_to_consensus(graph, 1e-4, 1.0, 2.0 ** (power + 2), sealed=False)


def test_more_accuracy_takes_more_rounds_and_the_scale_of_the_readings_none() -> None:
    graph = graph_of("grid", 9)
    figures = [
        rounds_to_consensus(graph, accuracy, sealed=False).rounds
        for accuracy in (0.1, 1e-2, 1e-4, 1e-8)
    ]
    assert figures == sorted(set(figures))
    assert rounds_to_consensus(graph, 1e-4, 1e6, sealed=False) == rounds_to_consensus(
        graph, 1e-4, 1e-6, sealed=False
    )


def test_the_guaranteed_figure_wins_where_accuracy_is_loose() -> None:
    forecast = rounds_to_consensus(graph_of("line", 8), accuracy=0.1, sealed=False)
    assert forecast.rounds == forecast.guaranteed < forecast.expected
    forecast = rounds_to_consensus(graph_of("line", 8), accuracy=1e-4, sealed=False)
    assert forecast.rounds == forecast.expected < forecast.guaranteed


@pytest.mark.parametrize(
    ("accuracy", "reading_range", "resolution"),
    [(0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (1e-4, 0.0, 0.0), (1e-4, 1.0, -1.0), (float("nan"), 1, 0)],
)
def test_arguments_out_of_range_are_refused(
    accuracy: float, reading_range: float, resolution: float
) -> None:
    with pytest.raises(ValueError, match="accuracy must be in"):
        rounds_to_consensus(graph_of("ring", 3), accuracy, reading_range, resolution, sealed=False)


# -- the schedule -------------------------------------------------------------------------------


def algorithm(
    p: float = 1.0,
    u: float | None = None,
    *,
    decay: float = 0.05,
    scale: float = 0.1,
    resolution: str | float = "2^-24",
    spread: float = 1.0,
) -> Algorithm:
    return Algorithm(
        rounds=100,
        resolution=resolution,
        stepsize=Stepsize(decay=decay, exponent=p, spread=spread),
        attenuation="none" if u is None else Attenuation(scale=scale, exponent=u),
    )


def failing(settings_: Algorithm) -> set[str]:
    """The sums that check_schedule says fail, noise aside."""
    texts = [note.text for note in check_schedule(settings_) if note.level == "warn"]
    return {text.split(" is ")[0] for text in texts}


@pytest.mark.parametrize(
    ("p", "u", "sums"),
    [
        (1.0, 0.81, set()),
        (0.906, 0.81, set()),
        (0.905, 0.81, {"sum lambda^2/gamma"}),  # 2p - u is exactly 1
        (1.0, 1.0, {"sum lambda^2/gamma"}),
        (1.0, 0.99, set()),
        (1.0, 0.51, set()),
        (1.0, 0.5, {"sum gamma^2"}),
        (1.0, 1.01, {"sum gamma", "sum lambda^2/gamma"}),
        (1.01, 1.01, {"sum lambda", "sum gamma"}),
        (1.01, 0.81, {"sum lambda"}),
        (0.5, 0.81, {"sum lambda^2", "sum lambda^2/gamma"}),
        (0.7, 0.4, {"sum gamma^2", "sum lambda^2/gamma"}),
        (0.76, 0.51, set()),
        (0.0, 0.81, {"sum lambda^2", "sum lambda^2/gamma"}),
        (1.0, None, set()),
        (1.01, None, {"sum lambda"}),
        (0.51, None, set()),
        (0.5, None, {"sum lambda^2"}),
        (0.0, None, {"sum lambda^2"}),
        (1.0, 0.0, set()),  # gamma_k = 1/(1 + scale), constant
    ],
)
def test_the_failing_sums_are_named(p: float, u: float | None, sums: set[str]) -> None:
    assert failing(algorithm(p, u)) == sums
    levels = [note.level for note in check_schedule(algorithm(p, u))]
    assert ("ok" if not sums else "warn") == levels[0]


@given(st.integers(0, 150), st.integers(0, 150))
def test_the_conditions_are_those_of_the_articles(p: int, u: int) -> None:
    # in hundredths, so that the boundaries are exact
    wanted = {
        "sum lambda": p <= 100,
        "sum lambda^2": 2 * p > 100,
        "sum gamma": u <= 100,
        "sum gamma^2": 2 * u > 100 or u == 0,
        "sum lambda^2/gamma": 2 * p - u > 100 or u == 0,
    }
    assert failing(algorithm(p / 100, u / 100)) == {
        name for name, good in wanted.items() if not good
    }


def test_an_exponent_exactly_on_the_boundary_fails() -> None:
    # 2p - u = 1 in decimals; in binary fractions the sum falls on either side of it
    for u in range(51, 100):
        assert failing(algorithm((100 + u) / 200, u / 100)) == {"sum lambda^2/gamma"}
        assert failing(algorithm((101 + u) / 200, u / 100)) == set()


def test_a_decay_or_scale_of_zero_means_a_constant_sequence() -> None:
    assert failing(algorithm(1.0, decay=0)) == {"sum lambda^2"}
    assert failing(algorithm(1.2, decay=0)) == {"sum lambda^2"}
    assert "a constant stepsize" in check_schedule(algorithm(1.0, decay=0))[0].text
    assert check_schedule(algorithm(1.0, 1.2, scale=0)) == check_schedule(algorithm(1.0))


def test_the_advice_on_the_stepsize_exponent_can_be_followed() -> None:
    (note,) = [n for n in check_schedule(algorithm(0.6, 0.81)) if n.level == "warn"]
    assert note.remedy == "choose stepsize.exponent above 0.905"
    assert failing(algorithm(0.906, 0.81)) == set()


def test_attenuation_as_fast_as_any_stepsize_is_advised_to_slow_down() -> None:
    for u in (1.0, 1.2):
        *_, note = [n for n in check_schedule(algorithm(1.0, u)) if n.level == "warn"]
        assert "choose attenuation.exponent below 1" in note.remedy


def noise_note(settings_: Algorithm) -> Finding:
    (note,) = [n for n in check_schedule(settings_) if "quantisation noise of about" in n.text]
    return note


def test_no_attenuation_is_right_when_the_resolution_is_fine() -> None:
    assert noise_note(algorithm()).level == "ok"
    assert "3e-08" in noise_note(algorithm()).text
    assert noise_note(algorithm(resolution=0.00099)).level == "ok"


@pytest.mark.parametrize("resolution", [1e-3, 0.01, "2^-9", 1])
def test_a_coarse_resolution_without_attenuation_is_warned_of(resolution: str | float) -> None:
    assert noise_note(algorithm(resolution=resolution)).level == "warn"
    assert noise_note(algorithm(1.0, 0.81, scale=0, resolution=resolution)).level == "warn"
    assert noise_note(algorithm(1.0, 0.81, resolution=resolution)).level == "ok"


def test_the_warning_of_a_coarse_resolution_gives_the_noise() -> None:
    assert "quantisation noise of about 0.005 " in noise_note(algorithm(resolution=0.01)).text


def test_attenuation_at_a_fine_resolution_is_noted_as_slow() -> None:
    note = noise_note(algorithm(1.0, 0.81))
    assert note.level == "note"
    assert "attenuation: none" in note.text


def test_public_stepsizes_are_noted() -> None:
    assert check_schedule(algorithm(spread=0))[-1].level == "note"
    assert check_schedule(algorithm(spread=0.5))[-1].level == "ok"


def test_notes_are_single_lines() -> None:
    for p in (0.0, 0.7, 1.0, 1.2):
        for u in (None, 0.0, 0.4, 0.81, 1.2):
            for resolution in (1e-6, 0.1):
                for note in check_schedule(algorithm(p, u, resolution=resolution)):
                    assert "\n" not in note.text + note.remedy
                    assert note.text
