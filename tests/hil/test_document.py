"""The measurement document: accepted by pyperf and by its schema, and what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyperf
import pytest

from cipherfleet_hil.measurement.document import (
    SCHEMA_FILE,
    Measurement,
    read_measurement,
    schema_text,
    to_text,
    write_measurement,
)
from cipherfleet_node.errors import ConfigError
from tests.support.command_line import run_here
from tests.support.measured import document, rounds

DOCUMENTS = {"crypto": document, "rounds": rounds}


def cipherfleet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(*arguments)


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_pyperf_reads_every_sample(make: Callable[[], Measurement], tmp_path: Path) -> None:
    made = make()
    write_measurement(tmp_path / "made.json", made)
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "made.json"))
    assert suite.get_benchmark_names() == [each.name for each in made.benchmarks]
    for each in made.benchmarks:
        read = suite.get_benchmark(each.name)
        assert list(read.get_values()) == each.samples
        assert read.get_nrun() == len(each.runs)
        assert read.get_unit() == "second"
        assert read.median() == pytest.approx(float(np.median(each.samples)))
        assert each.labels.items() <= read.get_metadata().items()


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_fits_its_schema_and_comes_back_as_it_was(
    make: Callable[[], Measurement], tmp_path: Path
) -> None:
    made = make()
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA_FILE.read_text()))
    jsonschema.validate(json.loads(to_text(made)), json.loads(SCHEMA_FILE.read_text()))
    write_measurement(tmp_path / "made.json", made)
    assert read_measurement(tmp_path / "made.json") == made


def test_the_committed_schema_is_that_of_the_types() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "make schema"
    result = cipherfleet("bench", "schema")
    assert (result.returncode, result.stdout) == (0, schema_text())
    assert json.loads(result.stdout)["$schema"].endswith("2020-12/schema")


def _cut(result: dict[str, Any]) -> None:
    del result["cipherfleet"]["verdict"]


def _negative(result: dict[str, Any]) -> None:
    result["benchmarks"][0]["runs"][1]["values"][2] = -1.0


def _kind(result: dict[str, Any]) -> None:
    result["cipherfleet"]["kind"] = "laptop"


def _newer(result: dict[str, Any]) -> None:
    result["cipherfleet"]["schema"] = 2


def _word(result: dict[str, Any]) -> None:
    result["cipherfleet"]["targets"][0]["environment"]["before"]["cores"] = "four"


def _empty(result: dict[str, Any]) -> None:
    result["benchmarks"] = []


DAMAGES: dict[Callable[[dict[str, Any]], None], str] = {
    _cut: "verdict",
    _negative: "benchmarks[0].runs[1].values[2]",
    _kind: "cipherfleet.kind",
    _newer: "cipherfleet.schema",
    _word: "cipherfleet.targets[0].environment.before.cores",
    _empty: "benchmarks",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_document_is_refused_at_its_place(
    damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    result = json.loads(to_text(document()))
    damage(result)
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(result, indent=1))
    with pytest.raises(ConfigError) as caught:
        read_measurement(file)
    mark = caught.value.mark
    assert mark is not None
    assert str(caught.value).startswith(f"{file}:{mark.line}:{mark.column}: ")
    assert DAMAGES[damage] in str(caught.value)
    assert str(caught.value).endswith("; measure again: cipherfleet bench")
    assert mark.line > 1 or damage is _cut
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(result, json.loads(SCHEMA_FILE.read_text()))


def _other_figure(result: dict[str, Any]) -> None:
    result["cipherfleet"]["figures"][1]["p50"] *= 0.9


def _no_figure(result: dict[str, Any]) -> None:
    result["cipherfleet"]["figures"].pop()


def _twice(result: dict[str, Any]) -> None:
    result["benchmarks"].append(result["benchmarks"][0])


def _nameless(result: dict[str, Any]) -> None:
    del result["benchmarks"][0]["metadata"]["name"]


def _groundless(result: dict[str, Any]) -> None:
    result["cipherfleet"]["verdict"]["valid"] = False


def _odd_size(result: dict[str, Any]) -> None:
    result["benchmarks"][0]["metadata"]["degree"] = "four"


def _no_size(result: dict[str, Any]) -> None:
    result["cipherfleet"]["figures"][1]["labels"]["key_bits"] = 0


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_odd_size, "degree of 'online, d=8' is 'four', must be a number greater than 0"),
        (_no_size, "key_bits of 'phe, d=8' is 0, must be a number greater than 0"),
        (
            _other_figure,
            "cipherfleet.figures: the figure of 'phe, d=8' does not follow from its samples",
        ),
        (_no_figure, "cipherfleet.figures: have no figure of the benchmark 'phe, d=32'"),
        (_twice, "benchmarks: 'online, d=8' occurs 2 times, each name must occur once"),
        (_nameless, "benchmarks[0].metadata must have a name, and the unit 'second'"),
        (
            _groundless,
            "cipherfleet.verdict: must be valid without reasons, or not valid with at least one",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_document_that_contradicts_itself_is_refused(
    damage: Callable[[dict[str, Any]], None], expected: str, tmp_path: Path
) -> None:
    data = json.loads(to_text(document()))
    damage(data)
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        read_measurement(file)
    assert str(caught.value) == f"{file}: {expected}; measure again: cipherfleet bench"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"version": "1.0",\n "metadata": {,', ":2:15: is not valid JSON"),
        (b"", ":1:1: is not valid JSON"),
        (b"[1, 2]", "must be a mapping"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[" * 100_000, ":1:33: is nested too deeply"),
        (b'{"version":' * 100_000, "is nested too deeply"),
    ],
    ids=["cut short", "empty", "a list", "not text", "deep", "deeper"],
)
def test_what_is_no_document_at_all_is_refused(data: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"none\.json") as caught:
        read_measurement(file)
    assert expected in str(caught.value)
    assert str(caught.value).endswith("; measure again: cipherfleet bench")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    result = cipherfleet("bench", "report", "no.json")
    assert result.returncode == 3
    assert result.stderr == "cipherfleet: no.json: cannot be read: No such file or directory\n"
