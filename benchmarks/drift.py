"""Find thermometers that drift: which of twelve are found, how soon, and the false alarms.

`python benchmarks/drift.py` prints the table of docs/tutorials/drift.md. The readings and settings
are those of examples/thermometers, hour by hour. One solver with all readings computes what the
fleet agrees on in each hour; each node then judges with its own code. Every fault is tried at each
station and at several hours.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from cipherfleet_analysis.centralised import minimise
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_node.core.drift import DriftRange, mean_residual
from cipherfleet_node.core.objective import Mean, Regression, make_objective
from cipherfleet_node.core.robust import middle_and_deviation
from cipherfleet_node.core.window import FloatMatrix
from cipherfleet_node.outputs.physical import on_grid
from cipherfleet_node.settings.sections import CsvSensor, Drift, ObjectiveSection
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

FAULT_EVERY_H = 80  # hours between two tries of a fault
WITHIN_H = 24
JUDGED_FROM_H = 336
HEAD = ("station", "deviation, °C", "false alarms, h", "found")


@dataclass(frozen=True)
class Stream:
    """The readings of all nodes hour by hour, and the settings of their fleet."""

    names: list[str]
    rows: FloatMatrix  # shape (nodes, hours, d + 1), in the objective's units
    section: ObjectiveSection
    drift: Drift
    accuracy: float
    first: int  # hours that are there at the start

    def differences(self, rows: FloatMatrix, end: int) -> list[float]:
        """Return d = r_i - m of each node after hour *end*, as the nodes compute it."""
        begin = max(0, end - self.section.window)
        objectives: list[Mean | Regression] = []
        for own in rows[:, begin:end]:
            objective = make_objective(self.section)
            assert isinstance(objective, Regression)
            objective.window.rows = own
            objectives.append(objective)
        x, window = minimise(objectives), self.drift.window
        m = float(np.mean([mean_residual(each.window.rows, x, window) for each in objectives]))
        point = on_grid(np.append(x, m), self.accuracy)
        return [
            mean_residual(each.window.rows, point[:-1], window) - float(point[-1])
            for each in objectives
        ]

    def with_fault(self, node: int, begin: int, degrees: float) -> FloatMatrix:
        """Return the rows if the thermometer of *node* shows *degrees* more from *begin* on."""
        assert self.section.target is not None
        changed = self.rows.copy()
        changed[node, begin:, -1] += degrees / self.section.target.scale
        return changed


class Row(msgspec.Struct, frozen=True):
    """The figures of one station."""

    station: str
    deviation: float  # usual deviation of d at the end, in the target's unit
    false_alarms: int  # hours with an alarm, without a fault
    found: int  # faults that gave an alarm within WITHIN_H
    tries: int


def load_stream(fleet: Fleet, alarm: float | None = None) -> Stream:
    """Return the readings of *fleet*, whose nodes read one row in each hour."""
    section, drift = fleet.file.objective, fleet.file.objective.drift
    assert drift is not None
    whole, rows = msgspec.structs.replace(section, window=10**6), []
    for member in fleet.members:
        objective = make_objective(whole)
        assert isinstance(objective, Regression)
        objective.absorb(fleet.recorded(member) or [])
        rows.append(objective.window.rows)
    sensor = fleet.members[0].sensor
    assert isinstance(sensor, CsvSensor)
    if alarm is not None:
        drift = msgspec.structs.replace(drift, alarm=alarm)
    accuracy = fleet.file.answer.accuracy
    names = [member.id for member in fleet.members]
    return Stream(names, np.array(rows), section, drift, accuracy, sensor.first_rows)


def judge_all(stream: Stream) -> tuple[list[list[DriftRange]], list[int]]:
    """Return the ranges of all nodes after each hour, and the hours with an alarm of each node."""
    ranges = [
        DriftRange(stream.drift.window, stream.drift.alarm, stream.accuracy) for _ in stream.names
    ]
    history, alarms = [], [0] * len(stream.names)
    for end in range(stream.first, stream.rows.shape[1] + 1):
        for node, difference in enumerate(stream.differences(stream.rows, end)):
            ranges[node] = copy.copy(ranges[node])
            alarms[node] += ranges[node].judge(difference, 1).is_alarm
        history.append([*ranges])
    return history, alarms


def is_found(stream: Stream, usual: DriftRange, node: int, begin: int, degrees: float) -> bool:
    """True if a fault of *node* from hour *begin* on is an alarm in time; *usual* is its range."""
    rows, own = stream.with_fault(node, begin, degrees), copy.copy(usual)
    for end in range(begin + 1, begin + WITHIN_H + 1):
        if own.judge(stream.differences(rows, end)[node], 1).is_alarm:
            return True
    return False


def rows_of(stream: Stream, degrees: float, tries: int | None = None) -> list[Row]:
    """Return the table; *tries* are the faults at each station, None: one every FAULT_EVERY_H."""
    history, alarms = judge_all(stream)
    assert stream.section.target is not None
    last = stream.rows.shape[1] - WITHIN_H
    begins = list(range(JUDGED_FROM_H + FAULT_EVERY_H, last, FAULT_EVERY_H))[:tries]
    rows = []
    for node, name in enumerate(stream.names):
        known = np.array(history[-1][node].history)
        _, deviation = middle_and_deviation(known)
        ranges = [history[begin - stream.first][node] for begin in begins]
        found = [
            is_found(stream, usual, node, begin, degrees)
            for usual, begin in zip(ranges, begins, strict=True)
        ]
        degrees_of_one = deviation * stream.section.target.scale
        rows.append(Row(name, degrees_of_one, alarms[node], sum(found), len(found)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return *rows* as a table in Markdown."""
    lines = [" | ".join(HEAD), "--- | --: | --: | --:"]
    for row in rows:
        found = f"{row.found} of {row.tries}"
        lines.append(f"{row.station} | {row.deviation:.2f} | {row.false_alarms} | {found}")
    return "\n".join(f"| {line} |" for line in lines)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--degrees", type=float, default=3.0, help="size of the fault; default: 3")
    parser.add_argument("--alarm", type=float, help="another limit than objective.drift.alarm")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(arguments)
    if given.alarm is not None and not given.alarm > 0:
        parser.error(f"--alarm is {given.alarm}, must be a number above 0")
    fleet = load_fleet(example_folder("thermometers") / "fleet.yaml")
    stream = load_stream(fleet, given.alarm)
    rows = rows_of(stream, given.degrees)
    if given.json:
        print(json.dumps(msgspec.to_builtins(rows)))
        return 0
    print(f"{given.degrees:+g} °C, a limit of {stream.drift.alarm:g} deviations\n\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
