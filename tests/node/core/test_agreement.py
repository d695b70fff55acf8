"""The agreement on the scale of curvature c0, from the nodes' own curvatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_node.core import agreement
from cipherfleet_node.core.agreement import (
    AGREED_ROUNDS,
    REACH,
    heard,
    is_far_off,
    power_of,
    scale_of,
)
from cipherfleet_node.core.messages import LARGEST_POWER, Answer, Message
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.state import first_state
from cipherfleet_node.settings.sections import (
    Algorithm,
    Column,
    Feature,
    ObjectiveSection,
)
from tests.support.exact_fleets import D, lying_in_queries, objectives_of, optimum, readings, six
from tests.support.memory_fleet import MemoryFleet, names

powers = st.integers(-LARGEST_POWER, LARGEST_POWER)


def section(scale: float = 1.0) -> ObjectiveSection:
    """Two features *scale* times as large as in exact_fleets, and a constant one."""
    features = [Feature(field=f"v{index}", scale=1.0 / scale) for index in range(D - 1)]
    constant = Feature(constant=scale)
    return ObjectiveSection(
        kind="least_squares", target=Column(field="y"), features=[constant, *features]
    )


def fleet(
    rounds: int = 150, scale: float = 1.0, period_s: float | None = None, **more: object
) -> MemoryFleet:
    settings: dict[str, object] = {"sealed": True, "leaves_open": True, "encrypted": False, **more}
    algorithm = Algorithm(rounds=rounds, period_s=period_s)
    return MemoryFleet(six(), readings(six()), section(scale), algorithm, seed=3, **settings)  # type: ignore[arg-type]


def errors(running: MemoryFleet, scale: float = 1.0, place: int = -1) -> FloatVector:
    """The relative error of each node after the round at *place* among those that it reported."""
    best = best_at(scale)
    known = np.array([seat.reported[place].estimate for seat in running.seats.values()])
    result: FloatVector = np.linalg.norm(known - best, axis=1) / np.linalg.norm(best)
    return result


@cache
def best_at(scale: float) -> FloatVector:
    return optimum(list(objectives_of(readings(six()), section(scale)).values()))


def scales_of(fleet: MemoryFleet) -> set[int | None]:
    return {seat.saved.scale_power for seat in fleet.seats.values() if seat.saved is not None}


# -- numbers ------------------------------------------------------------------------------------


@given(st.integers(-LARGEST_POWER, LARGEST_POWER - 8))
def test_a_scale_is_two_to_eighths_of_its_exponent(power: int) -> None:
    assert scale_of(power + 8) == 2.0 * scale_of(power)
    assert scale_of(power) == pytest.approx(2.0 ** (power / 8), rel=1e-15)


@given(st.floats(-30, 30))
def test_a_scale_is_near_its_share_of_the_mean(logarithm: float) -> None:
    scale = scale_of(power_of(logarithm))
    assert abs(math.log2(scale / agreement.SHARE) - logarithm) <= 1 / 16 + 1e-9


@given(powers, st.lists(powers))
def test_a_node_takes_the_largest_power_within_its_reach(own: int, seen: Sequence[int]) -> None:
    state = msgspec.structs.replace(first_state("f", "a", b"", 1, 0), own_power=own)
    state = msgspec.structs.replace(state, scale_power=own)
    for power in seen:
        state = heard(state, power)
    within = [power for power in seen if power <= own + REACH]
    assert state.scale_power == max([own, *within])


# -- fleets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_all_nodes_agree_on_the_same_bits(sealed: bool) -> None:
    running = fleet(sealed=sealed)
    running.run()
    (power,) = scales_of(running)
    assert power is not None
    assert 0.25 < scale_of(power) < 4.0
    assert errors(running).max() < 1e-6


def test_the_scale_is_a_share_of_the_mean_curvature() -> None:
    running = fleet(20)
    running.run()
    (power,) = scales_of(running)
    curvatures = [o.curvature() for o in objectives_of(readings(six()), section()).values()]
    mean = float(np.mean(np.log2(curvatures)))
    assert power is not None
    assert power_of(mean) <= power <= power_of(mean) + 4  # the largest of nearly equal ones


def test_features_ten_times_as_large_cost_few_rounds() -> None:
    """The target is the same, so that the optimum is a tenth."""
    needed = []
    for scale in (1.0, 10.0):
        running = fleet(120, scale)
        running.run()
        rounds = range(len(running.seats["n00"].reported))
        needed.append(next(k for k in rounds if errors(running, scale, k).max() < 1e-4))
    assert abs(needed[1] - needed[0]) <= 0.15 * needed[0]


def test_a_newcomer_takes_the_scale_that_it_sees() -> None:
    running = fleet(150, period_s=1.0)
    late = names(6)[2]
    for name in running.seats:
        if name != late:
            running.start(name)
    running.advance(100.0)
    running.start(late)
    running.advance(10_000.0)
    assert len(scales_of(running)) == 1
    assert running.seats[late].reported[0].number >= AGREED_ROUNDS


@pytest.mark.parametrize(("lie", "is_taken"), [(LARGEST_POWER, False), (16, True)])
def test_a_false_scale_moves_the_fleet_by_a_bounded_factor(lie: int, is_taken: bool) -> None:
    running = fleet(80, tap=lying_in_queries("n03", scale=lie))
    running.run()
    honest = {s.saved.scale_power for n, s in running.seats.items() if n != "n03" and s.saved}
    assert (honest == {lie}) is is_taken
    assert max(power or 0 for power in honest) <= power_of(2.0) + REACH


def test_an_answer_after_the_agreement_moves_nothing() -> None:
    """The last round of the agreement is held, and its answers come when it is over."""
    last = AGREED_ROUNDS - 1

    def late(sender: str, receiver: str, message: Message) -> Message | None:
        agent = running.seats[receiver].agent
        is_early = agent is not None and agent.round_number <= last
        is_meant = isinstance(message, Answer) and message.round == last and receiver == "n00"
        return None if is_meant and is_early and sender == "n01" else message

    running = fleet(tap=late)
    running.run()
    held = next(r for r in running.seats["n00"].reported if r.number == last)
    assert not held.is_coupled
    assert len(scales_of(running)) == 1
    assert errors(running).max() < 1e-6


@pytest.mark.parametrize(
    ("curvature", "expected"),
    [(33.0, True), (31.0, None), (0.13, None), (0.12, False), (0.0, None)],
)
def test_a_curvature_is_far_off_beyond_a_factor_of_16(
    curvature: float, expected: bool | None
) -> None:
    assert is_far_off(curvature, 2.0) is expected


def test_a_node_with_other_units_is_warned_once() -> None:
    """Its readings are in other units than the file's offsets and scales were made for."""
    own = readings(six())
    own["n02"] = [
        Sample({name: value * (100.0 if name != "y" else 1.0) for name, value in s.values.items()})
        for s in own["n02"]
    ]
    running = MemoryFleet(six(), own, section(), Algorithm(rounds=30), seed=3, sealed=True)
    running.run()
    warned = {
        name: [r.is_curved_more for r in seat.reported if r.is_curved_more is not None]
        for name, seat in running.seats.items()
    }
    assert warned.pop("n02") == [True]
    assert not any(warned.values())


def test_two_runs_with_the_same_choices_are_equal_whatever_the_delays() -> None:
    runs = []
    for longest_s in (0.006, 0.4):  # a round lasts for 5 ms at least: a faster one is out of reach
        running = fleet(40, faults=Faults(delay_s=(0.003, longest_s)))
        running.run()
        runs.append([[r.estimate for r in seat.reported] for seat in running.seats.values()])
    np.testing.assert_array_equal(runs[0], runs[1])
