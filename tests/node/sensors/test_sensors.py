"""Sensors: replays, synthetic readings, kernel files and programs."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import CsvTable, SensorDevice, open_sensor, read_rows
from cipherfleet_node.sensors.command import MAX_OUTPUT_BYTES, parse_numbers
from cipherfleet_node.sensors.hwmon import PER_UNIT, HwmonChip
from cipherfleet_node.sensors.thermal import ThermalZone, processor_temperature
from cipherfleet_node.settings.sections import (
    CommandSensor,
    CsvSensor,
    HttpSensor,
    HwmonSensor,
    IioSensor,
    OneWireSensor,
    SyntheticField,
    SyntheticSensor,
    ThermalSensor,
)
from tests.support.paths import ROOT

INTEL_LAB = ROOT / "examples" / "intel_lab" / "intel_lab.csv"
unhurried = settings(deadline=None, max_examples=50)  # files and a shared machine

FIELDS = ("hour", "temperature_c", "humidity_pct")


def refused(file: Path, needed: tuple[str, ...] = ("t",), **settings: object) -> str:
    """The complaint about a CSV sensor that cannot be opened."""
    config = CsvSensor(path=file.name, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        open_sensor(config, file.parent, needed)
    return str(caught.value)


def complaint_of(device: SensorDevice) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        device.read()
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    file = folder / "data.csv"
    file.write_text(textwrap.dedent(text))
    return file


# -- a sample -----------------------------------------------------------------------------------


def test_a_sample_does_not_show_its_readings() -> None:
    sample = Sample({"temperature_c": 23.456})
    assert "23.456" not in f"{sample} {sample!r}"
    assert "temperature_c" in repr(sample)


# -- csv ----------------------------------------------------------------------------------------


def test_every_mote_of_the_intel_lab_has_its_144_rows() -> None:
    table = CsvTable(INTEL_LAB)
    slices = [table.samples({"sensor": mote}, FIELDS) for mote in range(1, 51)]
    assert [len(samples) for samples in slices] == [144] * 50
    assert slices[0][0].values == {"hour": 0.5, "temperature_c": 18.3, "humidity_pct": 44.0}


def test_no_column_but_the_needed_ones_leaves_the_table() -> None:
    sample = read_rows(INTEL_LAB, {"sensor": 7}, {"humidity_pct", "hour"})[0]
    assert list(sample.values) == ["hour", "humidity_pct"]


@pytest.mark.parametrize("three", [3, 3.0, "3", "3.0", " 3", "03", "3e0", "+3."])
def test_where_compares_numbers_by_value_however_they_are_written(
    tmp_path: Path, three: str | float
) -> None:
    file = written(tmp_path, "id,t\n3,1\n 3.0 ,2\n30,3\n0.3e1,4\n-3,5\n")
    assert [s.values["t"] for s in read_rows(file, {"id": three}, ["t"])] == [1.0, 2.0, 4.0]


def test_where_compares_words_as_words_and_all_columns_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "room,id,t\nlab,1,10\nhall,1,11\nlab,2,12\nLab,1,13\n")
    assert [s.values["t"] for s in read_rows(file, {"room": "lab", "id": 1}, ["t"])] == [10.0]


def test_long_serial_numbers_that_floats_cannot_tell_apart_are_different_nodes(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "id,t\n9007199254740993,1\n9007199254740992,2\n")
    assert [s.values["t"] for s in read_rows(file, {"id": "9007199254740992"}, ["t"])] == [2.0]


def test_an_absurd_exponent_in_a_selecting_column_is_only_a_word(tmp_path: Path) -> None:
    file = written(tmp_path, "id,t\n1e99999999999999999999,1\n2,2\n")
    assert len(read_rows(file, {"id": "1e99999999999999999999"}, ["t"])) == 1


def test_a_replay_gives_all_rows_at_first_and_then_none() -> None:
    config = CsvSensor(path=INTEL_LAB.name, where={"sensor": "12"})
    device = open_sensor(config, INTEL_LAB.parent, FIELDS)
    assert device.fields == FIELDS
    assert device.read() == read_rows(INTEL_LAB, {"sensor": 12}, FIELDS)
    assert device.read() == device.read() == []
    device.close()


@settings(deadline=None, max_examples=30)
@given(rows_per_round=st.integers(1, 200))
def test_a_replay_in_pieces_gives_every_row_once_and_in_order(rows_per_round: int) -> None:
    config = CsvSensor(path=str(INTEL_LAB), where={"sensor": 3}, rows_per_round=rows_per_round)
    device = open_sensor(config, Path("/"), FIELDS)
    pieces = list(iter(device.read, []))
    assert {len(piece) for piece in pieces[:-1]} <= {rows_per_round}
    assert len(pieces[-1]) <= rows_per_round
    assert list(chain.from_iterable(pieces)) == rows_of_mote_3()


@cache
def rows_of_mote_3() -> Sequence[Sample]:
    return read_rows(INTEL_LAB, {"sensor": 3}, FIELDS)


@pytest.mark.parametrize(("first", "pace"), [(1, 1), (1, 5), (96, 20)])
def test_a_replay_may_give_a_row_in_several_rounds(first: int, pace: int) -> None:
    config = CsvSensor(
        path=str(INTEL_LAB), where={"sensor": 3}, first_rows=first, rounds_per_row=pace
    )
    device = open_sensor(config, Path("/"), FIELDS)
    expected = read_rows(INTEL_LAB, {"sensor": 3}, FIELDS)
    pieces = [device.read() for _ in range(pace * len(expected))]
    assert len(pieces[0]) == first
    assert {k for k, piece in enumerate(pieces) if piece} <= set(range(0, len(pieces), pace))
    assert list(chain.from_iterable(pieces)) == expected


def test_a_closed_replay_gives_nothing_more() -> None:
    config = CsvSensor(path=str(INTEL_LAB), where={"sensor": 3}, rows_per_round=1)
    device = open_sensor(config, Path("/"), FIELDS)
    device.close()
    assert device.read() == []


def test_columns_that_nobody_needs_may_hold_text(tmp_path: Path) -> None:
    file = written(tmp_path, "note,t\nwarm,21.5\n,22\n")
    assert [s.values for s in read_rows(file, {}, ["t"])] == [{"t": 21.5}, {"t": 22.0}]


def test_rows_of_other_nodes_may_lack_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "ok,t\nyes,21.5\nno,broken\n")
    assert len(read_rows(file, {"ok": "yes"}, ["t"])) == 1


def test_a_spreadsheet_export_with_byte_order_mark_and_blank_lines_is_read(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b'\xef\xbb\xbf"id","t"\r\n\r\n1,"2.5"\r\n\r\n')
    assert [s.values for s in read_rows(file, {"id": 1}, ["t"])] == [{"t": 2.5}]


def test_a_needed_column_that_is_missing_is_named_with_those_that_exist() -> None:
    complaint = refused(INTEL_LAB, ("hour", "lux"))
    assert complaint.startswith(f"{INTEL_LAB}:1: ")
    assert "'lux'" in complaint
    assert "'sensor', 'hour', 'temperature_c', 'humidity_pct'" in complaint


def test_a_limit_on_a_column_that_does_not_exist_is_refused() -> None:
    complaint = refused(INTEL_LAB, ("hour",), limits={"temperatur_c": (0, 1)})
    assert "sensor.limits names 'temperatur_c', the sensor has 'sensor', 'hour'" in complaint


def test_a_where_column_that_does_not_exist_is_refused() -> None:
    assert "where names 'mote'" in refused(INTEL_LAB, ("hour",), where={"mote": 1})


def test_a_where_that_no_row_matches_is_refused() -> None:
    complaint = refused(INTEL_LAB, ("hour",), where={"sensor": 51})
    assert "none of its 7200 rows matches where {sensor: 51}" in complaint


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("\n\n", 1, "is empty"),
        ("id,t\n", 1, "no rows"),
        ("id,t\n1,2\n1\n", 3, "too short: 1 of 2 cells, 't' is missing"),
        ("id,t\n1,2\n1,2,3\n", 3, "too long: 3 cells, the last of 2 columns is 't'"),
        ("id,t\n1,\n", 2, "'t' is empty"),
        ("id,t\n1,2\n\n1,off\n", 4, "'t' is 'off', must be a number"),
        ("id,t\n1,nan\n", 2, "'t' is not a finite number"),
        ("id,t\n1,-Infinity\n", 2, "'t' is not a finite number"),
        ("id,t\n1,1e999\n", 2, "'t' is too large"),
        ("id,t\n1,0x10\n", 2, "'t' holds 4 characters"),
        ("id,t\n1,1_0\n", 2, "'t' holds 3 characters"),
        ('id,t\n"a\nb",2\n1,off\n', 4, "'t' is 'off'"),
        ('id,t\n1,"2\n', 2, "not valid CSV"),
        ("t,t\n1,2\n", 1, "'t' twice"),
        ("id;t\n1;2\n", 1, 'the file has one column; write separator: ";"'),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    file = written(tmp_path, text)
    complaint = refused(file)
    assert complaint.startswith(f"{file}:{line}: ")
    assert words in complaint


def test_the_whole_replay_is_checked_when_opened(tmp_path: Path) -> None:
    file = written(tmp_path, "t\n" + "1\n" * 1000 + "oops\n")
    assert ":1002: column 't'" in refused(file, rows_per_round=1)


def test_a_value_outside_its_limits_is_refused_without_being_shown(tmp_path: Path) -> None:
    file = written(tmp_path, "t\n20\n-40\n61.25\n")
    complaint = refused(file, limits={"t": (-40, 60)})
    assert complaint == f"{file}:4: column 't' is outside its limits [-40, 60]"


def test_limits_hold_for_columns_that_nobody_needs(tmp_path: Path) -> None:
    file = written(tmp_path, "t,battery_v\n20,1.9\n")
    assert "'battery_v' is outside" in refused(file, limits={"battery_v": (2.1, 3.3)})


def test_long_wrong_text_is_shortened(tmp_path: Path) -> None:
    file = written(tmp_path, "t\nthe sensor was taken away for repair\n")
    assert "'the sensor was ta...'" in refused(file)


@pytest.mark.parametrize("cell", ["23,75", "23.75C", "~23.75", "23.75 23.75", "0x23.75"])
def test_a_reading_in_the_wrong_notation_is_not_shown(tmp_path: Path, cell: str) -> None:
    file = written(tmp_path, f't\n"{cell}"\n')
    complaint = refused(file)
    assert f"{file}:2: column 't'" in complaint
    assert "23" not in complaint.replace(str(file), "")


def test_the_readings_of_a_file_without_header_do_not_pass_for_names(tmp_path: Path) -> None:
    file = written(tmp_path, "lab,23.75\nlab,23.5\n")
    complaint = refused(file)
    assert complaint == f"{file}:1: cell 2 is a number, not a name"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "data.csv")


def test_a_folder_and_a_pipe_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "folder")
    assert "not a regular file" in refused(tmp_path / "pipe")  # opening it would hang


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes("t,name\n1,K\xfcche\n".encode("latin-1"))
    assert refused(file) == f"{file}:2: is not UTF-8 text"


def test_an_oversize_cell_is_refused_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "t\n" + "1" * 130_000 + "x\n")
    assert "'t' holds 130001 characters" in refused(file)  # before it is read as a number


def test_a_cut_slice_holds_the_nodes_own_rows_and_no_others(tmp_path: Path) -> None:
    table = CsvTable(INTEL_LAB)
    file = written(tmp_path, table.cut({"sensor": 9}))
    own = CsvTable(file)
    assert own.columns == table.columns
    assert {cell.cells[0] for cell in own.select({})} == {"9"}
    assert own.samples({}, FIELDS) == table.samples({"sensor": 9}, FIELDS)


@unhurried
@given(
    notes=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6),
    number=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_slice_survives_being_cut_whatever_its_other_cells_hold(
    tmp_path_factory: pytest.TempPathFactory, notes: list[str], number: float
) -> None:
    file = tmp_path_factory.mktemp("cut") / "data.csv"
    quoted = [note.replace('"', '""') for note in notes]
    file.write_bytes(
        ("note,t\r\n" + "".join(f'"{note}",{number!r}\r\n' for note in quoted)).encode()
    )
    table = CsvTable(file)
    assert [row.cells[0] for row in table.select({})] == notes
    file.write_bytes(table.cut({}).encode())
    again = CsvTable(file)
    assert [row.cells for row in again.select({})] == [row.cells for row in table.select({})]
    assert [s.values["t"] for s in again.samples({}, ["t"])] == [number] * len(notes)


def test_fifty_slices_of_one_file_do_not_read_it_fifty_times() -> None:
    started = time.process_time()
    table = CsvTable(INTEL_LAB)
    for mote in range(1, 51):
        table.samples({"sensor": mote}, FIELDS)
        table.cut({"sensor": str(mote)})
    assert time.process_time() - started < 20  # usually 0.3 s of this process's own time


# -- synthetic ----------------------------------------------------------------------------------


def synthetic(**settings: object) -> SensorDevice:
    fields = {"t": SyntheticField(mean=20, deviation=2), "u": SyntheticField(mean=-1)}
    config = SyntheticSensor(**{"fields": fields, **settings})  # type: ignore[arg-type]
    return open_sensor(config, Path("/"), ["t"])


def test_made_up_readings_have_the_asked_mean_and_deviation() -> None:
    samples = synthetic(rows_per_round=4000).read()
    values = [sample.values["t"] for sample in samples]
    # Five standard errors: 5 * 2 / sqrt(4000) = 0.16, and 0.11 for the deviation; a fixed seed.
    assert statistics.fmean(values) == pytest.approx(20, abs=0.16)
    assert statistics.stdev(values) == pytest.approx(2, abs=0.12)
    assert {sample.values["u"] for sample in samples} == {-1.0}


@unhurried
@given(seed=st.integers(), rows=st.integers(1, 5))
def test_the_same_seed_makes_up_the_same_readings(seed: int, rows: int) -> None:
    one, other = (synthetic(seed=seed, rows_per_round=rows) for _ in range(2))
    assert [one.read(), one.read()] == [other.read(), other.read()]
    assert one.read() != one.read()
    assert synthetic(seed=seed).read() != synthetic(seed=seed + 1).read()


def test_a_new_made_up_field_leaves_the_others_as_they_were() -> None:
    fields = {"new": SyntheticField(mean=0, deviation=1), "t": SyntheticField(mean=20, deviation=2)}
    grown = synthetic(fields=fields)
    assert grown.read()[0].values["t"] == synthetic().read()[0].values["t"]


def test_a_made_up_reading_outside_its_limits_is_withheld_and_the_next_read_tries_again() -> None:
    device = synthetic(limits={"t": (20, 100)})
    given_back = 0
    for _ in range(200):
        with suppress(SensorUnavailable):
            given_back += len(device.read())
    assert 60 < given_back < 140  # half of them lie above the mean
    never = synthetic(limits={"t": (1000, 2000)})
    assert complaint_of(never) == "sensor synthetic: t is outside its limits [1000, 2000]"


def test_a_needed_field_that_is_not_made_up_is_refused() -> None:
    config = SyntheticSensor(fields={"t": SyntheticField(mean=0)})
    with pytest.raises(ConfigError, match="needs 'lux', the sensor has 't'"):
        open_sensor(config, Path("/"), ["t", "lux"])


# -- thermal ------------------------------------------------------------------------------------


def add_zone(sysfs: Path, number: int, kind: str, temp: str) -> Path:
    folder = sysfs / "class" / "thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "temp").write_text(f"{temp}\n")
    return folder


def open_zone(sysfs: Path, zone: str | int, **settings: object) -> ThermalZone:
    config = ThermalSensor(zone=zone, **settings)  # type: ignore[arg-type]
    return ThermalZone(config, [config.field], sysfs)


@pytest.mark.parametrize("zone", ["cpu-thermal", 10, "10"])
def test_a_thermal_zone_is_found_by_type_and_by_number(tmp_path: Path, zone: str | int) -> None:
    add_zone(tmp_path, 2, "gpu-thermal", "99000")
    add_zone(tmp_path, 10, "cpu-thermal", "48312")
    device = open_zone(tmp_path, zone, field="cpu_c")
    assert device.fields == ("cpu_c",)
    assert device.read() == [Sample({"cpu_c": 48.312})]


def test_a_processor_may_be_85_degrees_hot(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "x86_pkg_temp", "85000")
    assert open_zone(tmp_path, 0).read()[0].values == {"temperature_c": 85.0}


@pytest.mark.parametrize("zone", ["acpitz", 7])
def test_a_thermal_zone_that_does_not_exist_is_refused_with_those_that_do(
    tmp_path: Path, zone: str | int
) -> None:
    add_zone(tmp_path, 10, "cpu-thermal", "1")
    add_zone(tmp_path, 2, "gpu-thermal", "1")
    with pytest.raises(ConfigError, match=r"this machine has 2 \(gpu-thermal\), 10 \(cpu-"):
        open_zone(tmp_path, zone)


def test_a_machine_without_thermal_zones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this machine has no zones"):
        open_zone(tmp_path, "cpu-thermal")


def test_a_zone_type_that_two_zones_have_is_refused_with_their_numbers(tmp_path: Path) -> None:
    add_zone(tmp_path, 4, "acpitz", "1")
    add_zone(tmp_path, 0, "acpitz", "1")
    with pytest.raises(ConfigError, match="write one of 0, 4"):
        open_zone(tmp_path, "acpitz")


def test_the_real_machine_is_looked_at_by_default() -> None:
    with pytest.raises(ConfigError, match="no-such-zone"):
        open_sensor(ThermalSensor(zone="no-such-zone"), Path("/"), [])
    with pytest.raises(ConfigError, match="no-such-chip"):
        open_sensor(HwmonSensor(chip="no-such-chip", inputs={"in0_input": "u"}), Path("/"), [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not hold one whole number"),
        ("warm", "not hold one whole number"),
        ("48.5", "not hold one whole number"),
        ("48000 1", "not hold one whole number"),
        ("9" * 30, "not hold one whole number"),
        ("-274000", "below absolute zero"),
        ("61000", r"outside its limits \[-20, 60\]"),
    ],
)
def test_a_zone_without_a_good_temperature_is_unavailable(
    tmp_path: Path, text: str, words: str
) -> None:
    add_zone(tmp_path, 0, "cpu", text)
    device = open_zone(tmp_path, "cpu", limits={"temperature_c": (-20, 60)})
    with pytest.raises(SensorUnavailable, match=words) as caught:
        device.read()
    assert not text or text not in str(caught.value)


def test_a_zone_that_goes_and_comes_back_under_another_number_is_found_again(
    tmp_path: Path,
) -> None:
    zone = add_zone(tmp_path, 0, "cpu", "40000")
    device = open_zone(tmp_path, "cpu")
    zone.rename(tmp_path / "gone")
    with pytest.raises(SensorUnavailable, match="is not here, this machine has"):
        device.read()
    (tmp_path / "gone").rename(zone.with_name("thermal_zone3"))
    assert device.read() == [Sample({"temperature_c": 40.0})]


def test_a_zone_whose_driver_fails_is_unavailable(tmp_path: Path) -> None:
    zone = add_zone(tmp_path, 0, "cpu", "40000")
    device = open_zone(tmp_path, "cpu")
    (zone / "temp").unlink()
    (zone / "temp").mkdir()  # reading it fails, as EIO would
    with pytest.raises(SensorUnavailable, match="temp cannot be read: Is a directory"):
        device.read()


REPLAY = CsvSensor(path="readings.csv")


def test_the_processors_temperature_is_told_in_whole_degrees(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "acpitz", "20000")
    add_zone(tmp_path, 2, "cpu-thermal", "48612")
    assert processor_temperature(REPLAY, tmp_path) == 49
    made_up = SyntheticSensor(fields={"t": SyntheticField(mean=1.0)})
    assert processor_temperature(made_up, tmp_path) == 49
    assert (
        processor_temperature(HwmonSensor(chip="ina", inputs={"curr1_input": "ampere"}), tmp_path)
        == 49
    )


def test_no_temperature_is_told_where_the_sensor_may_measure_one(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "48612")
    for sensor in (
        ThermalSensor(zone="cpu-thermal"),
        ThermalSensor(zone="acpitz"),
        HwmonSensor(chip="cpu_thermal", inputs={"temp1_input": "celsius"}),
        CommandSensor(command=["vcgencmd", "measure_temp"]),
        IioSensor(chip="bme280", inputs={"temp": "celsius"}),
        OneWireSensor(device="28-0316a2795eff"),
        HttpSensor(url="http://127.0.0.1/", fields={"t": "t"}),
    ):
        assert processor_temperature(sensor, tmp_path) is None


@pytest.mark.parametrize("temp", ["", "hot", "-274000", "40.5", "1000000", "9" * 30])
def test_a_processor_without_a_good_temperature_has_none(tmp_path: Path, temp: str) -> None:
    assert processor_temperature(REPLAY, tmp_path) is None
    add_zone(tmp_path, 0, "x86_pkg_temp", temp)
    assert processor_temperature(REPLAY, tmp_path) is None


def test_a_kernel_that_does_not_answer_costs_the_timeout_and_no_more_than_one_thread(
    tmp_path: Path,
) -> None:
    zone = add_zone(tmp_path, 0, "cpu", "40000")
    device = open_zone(tmp_path, "cpu", timeout_s=0.2)
    (zone / "temp").unlink()
    os.mkfifo(zone / "temp")  # opening it waits, as a hung bus would
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(SensorUnavailable, match=r"no answer within 0\.2 s"):
        device.read()
    for _ in range(3):
        with pytest.raises(SensorUnavailable, match="an earlier read still waits"):
            device.read()
    assert time.monotonic() - started < 60
    assert threading.active_count() == threads + 1

    (zone / "temp").write_text("41000\n")  # the bus wakes up, the abandoned read ends
    give_up = time.monotonic() + 120
    while threading.active_count() > threads and time.monotonic() < give_up:
        time.sleep(0.01)
    (zone / "temp").unlink()
    (zone / "temp").write_text("42000\n")
    assert device.read() == [Sample({"temperature_c": 42.0})]


def test_a_field_that_the_zone_does_not_give_is_refused(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "cpu", "40000")
    with pytest.raises(ConfigError, match="needs 'humidity_pct', the sensor has 'temperature_c'"):
        ThermalZone(ThermalSensor(zone=0), ["humidity_pct"], tmp_path)
    with pytest.raises(ConfigError, match=r"sensor\.limits names 'temp'"):
        open_zone(tmp_path, 0, limits={"temp": (0, 1)})


# -- hwmon --------------------------------------------------------------------------------------


def add_chip(sysfs: Path, number: int, name: str, files: dict[str, str]) -> Path:
    folder = sysfs / "class" / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    for file, text in {"name": name, **files}.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def open_chip(sysfs: Path, chip: str, inputs: dict[str, str], **settings: object) -> HwmonChip:
    config = HwmonSensor(chip=chip, inputs=inputs, **settings)  # type: ignore[arg-type]
    return HwmonChip(config, list(inputs.values()), sysfs)


def test_each_kind_of_input_is_scaled_as_the_kernel_documents_it(tmp_path: Path) -> None:
    files = {
        "in0_input": "3312",
        "temp1_input": "-4125",
        "curr1_input": "250",
        "humidity1_input": "45678",
        "power1_average": "1500000",
        "energy1_input": "2500000",
        "fan2_input": "1320",
    }
    add_chip(tmp_path, 0, "all", files)
    device = open_chip(tmp_path, "all", {file: file.partition("_")[0] for file in files})
    assert device.fields == ("in0", "temp1", "curr1", "humidity1", "power1", "energy1", "fan2")
    assert device.read()[0].values == {
        "in0": 3.312,
        "temp1": -4.125,
        "curr1": 0.25,
        "humidity1": 45.678,
        "power1": 1.5,
        "energy1": 2.5,
        "fan2": 1320.0,
    }


@unhurried
@given(quantity=st.sampled_from(sorted(PER_UNIT)), count=st.integers(-273_150, 10**12))
def test_every_count_of_the_kernel_comes_back_from_its_reading(
    tmp_path_factory: pytest.TempPathFactory, quantity: str, count: int
) -> None:
    sysfs = tmp_path_factory.mktemp("sys")
    add_chip(sysfs, 0, "chip", {f"{quantity}1_input": str(count)})
    value = open_chip(sysfs, "chip", {f"{quantity}1_input": "x"}).read()[0].values["x"]
    assert round(value * PER_UNIT[quantity]) == count


def test_the_power_on_value_of_a_one_wire_thermometer_is_not_a_reading(tmp_path: Path) -> None:
    chip = add_chip(tmp_path, 0, "w1_slave_temp", {"temp1_input": "85000"})
    device = open_chip(tmp_path, "w1_slave_temp", {"temp1_input": "t"})
    with pytest.raises(SensorUnavailable, match="temp1_input has the chip's value after power-on"):
        device.read()
    (chip / "temp1_input").write_text("21437\n")
    assert device.read() == [Sample({"t": 21.437})]


def test_85_degrees_are_a_reading_for_any_other_chip(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, "coretemp", {"temp1_input": "85000", "in0_input": "85000"})
    device = open_chip(tmp_path, "coretemp", {"temp1_input": "t", "in0_input": "u"})
    assert device.read()[0].values == {"t": 85.0, "u": 85.0}


def test_a_channel_that_reports_a_fault_is_unavailable(tmp_path: Path) -> None:
    chip = add_chip(tmp_path, 0, "lm90", {"temp2_input": "21000", "temp2_fault": "1"})
    device = open_chip(tmp_path, "lm90", {"temp2_input": "t"})
    with pytest.raises(SensorUnavailable, match="temp2_input reports a fault"):
        device.read()
    (chip / "temp2_fault").write_text("0\n")
    assert device.read() == [Sample({"t": 21.0})]


def test_a_hwmon_value_outside_its_limits_is_withheld_and_not_shown(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, "sht3x", {"humidity1_input": "123456"})
    device = open_chip(tmp_path, "sht3x", {"humidity1_input": "rh"}, limits={"rh": (0, 100)})
    with pytest.raises(SensorUnavailable) as caught:
        device.read()
    assert str(caught.value) == "hwmon chip 'sht3x': rh is outside its limits [0, 100]"


def test_a_chip_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    add_chip(tmp_path, 10, "nvme", {"temp1_input": "1"})
    add_chip(tmp_path, 9, "sht3x", {"temp1_input": "1"})
    with pytest.raises(ConfigError, match=r"this machine has sht3x \(hwmon9\), nvme \(hwmon10\)"):
        open_chip(tmp_path, "bme280", {"temp1_input": "t"})


def test_an_input_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, "sht3x", {"temp1_input": "1", "humidity1_input": "1", "temp1_max": "1"})
    with pytest.raises(ConfigError, match="no 'temp2_input', it has 'humidity1_input', 'temp1_in"):
        open_chip(tmp_path, "sht3x", {"temp2_input": "t"})


@pytest.mark.parametrize("file", ["pwm1", "temp1_max", "temp_input", "../name", "light1_input"])
def test_a_file_that_is_no_input_is_refused(tmp_path: Path, file: str) -> None:
    add_chip(tmp_path, 0, "chip", {"pwm1": "1", "temp1_max": "1"})
    with pytest.raises(ConfigError, match="must be like temp1_input"):
        open_chip(tmp_path, "chip", {file: "t"})


def test_a_chip_without_inputs_and_two_inputs_for_one_field_are_refused(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, "chip", {"temp1_input": "1", "temp2_input": "1"})
    with pytest.raises(ConfigError, match="must name at least one"):
        open_chip(tmp_path, "chip", {})
    with pytest.raises(ConfigError, match="2 inputs have the same field 't'"):
        open_chip(tmp_path, "chip", {"temp1_input": "t", "temp2_input": "t"})


def test_one_of_several_equal_thermometers_is_picked_by_its_device(tmp_path: Path) -> None:
    for number, serial in enumerate(("28-0000051e015b", "28-0316a2795eff")):
        device = tmp_path / "devices" / serial
        device.mkdir(parents=True)
        chip = add_chip(tmp_path, number, "w1_slave_temp", {"temp1_input": f"2{number}000"})
        (chip / "device").symlink_to(device)
    with pytest.raises(ConfigError, match="one of '28-0000051e015b', '28-0316a2795eff'"):
        open_chip(tmp_path, "w1_slave_temp", {"temp1_input": "t"})
    for name in ("28-0316a2795eff", "hwmon1"):
        assert open_chip(tmp_path, name, {"temp1_input": "t"}).read() == [Sample({"t": 21.0})]


def test_a_chip_that_is_unplugged_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    chip = add_chip(tmp_path, 0, "sht3x", {"temp1_input": "20000"})
    device = open_chip(tmp_path, "sht3x", {"temp1_input": "t"})
    chip.rename(tmp_path / "unplugged")
    with pytest.raises(SensorUnavailable, match="is not here, this machine has"):
        device.read()
    (tmp_path / "unplugged").rename(chip.with_name("hwmon5"))
    assert device.read() == [Sample({"t": 20.0})]


# -- command ------------------------------------------------------------------------------------


def program(
    folder: Path, code: str, needed: tuple[str, ...] = ("lux",), **settings: object
) -> SensorDevice:
    command = [sys.executable, "-S", "-c", textwrap.dedent(code)]
    config = CommandSensor(command=command, **settings)  # type: ignore[arg-type]
    return open_sensor(config, folder, needed)


def ends_within(pid: int, seconds: float) -> bool:
    """Whether process *pid* is gone, or a zombie that nobody collects, in time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def descriptors() -> Iterator[None]:
    """The test leaves no file descriptor open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, no paths
    yield
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.usefixtures("descriptors")
def test_the_needed_numbers_that_a_program_prints_are_a_sample(tmp_path: Path) -> None:
    device = program(tmp_path, 'print(\'{"lux": 310, "noise_db": 41.5, "mode": 2}\')')
    assert device.fields == ("lux",)
    assert device.read() == [Sample({"lux": 310.0})]
    assert device.read() == [Sample({"lux": 310.0})]


def test_a_program_beside_the_configuration_is_started_there(tmp_path: Path) -> None:
    script = tmp_path / "light"
    script.write_text('#!/bin/sh\necho "{\\"lux\\": $(cat value)}"\n')
    script.chmod(0o755)
    (tmp_path / "value").write_text("12")
    device = open_sensor(CommandSensor(command=["./light"]), tmp_path, ["lux"])
    assert device.read() == [Sample({"lux": 12.0})]


def test_arguments_reach_the_program_without_a_shell(tmp_path: Path) -> None:
    device = open_sensor(
        CommandSensor(command=["printf", '{"lux": %s}', "1; touch $HOME x * 2"]), tmp_path, ["lux"]
    )
    assert "not JSON" in complaint_of(device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no-such-program-of-ours", "./light", "/no/such/program", ""])
def test_a_program_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not an executable program"):
        open_sensor(CommandSensor(command=[name]), tmp_path, ["lux"])


def test_a_file_that_may_not_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "light").write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match="is not an executable program"):
        open_sensor(CommandSensor(command=["./light"]), tmp_path, ["lux"])


def test_a_program_that_vanishes_is_unavailable(tmp_path: Path) -> None:
    script = tmp_path / "light"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    device = open_sensor(CommandSensor(command=["./light"]), tmp_path, ["lux"])
    script.unlink()
    assert "cannot start: No such file" in complaint_of(device)


@pytest.mark.usefixtures("descriptors")
def test_a_program_that_sleeps_for_ever_is_killed_with_its_children(tmp_path: Path) -> None:
    code = """
        import os, pathlib, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork() or (os.fork() and os._exit(0)) or os.getpid()
        if child == os.getpid():
            pathlib.Path("grandchild").write_text(str(child))
        print('{"lux": 1}', flush=True)
        time.sleep(1000)
    """
    for timeout_s in (2, 8, 32):  # a busy machine may not get to the grandchild in 2 s
        device = program(tmp_path, code, timeout_s=timeout_s)
        started = time.monotonic()
        assert f"did not end within {timeout_s} s" in complaint_of(device)
        assert time.monotonic() - started < timeout_s + 60
        if (tmp_path / "grandchild").exists():
            break
    assert ends_within(int((tmp_path / "grandchild").read_text()), 60)


@pytest.mark.usefixtures("descriptors")
def test_a_child_that_outlives_its_program_holds_up_nothing_and_is_killed(tmp_path: Path) -> None:
    code = """
        import os, pathlib, time
        child = os.fork()
        if not child:
            time.sleep(1000)
        pathlib.Path("child").write_text(str(child))
        print('{"lux": 7}')
    """
    device = program(tmp_path, code, timeout_s=240)
    started = time.monotonic()
    assert device.read() == [Sample({"lux": 7.0})]
    assert time.monotonic() - started < 120
    assert ends_within(int((tmp_path / "child").read_text()), 60)


def test_a_program_that_closes_its_output_and_stays_is_killed(tmp_path: Path) -> None:
    code = """
        import os, time
        os.write(1, b'{"lux": 1}')
        os.close(1)
        time.sleep(1000)
    """
    assert "did not end within 0.5 s" in complaint_of(program(tmp_path, code, timeout_s=0.5))


@pytest.mark.usefixtures("descriptors")
def test_endless_output_is_cut_off_long_before_the_deadline(tmp_path: Path) -> None:
    code = "while True: print('1234567890' * 100)"
    device = program(tmp_path, code, timeout_s=240)
    started = time.monotonic()
    assert f"printed over {MAX_OUTPUT_BYTES} bytes" in complaint_of(device)
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("spare", [0, -1])
def test_output_is_limited_to_64_kib_exactly(tmp_path: Path, spare: int) -> None:
    length = MAX_OUTPUT_BYTES - spare
    device = program(tmp_path, f"print('{{\"lux\": 5}}'.ljust({length}), end='')")
    if spare:
        assert "printed over" in complaint_of(device)
    else:
        assert device.read() == [Sample({"lux": 5.0})]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("pass", "printed nothing"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("print('{\"lux\": 5}'); raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("print('{\"temp\": 4321}')", "printed no 'lux', but 'temp'"),
        ("print('{\"lux\": NaN}')", "not JSON"),
        ("print('{\"lux\": 4321e999}')", "not JSON"),
        ('print(\'{"lux": "4321"}\')', "'lux' is not a number"),
        ("print('{\"lux\": true}')", "'lux' is not a number"),
        ('print(\'{"lux": 4321, "4321 lux": null}\')', "its value 2 is not a number"),
        ("print('[4321]')", "not an object"),
        ('print(\'{"lux": 1}{"lux": 4321}\')', "not JSON"),
        ("print('{\"lux\": 4321' + 400 * '0' + '}')", "too large"),
        ("import sys; print('4321 lux'); print('4321', file=sys.stderr)", "not JSON"),
    ],
)
def test_a_program_that_fails_is_unavailable_and_what_it_printed_stays_private(
    tmp_path: Path, code: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    complaint = complaint_of(program(tmp_path, code))
    assert words in complaint
    assert "4321" not in complaint
    assert capfd.readouterr() == ("", "")


def test_a_programs_value_outside_its_limits_is_withheld_and_not_shown(tmp_path: Path) -> None:
    device = program(tmp_path, "print('{\"lux\": 4321}')", limits={"lux": (0, 2000)})
    assert complaint_of(device).endswith(": lux is outside its limits [0, 2000]")


def test_a_program_must_print_every_field_that_has_limits(tmp_path: Path) -> None:
    device = program(tmp_path, "print('{\"lux\": 1}')", limits={"battery_v": (2, 3)})
    assert "printed no 'battery_v', but 'lux'" in complaint_of(device)


def test_a_program_learns_nothing_that_is_the_nodes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    monkeypatch.setenv("PLACE", "5")
    code = """
        import json, os, sys
        ours = ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
        print(json.dumps({
            "ours": sum(name in os.environ for name in ours),
            "place": int(os.environ["PLACE"]),
            "input": len(sys.stdin.read()),
        }))
    """
    device = program(tmp_path, code, ("ours", "place", "input"))
    assert device.read()[0].values == {"ours": 0, "place": 5, "input": 0}


def test_an_argument_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zero byte"):
        open_sensor(CommandSensor(command=["printf", "a\0b"]), tmp_path, [])


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300)


@unhurried
@given(numbers=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), NUMBERS))
def test_any_object_of_finite_numbers_is_understood(numbers: dict[str, float]) -> None:
    assert parse_numbers("it", json.dumps(numbers).encode()) == {
        name: float(number) for name, number in numbers.items()
    }


def odd_json() -> st.SearchStrategy[object]:
    scalar = st.none() | st.booleans() | st.text() | st.floats() | st.integers()
    return st.recursive(scalar, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@unhurried
@given(
    output=st.binary(max_size=200)
    | odd_json().map(lambda data: json.dumps(data).encode())
    | st.sampled_from(
        [b"[" * 60_000, b"1" * 60_000, b'{"a":' * 10_000, b'{"a": ' + b"9" * 400 + b"}"]
    )
)
def test_any_other_output_is_unavailable_and_never_a_crash(output: bytes) -> None:
    try:
        numbers = parse_numbers("it", output)
    except SensorUnavailable:
        return
    assert all(type(value) is float and math.isfinite(value) for value in numbers.values())
    assert isinstance(json.loads(output), dict)
