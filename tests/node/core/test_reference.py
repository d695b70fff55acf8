"""The encrypted fleet against the plain reference iteration, and sums that must be zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cipherfleet_lab.reference import Array, Dither, iterate, stepsizes
from cipherfleet_node.core import exchange
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import (
    Algorithm,
    Attenuation,
    Column,
    Feature,
    ObjectiveSection,
    Stepsize,
)
from tests.support.memory_fleet import MemoryFleet
from tests.support.tolerances import assert_same_trajectories

Edges = list[tuple[str, str]]
RESOLUTION = 2.0**-32
D = 20  # three ciphertexts of a toy key
ROWS = 8
OPERATIONS = ROWS + D + 4 + 10  # of a round: readings, entries, neighbours, update


def graph(kind: str, n: int) -> Edges:
    names = [f"n{i}" for i in range(n)]
    match kind:
        case "ring":
            return [(names[i], names[(i + 1) % n]) for i in range(n)]
        case "star":
            return [(names[0], name) for name in names[1:]]
        case _:
            return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def names_of(edges: Edges) -> list[str]:
    return sorted({name for edge in edges for name in edge})


FIELDS = [f"v{index}" for index in range(D - 1)]
SQUARES = ObjectiveSection(
    kind="least_squares",
    target=Column(field="y"),
    features=[Feature(constant=1.0), *(Feature(field=name) for name in FIELDS)],
)
OBJECTIVES = {
    "average": ObjectiveSection(kind="average", values=[Column(field=f) for f in (*FIELDS, "y")]),
    "mean": ObjectiveSection(
        kind="mean", values=[Column(field=f) for f in (*FIELDS, "y")], minibatch=2
    ),
    "least_squares": SQUARES,
    "huber": ObjectiveSection(
        kind="huber",
        target=SQUARES.target,
        features=SQUARES.features,
        threshold=0.5,
        penalty=0.01,
        minibatch=3,
    ),
    "logistic": ObjectiveSection(
        kind="logistic",
        target=Column(field="class"),
        features=SQUARES.features,
        penalty=0.1,
        minibatch=4,
    ),
}


def readings(edges: Edges, rows: int = ROWS) -> dict[str, list[Sample]]:
    chance = np.random.default_rng(7)
    made: dict[str, list[Sample]] = {}
    for place, name in enumerate(names_of(edges)):
        made[name] = []
        for _ in range(rows):
            values = {field: float(chance.normal(0.2 * place)) for field in FIELDS}
            values["y"] = float(chance.normal(place))
            values["class"] = float(values["y"] > 1)
            made[name].append(Sample(values))
    return made


def algorithm(rounds: int, *, spread: float = 0.0, attenuated: bool = False) -> Algorithm:
    return Algorithm(
        method="article",
        rounds=rounds,
        stepsize=Stepsize(initial=0.05, decay=0.05, spread=spread),
        attenuation=Attenuation(scale=0.1, exponent=0.81) if attenuated else "none",
    )


def encrypted(
    edges: Edges, kind: str, settings: Algorithm, *, sealed: bool = False
) -> tuple[MemoryFleet, Array]:
    """The fleet after its last round, and all estimates as iterate() gives them."""
    fleet = MemoryFleet(
        edges, readings(edges), OBJECTIVES[kind], settings, seed=3, sealed=sealed, leaves_open=True
    )
    fleet.run()
    rounds = [[r.estimate for r in fleet.seats[name].reported] for name in names_of(edges)]
    assert all(len(reported) == settings.rounds for reported in rounds)
    return fleet, np.array(rounds).swapaxes(0, 1)


def plain(
    fleet: MemoryFleet, edges: Edges, kind: str, settings: Algorithm, dither: Dither | None
) -> Array:
    objectives = {}
    for name, samples in readings(edges).items():
        objectives[name] = make_objective(OBJECTIVES[kind])
        objectives[name].absorb(samples)
    assert settings.rounds is not None
    seeds = fleet.round_seed
    return iterate(
        edges,
        objectives,
        settings,
        RESOLUTION,
        seeds,
        settings.rounds,
        dither,
        sealed=fleet.sealed,
    )[1:]


def protocol_dither(fleet: MemoryFleet) -> Dither:
    """What each answerer adds: drawn from its own seed of the round."""
    return lambda answerer, asker, k, weight: exchange.dither(
        RoundRandomness(fleet.round_seed(answerer, k)), asker, weight, D
    )


CASES = [
    ("average", "ring", algorithm(20)),
    ("average", "star", algorithm(10)),
    ("average", "complete", algorithm(10, attenuated=True)),
    ("mean", "ring", algorithm(10, spread=1.0)),
    ("least_squares", "ring", algorithm(10, attenuated=True)),
    ("least_squares", "star", algorithm(10, spread=1.0)),
    ("least_squares", "complete", algorithm(10, spread=0.5, attenuated=True)),
    ("huber", "ring", algorithm(10, spread=1.0)),
    ("huber", "complete", algorithm(10)),
    ("logistic", "star", algorithm(10, spread=1.0, attenuated=True)),
    ("logistic", "ring", algorithm(10)),
]


def test_this_vector_is_larger_than_one_ciphertext() -> None:
    assert Layout(512, D).ciphertexts == 3


@pytest.mark.parametrize("sealed", [False, True], ids=["pairwise", "sealed"])
@pytest.mark.parametrize(("kind", "shape", "settings"), CASES)
def test_the_encrypted_fleet_equals_the_plain_reference(
    kind: str, shape: str, settings: Algorithm, sealed: bool
) -> None:
    """With the protocol's own dither nothing is left but the rounding of floating-point sums.

    The fleet counts in integers and scales once, the reference adds real numbers: some 10^-12 after
    all rounds. One resolution is 6e-8.
    """
    edges = graph(shape, 5)
    fleet, got = encrypted(edges, kind, settings, sealed=sealed)
    expected = plain(fleet, edges, kind, settings, protocol_dither(fleet))
    assert_same_trajectories(got, expected, RESOLUTION, operations=OPERATIONS)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("average", "ring"), ("average", "star"), ("mean", "complete"), ("least_squares", "ring")],
)
def test_the_fleet_equals_the_reference_without_dither_to_quantisation_error(
    kind: str, shape: str
) -> None:
    """|x - x'| <= 2.5 sqrt(n d) delta a round, root of the sum of squares over nodes and entries.

    One round maps the difference E of the two states by I - gamma L - lambda H (L the weighted
    Laplacian, H a symmetric Hessian, the same stepsize everywhere), of norm <= 1 while
    2 max_i sum_j a_ij + lambda |H| <= 2, and adds per entry
      - the dither, |UNIT sum_j H_ij M_ij e| < 2^-30 * 2^12 * 2^6 * 2^11 = 1/2 resolution;
      - two roundings with the same draw u: floor(x + u) - x lies in (u - 1, u] for both, so they
        differ by less than 1 at i and at j, and sum_j a_ij < 1: less than 2 resolutions.
    """
    settings, edges = algorithm(10), graph(shape, 5)
    fleet, got = encrypted(edges, kind, settings)
    expected = plain(fleet, edges, kind, settings, None)
    error = np.sqrt(((got - expected) ** 2).sum(axis=(1, 2))) / RESOLUTION
    bound = 2.5 * np.sqrt(len(names_of(edges)) * D) * np.arange(1, 11)
    assert np.all(error <= bound)
    assert error[-1] > 0.01, "with equal dither this test would say nothing"


@pytest.mark.parametrize("shape", ["ring", "star", "complete"])
def test_the_average_fleet_agrees_on_the_mean_of_its_readings(shape: str) -> None:
    """Independent of the reference: c sums to the dither alone, whose mean is zero."""
    edges = graph(shape, 5)
    _, got = encrypted(edges, "average", algorithm(80))
    own = [np.mean([list(s.values.values())[:D] for s in v], 0) for v in readings(edges).values()]
    # The start noise, 16 resolutions, and 80 rounds of dither, half a resolution at most each.
    assert np.abs(got[-1] - np.mean(own, axis=0)).max() < 2e-3
    assert np.abs(got[-1].mean(axis=0) - np.mean(own, axis=0)).max() < 56 * RESOLUTION


def test_the_reference_knows_the_uniform_law_only() -> None:
    with pytest.raises(
        ValueError, match=r"stepsize\.law is 'normal', the reference supports only 'uniform'"
    ):
        stepsizes(Stepsize(law="normal"), 0, 2, RoundRandomness(bytes(32)))


# -- the invariant of every exchange --------------------------------------------------------------


class Coupling:
    """Records each combined coupling term, as integers, by node and in the order of its rounds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_key: dict[bytes, list[list[int]]] = defaultdict(list)
        real = exchange.open_answers

        def note(
            key: Any, layout: Layout, answers: Mapping[str, exchange.Opening], **more: Any
        ) -> list[int]:
            opened = real(key, layout, answers, **more)
            self.by_key[key.public.fingerprint].append(opened)
            return opened

        monkeypatch.setattr(exchange, "open_answers", note)

    def sums(self, rounds: int) -> list[list[int]]:
        """Over all nodes, shape (rounds, d); exact."""
        assert {len(terms) for terms in self.by_key.values()} == {rounds}
        return [
            [sum(column) for column in zip(*(t[k] for t in self.by_key.values()), strict=True)]
            for k in range(rounds)
        ]


@pytest.mark.parametrize("shape", ["ring", "star", "complete"])
def test_coupling_terms_without_dither_sum_to_zero_exactly(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "dither", lambda *args: [0] * args[-1])
    coupling = Coupling(monkeypatch)
    encrypted(graph(shape, 6), "least_squares", algorithm(6, spread=1.0))
    assert coupling.sums(6) == [[0] * D] * 6
    assert any(any(entry) for terms in coupling.by_key.values() for entry in terms)


def test_coupling_terms_sum_to_the_weighted_dither_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coupling, edges = Coupling(monkeypatch), graph("star", 5)
    fleet, _ = encrypted(edges, "average", algorithm(5))
    dither = protocol_dither(fleet)
    degree = {name: len(fleet.neighbours[name]) for name in fleet.neighbours}
    for k, total in enumerate(coupling.sums(5)):
        expected = [0] * D
        for i, j in [*edges, *((b, a) for a, b in edges)]:
            own, theirs = (
                exchange.half_weight(RoundRandomness(fleet.round_seed(a, k)), b)
                for a, b in ((i, j), (j, i))
            )
            m = exchange.metropolis(degree[i], degree[j])
            noise = dither(j, i, k, theirs)
            expected = [s + own * m * e for s, e in zip(expected, noise, strict=True)]
        assert total == expected
        assert any(total)
