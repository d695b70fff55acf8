"""Figures computed from spans: sums of phases, the network's share, counts."""

from __future__ import annotations

from typing import Any

import pytest

from cipherfleet_hil.measurement.round_figures import (
    NodeSpans,
    network_seconds,
    node_counts,
    node_figures,
    phase_seconds,
    skip_warm_up,
    unaccounted_share,
)


def closing(k: int, ms: float, phases: dict[str, float], **node_counts: Any) -> dict[str, Any]:
    usual = {
        "silent": 0, "rejected": 0, "inline": 0, "pool": 8, "acknowledged_ms": 1.0,
        "bytes_sent": 1000 * k, "bytes_received": 2000 * k, "cpu_s": 0.5 * k, "pool_cpu_s": 0.1 * k,
        "rss_mib": 50.0 + k,
    }  # fmt: skip
    return {
        "round": k,
        "phase": "round",
        "at": 0.0,
        "ms": ms,
        "phases": phases,
        **usual,
        **node_counts,
    }


def between(phase: str, k: int, neighbour: str, ms: float) -> dict[str, Any]:
    own = {"round": k, "phase": phase, "at": 1e9 * ms, "ms": ms}
    return {**own, "neighbour": neighbour}


def test_a_phase_that_a_round_lacks_took_no_time_in_it() -> None:
    rounds = [closing(0, 10.0, {"wait": 6.0, "save": 4.0}), closing(1, 10.0, {"wait": 10.0})]
    assert phase_seconds(rounds) == {"wait": [0.006, 0.01], "save": [0.004, 0.0]}


@pytest.mark.parametrize(("save", "expected"), [(4.0, 0.0), (3.0, 0.1), (5.0, -0.1)])
def test_the_time_in_no_phase_is_reported(save: float, expected: float) -> None:
    rounds = [closing(0, 10.0, {"wait": 6.0, "save": save})]
    assert unaccounted_share(rounds) == pytest.approx(expected)


def test_the_network_took_of_a_trip_what_the_neighbour_does_not_say_of_itself() -> None:
    """Whatever the clocks of the two nodes read: only durations meet."""
    a = NodeSpans("a", "x", [between("trip", 7, "b", 10.0), between("trip", 7, "c", 9.0)])
    b = NodeSpans("b", "y", [between("service", 7, "a", 4.0), between("service", 7, "c", 1.0)])
    c = NodeSpans("c", "y", [between("service", 7, "a", 3.0)])
    others = {each.name: each for each in (a, b, c)}
    assert network_seconds(a, others) == [pytest.approx(0.006), pytest.approx(0.006)]


def test_another_round_is_another_trip() -> None:
    trips = [between("trip", 6, "b", 10.0), between("trip", 8, "b", 10.0)]
    services = [between("service", 7, "a", 4.0), between("service", 9, "a", 4.0)]
    a, b = NodeSpans("a", "x", trips), NodeSpans("b", "x", services)
    assert network_seconds(a, {"a": a, "b": b}) == []


def test_rounds_that_warm_up_do_not_count() -> None:
    spans = [between("trip", k, "b", 1.0) for k in range(10)]
    assert [span["round"] for span in skip_warm_up(spans, 7)] == [7, 8, 9]


def test_counters_are_reported_as_growth_per_round() -> None:
    lines = [closing(k, 10.0, {"wait": 10.0}, inline=3 * k, silent=k == 6) for k in range(5, 10)]
    node = NodeSpans("a", "x", lines)
    assert node_counts(node, {"a": node}) == {
        "rounds": 5.0,
        "unaccounted": 0.0,
        "network_share": 0.0,
        "bytes_sent_per_round": 1000.0,
        "bytes_received_per_round": 2000.0,
        "cpu_ms_per_round": 500.0,
        "pool_cpu_ms_per_round": 100.0,
        "rss_mib": 59.0,
        "pool_level": 8.0,
        "pool_misses": 12.0,
        "silent": 1.0,
        "rejected": 0.0,
    }


def test_what_lasts_at_the_same_time_is_no_part_of_the_sum() -> None:
    spans = [closing(k, 10.0, {"wait": 8.0, "save": 2.0}) for k in range(6)]
    spans += [{"round": k, "phase": "sample", "at": 0.0, "ms": 7.0} for k in range(6)]
    node = NodeSpans("a", "x", spans)
    result = node_figures(node, {"a": node})
    assert set(result.phases) == {"round", "wait", "save"}
    assert set(result.beside) == {"sample", "acknowledged"}
    assert result.phases["wait"].p50 == pytest.approx(0.008)
    assert result.beside["sample"].p50 == pytest.approx(0.007)
