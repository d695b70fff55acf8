"""CSV files of other programs: separators, decimal commas, other names, and rows with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable, open_sensor
from cipherfleet_node.sensors.csv_table import format_of, gaps_of
from cipherfleet_node.settings.sections import CsvSensor

unhurried = settings(deadline=None, max_examples=40)

GERMAN = (
    "Raum;Zeit;Temperatur;CO2\n"
    "1;08:00;21,5;600\n"
    "1;08:05;;610\n"
    "2;08:00;19,0;ERR\n"
    "2;08:05;-,5;1e3\n"
    "2;08:10;NaN;700\n"
)
NAMES = {"Temperatur": "t", "CO2": "co2"}


def replayed(folder: Path, text: str, **options: Any) -> list[dict[str, float]]:
    file = folder / "data.csv"
    file.write_text(text)
    device = open_sensor(CsvSensor(file.name, **options), folder, ["t", "co2"])
    return [dict(sample.values) for sample in device.read()]


def refused(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        replayed(folder, text, **options)
    return str(caught.value).removeprefix(f"{folder / 'data.csv'}:")


def test_a_german_file_is_read_with_its_rows_without_gaps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = {"separator": ";", "decimal": ",", "columns": NAMES, "gaps": "skip"}
    found = replayed(tmp_path, GERMAN, where={"Raum": 1}, **options)
    assert found == [{"t": 21.5, "co2": 600.0}]
    assert "1 rows with gaps are left out" in caplog.text
    found = replayed(tmp_path, GERMAN, where={"Raum": 2}, gap_marks=["ERR"], **options)
    assert found == [{"t": -0.5, "co2": 1000.0}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {},
            "2: the row is too long: 2 cells, the last of 1 columns is "
            "'Raum;Zeit;Temperatur;CO2'; write separator: \";\"",
        ),
        (
            {"columns": NAMES},
            "1: columns names 'Temperatur', 'CO2', the file has 'Raum;Zeit;Temperatur;CO2'; "
            'write separator: ";"',
        ),
        ({"separator": ";"}, "1: the objective needs 'co2', 't', the sensor has 'Raum', 'Zeit'"),
        (
            {"separator": ";", "columns": NAMES},
            "2: column 't' is a number with a comma; write decimal: \",\"",
        ),
        (
            {"separator": ";", "columns": NAMES, "decimal": ","},
            "3: column 't' is empty, must be a number; fill it, or write gaps: skip",
        ),
        (
            {"separator": ";", "columns": NAMES, "decimal": ",", "gaps": "skip"},
            "4: column 'co2' is 'ERR', must be a number",
        ),
        (
            {"separator": ";", "columns": {**NAMES, "Zeit": "t"}},
            "1: columns gives the name 't' to a second column",
        ),
        (
            {"separator": ";", "columns": {"Temp": "t"}},
            "1: columns names 'Temp', the file has 'Raum', 'Zeit', 'Temperatur', 'CO2'",
        ),
    ],
)
def test_every_missing_setting_is_named(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    assert refused(tmp_path, GERMAN, **options).startswith(words)


def test_with_decimal_commas_a_point_is_refused_and_not_shown(tmp_path: Path) -> None:
    options = {"separator": ";", "decimal": ","}
    complaint = refused(tmp_path, "t;co2\n1.234;5\n", **options)
    assert complaint == "2: column 't' is a number with a point, and decimal is a comma"


def test_a_node_whose_rows_all_have_gaps_is_refused(tmp_path: Path) -> None:
    complaint = refused(tmp_path, "t,co2\n,5\n6,n/a\n", gaps="skip")
    assert complaint == "1: every row of this node has a gap in one of 't', 'co2'"


def test_a_gap_in_a_column_that_is_not_used_does_not_matter(tmp_path: Path) -> None:
    assert replayed(tmp_path, "t,co2,note\n1,2,\n", gaps="skip") == [{"t": 1.0, "co2": 2.0}]


def test_limits_and_where_use_the_new_names_and_the_decimal_comma(tmp_path: Path) -> None:
    options: dict[str, Any] = {"separator": ";", "decimal": ",", "columns": NAMES}
    text = "Temperatur;CO2\n21,5;1\n22,5;2\n"
    assert replayed(tmp_path, text, where={"t": 22.5}, **options) == [{"t": 22.5, "co2": 2.0}]
    limits = {"t": (0.0, 22.0)}
    assert "3: column 't' is outside its limits" in refused(
        tmp_path, text, limits=limits, **options
    )


@unhurried
@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.sampled_from(["", "NaN", "x", "3"])),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([";", "\t", "|", ","]),
    st.booleans(),
)
def test_the_file_that_a_node_gets_gives_the_same_samples(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[float, str]],
    separator: str,
    is_comma: bool,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    lines = ["Wert" + separator + "Notiz"]
    for value, note in rows:
        cell = f"{value!r}".replace(".", ",") if is_comma else f"{value!r}"
        lines.append(f'"{cell}"{separator}{note}')
    (folder / "all.csv").write_text("\n".join([*lines, f'""{separator}']) + "\n")
    config = CsvSensor(
        "all.csv",
        separator=separator,
        decimal="," if is_comma else ".",
        columns={"Wert": "w"},
        gaps="skip",
    )
    table = CsvTable(folder / "all.csv", format_of(config))
    expected = table.samples({}, ["w"], None, gaps_of(config))
    assert [sample.values["w"] for sample in expected] == [value for value, _ in rows]
    (folder / "own.csv").write_text(table.cut({}))
    own = CsvSensor("own.csv", decimal=config.decimal, gaps="skip")
    assert open_sensor(own, folder, ["w"]).read() == expected
