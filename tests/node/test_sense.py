"""`cipherfleet-node sense`: what is shown of the sensors, and no value unless asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cipherfleet_node.__main__ import main
from cipherfleet_node.doctor.sense import Senses, result_lines
from tests.support.results import check_result

NODE = """\
config_version: 1
fleet: lab
node: n-1
operator: AAAA
algorithm: {rounds: 5}
objective: {kind: average, values: [{field: pm25}]}
answer: {units: {pm25: ug/m3}}
crypto: {exchange: pairwise}
"""
SENSORS = f"""\
sensors:
  - kind: command
    command: [{sys.executable}, -c, "print(open('pm.json').read())"]
    fields: [pm25]
    limits: {{pm25: [0, 500]}}
    guards: {{pm25: {{change_per_minute: 10}}}}
    timeout_s: 60
  - {{kind: synthetic, fields: {{rh: {{mean: 41.25}}}}}}
"""
SECRET = "12.375"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "node.yaml").write_text(NODE + SENSORS)
    (tmp_path / "pm.json").write_text(f'{{"pm25": {SECRET}}}')
    return tmp_path


def sense(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["sense", str(folder), "--once", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_names_units_ages_and_checks_are_shown_and_no_value(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = sense(folder, capsys)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["lab/n-1:", "usable"]
    assert lines[1] == ["field", "unit", "age", "quality", "checks"]
    assert lines[2][:2] == ["pm25", "ug/m3"]
    assert lines[2][3:] == ["s", "good", "limits", "ok,", "change_per_minute", "ok"]
    assert lines[3][:2] == ["rh", "-"]
    assert SECRET not in out
    assert "41.25" not in out


def test_values_are_shown_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = sense(folder, capsys, "--show")
    assert f" {SECRET} " in out
    assert " 41.25 " in out


def test_the_json_keeps_to_its_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--show",)):
        _, out, _ = sense(folder, capsys, "--json", *words)
        check_result("sense-result", out)
        assert [field["value"] is not None for field in json.loads(out)["fields"]] == [
            bool(words),
            bool(words),
        ]


def test_a_value_out_of_its_limits_is_named_by_its_check_and_the_command_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pm.json").write_text('{"pm25": 777.125}')
    code, out, _ = sense(folder, capsys, "--json", "--show")
    assert code == 1
    found = json.loads(out)
    assert not found["usable"]
    assert found["fields"][0]["quality"] == "implausible"
    assert found["fields"][0]["checks"] == {"limits": "failed", "change_per_minute": "unknown"}
    assert found["fields"][1]["quality"] == "good"
    assert "pm25 is outside its limits" in found["problems"][0]
    assert "777" not in out


def test_guards_judge_from_the_second_read_on_and_the_newest_sample_stays_for_a_while(
    folder: Path,
) -> None:
    senses = Senses(folder)
    assert senses.read(show=False).fields[0].checks["change_per_minute"] == "ok"
    (folder / "pm.json").write_text('{"pm25": 99}')
    result = senses.read(show=False)
    assert result.fields[0].quality == "implausible"
    assert result.fields[0].checks == {"limits": "unknown", "change_per_minute": "failed"}
    assert result.usable  # with the sample of the first read
    text = "\n".join(result_lines(result, show=False))
    assert "change_per_minute failed" in text
    assert "pm25 fails its guard change_per_minute" in text
    senses.close()


def test_a_single_sensor_without_news_has_its_newest_and_one_that_fails_has_none(
    folder: Path,
) -> None:
    (folder / "a.csv").write_text("pm25\n12.375\n")
    (folder / "node.yaml").write_text(NODE + "sensor: {kind: csv, path: a.csv}\n")
    senses = Senses(folder)
    found = [senses.read(show=False) for _ in range(2)]
    assert [result.fields[0].quality for result in found] == ["good", "stale"]
    only = SENSORS.partition("  - {kind: synth")[0].replace(
        "sensors:\n  - kind", "sensor:\n    kind"
    )
    (folder / "node.yaml").write_text(NODE + only)
    senses = Senses(folder)
    assert senses.read(show=False).usable
    (folder / "pm.json").unlink()
    result = senses.read(show=False)
    assert (result.fields[0].quality, result.usable) == ("none", False)
    assert "ended with exit code 1" in result.problems[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SENSORS.replace("kind: command", "kind: comand"), "sensors[0].kind is 'comand'"),
        (SENSORS.replace("fields: [pm25]", "fields: [pm10]"), "guards names 'pm25', "),
    ],
)
def test_wrong_settings_are_exit_code_3(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: str, words: str
) -> None:
    (folder / "node.yaml").write_text(NODE + settings)
    code, out, err = sense(folder, capsys)
    assert (code, out) == (3, "")
    assert words in err


def test_a_node_without_a_sensor_and_a_missing_folder_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "node.yaml").write_text(NODE.replace("average", "mean") + "role: follower\n")
    assert sense(folder, capsys)[2].endswith("this node has no sensor; set one in node.yaml\n")
    assert "is no folder" in sense(folder / "away", capsys)[2]


def test_the_time_between_two_reads_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sense", ".", "--every", "0"])
    assert caught.value.code == 2
    assert "is 0, must be from 0.1 to 86400" in capsys.readouterr().err
