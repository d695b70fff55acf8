"""The example of the thermometers: the benchmark's figures, and the same from real agents."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

import drift
from cipherfleet_lab.simulation.memory_fleet import MemoryFleet
from cipherfleet_node.core.drift import DriftRange, mean_residual
from cipherfleet_node.core.sample import Sample
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from drift import Stream, is_found, judge_all, load_stream, main
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "thermometers"
PAGE = ROOT / "docs" / "tutorials" / "drift.md"
FAULTY, BEGIN = 3, 576  # a node by its place, and an hour: weeks after the start
HOURS = 24
Judged = tuple[Stream, list[list[DriftRange]], list[int]]
ROUNDS_PER_READING = 40
SETTLING_ROUNDS = 60


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return load_fleet(EXAMPLE / "fleet.yaml")


@pytest.fixture(scope="module")
def judged(fleet: Fleet) -> Judged:
    """The readings, the ranges after each hour, and the hours with an alarm in six weeks."""
    stream = load_stream(fleet)
    return stream, *judge_all(stream)


def test_a_drift_is_found_within_a_day_and_there_is_no_false_alarm_in_four_weeks(
    judged: Judged,
) -> None:
    stream, history, alarms = judged
    ranges = history[BEGIN - stream.first]
    assert alarms == [0] * 12
    assert len(ranges[FAULTY].history) >= 168, "it judges"
    assert is_found(stream, ranges[FAULTY], FAULTY, BEGIN, 3.0)
    assert is_found(stream, ranges[FAULTY], FAULTY, BEGIN, -3.0)
    assert not is_found(stream, ranges[FAULTY], FAULTY, BEGIN, 0.0)


def test_the_agents_of_the_fleet_find_what_the_benchmark_finds(
    fleet: Fleet, judged: Judged
) -> None:
    """The last of the 24 hours, without encryption: it does not change the estimates."""
    stream = judged[0]
    rows = stream.with_fault(FAULTY, BEGIN, 3.0)
    target = stream.section.target
    assert target is not None
    first, later = BEGIN + HOURS - 1, 1
    samples, more = {}, {}
    for node, member in enumerate(fleet.members):
        known = [dict(sample.values) for sample in fleet.recorded(member) or []]
        for hour, values in enumerate(known):
            values["temperature_c"] = target.offset + target.scale * float(rows[node, hour, -1])
        samples[member.id] = [Sample(values) for values in known[first - 336 : first]]
        coming: list[list[Sample]] = []
        for hour in range(first, first + later):
            waiting = SETTLING_ROUNDS if not coming else ROUNDS_PER_READING
            coming += [[] for _ in range(waiting)]
            coming.append([Sample(known[hour])])
        more[member.id] = coming
    algorithm = msgspec.structs.replace(
        fleet.file.algorithm, rounds=SETTLING_ROUNDS + later * (ROUNDS_PER_READING + 1)
    )
    running = MemoryFleet(
        fleet.graph.edges,
        samples,
        stream.section,
        algorithm,
        seed=7,
        sealed=True,
        later=more,
        own_accuracy=stream.accuracy,
    )
    running.run()
    end = first + later
    expected = stream.differences(rows, end)
    for name, estimate in zip(sorted(running.seats), running.estimates(), strict=True):
        place = stream.names.index(name)
        own = mean_residual(rows[place, end - 336 : end], estimate[:-1], stream.drift.window)
        assert own - estimate[-1] == pytest.approx(expected[place], abs=2 * stream.accuracy)
        agent = running.seats[name].agent
        assert agent is not None
        assert agent.has_answer, "it has settled on the last reading"
    spread = np.ptp(running.estimates()[:, -1])
    assert spread < stream.accuracy


def test_the_page_shows_the_table_of_the_benchmark(
    judged: Judged, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns without tries, since those take minutes; they are the benchmark's own."""
    own = drift.rows_of
    monkeypatch.setattr(drift, "rows_of", lambda stream, degrees: own(stream, degrees, 0))
    monkeypatch.setattr(drift, "judge_all", lambda _: judged[1:])
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    text = PAGE.read_text()
    for row in rows:
        (deviation, false) = re.findall(
            rf"^\| {row['station']} \| ([\d.]+) \| (\d+) \|", text, re.MULTILINE
        )[0]
        assert float(deviation) == pytest.approx(row["deviation"], abs=0.006)
        assert int(false) == row["false_alarms"]


def test_the_file_is_small_and_says_where_it_is_from() -> None:
    assert (EXAMPLE / "thermometers.csv").stat().st_size < 500_000
    text = Path(EXAMPLE / "README.md").read_text()
    assert "CC BY 4.0" in text
    assert "Song Chen" in text
