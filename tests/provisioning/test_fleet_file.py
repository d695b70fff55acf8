"""fleet.yaml: the meaning of a valid file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import (
    Algorithm,
    CommandSensor,
    CsvSensor,
    Source,
    Stepsize,
    SyntheticSensor,
)
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
HEAD = """\
config_version: 1
fleet: lab
algorithm: {rounds: 4}
objective: {kind: average, values: [{field: t}]}
topology: {kind: ring}
nodes:
"""
MADE_UP = "sensor: {kind: synthetic, fields: {t: {mean: 1, deviation: 1}}}"
RECORDED = 'sensor: {kind: csv, path: data/t.csv, where: {room: "{n}"}}'


def fleet_of(
    folder: Path, nodes: str, head: str = HEAD, overrides: Overrides | None = None
) -> Fleet:
    (folder / "data").mkdir(exist_ok=True)
    rows = "".join(f"{n},{20 + n / 10}\n" for n in range(1, 12))
    (folder / "data" / "t.csv").write_text("room,t\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(head + nodes)
    return load_fleet(file, overrides)


def ids_of(fleet: Fleet) -> list[str]:
    return [member.id for member in fleet.members]


def recorded_by(fleet: Fleet) -> list[list[float]]:
    return [[s.values["t"] for s in fleet.recorded(m) or []] for m in fleet.members]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("intel_lab", 50), ("average", 6), ("air", 12), ("rooms", 4), ("thermometers", 12)],
)
def test_the_examples_are_good_fleets(name: str, nodes: int) -> None:
    fleet = load_fleet(EXAMPLES / name / "fleet.yaml")
    assert len(fleet.members) == nodes
    assert len(fleet.graph.ids) == nodes
    for member in fleet.members:
        assert bool(fleet.recorded(member)) == (member.role == "member")


@pytest.mark.parametrize("name", ["air", "rooms"])
def test_each_node_of_an_example_with_followers_has_three_neighbours(name: str) -> None:
    fleet = load_fleet(EXAMPLES / name / "fleet.yaml")
    assert fleet.exchange == "sealed"
    ends = Counter(name for edge in fleet.graph.edges for name in edge)
    assert min(ends.values()) >= 3
    assert len(ends) == len(fleet.members)


def test_each_makes_a_row_of_nodes_with_leading_zeros_where_asked(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, f'  - {{each: 11, id: "m{{n:03}}-{{n}}", {RECORDED}}}')
    assert ids_of(fleet)[:2] == ["m001-1", "m002-2"]
    assert ids_of(fleet)[-1] == "m011-11"
    assert recorded_by(fleet)[10] == [21.1]


def test_a_row_and_single_nodes_stand_side_by_side(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}\n  - {{id: b, {MADE_UP}}}'
    )
    assert ids_of(fleet) == ["a1", "a2", "b"]
    assert fleet.recorded(fleet.members[2]) is None


def test_recorded_files_lie_beside_the_fleet_file_not_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert recorded_by(fleet_of(tmp_path, f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}')) == [
        [20.1], [20.2],
    ]  # fmt: skip


def test_braces_of_a_command_are_its_own_business(tmp_path: Path) -> None:
    command = """sensor: {kind: command, command: [awk, "{print $1}", "sensor{n}.txt"]}"""
    fleet = fleet_of(tmp_path, f'  - {{each: 2, id: "a{{n}}", {command}}}')
    sensor = fleet.members[1].sensor
    assert isinstance(sensor, CommandSensor)
    assert sensor.command == ["awk", "{print $1}", "sensor2.txt"]


def test_a_pattern_reaches_no_attribute_of_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gives the id 'a\{n.__class__\}'"):
        fleet_of(tmp_path, f'  - {{each: 2, id: "a{{n.__class__}}", {MADE_UP}}}')


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (2, ["a1", "a11"]),
        (3, ["a1", "a6", "a11"]),
        (5, ["a1", "a3", "a6", "a9", "a11"]),
        (11, [f"a{n}" for n in range(1, 12)]),
    ],
)
def test_fewer_nodes_are_spread_from_the_first_to_the_last(
    count: int, chosen: list[str], tmp_path: Path
) -> None:
    nodes = f'  - {{each: 11, id: "a{{n}}", {RECORDED}}}'
    fleet = fleet_of(tmp_path, nodes, overrides=Overrides(nodes=count))
    assert ids_of(fleet) == chosen
    assert list(fleet.graph.ids) == chosen


def test_fewer_nodes_keep_their_positions_and_the_others_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text(
        "id,x,y\n" + "".join(f"a{n},{n * n},0\n" for n in range(1, 12))
    )
    topology = "{kind: geometric, neighbours: 1, positions_file: map.csv}"
    head = HEAD.replace("{kind: ring}", topology)
    fleet = fleet_of(
        tmp_path, f'  - {{each: 11, id: "a{{n}}", {RECORDED}}}', head, Overrides(nodes=3)
    )
    assert fleet.graph.edges == (("a1", "a6"), ("a6", "a11"))


def test_the_command_line_changes_rounds_and_key_size_of_the_file(tmp_path: Path) -> None:
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    fleet = fleet_of(tmp_path, nodes, overrides=Overrides(rounds=7, key_bits=3072))
    assert (fleet.file.algorithm.rounds, fleet.file.crypto.key_bits) == (7, 3072)
    unchanged = fleet_of(tmp_path, nodes)
    assert (unchanged.file.algorithm.rounds, unchanged.file.crypto.key_bits) == (4, 2048)


SLOPE = (
    "{kind: least_squares, target: {field: t, offset: 20}, "
    "features: [{constant: 1}, {field: t, offset: 20}]}"
)


def test_a_method_of_the_command_line_takes_no_setting_of_another_one(tmp_path: Path) -> None:
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    article = "stepsize: {initial: 0.2, spread: 0.5}, attenuation: {scale: 1}"
    head = HEAD.replace("rounds: 4", f"rounds: 4, method: article, {article}")
    head = head.replace("{kind: average, values: [{field: t}]}", SLOPE)
    found = fleet_of(tmp_path, nodes, head, Overrides(method="statistics"))
    assert found.file.algorithm == Algorithm(
        rounds=4, method="statistics", stepsize=Stepsize(spread=0.5)
    )
    assert (found.dimension, found.solution_dimension) == (5, 2)
    head = HEAD.replace("rounds: 4", "rounds: 4, method: exact, scale: 0.5")
    found = fleet_of(tmp_path, nodes, head, Overrides(method="article"))
    assert found.file.algorithm == Algorithm(rounds=4, method="article")
    same = fleet_of(tmp_path, nodes, head, Overrides(method="exact"))
    assert same.file.algorithm.scale == 0.5


def test_a_method_of_the_command_line_that_the_objective_does_not_allow_is_refused(
    tmp_path: Path,
) -> None:
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    with pytest.raises(ConfigError, match=r"4:\d+: objective.kind is average: .*--method") as found:
        fleet_of(tmp_path, nodes, overrides=Overrides(method="statistics"))
    assert found.value.remedy == "leave --method out, or name another method"


@pytest.mark.parametrize(
    ("count", "is_valid"), [(2, False), (3, True), (1024, True), (1025, False)]
)
def test_a_shield_needs_3_to_1024_nodes(count: int, is_valid: bool, tmp_path: Path) -> None:
    head = HEAD.replace("rounds: 4", "rounds: 4, shield: linear").replace("average", "mean")
    nodes = f'  - {{each: {count}, id: "n{{n}}", {MADE_UP}}}\n'
    if is_valid:
        assert fleet_of(tmp_path, nodes, head.replace("ring", "line")).has_shield
        return
    with pytest.raises(ConfigError, match=f"the fleet has {count:,} nodes: a shield needs 3 to"):
        fleet_of(tmp_path, nodes, head.replace("ring", "line"))


QUADRATIC = HEAD.replace("rounds: 4", "rounds: 4, shield: quadratic").replace("average", "mean")


def test_the_quadratic_shield_needs_links_of_enough_weight(tmp_path: Path) -> None:
    nodes = f'  - {{each: 10, id: "n{{n}}", {MADE_UP}}}\n'
    for kind in ("ring", "line"):
        assert fleet_of(tmp_path, nodes, QUADRATIC.replace("ring", kind)).has_shield
    with pytest.raises(ConfigError, match=r"sum to 0.3 at every node; 'n2' has 0.09") as found:
        fleet_of(tmp_path, nodes, QUADRATIC.replace("ring", "star"))
    assert "set algorithm.shield: linear" in str(found.value.remedy)


def test_the_quadratic_shield_has_32_dimensions_at_most(tmp_path: Path) -> None:
    nodes = f'  - {{each: 4, id: "n{{n}}", {MADE_UP}}}\n'
    one = "{field: t}"
    fleet_of(tmp_path, nodes, QUADRATIC.replace(one, ", ".join([one] * 32)))
    with pytest.raises(ConfigError, match="an estimate has 33 numbers: it allows 32"):
        fleet_of(tmp_path, nodes, QUADRATIC.replace(one, ", ".join([one] * 33)))


def test_method_statistics_has_no_quadratic_shield(tmp_path: Path) -> None:
    nodes = f'  - {{each: 4, id: "n{{n}}", {MADE_UP}}}\n'
    both = QUADRATIC.replace("rounds: 4", "rounds: 4, method: statistics")
    with pytest.raises(ConfigError, match="in method statistics the curvature is one on all nodes"):
        fleet_of(tmp_path, nodes, both)
    with pytest.raises(ConfigError, match="is from --method"):
        fleet_of(tmp_path, nodes, QUADRATIC, Overrides(method="statistics"))


def test_a_method_of_the_command_line_may_have_no_shield(tmp_path: Path) -> None:
    head = HEAD.replace("rounds: 4", "rounds: 4, shield: linear").replace("average", "mean")
    nodes = f'  - {{each: 3, id: "n{{n}}", {MADE_UP}}}\n'
    assert fleet_of(tmp_path, nodes, head, Overrides(method="statistics")).has_shield
    assert not fleet_of(tmp_path, nodes, head, Overrides(method="article")).has_shield


def test_statistics_that_no_message_holds_are_refused(tmp_path: Path) -> None:
    many = ", ".join(["{daily: t, harmonics: 12}"] * 9)  # 216 parameters, 23,652 statistics
    section = SLOPE.replace("[{constant: 1}, {field: t, offset: 20}]", f"[{many}]")
    head = HEAD.replace("{kind: average, values: [{field: t}]}", section)
    head = head.replace("rounds: 4", "rounds: 4, method: statistics")
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    with pytest.raises(ConfigError, match=r"algorithm.method is statistics: 23,652 numbers") as no:
        fleet_of(tmp_path, nodes, head)
    assert "set algorithm.method: exact" in no.value.remedy


def test_statistics_beyond_the_range_are_refused_although_a_step_would_fit(tmp_path: Path) -> None:
    section = SLOPE.replace("{field: t, offset: 20}]", "{field: t, offset: 9}]")  # squares of 120
    head = HEAD.replace("{kind: average, values: [{field: t}]}", section)
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    limit = f"rounds: 4, resolution: 2^-{VALUE_BITS - 7}"  # +-64
    fleet_of(tmp_path, nodes, head.replace("rounds: 4", f"{limit}, method: exact"))
    with pytest.raises(ConfigError, match=r"range of \+-64 of algorithm.resolution"):
        fleet_of(tmp_path, nodes, head.replace("rounds: 4", f"{limit}, method: statistics"))


def test_rounds_of_the_command_line_make_up_for_a_file_without_any(tmp_path: Path) -> None:
    head = HEAD.replace("{rounds: 4}", "{resolution: 2^-20}")
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    with pytest.raises(ConfigError, match="needs rounds"):
        fleet_of(tmp_path, nodes, head)
    assert fleet_of(tmp_path, nodes, head, Overrides(rounds=3)).file.algorithm.rounds == 3


def test_made_up_sensors_of_one_row_have_seeds_of_their_own(tmp_path: Path) -> None:
    def seeds(nodes: str) -> list[int]:
        return [seed_of(m.sensor) for m in fleet_of(tmp_path, nodes).members]

    row = f'  - {{each: 9, id: "a{{n}}", {MADE_UP}}}'
    assert len(set(seeds(row))) == 9
    assert seeds(row) == seeds(row)
    assert seeds(row) != seeds(row.replace("synthetic,", "synthetic, seed: 1,"))


def seed_of(sensor: Source) -> int:
    assert isinstance(sensor, SyntheticSensor)
    return sensor.seed


def test_one_recorded_file_is_read_once_for_all_its_nodes(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, f'  - {{each: 11, id: "a{{n}}", {RECORDED}}}')
    assert list(fleet.tables) == [tmp_path / "data" / "t.csv"]
    assert isinstance(fleet.members[0].sensor, CsvSensor)


def test_a_start_that_the_resolution_cannot_hold_is_refused_without_showing_it(
    tmp_path: Path,
) -> None:
    nodes = f'  - {{each: 2, id: "a{{n}}", {RECORDED}}}'
    fine = HEAD.replace("{rounds: 4}", "{rounds: 4, resolution: 2^-35}")  # +-16 in real units
    with pytest.raises(ConfigError, match=r"range of \+-16 of algorithm.resolution") as caught:
        fleet_of(tmp_path, nodes, fine)
    assert "20.1" not in str(caught.value)
    fleet_of(tmp_path, nodes, fine.replace("field: t", "field: t, offset: 20"))
    fleet_of(tmp_path, nodes, fine.replace("2^-35", "2^-34"))


def test_a_live_sensor_must_have_what_the_objective_needs(tmp_path: Path) -> None:
    nodes = f'  - {{each: 2, id: "a{{n}}", {MADE_UP.replace("t:", "u:")}}}'
    with pytest.raises(ConfigError, match=r"4:\d+: objective.values\[0\].field is 't', which no"):
        fleet_of(tmp_path, nodes)
    nodes += f"\n  - {{id: b, {MADE_UP}}}"
    with pytest.raises(ConfigError, match=r"7:\d+: nodes\[0\].sensor of .*needs 't', .* has 'u'"):
        fleet_of(tmp_path, nodes)
