"""`cipherfleet-node answer` as an owner types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.__main__ import main
from cipherfleet_node.outputs.answer import Answer, Harmonic, Model
from cipherfleet_node.outputs.command import answer_lines
from tests.support.results import check_result

from .test_file import ANSWER, publish

FULL = msgspec.structs.replace(
    ANSWER,
    model=Model(
        target="pm25",
        intercept=1.25,
        coefficients={"pm10": 0.41, "rh": -0.1},
        daily=[Harmonic("hour", 2, 0.5, -0.25)],
        units={"pm25": "µg/m³", "pm10": "µg/m³"},
    ),
    corrected=23.1,
    residual=1.8,
    z=0.6,
    alarm=False,
)
NODE = """\
config_version: 1
fleet: lab
node: n-1
algorithm: {rounds: 5}
objective: {kind: mean, values: [{field: t}]}
sensor: {kind: synthetic, fields: {t: {mean: 1.0}}}
neighbours:
  - {id: n-2, neighbours: [n-1], fingerprint: abc}
crypto: {exchange: pairwise}
"""


def test_the_table_names_every_number_with_its_unit() -> None:
    assert list(answer_lines(FULL)) == [
        "trial/n1, ridge: settled round 4, 2026-11-27T20:15:03Z",
        "  intercept                  1.25  µg/m³",
        "  pm10                       0.41  µg/m³ per µg/m³",
        "  rh                         -0.1",
        "  hour, 12 h, sin             0.5  µg/m³",
        "  hour, 12 h, cos           -0.25  µg/m³",
        "  corrected pm25             23.1  µg/m³",
        "  residual pm25               1.8  µg/m³",
        "  z                           0.6",
        "  alarm                        no",
    ]


def test_the_command_prints_the_table_or_the_published_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, FULL)
    assert main(["answer", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == list(answer_lines(FULL))
    assert main(["answer", str(tmp_path), "--json"]) == 0
    text = capsys.readouterr().out
    check_result("answer-result", text)
    assert msgspec.json.decode(text, type=Answer) == FULL


def test_an_answer_that_is_not_settled_any_more_is_shown_with_exit_code_7(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, msgspec.structs.replace(FULL, settled=False))
    assert main(["answer", str(tmp_path)]) == 7
    assert "NOT SETTLED ANY MORE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("", "", 7, "there is no answer yet: the node publishes it when it has settled"),
        ("crypto:", "answer: {file: false}\ncrypto:", 3, "answer.file is false; set answer.file"),
        ("rounds: 5", "rounds: 5, method: article", 3, "method is article, whose rounds do not"),
    ],
)
def test_without_an_answer_the_reason_is_one_line(
    tmp_path: Path, old: str, new: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.yaml").write_text(NODE.replace(old, new, 1))
    assert main(["answer", str(tmp_path)]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1


def test_a_folder_that_does_not_exist_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["answer", str(tmp_path / "mispelt")]) == 3
    assert "is no folder; name the folder of a node" in capsys.readouterr().err


def test_follow_prints_each_new_answer_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cipherfleet_node", "answer", str(tmp_path)]
    with subprocess.Popen([*command, "--follow", "--json"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        rounds = []
        for number in (4, 5):
            publish(tmp_path, msgspec.structs.replace(FULL, round=number))
            rounds.append(json.loads(process.stdout.readline())["round"])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert rounds == [4, 5]
