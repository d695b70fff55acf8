"""Several sensors, and CSV files of other programs, from fleet.yaml to each node.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.kept_window import WINDOW_FILE, KeptWindow
from cipherfleet_node.runtime.store import STATE_FOLDER
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.node_yaml import NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import (
    Broker,
    NodeConfig,
    SensorGroup,
    Simulation,
    parts_of,
)
from cipherfleet_provisioning.bundles import (
    READINGS_FILE,
    node_config,
    settings_text,
    write_bundles,
)
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

FLEET = """\
config_version: 1
fleet: lab
objective: {kind: average, values: [{field: t}]}
topology: {kind: complete}
nodes:
"""
SYNTHETIC = "{kind: synthetic, fields: {t: {mean: 1}}}"


def fleet_of(folder: Path, nodes: str) -> Fleet:
    (folder / "fleet.yaml").write_text(FLEET + nodes)
    return load_fleet(folder / "fleet.yaml")


def complaints(folder: Path, nodes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        fleet_of(folder, nodes)
    return [str(each).removeprefix(f"{folder}/fleet.yaml:") for each in caught.value.findings]


def config_of(fleet: Fleet, place: int, folder: Path) -> NodeConfig:
    """The settings of a node that has not enrolled, as it reads them from its file."""
    member = fleet.members[place]
    made = node_config(fleet, member, None, Broker(), Simulation(), operator="AAAA")
    (folder / NODE_FILE).write_text(settings_text(made))
    return load_node_config(folder)


def test_each_node_gets_the_list_with_its_number_and_seeds(tmp_path: Path) -> None:
    program = '{kind: command, command: [./read, "{n}"], fields: [u]}'
    row = f'  - {{each: 3, id: "n{{n}}", join_tolerance_s: 9, sensors: [{SYNTHETIC}, {program}]}}\n'
    fleet = fleet_of(tmp_path, row)
    sources = [config_of(fleet, place, tmp_path).source for place in range(3)]
    assert [source == member.sensor for source, member in zip(sources, fleet.members, strict=True)]
    for number, source in enumerate(sources, 1):
        assert isinstance(source, SensorGroup)
        assert source.join_tolerance_s == 9.0
        assert parts_of(source)[1].command == ["./read", str(number)]  # type: ignore[union-attr]
    assert len({str(parts_of(source)[0]) for source in sources}) == 3  # seeds of their own
    assert "\nsensor:" not in (tmp_path / NODE_FILE).read_text()


def test_a_list_of_one_is_that_sensor(tmp_path: Path) -> None:
    one = fleet_of(tmp_path, f'  - {{each: 3, id: "n{{n}}", sensors: [{SYNTHETIC}]}}\n')
    other = fleet_of(tmp_path, f'  - {{each: 3, id: "n{{n}}", sensor: {SYNTHETIC}}}\n')
    assert one.members == other.members
    assert "join_tolerance_s" not in settings_text(
        node_config(one, one.members[0], None, Broker(), Simulation(), operator="AAAA")
    )


@pytest.mark.parametrize(
    ("sensors", "place", "words"),
    [
        (
            f"[{SYNTHETIC}, {{kind: thermal, zone: 0, field: t}}]",
            "6:27: ",
            "the field 't' comes from sensor 1 (synthetic) and from sensor 2 (thermal)",
        ),
        ("[{kind: clock}]", "3:45: ", "'t', which no sensor has, they have 'hour', 'weekday'"),
        (
            f"[{{kind: clock}}, {SYNTHETIC[:-1]}, limits: {{u: [0, 1]}}}}]",
            "6:103: ",
            "nodes[0].sensors[1].limits.u is no field of the sensor of 'n1', it has 't'",
        ),
        (
            f"[{{kind: clock, guards: {{houre: {{stuck_after_s: 9}}}}}}, {SYNTHETIC}]",
            "6:60: ",
            "'hour', 'weekday', did you mean 'hour'?",
        ),
    ],
)
def test_a_mistake_in_a_list_is_one_complaint_with_its_place(
    tmp_path: Path, sensors: str, place: str, words: str
) -> None:
    (found,) = complaints(tmp_path, f'  - {{each: 3, id: "n{{n}}", sensors: {sensors}}}\n')
    assert words in found
    assert found.startswith(place)


def test_a_node_with_several_sensors_starts_from_its_bundle_and_keeps_its_window(
    tmp_path: Path,
) -> None:
    """A window of replays would not be kept: their rows come again. Those of a group do not."""
    two = f"[{SYNTHETIC}, {SYNTHETIC.replace('t:', 'u:')}]"
    row = f'  - {{each: 3, id: "n{{n}}", sensors: {two}}}\n'
    objective = "objective: {kind: mean, values: [{field: u}]}\n"
    weak = "crypto: {key_bits: 512, allow_weak_keys: true}\n" + objective
    (tmp_path / "fleet.yaml").write_text(
        FLEET.replace("objective: {kind: average, values: [{field: t}]}\n", weak) + row
    )
    fleet = load_fleet(tmp_path / "fleet.yaml")
    nodes = write_bundles(fleet, tmp_path / "nodes", Broker(), Simulation(seed=3))
    bundle = read_bundle(nodes["n2"])
    assert bundle.sensor.fields == ("t", "u")
    (sample,) = bundle.sensor.read()
    assert sample.values == {"t": 1.0, "u": 1.0}
    (nodes["n2"] / STATE_FOLDER).mkdir(exist_ok=True)
    kept = KeptWindow(bundle, 0.0, 0.0)
    bundle.objective.absorb([sample])
    kept.save(1.0, 1.0)
    assert (nodes["n2"] / STATE_FOLDER / WINDOW_FILE).is_file()


GERMAN = "Raum;Temp\n1;20,5\n1;\n2;21,5\n3;22,5\n"
CSV = (
    '{kind: csv, path: a.csv, separator: ";", decimal: ",", columns: {Temp: t}, gaps: skip, '
    'where: {Raum: "{n}"}}'
)


def test_a_node_gets_its_rows_of_a_file_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GERMAN)
    fleet = fleet_of(tmp_path, f'  - {{each: 3, id: "n{{n}}", sensor: {CSV}}}\n')
    assert [len(fleet.recorded(member) or []) for member in fleet.members] == [1, 1, 1]
    own = tmp_path / "n1"
    own.mkdir()
    config = config_of(fleet, 0, own)
    table = fleet.tables[tmp_path / "a.csv"]
    (own / READINGS_FILE).write_text(table.cut({"Raum": 1}))
    assert (own / READINGS_FILE).read_text() == 'Raum,t\n1,"20,5"\n1,\n'
    assert open_sensor(config.source, own, ["t"]).read() == fleet.recorded(fleet.members[0])


def test_a_file_is_read_in_one_way(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GERMAN)
    nodes = (
        f'  - {{each: 2, id: "n{{n}}", sensor: {CSV}}}\n'
        f"  - {{id: other, sensor: {CSV.replace('columns: {Temp: t}', 'columns: {}')}}}\n"
    )
    assert "another node reads this file with other settings" in complaints(tmp_path, nodes)[0]
