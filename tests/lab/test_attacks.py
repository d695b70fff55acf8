"""Every attack of the lab, in pairs: it succeeds with the guard off and fails with it on.

All of it is in one file: the tests share their cases, and some go through the whole catalogue.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from cipherfleet_lab.attacks.catalogue import ATTACKS
from cipherfleet_lab.attacks.coalition import observe_differences, observe_sums
from cipherfleet_lab.attacks.common_factor import (
    common_factor,
    divisor,
    weight_by_gcd,
    weight_by_remainders,
)
from cipherfleet_lab.attacks.eavesdropper import eavesdropper, key_holder, observer
from cipherfleet_lab.attacks.guards import GuardedRandomness
from cipherfleet_lab.attacks.isolation import (
    NODES,
    ROUNDS,
    SCENE,
    CuriousAskers,
    OpenedSum,
    departed_errors,
    late_answers,
)
from cipherfleet_lab.attacks.leakage import (
    leakage_of_round,
    leakage_of_several,
    leakage_of_telescoped,
    leakage_of_truth,
    match_gradients,
    sample_error,
    samples,
    solve_closed_form,
)
from cipherfleet_lab.attacks.members import OVERREACHED, distance, exaggerating, others
from cipherfleet_lab.attacks.names import ROUND_GUARDS, GraphName, Guard
from cipherfleet_lab.attacks.neighbours import direction, triangulation, triangulation_by_two
from cipherfleet_lab.attacks.one_exchange import HALF_WEIGHTS, NEIGHBOURS, run_exchange
from cipherfleet_lab.attacks.randomness import randomness_of_answers, weight_by_randomness
from cipherfleet_lab.attacks.result import (
    AttackOutcome,
    AttackResult,
    error_by_round,
    relative_error,
)
from cipherfleet_lab.attacks.round_table import PAIRS, Pair, markdown, run_pairs
from cipherfleet_lab.attacks.second_moments import (
    KnownShield,
    Prior,
    Seen,
    fit,
    on_motes,
    second_moments,
    second_moments_by_partners,
    true_second_derivative,
)
from cipherfleet_lab.attacks.separation import errors_of, separate, separate_running_fleet
from cipherfleet_lab.attacks.subjects import GRAPHS, AttackCase
from cipherfleet_lab.attacks.telescoping import (
    one_round,
    telescoping,
    telescoping_but_one,
    telescoping_by_partners,
)
from cipherfleet_lab.attacks.wiretap import wiretap
from cipherfleet_lab.problems import LOGISTIC, SQUARED, RegressionLoss, five_nodes
from cipherfleet_lab.systems import Log, Problem
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.randomness import RoundRandomness
from tests.support.queries import query_of

TRIALS = 5
OPEN: tuple[Guard, ...] = ("masks",)


def case(name: str, *off: Guard, trials: int = TRIALS, graph: GraphName = "chord") -> AttackCase:
    problem = replace(five_nodes(), edges=GRAPHS[graph])
    return AttackCase(system=name, off=frozenset(off), trials=trials, problem=problem)


def found(finding: AttackResult | None) -> AttackResult:
    assert finding is not None
    return finding


# -- one edge of the real exchange --------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "naive", "known"), [(2, 0.608, 0.98), (4, 0.924, 0.995)])
def test_the_common_factor_needs_the_known_range(
    dimension: int, naive: float, known: float
) -> None:
    """1/zeta(d) of the greatest common divisors are the half weight itself."""
    rng, trials, plain, ranged = random.Random(3), 4000, 0, 0
    for _ in range(trials):
        weight = rng.choice(HALF_WEIGHTS)
        slots = [weight * rng.randrange(-(2**28), 2**28) for _ in range(dimension)]
        plain += math.gcd(*slots) == weight
        ranged += weight_by_gcd(slots) == weight
    zeta = sum(k**-dimension for k in range(1, 10**5))
    assert 1 / zeta == pytest.approx(naive, abs=5e-4)
    assert plain / trials == pytest.approx(naive, abs=0.03)
    assert ranged / trials > known


@pytest.mark.parametrize("attack", [common_factor, divisor])
def test_a_common_factor_of_the_slots_is_hidden_by_dither_alone(attack: object) -> None:
    assert callable(attack)
    without = found(attack(case("pairwise", "dither", trials=60)))
    assert without.value >= 0.95
    assert without.verdict == "recovered"
    for kept in (case("pairwise", trials=60), case("pairwise", "rerandomise", trials=60)):
        finding = found(attack(kept))
        assert finding.value == 0
        assert finding.verdict == "nothing beyond chance"


def test_trial_of_divisors_bears_noise_that_the_common_factor_does_not() -> None:
    rng = random.Random(4)
    slots = [2777 * rng.randrange(-(2**20), 2**20) + rng.randint(-50, 50) for _ in range(8)]
    assert weight_by_gcd(slots) is None
    assert weight_by_remainders(slots) == 2777


def test_randomness_of_answers_is_hidden_by_rerandomising_alone() -> None:
    without = found(randomness_of_answers(case("pairwise", "rerandomise", trials=40)))
    assert without.value == 1.0
    for kept in (case("pairwise", trials=40), case("pairwise", "dither", trials=40)):
        finding = found(randomness_of_answers(kept))
        assert finding.value == 0
        assert "half weight in 0 %" in finding.note


def test_sealed_answers_hide_the_state_even_from_who_has_the_half_weight() -> None:
    finding = found(randomness_of_answers(case("sealed", "rerandomise", trials=20)))
    assert "half weight in 100 %" in finding.note
    assert finding.value == 0
    opened = found(randomness_of_answers(case("sealed", "rerandomise", "masks", trials=20)))
    assert opened.value == 1.0


def test_a_sealed_answer_opens_alone_only_without_its_mask() -> None:
    for trial in range(10):
        masked = run_exchange("sealed", (), 4, f"masked {trial}")
        assert masked.open_answers([NEIGHBOURS[0]]) is None
        assert masked.open_answers(NEIGHBOURS) is not None
        unmasked = run_exchange("sealed", OPEN, 4, f"open {trial}")
        assert unmasked.open_answers([NEIGHBOURS[0]]) is not None
    assert found(common_factor(case("sealed", "dither", trials=20))).value == 0
    assert found(common_factor(case("sealed", "dither", "masks", trials=20))).value >= 0.95


@pytest.mark.parametrize("off", [(), ("dither",), ("rerandomise",)])
def test_keys_of_full_size_make_no_difference(off: tuple[Guard, ...]) -> None:
    seen = run_exchange("pairwise", off, 4, "full size", bits=2048)
    name = NEIGHBOURS[0]
    weights = weight_by_gcd(seen.best_slots(name)), weight_by_randomness(seen, name)
    lines = [weight == seen.weights[name] for weight in weights]
    assert lines == ["dither" in off, "rerandomise" in off]
    for weight in weights:
        if weight is not None:
            assert seen.compute_state(weight, seen.best_slots(name)) == seen.truth[name]


def test_a_guard_of_the_draws_goes_off_alone() -> None:
    seed, labels = bytes(range(32)), ("dither/b", "half-weight/b", "minibatch")
    plain = RoundRandomness(seed)
    for guard, label in (("dither", labels[0]), ("half-weights", labels[1])):
        guarded = GuardedRandomness(seed, [guard])  # type: ignore[list-item]
        assert guarded.integers_below(1001, label, 3) == [500] * 3
        others = [other for other in labels if other != label]
        assert all(
            guarded.integers_below(1001, o, 3) == plain.integers_below(1001, o, 3) for o in others
        )
    stepless = GuardedRandomness(seed, ["stepsizes"])
    assert stepless.uniform("stepsize", 3).tolist() == [0.5] * 3
    assert stepless.uniform("quantise", 3).tolist() == plain.uniform("quantise", 3).tolist()


# -- the wire -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsgd", "gradient-tracking", "push-sum"])
def test_gradients_of_plaintext_descent_are_exact_to_an_eavesdropper(name: str) -> None:
    for attack in (eavesdropper, observer):
        finding = found(attack(case(name)))
        assert finding.value < 1e-10
        assert finding.number == "exact"


def test_without_rerandomising_whoever_listens_reads_the_estimate() -> None:
    """No key is needed for it: the guard is against the broker as much as against the asker."""
    without = found(wiretap(case("pairwise", "rerandomise", trials=10)))
    assert without.value == 1.0
    assert without.verdict == "recovered"
    for kept in (case("pairwise", trials=10), case("pairwise", "dither", trials=10)):
        assert found(wiretap(kept)).value == 0
        assert found(wiretap(kept)).verdict == "nothing beyond chance"
    assert found(wiretap(case("sealed", trials=10))).value == 0
    assert found(wiretap(case("sealed", "rerandomise", trials=10))).value == 0, "masks hide it"
    assert found(wiretap(case("sealed", "rerandomise", "masks", trials=10))).value == 1.0


def test_nothing_that_could_be_read_travels_in_clear_between_encrypted_nodes() -> None:
    for name in ("pairwise", "sealed"):
        (log,) = case(name, trials=1).logs
        assert log.broadcast is None
        assert log.served is None
        assert not log.between
        assert eavesdropper(case(name, trials=1)) is observer(case(name, trials=1)) is None


@pytest.mark.parametrize("name", ["ternary", "differential-privacy", "obfuscation"])
def test_noise_on_the_wire_hides_gradients_from_an_eavesdropper(name: str) -> None:
    assert found(observer(case(name))).verdict == "nothing beyond chance"


def test_the_own_values_of_a_consensus_in_clear_are_heard() -> None:
    assert found(eavesdropper(case("consensus"))).value == 0
    assert observer(case("consensus")) is None


def test_the_key_holder_of_a_ring_sees_every_sum() -> None:
    finding = found(key_holder(case("paillier-ring", trials=1)))
    assert finding.value < 1e-6
    assert finding.verdict == "recovered"
    assert key_holder(case("sealed", trials=1)) is None


# -- neighbours ---------------------------------------------------------------------------------


def test_a_neighbour_sees_direction_exactly_and_distance_as_half_weights_leave_it() -> None:
    """The law's deviation over its mean is 1/(3 sqrt(3)), or 19 %."""
    finding = found(direction(case("pairwise")))
    assert finding.value == pytest.approx(1 / 3 / math.sqrt(3), abs=0.01)
    assert "1.0000" in finding.note
    assert found(direction(case("pairwise", "half-weights"))).verdict == "recovered"
    assert found(direction(case("sealed"))).value > 0.5


def test_many_rounds_pin_a_neighbour_unless_only_sums_open() -> None:
    assert found(triangulation(case("pairwise"))).verdict == "recovered"
    assert found(triangulation(case("sealed", "masks"))).verdict == "recovered"
    assert found(triangulation(case("sealed"))).value > 0.4


def test_two_neighbours_triangulate_unless_only_sums_open() -> None:
    assert found(triangulation_by_two(case("pairwise"))).value < 1e-3
    assert found(triangulation_by_two(case("sealed"))).value > 0.4


def crossing() -> tuple[Log, Problem]:
    """A log made by hand: node 0 at (1, 2), seen by 1 from (1, 0) and by 2 from (0, 2), h = 3/4."""
    places = np.array([[1.0, 2.0], [1.0, 0.0], [0.0, 2.0]])
    estimates = np.stack([places, places])
    opened = {
        (asker, node): 0.75 * 2.0**12 * (places[node] - places[asker])[None]
        for asker in range(3)
        for node in range(3)
        if asker != node
    }
    weights = dict.fromkeys(opened, np.array([0.75 * 2.0**12]))
    log = Log(
        "by hand", estimates, np.zeros((1, 3, 2)), opened=opened, half_weights=weights,
        stepsizes=np.ones(1), attenuations=np.full(1, 0.5), resolution=1.0,
    )  # fmt: skip
    problem = replace(
        five_nodes(), edges=[(0, 1), (1, 2), (0, 2)], gradients=five_nodes().gradients[:3]
    )
    return log, problem


def test_two_lines_cross_where_the_node_is_and_its_flow_is_known() -> None:
    log, problem = crossing()
    observed = observe_differences(log, problem, [1, 2], 0)
    np.testing.assert_allclose(observed.states, [[1.0, 2.0]], atol=1e-12)
    # gamma m h^2 (x_1 + x_2 - 2 x_0), m = floor(64/3)/64
    flow = 0.5 * 21 / 64 * 0.75**2 * np.array([[-1.0, -2.0]])
    np.testing.assert_allclose(observed.flows, flow, atol=1e-12)


def test_sums_that_leave_no_choice_are_solved_for_the_estimate() -> None:
    """All others of a sealed triangle pool their two sums: the estimate is exact."""
    log, problem = crossing()
    h, unit = 0.75 * 2.0**12, 21 / 64 * 2.0**6
    x = log.estimates[0]
    h0 = 0.9 * 2.0**12
    sums = np.array(
        [[np.zeros(2), *(unit * (h0 * (x[0] - x[j]) + h * (x[3 - j] - x[j])) for j in (1, 2))]]
    )
    sealed = replace(log, opened={}, sums=sums)
    observed = observe_sums(sealed, problem, [1, 2], 0)
    np.testing.assert_allclose(observed.states, [[1.0, 2.0]], atol=1e-9)


# -- all neighbours, or nearly ------------------------------------------------------------------


def test_random_stepsizes_hide_a_gradient_in_one_round() -> None:
    """Uniform on 0 .. 2 lambda: the deviation is 1/sqrt(3) of the mean, or 58 %."""
    assert found(one_round(case("pairwise"))).value == pytest.approx(1 / math.sqrt(3), abs=0.02)
    assert found(one_round(case("pairwise", "stepsizes"))).value < 1e-4


@pytest.mark.parametrize("off", [(), ("attenuation",)])
def test_all_neighbours_telescope_random_stepsizes_away(off: tuple[Guard, ...]) -> None:
    """A finding, not a guard: the article's claim holds for one round only."""
    finding = found(telescoping(case("pairwise", *off)))
    assert finding.value < 0.1
    assert finding.verdict == "recovered"


def test_with_the_exact_method_all_neighbours_learn_the_gradient_at_the_optimum_exactly() -> None:
    """A finding, not a guard: the flows sum to the dual, which ends at minus the gradient."""
    finding = found(telescoping(case("pairwise-exact")))
    assert finding.value < 1e-6
    assert finding.verdict == "recovered"
    sealed = found(telescoping(case("sealed-exact", graph="complete")))
    assert sealed.value < 1e-6, "all that they ask collude as well"


@pytest.mark.parametrize("name", ["pairwise-shielded", "sealed-shielded"])
def test_with_the_shield_all_neighbours_learn_nothing_and_all_partners_everything(
    name: str,
) -> None:
    shielded = case(name, graph="complete")
    assert found(telescoping(shielded)).value > 0.95
    assert found(telescoping_by_partners(shielded)).value < 1e-5
    assert found(telescoping(case(name, "shield", graph="complete"))).value < 1e-5


def test_an_honest_neighbour_hides_it_in_the_exact_method_too() -> None:
    for name in ("pairwise-exact", "sealed-exact"):
        assert found(telescoping_but_one(case(name, graph="ring"))).value > 0.4
    assert found(telescoping(case("sealed-exact", graph="ring"))).value > 0.4


@pytest.mark.parametrize("name", ["pairwise", "sealed"])
def test_what_one_round_shows_does_not_depend_on_the_method(name: str) -> None:
    shown = [found(direction(case(name + method))).value for method in ("", "-exact")]
    assert shown[1] == pytest.approx(shown[0], rel=0.3)


def test_an_honest_neighbour_hides_the_gradient_where_no_colluder_is_beside_it() -> None:
    assert found(telescoping_but_one(case("pairwise", graph="ring"))).value > 0.4
    assert found(telescoping_but_one(case("sealed"))).value > 0.4


def test_an_honest_neighbour_hides_little_where_colluders_see_it_too() -> None:
    """A finding: in a complete pairwise fleet its estimate, and so the mean flow, is known."""
    assert found(telescoping_but_one(case("pairwise", graph="complete"))).value < 0.1
    assert found(telescoping_but_one(case("sealed", graph="complete"))).value > 0.4


def test_sealed_sums_hide_a_node_from_its_neighbours_unless_they_are_all_others() -> None:
    finding = found(telescoping(case("sealed")))
    assert finding.worst_off is not None
    assert finding.worst_off < 0.1, "node 0 or 2, whose neighbours' sums leave no choice"
    assert finding.value > 0.25
    assert found(telescoping(case("sealed", graph="ring"))).value > 0.4
    assert found(telescoping(case("sealed", graph="complete"))).value < 0.1


def test_obfuscation_falls_to_all_neighbours_and_holds_with_one_honest() -> None:
    fallen = found(one_round(case("obfuscation")))
    assert fallen.value < 1e-10
    assert fallen.verdict == "recovered"
    assert found(telescoping_but_one(case("obfuscation"))).value > 0.4


# -- curvature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pairwise-exact", "sealed-exact", "pairwise-shielded"])
def test_without_a_quadratic_shield_all_neighbours_find_the_second_derivative(name: str) -> None:
    """A finding, not a guard: neither random stepsizes nor the linear shield hide it."""
    finding = found(second_moments(case(name)))
    assert finding.value < 0.05
    assert finding.verdict == "recovered"
    assert second_moments_by_partners(case(name)) is None


@pytest.mark.parametrize("name", ["pairwise-quadratic", "sealed-quadratic"])
def test_the_quadratic_shield_hides_a_part_of_it_unless_all_partners_collude(name: str) -> None:
    """With the fleet's covariance and their own shares the neighbours find the larger part."""
    assert 0.15 < found(second_moments(case(name))).value < 0.5
    assert found(second_moments_by_partners(case(name))).value < 0.05
    assert found(second_moments(case(name, "quadratic"))).value < 0.05


def test_the_quadratic_shield_hides_no_more_than_its_size_does() -> None:
    """The fit is as good as if the node had shown its second derivative with its shield."""
    shielded = on_motes(case("pairwise-quadratic", trials=1))
    (log,), problem = shielded.logs, shielded.solved_problem
    prior, by_node = Prior.of(problem), []
    for node in range(problem.nodes):
        shield = KnownShield.of(log, problem, problem.neighbours(node), node)
        shown = true_second_derivative(log, problem, node)
        by_node.append((fit(Seen.of(log, node), prior.shielded(shield)), shown, prior.mean))
    assert relative_error(*np.array(by_node).swapaxes(0, 1)) < 0.05


def test_the_fit_finds_a_second_derivative_that_is_known_by_hand() -> None:
    """Two entries, steps without randomness: (1 + s U) = 1."""
    truth = np.array([[1.0, 0.4], [0.4, 0.5]])
    states = np.random.default_rng(4).normal(size=(40, 2)) * 0.8 ** np.arange(40)[:, None]
    duals = -states @ np.array([[0.9, 0.3], [0.3, 0.6]])
    seen = Seen(states @ truth + duals, states, duals, 1e-12)
    prior = Prior(np.eye(2), np.diag([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(fit(seen, prior), truth, atol=0.01)


def test_second_moments_are_sought_in_the_exact_method_only() -> None:
    assert second_moments(case("pairwise")) is None
    assert second_moments(case("dsgd")) is None


# -- deep leakage -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [SQUARED, LOGISTIC])
def test_deep_leakage_from_a_true_gradient_is_exact_for_one_sample(loss: RegressionLoss) -> None:
    readings = replace(samples(7, 1, loss), penalty=0.0)
    x = np.random.default_rng(8).normal(size=(5, 3))
    for node, gradient in enumerate(readings.gradients(x, np.random.default_rng(0))):
        truth = readings.phi[node, 0, :-1]
        np.testing.assert_allclose(solve_closed_form(gradient), truth, rtol=1e-9)
    assert solve_closed_form(np.zeros(3)).tolist() == [0.0, 0.0]


def test_deep_leakage_is_as_good_as_the_gradient_it_is_given() -> None:
    pairwise = case("pairwise")
    assert found(leakage_of_truth(pairwise)).value < 1e-10
    assert found(leakage_of_round(pairwise)).value > 0.4
    assert found(leakage_of_telescoped(pairwise)).value < 0.1
    assert found(leakage_of_round(case("pairwise", "stepsizes"))).value < 1e-3
    assert found(leakage_of_telescoped(case("sealed", graph="ring"))).value > 0.25


def test_several_samples_leak_from_exact_gradients_and_not_from_one_rounds_steps() -> None:
    assert found(leakage_of_several(case("dsgd"))).verdict == "recovered"
    assert found(leakage_of_several(case("pairwise"))).verdict == "nothing beyond chance"


def test_matching_uses_the_slope_of_the_mismatch() -> None:
    """Gradients of two samples at many estimates have one explanation, up to the order."""
    readings, rng = samples(9, 2), np.random.default_rng(1)
    estimates = rng.normal(size=(8, 3))
    gradients = np.array([readings.gradients(np.tile(x, (5, 1)), rng)[0] for x in estimates])
    features, targets = match_gradients(gradients, estimates, 2, seed=2)
    assert sample_error(features, readings.phi[0, :, :-1]) < 1e-3
    np.testing.assert_allclose(np.sort(targets), np.sort(readings.targets[0]), atol=1e-2)


# -- rounds -------------------------------------------------------------------------------------


def pair(
    name: str, system: str, guard: Guard, trials: int = 10
) -> tuple[AttackResult, AttackResult]:
    """Return the results without the guard and with all guards."""
    attack = ATTACKS[name]
    off, on = (attack.run(case(system, *guards, trials=trials)) for guards in ((guard,), ()))
    return found(off), found(on)


def shorten(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """Run an attack on rounds with less than its table has. Its seed is fixed: deterministic."""
    monkeypatch.setattr(f"cipherfleet_lab.attacks.{name}", value)


@pytest.mark.parametrize("name", ["late-answers", "last-will"])
def test_no_two_sums_isolate_a_term_while_rosters_are_remembered(name: str) -> None:
    off, on = pair(name, "sealed", "rosters")
    assert off.value > 0.02
    assert on.value == 0.0
    assert on.trials >= ROUNDS * NODES


def test_a_kick_hides_a_departed_neighbour_in_the_first_sum_but_not_in_averages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The averages are a finding, not a guard: a change of the roster cannot be hidden for ever."""
    _, averaged = departed_errors(case("sealed"), 0)
    assert np.median(averaged) < 0.5
    shorten(monkeypatch, "isolation.AVERAGED", 5)  # the first sums need no averages
    off, on = pair("departure", "sealed", "kicks")
    assert off.value < 0.8 * on.value
    assert on.value > 1.0


def test_without_masks_every_answer_opens_by_itself() -> None:
    assert found(late_answers(case("sealed", "masks"))).value == 1.0


def test_a_difference_counts_only_if_it_is_the_term_in_every_digit() -> None:
    """By hand: two sums with the same numbers, the asker moves in between."""
    more, fewer = (OpenedSum(query(roster, own)) for roster, own in (("bcd", 7), ("bc", 9)))
    for kept, own in ((more, 7), (fewer, 9)):
        for name in kept.query.roster:
            place = np.array([{"b": 100.0, "c": -40.0, "d": 15.0}[name], 3.0])
            kept.terms[name] = 2049 * (place - np.array([own, 0.0]))
            kept.numbers[name] = name.encode()
    askers = CuriousAskers(SCENE.fleet(case("sealed"), 0), {b"1": more, b"2": fewer})
    assert askers.isolated() == {("asker", "d", b"d")}
    fewer.numbers["c"] = b"another seed"
    assert not askers.isolated()
    fewer.numbers["c"] = b"c"
    fewer.terms["c"] += np.array([0.0, 1.0])
    assert not askers.isolated()


def query(roster: str, own: int) -> Query:
    entries = [(-entry).to_bytes(9, "big", signed=True) for entry in (own, 0)]
    return query_of("lab", "asker", 1, len(roster), roster, entries)


def test_sums_of_neighbours_that_stand_still_separate_unless_a_draw_belongs_to_a_state() -> None:
    off, on = pair("separation", "sealed", "draws")
    assert off.value < 0.3
    assert on.value > 0.5


def test_sums_of_a_running_fleet_separate_if_it_hardly_moves() -> None:
    """A finding, not a guard: states that move little have fresh half weights in every round."""
    (errors,) = separate_running_fleet(2, 0.0, [200])
    assert errors.median < 0.25
    assert errors.guess > 0.5


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_independent_half_weights_separate_into_the_differences(degree: int) -> None:
    """By hand: as many uniform weights as neighbours, in more dimensions."""
    rng = np.random.default_rng(degree)
    truth = rng.normal(size=(degree, 4 * degree))
    weights = rng.uniform(2048, 4096, size=(4000, degree))
    errors = errors_of(separate(weights @ truth, degree, 0.0), truth)
    assert max(errors) < 0.15
    same = np.repeat(weights[:1], 4000, axis=0)
    assert max(errors_of(separate(same @ truth, degree, 0.0), truth)) > 0.5


@pytest.mark.parametrize("system", ["pairwise", "sealed"])
def test_a_restart_does_not_let_a_neighbour_ask_twice_in_one_round(system: str) -> None:
    off, on = pair("second-query-after-restart", system, "digests")
    assert (off.value, on.value) == (1.0, 0.0)


def test_an_old_card_uses_no_round_number_again_once_it_is_known_to_be_old() -> None:
    off, on = pair("old-card", "sealed", "own-presence")
    assert off.value > 0.0
    assert on.value == 0.0


def test_a_far_round_takes_nobody_beyond_what_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "members.FAR_S", 1.5)
    off, on = pair("far-round", "sealed", "claims")
    assert (off.value, on.value) == (1.0, 0.0)


@pytest.mark.parametrize("system", ["pairwise", "sealed"])
def test_no_answer_ends_a_neighbours_process(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    shorten(monkeypatch, "members.OVERREACH_ROUNDS", 25)
    off, on = pair("overreach", system, "headroom")
    assert off.value >= 0.5
    assert on.value == 0.0


def test_a_steady_lie_sets_the_result_and_ends_nobody() -> None:
    """A finding, not a guard: a tenth of the accepted range, in every answer."""
    honest, attacked = (OVERREACHED.fleet(case("sealed"), 0) for _ in range(2))
    attacked.tap = exaggerating(attacked, 0.1)
    for fleet in (honest, attacked):
        fleet.begin()
        fleet.run_rounds(25, others(fleet))
    assert not attacked.ended
    assert np.median([distance(attacked, honest, name) for name in others(attacked)]) > 10.0


def test_garbage_of_one_member_does_not_stop_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It slows some down: after 30 rounds one or two of eight have not come half their way."""
    shorten(monkeypatch, "members.GARBAGE_ROUNDS", 30)
    monkeypatch.setattr("cipherfleet_lab.attacks.members.STUCK", 0.9)
    off, on = pair("garbage", "sealed", "halves")
    assert off.value == 1.0
    assert on.value == 0.0


def test_a_mute_member_costs_a_deadline_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "members.MUTE_ROUNDS", 50)
    off, on = pair("mute-member", "sealed", "back-off")
    assert (off.value, on.value) == (1.0, 0.0)


def test_the_table_of_pairs_has_every_guard_of_rounds_and_every_attack() -> None:
    on_rounds = {attack.name for attack in ATTACKS.values() if attack.is_on_rounds}
    assert {each.attack for each in PAIRS} == on_rounds
    assert {each.guard for each in PAIRS} == set(ROUND_GUARDS)
    (result,) = run_pairs(1, 10, [Pair("second-query-after-restart", "sealed", "digests")])
    head, _line, row = markdown([result]).splitlines()
    assert head.count("|") == row.count("|")
    assert "100 % found" in row
    assert "0 % found" in row


# -- findings -----------------------------------------------------------------------------------


def finding(
    measure: Literal["error", "fraction", "harm"],
    value: float,
    chance: float,
    worst_off: float | None = None,
) -> AttackResult:
    return AttackResult(
        attack="a",
        system="b",
        sought="c",
        saw="d",
        knew="e",
        measure=measure,
        value=value,
        chance=chance,
        guess="f",
        trials=100,
        note="",
        worst_off=worst_off,
    )


@pytest.mark.parametrize(
    ("given", "verdict", "number"),
    [
        (finding("error", 0.0, 1.0), "recovered", "exact"),
        (finding("error", 0.1, 1.0), "recovered", "± 10 %"),
        (finding("error", 0.11, 1.0), "partly", "± 11 %"),
        (finding("error", 0.8, 1.0), "nothing beyond chance", "± 80 %"),
        (finding("error", 0.9, 1.0, 0.05), "partly", "± 90 %, 5 %"),
        (finding("error", 50.0, 1.0), "nothing beyond chance", "± > 1000 %"),
        (finding("fraction", 0.95, 1 / 1024), "recovered", "95 % found"),
        (finding("fraction", 0.5, 1 / 1024), "partly", "50 % found"),
        (finding("fraction", 0.0, 1 / 1024), "nothing beyond chance", "0 % found"),
        (finding("fraction", 0.01, 1 / 1024), "nothing beyond chance", "1 % found"),
        (finding("harm", 0.0, 0.0), "no harm", "0 % harmed"),
        (finding("harm", 0.25, 0.0), "some harmed", "25 % harmed"),
        (finding("harm", 1.0, 0.0), "all harmed", "100 % harmed"),
    ],
)
def test_the_verdict_follows_from_the_number(
    given: AttackResult, verdict: AttackOutcome, number: str
) -> None:
    assert (given.verdict, given.number) == (verdict, number)


def test_errors_are_shares_of_the_guesss_own() -> None:
    truth, guess = np.array([[3.0, 4.0], [0.3, 0.4]]), np.zeros((2, 2))
    assert relative_error(truth, truth, guess) == 0
    assert relative_error(guess, truth, guess) == 1
    off = truth + np.array([[5.0, 0.0], [0.0, 0.0]])
    assert error_by_round(off, truth, guess) == pytest.approx(math.sqrt(0.5))
    assert relative_error(off, truth, guess) == pytest.approx(5 / math.sqrt(25.25))


def test_every_attack_says_what_it_is() -> None:
    for name, attack in ATTACKS.items():
        assert attack.name == name
        assert attack.text.endswith(".")
