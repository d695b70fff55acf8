"""The lab's simulator: the adapter of the exchanges, both engines, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from cipherfleet_analysis import simulation
from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_analysis.random_choices import SeededRandomness
from cipherfleet_broker import start_broker
from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.results import Trajectory, relative_error
from cipherfleet_lab.cipherfleet import Cipherfleet
from cipherfleet_lab.problems import five_nodes
from cipherfleet_lab.simulation.engines import make_fleet_keys, run_core, run_vector
from cipherfleet_lab.simulation.large_graphs import large_graph, random_regular
from cipherfleet_lab.simulation.scenario import make_synthetic, scenario_of_fleet, spread_fleet
from cipherfleet_lab.systems import Array, Gradient, Log, Problem
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.errors import CipherfleetError, ConfigError, HeadroomExceeded
from cipherfleet_node.settings.sections import (
    Algorithm,
    Broker,
    ShieldName,
    Simulation,
    Stepsize,
    resolution_of,
)
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.section import Topology
from tests.support.command_line import run_here
from tests.support.launcher import shared_launcher
from tests.support.paths import ROOT
from tests.support.results import check_result
from tests.support.tolerances import UNIT_ROUNDOFF, assert_same_trajectories

SCALE = ROOT / "benchmarks" / "simulation_scale.py"
RING = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
Exchange = Literal["pairwise", "sealed"]
EXCHANGES: list[Exchange] = ["pairwise", "sealed"]
STEADY = Algorithm(stepsize=Stepsize(initial=0.3, decay=0.2, spread=0.0), attenuation="none")


def quadratic(noise: float = 0.0) -> Problem:
    """f_i = |x - y_i|^2 / 2 on a ring of five; the optimum is the mean of the y_i."""
    targets = np.random.default_rng(5).normal(size=(5, 3))

    def gradient(target: Array) -> Gradient:
        return lambda x, rng: x - target + noise * rng.standard_normal(3)

    return Problem(
        name="five quadratics",
        edges=RING,
        gradients=[gradient(target) for target in targets],
        start=np.full((5, 3), 3.0),
        objective=lambda x: float(((x - targets) ** 2).sum(axis=1).mean() / 2),
        optimum=targets.mean(axis=0),
    )


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_cipherfleet_system_comes_to_the_optimum(exchange: Exchange) -> None:
    problem = quadratic()
    log = Cipherfleet(exchange, STEADY).run(problem, 400, seed=1)
    assert log.estimates.shape == (401, 5, 3)
    start, end = (np.abs(log.estimates[k] - problem.optimum).max() for k in (0, -1))
    assert end < 0.01 * start


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_log_explains_every_step(exchange: Exchange) -> None:
    """Without spread, x_{k+1} - x_k = gamma_k c_k - lambda_k g_k."""
    log = Cipherfleet(exchange, STEADY).run(quadratic(noise=0.1), 20, seed=2)
    assert log.couplings is not None
    assert log.stepsizes is not None
    assert log.attenuations is not None
    step = log.attenuations[:, None, None] * log.couplings
    step = step - log.stepsizes[:, None, None] * log.gradients
    np.testing.assert_allclose(np.diff(log.estimates, axis=0), step, rtol=0, atol=1e-14)
    assert np.abs(log.couplings).max() > 0.01


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_fleet_with_a_quadratic_shield_comes_to_the_same_optimum(exchange: Exchange) -> None:
    """The matrices sum to zero, and they are not small: own gradients at the optimum differ."""
    problem = five_nodes()
    assert problem.optimum is not None
    shields: list[ShieldName] = ["none", "quadratic"]
    plain, shielded = (
        Cipherfleet(exchange, replace_shield(shield)).run(problem, 400, seed=1)
        for shield in shields
    )
    for log in (plain, shielded):
        assert np.abs(log.estimates[-1] - problem.optimum).max() < 1e-6
    added = shielded.added_curvatures
    assert added is not None
    np.testing.assert_allclose(added.sum(axis=(0, 1)), 0.0, atol=1e-15)
    assert np.abs(added.sum(axis=1)).max() > 0.1
    pull = np.einsum("nij,j->ni", added.sum(axis=1), problem.optimum)
    np.testing.assert_allclose(shielded.gradients[-1], plain.gradients[-1] + pull, atol=1e-6)


def test_a_linear_shield_leaves_the_curvature_as_it_is() -> None:
    log = Cipherfleet("pairwise", replace_shield("linear")).run(five_nodes(), 3, seed=1)
    assert log.added_curvatures is None
    assert log.first_duals is not None
    assert Cipherfleet("pairwise", replace_shield("linear")).name.endswith("linear shield")


def replace_shield(shield: ShieldName) -> Algorithm:
    return Algorithm(method="exact", resolution="2^-32", shield=shield)


def test_only_the_pairwise_exchange_opens_single_answers() -> None:
    pairwise, sealed = (Cipherfleet(name, STEADY).run(quadratic(), 3, 1) for name in EXCHANGES)
    assert sorted(pairwise.opened) == sorted([*RING, *((b, a) for a, b in RING)])
    assert {answers.shape for answers in pairwise.opened.values()} == {(3, 3)}
    assert not sealed.opened
    for log in (pairwise, sealed):
        assert log.sums is not None
        assert np.array_equal(log.sums, np.round(log.sums))
    assert all(np.array_equal(a, np.round(a)) for a in pairwise.opened.values())


def unguarded(exchange: Exchange) -> Log:
    system = Cipherfleet(exchange, STEADY, dither=False, half_weights=4095)
    return system.run(quadratic(), 10, seed=3)


def test_without_guards_an_answer_is_a_multiple_of_the_difference() -> None:
    log = unguarded("pairwise")
    for i, j in RING:
        assert np.array_equal(log.opened[i, j], -log.opened[j, i])
        assert not np.any(log.opened[i, j] % 4095)
    assert log.resolution is not None
    plain = log.estimates[:-1] / log.resolution
    for i, j in RING:  # q is less than one resolution off
        assert np.abs(log.opened[i, j] / 4095 - (plain[:, j] - plain[:, i])).max() < 2


def test_a_sum_is_the_weighted_sum_of_the_answers() -> None:
    """M = 21 on a ring; the pairwise sum holds the asker's own half weight, the sealed does not."""
    pairwise, sealed = unguarded("pairwise"), unguarded("sealed")
    assert pairwise.sums is not None
    assert sealed.sums is not None
    expected = 21 * (pairwise.opened[0, 1] + pairwise.opened[0, 4])
    np.testing.assert_allclose(pairwise.sums[:, 0] / 4095, expected, rtol=4 * UNIT_ROUNDOFF)
    for log, factor in ((pairwise, 1), (sealed, 4095)):
        assert log.resolution is not None
        assert log.sums is not None
        assert log.couplings is not None
        c = UNIT * factor * log.resolution * log.sums
        np.testing.assert_allclose(log.couplings, c, rtol=1e-15)
        assert np.abs(c.sum(axis=1)).max() < 1e-15
    assert pairwise.weights is not None
    np.testing.assert_allclose(pairwise.weights.sum(axis=1), 1.0)
    assert pairwise.weights[0, 1] == pytest.approx((4095 / 4096) ** 2 * 21 / 64)


def test_dither_leaves_no_common_factor() -> None:
    """What the guard is for: without it the answers of a round are multiples of H."""
    with_dither, without = (
        Cipherfleet("pairwise", STEADY, dither=dither).run(quadratic(), 50, seed=4)
        for dither in (True, False)
    )
    shared = [
        float(np.mean([np.gcd.reduce(row) > 2048 for row in log.opened[0, 1].astype(np.int64)]))
        for log in (with_dither, without)
    ]
    assert shared[0] == 0.0
    assert shared[1] == 1.0


def test_a_seed_gives_the_same_log_and_another_does_not() -> None:
    system = Cipherfleet("sealed", replace_spread(0.5))
    first, again, other = (system.run(quadratic(noise=0.1), 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.estimates, again.estimates)
    assert not np.array_equal(first.estimates, other.estimates)


def replace_spread(spread: float) -> Algorithm:
    return Algorithm(stepsize=Stepsize(initial=0.3, decay=0.2, spread=spread))


def test_the_name_of_a_system_names_its_missing_guards() -> None:
    system = Cipherfleet("pairwise", Algorithm(method="article"))
    assert system.name == "cipherfleet pairwise"
    assert Cipherfleet("pairwise").name == "cipherfleet pairwise, exact"
    assert replace(system, dither=False).name == "cipherfleet pairwise, no dither"


# -- the engines --------------------------------------------------------------------------------


FLEET = """\
config_version: 1
fleet: trial
crypto: {{key_bits: 512, allow_weak_keys: true, exchange: {exchange}}}
algorithm:
  rounds: {rounds}
  method: article
  stepsize: {{initial: 0.2, decay: 0.1, spread: 0.8}}
  attenuation: {{scale: 0.1, exponent: 0.81}}
objective:
  kind: least_squares
  target: {{field: y}}
  features: [{{constant: 1}}, {{field: a}}, {{field: b}}]{more}
topology: {{kind: geometric, neighbours: 2, seed: 3}}
nodes:
  - {{each: 6, id: "n{{n}}",
     sensor: {{kind: csv, path: readings.csv, where: {{room: "{{n}}"}}{rows}}}}}
"""

FOLLOWED = """\
config_version: 1
fleet: trial
algorithm: {rounds: 100}
objective:
  kind: least_squares
  target: {field: y}
  features: [{constant: 1}, {field: a}, {field: b}]
topology: {kind: complete}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: csv, path: readings.csv, where: {room: "{n}"}}}
  - {id: apart, role: follower}
"""


def fleet_file(
    folder: Path, exchange: Exchange = "sealed", rounds: int = 12, more: str = "", rows: str = ""
) -> Path:
    rng = np.random.default_rng(8)
    lines = ["room,a,b,y"]
    for room in range(1, 7):
        for _ in range(12):
            a, b = rng.normal(0.1 * room), rng.normal()
            lines.append(f"{room},{a:.6f},{b:.6f},{1 + 2 * a - b + 0.1 * rng.normal():.6f}")
    (folder / "readings.csv").write_text("\n".join(lines) + "\n")
    file = folder / "fleet.yaml"
    file.write_text(FLEET.format(exchange=exchange, rounds=rounds, more=more, rows=rows))
    return file


def by_core(fleet: Fleet, seed: int, *, encrypted: bool = False) -> Array:
    """All estimates, shape (rounds, n, d)."""
    assert fleet.file.algorithm.rounds is not None
    keys = make_fleet_keys(fleet, lambda _name: None) if encrypted else None
    return np.array(list(run_core(fleet, fleet.file.algorithm.rounds, seed, keys)))


@pytest.mark.fleet
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_core_engine_gives_the_daemons_estimates_bit_for_bit(
    exchange: Exchange, tmp_path: Path
) -> None:
    fleet = load_fleet(fleet_file(tmp_path, exchange))
    with start_broker("embedded") as broker:
        bundles = write_bundles(
            fleet,
            tmp_path / "nodes",
            Broker(host=broker.host, port=broker.port),
            Simulation(seed=7, trace_estimates=True),
        )
        with LocalFleet(bundles, 60.0, launcher=shared_launcher()) as nodes:
            nodes.start()
            nodes.wait()
        daemons = Trajectory.of(nodes, fleet.dimension).estimates
    assert daemons.shape == (12, 6, 3)
    assert np.array_equal(by_core(fleet, 7), daemons)
    assert not np.array_equal(by_core(fleet, 8), daemons)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("rows", ["", ", rows_per_round: 1"], ids=["recorded", "streamed"])
def test_without_encryption_the_estimates_are_the_same_bit_for_bit(
    exchange: Exchange, rows: str, tmp_path: Path
) -> None:
    fleet = load_fleet(fleet_file(tmp_path, exchange, 8, "\n  minibatch: 3", rows))
    assert np.array_equal(by_core(fleet, 3), by_core(fleet, 3, encrypted=True))


def test_a_fleet_without_any_reading_is_reported_as_stalled(tmp_path: Path) -> None:
    file = fleet_file(tmp_path)
    text = file.read_text()
    silent = "{kind: synthetic, fields: {a: {mean: 5}, b: {mean: 5}, y: {mean: 5}}, "
    silent += "limits: {a: [0, 1]}}}"
    file.write_text(text[: text.index("     sensor:")] + f"     sensor: {silent}\n")
    fleet = load_fleet(file)
    with pytest.raises(
        CipherfleetError, match=r"no node closed round 0 within .* s: the fleet is stalled"
    ):
        by_core(fleet, 1)
    with pytest.raises(ConfigError, match="has live sensors"):
        scenario_of_fleet(fleet)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("more", ["", "\n  minibatch: 3"], ids=["whole window", "minibatch"])
def test_the_vector_engine_equals_the_core_to_the_rounding_of_sums(
    exchange: Exchange, more: str, tmp_path: Path
) -> None:
    """The core multiplies by readings, the arrays by Hessians; both add in their own order."""
    fleet = load_fleet(fleet_file(tmp_path, exchange, 40, more))
    scenario = scenario_of_fleet(fleet)
    arrays = np.array(list(run_vector(scenario, 40, 3, own_choices=True)))
    agents = by_core(fleet, 3)
    assert_same_trajectories(arrays, agents, resolution_of(scenario.algorithm), operations=30)
    fast = np.array(list(run_vector(scenario, 40, 3, own_choices=False)))
    assert np.abs(arrays - fast).max() > 1e-6


def test_readings_that_come_with_the_rounds_change_what_the_core_finds(tmp_path: Path) -> None:
    whole = by_core(load_fleet(fleet_file(tmp_path)), 3)
    streamed = by_core(load_fleet(fleet_file(tmp_path, rows=", rows_per_round: 1")), 3)
    assert not np.array_equal(whole, streamed)


def test_fast_draws_and_the_nodes_own_come_equally_close(tmp_path: Path) -> None:
    """The mean error over 40 seeds; the deviations say how far apart two such means may lie.

    Fixed seeds: deterministic.
    """
    scenario = scenario_of_fleet(load_fleet(fleet_file(tmp_path, rounds=20)))
    assert scenario.optimum is not None
    errors = [
        [
            relative_error(
                list(run_vector(scenario, 20, seed, own_choices=own))[-1], scenario.optimum
            )
            for seed in range(40)
        ]
        for own in (True, False)
    ]
    spread_of_means = np.sqrt(sum(np.var(each) / 40 for each in errors))
    assert abs(np.mean(errors[0]) - np.mean(errors[1])) < 5 * spread_of_means


def test_a_fleet_that_diverges_is_refused_with_its_round(tmp_path: Path) -> None:
    file = fleet_file(tmp_path, rounds=60)
    file.write_text(file.read_text().replace("initial: 0.2, decay: 0.1", "initial: 30, decay: 0"))
    with pytest.raises(HeadroomExceeded, match=r"leaves the range of .* in round"):
        list(run_vector(scenario_of_fleet(load_fleet(file)), 60, 1, own_choices=False))


# -- many nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "degree"), [(4, 3), (8, 6), (9, 4), (20, 9), (1000, 3), (20_000, 6)]
)
def test_random_regular_graphs_are_regular_and_simple(nodes: int, degree: int) -> None:
    edges = random_regular(nodes, degree, seed=1)
    assert np.array_equal(np.bincount(edges.ravel()), np.full(nodes, degree))
    assert np.all(edges[:, 0] < edges[:, 1])
    assert len(np.unique(edges, axis=0)) == len(edges) == nodes * degree // 2
    if nodes > 4:
        assert not np.array_equal(edges, random_regular(nodes, degree, seed=2))


@pytest.mark.parametrize(("nodes", "degree"), [(7, 3), (5, 5), (10, 1)])
def test_regular_graphs_that_there_are_not_are_refused(nodes: int, degree: int) -> None:
    with pytest.raises(ConfigError, match="cannot have degree"):
        random_regular(nodes, degree, seed=1)


@pytest.mark.parametrize("section", [{"kind": "ring"}, {"kind": "geometric", "neighbours": 6}])
def test_large_graphs_are_those_of_the_topology(section: dict[str, Any]) -> None:
    topology = msgspec.convert({**section, "seed": 4} if len(section) > 1 else section, Topology)
    graph = build_graph(topology, [str(place) for place in range(300)])
    edges = large_graph(topology, 300)
    assert {(int(a), int(b)) for a, b in graph.edges} == {(int(a), int(b)) for a, b in edges}


def test_graphs_in_pieces_and_named_ones_are_refused() -> None:
    scattered = msgspec.convert({"kind": "geometric", "neighbours": 1, "seed": 4}, Topology)
    with pytest.raises(
        ConfigError, match=r"has \d+ components, must have 1; use more neighbours, or give --degree"
    ):
        large_graph(scattered, 300)
    for section in ({"kind": "star"}, {"edges": [("a", "b")]}):
        with pytest.raises(ConfigError, match="cannot be enlarged to 300 nodes; use ring,"):
            large_graph(msgspec.convert(section, Topology), 300)


def test_a_fleet_is_spread_over_more_nodes_with_the_same_answer(tmp_path: Path) -> None:
    fleet = load_fleet(fleet_file(tmp_path))
    large, own = spread_fleet(fleet, 600, degree=6), scenario_of_fleet(fleet)
    assert large.optimum is not None
    assert own.optimum is not None
    np.testing.assert_allclose(large.optimum, own.optimum, rtol=1e-12)
    gradient = large.gradients.evaluate(np.tile(large.optimum, (600, 1)), 0, SeededRandomness(1))
    np.testing.assert_allclose(gradient.mean(axis=0), 0.0, atol=1e-12)
    assert spread_fleet(fleet, 601 + 1, degree=6).optimum is None


def test_a_made_up_fleet_comes_to_its_optimum() -> None:
    scenario = make_synthetic(500, 6, 4, seed=1)
    assert scenario.optimum is not None
    last = list(run_vector(scenario, 300, 1, own_choices=False))[-1]
    assert relative_error(last, scenario.optimum) < 0.05


def test_blocks_do_not_change_the_coupling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers are drawn in the same order, whatever is worked on at a time."""
    scenario = make_synthetic(300, 6, 2, seed=1)
    whole = list(run_vector(scenario, 3, 1, own_choices=False))[-1]
    monkeypatch.setattr(simulation, "BLOCK", 50)
    np.testing.assert_array_equal(list(run_vector(scenario, 3, 1, own_choices=False))[-1], whole)


# -- the command --------------------------------------------------------------------------------


def simulate_json(*arguments: object) -> Any:
    result = CliRunner().invoke(cli, ["simulate", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return check_result("simulate-result", result.stdout)


def test_both_engines_tell_the_same_of_a_file(tmp_path: Path) -> None:
    file = fleet_file(tmp_path)
    arrays = simulate_json(file, "--seeds", 2)
    agents = simulate_json(file, "--seeds", 2, "--engine", "core")
    assert (arrays["engine"], agents["engine"]) == ("vector", "core")
    assert arrays["draws"] == agents["draws"] == "the nodes' own"
    for figure in ("relative_error", "disagreement"):
        for part in ("mean", "low", "high"):
            assert len(arrays[figure][part]) == 12
            assert agents[figure][part] == pytest.approx(arrays[figure][part], abs=1e-11)
    band = arrays["relative_error"]
    assert band["low"][-1] < band["mean"][-1] < band["high"][-1]


def test_a_follower_without_a_sensor_runs_in_both_engines(tmp_path: Path) -> None:
    file = fleet_file(tmp_path)
    file.write_text(FOLLOWED)
    fleet = load_fleet(file)
    scenario = scenario_of_fleet(fleet)
    assert scenario.optimum is not None
    size = np.linalg.norm(scenario.optimum)
    arrays = np.array(list(run_vector(scenario, 100, 1, own_choices=True)))
    agents = by_core(fleet, seed=1)
    for estimates in (arrays, agents):
        assert np.linalg.norm(estimates[-1] - scenario.optimum, axis=1).max() < 1e-3 * size
    np.testing.assert_allclose(agents, arrays, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["air", "rooms"])
def test_members_and_followers_of_an_example_end_at_the_optimum_of_the_members(name: str) -> None:
    fleet = load_fleet(ROOT / "examples" / name / "fleet.yaml")
    optimum = centralised_answer(fleet)
    assert optimum is not None
    assert {member.role for member in fleet.members} == {"member", "follower"}
    last = by_core(fleet, seed=1)[-1]
    distances = np.linalg.norm(last - optimum, axis=1) / np.linalg.norm(optimum)
    assert distances.max() < 1e-4


def test_the_method_of_the_command_line_is_simulated_by_both_engines() -> None:
    lab = ROOT / "examples" / "intel_lab" / "fleet.yaml"
    options = ("--nodes", 4, "--rounds", 30, "--method", "statistics")
    arrays = simulate_json(lab, *options)
    agents = simulate_json(lab, *options, "--engine", "core")
    assert arrays["dimension"] == agents["dimension"] == len(arrays["optimum"]) == 4
    for found in (arrays, agents):
        assert found["relative_error"]["mean"][-1] < 1e-3
    late = slice(20, None)  # the first statistics determine no solution, or an inaccurate one
    assert agents["relative_error"]["mean"][late] == pytest.approx(
        arrays["relative_error"]["mean"][late], rel=1e-3
    )
    more = simulate_json(lab, "--nodes", 100, "--rounds", 60, "--method", "statistics")
    assert more["relative_error"]["mean"][-1] < 0.1
    exact = simulate_json(lab, "--nodes", 4, "--rounds", 30, "--method", "exact")
    assert exact["relative_error"]["mean"][-1] > 0.05


def test_figures_and_plot_are_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli, ["simulate", str(fleet_file(tmp_path)), "--seeds", "2", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "sealed, vector engine, plaintext" in result.output
    assert "mean [least, greatest]" in result.output
    assert (out / "simulation.png").stat().st_size > 10_000
    assert json.loads((out / "simulation.json").read_text())["seeds"] == [1, 2]


def test_fewer_and_more_nodes_than_the_file_has(tmp_path: Path) -> None:
    file = fleet_file(tmp_path)
    assert simulate_json(file, "--nodes", 4)["nodes"] == 4
    more = simulate_json(file, "--nodes", 60, "--degree", 4)
    assert (more["nodes"], more["edges"], more["draws"]) == (60, 120, "fast")
    assert more["readings"] == "recorded readings of 6 nodes, each set used by 10 nodes"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--crypto", "on"], 2, "--crypto on needs --engine core"),
        (["--engine", "core"], 3, "the core engine runs only the nodes of a file"),
        (["--nodes", "7", "--degree", "3"], 3, "cannot have degree 3"),
        (["fleet.yaml", "--nodes", "9", "--degree", "1"], 2, "--degree"),
        (["fleet.yaml", "--nodes", "300"], 3, "fleet.yaml: a graph of 300 nodes with 2 neighbours"),
        (["nowhere.yaml"], 3, "nowhere.yaml"),
        (["--method", "exact"], 2, "--method needs FILE"),
        (["fleet.yaml", "--method", "statistics"], 3, "statistics is from --method"),
    ],
)
def test_what_cannot_be_simulated_is_an_error(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    fleet_file(tmp_path, more="\n  minibatch: 4")  # not for method statistics
    ended = run_here("simulate", *arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    first, *excerpt = ended.stderr.splitlines()
    assert message in first
    assert all("|" in line for line in excerpt)


def test_the_core_engine_encrypts_on_request(tmp_path: Path) -> None:
    flags = ("--rounds", 3, "--engine", "core")
    file = fleet_file(tmp_path)
    secret, clear = simulate_json(file, *flags, "--crypto", "on"), simulate_json(file, *flags)
    assert (secret["encrypted"], clear["encrypted"]) == (True, False)
    assert secret["relative_error"] == clear["relative_error"]


def test_the_scale_benchmark_up_to_a_hundred_thousand_nodes() -> None:
    """Its memory and its arithmetic; times are for its --gate, not for a busy machine."""
    sizes = ("--nodes", "1000", "10000", "100000", "--rounds", "2", "--repeats", "1", "--json")
    ended = subprocess.run(
        [sys.executable, SCALE, *sizes], capture_output=True, text=True, check=True
    )
    told_ = json.loads(ended.stdout)
    costs = told_["costs"]
    assert [cost["edges"] for cost in costs] == [3_000, 30_000, 300_000]
    for cost in costs:
        assert cost["ns_per_node"] * cost["nodes"] == pytest.approx(
            1e9 * cost["cpu_seconds_per_round"]
        )
    slope = np.log(costs[2]["cpu_seconds_per_round"] / costs[0]["cpu_seconds_per_round"]) / np.log(
        100
    )
    assert told_["growth"] == pytest.approx(slope)  # equally spaced: the middle does not count
    # 100,000 nodes: links, weights and draws are 24 MB, Hessians 13 MB, and what they are made of.
    assert costs[2]["peak_memory_mib"] - costs[0]["peak_memory_mib"] < 150
