"""Several sensors in node.yaml: one of the two keys, and only sensors that can be joined."""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import (
    ClockSensor,
    NodeConfig,
    NoSensor,
    SensorGroup,
    SyntheticSensor,
    parts_of,
)

HEAD = """\
config_version: 1
fleet: lab
node: n-1
operator: AAAA
algorithm: {rounds: 5}
objective: {kind: average, values: [{field: t}]}
crypto: {exchange: pairwise}
"""
SYNTHETIC = "{kind: synthetic, fields: {t: {mean: 1.0}}}"


def load(folder: Path, text: str) -> NodeConfig:
    (folder / "node.yaml").write_text(HEAD + text)
    return load_node_config(folder)


def complaints(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [str(each).removeprefix(f"{folder}/node.yaml:") for each in caught.value.findings]


def test_a_list_is_a_group_and_a_list_of_one_is_that_sensor(tmp_path: Path) -> None:
    clock = "{kind: clock, timeout_s: 9}"
    config = load(tmp_path, f"sensors: [{SYNTHETIC}, {clock}]\njoin_tolerance_s: 5\n")
    source = config.source
    assert isinstance(source, SensorGroup)
    assert parts_of(source)[1] == ClockSensor(timeout_s=9.0)
    assert (source.timeout_s, source.join_tolerance_s) == (9.0, 5.0)
    assert load(tmp_path, f"sensors: [{SYNTHETIC}]\n").source == (
        load(tmp_path, f"sensor: {SYNTHETIC}\n").source
    )
    assert isinstance(load(tmp_path, f"sensor: {SYNTHETIC}\n").source, SyntheticSensor)


def test_limits_and_guards_of_a_group_are_those_of_its_sensors(tmp_path: Path) -> None:
    one = SYNTHETIC[:-1] + ", limits: {t: [0, 1]}, guards: {t: {stuck_after_s: 60}}}"
    other = SYNTHETIC.replace("t:", "u:")[:-1] + ", limits: {u: [2, 3]}}"
    source = load(tmp_path, f"sensors: [{one}, {other}]\n").source
    assert source.limits == {"t": (0.0, 1.0), "u": (2.0, 3.0)}
    assert list(source.guards) == ["t"]


def test_a_follower_may_still_have_no_sensor(tmp_path: Path) -> None:
    text = HEAD.replace("average", "mean") + "role: follower\n"
    (tmp_path / "node.yaml").write_text(text)
    assert load_node_config(tmp_path).source == NoSensor()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "sensor.kind is none, which only a follower may have"),
        ("sensors: []\n", "8:1: sensors is an empty list, must be a list of length >= 1"),
        (
            f"sensor: {SYNTHETIC}\nsensors: [{SYNTHETIC}]\n",
            "9:1: sensors and sensor are both given; leave one of them out",
        ),
        (
            f"sensor: {SYNTHETIC}\njoin_tolerance_s: 5\n",
            "9:1: join_tolerance_s belongs to the list sensors, and there is one sensor",
        ),
        (
            f"sensors: [{SYNTHETIC}, {{kind: csv, path: a.csv}}]\n",
            "sensors[1].kind is csv, which cannot be joined with others: its rows have no times",
        ),
        (
            f"sensors: [{SYNTHETIC}, {{kind: none}}]\n",
            "sensors[1].kind is none, which cannot be joined with others: it has no readings",
        ),
        (
            f"sensors: [{SYNTHETIC}, {{kind: command, command: [a]}}]\n",
            "sensors[1] has no fields: among several sensors, name what the program prints",
        ),
        (
            f"sensors: [{SYNTHETIC[:-1]}, rows_per_round: 3}}, {{kind: clock}}]\n",
            "sensors[0].rows_per_round is 3, must be 1 among several sensors",
        ),
        (
            f"sensors: [{SYNTHETIC[:-1]}, limits: {{t: [2, 1]}}}}, {{kind: clock}}]\n",
            "sensors[0].limits.t is [2.0, 1.0], must be [lowest, highest]",
        ),
        (
            f"sensor: {SYNTHETIC[:-1]}, guards: {{t: {{}}}}}}\n",
            "sensor.guards.t has no guard, must have one of change_per_minute, stuck_after_rea",
        ),
        (
            f"sensor: {SYNTHETIC[:-1]}, guards: {{t: {{stuck_after: 3}}}}}}\n",
            "sensor.guards.t.stuck_after is not a known key, did you mean 'stuck_after_s'?",
        ),
        (
            "sensor: {kind: csv, path: a.csv, guards: {t: {stuck_after_s: 3}}}\n",
            "sensor.guards need the time of each reading, and the rows of a file have none",
        ),
        (
            "sensor: {kind: csv, path: a.csv, gap_marks: [ERR]}\n",
            "sensor.gap_marks has no effect, since gaps is refuse; write gaps: skip beside it",
        ),
        (
            "sensor: {kind: csv, path: a.csv, separator: ab}\n",
            "sensor.separator is 'ab', must be one character, for example ';'",
        ),
    ],
)
def test_a_mistake_is_one_complaint(tmp_path: Path, text: str, words: str) -> None:
    (found,) = complaints(tmp_path, text)
    assert words in found
