"""Error excerpts: lines, carets and counts, and never a secret."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_deploy.cli.error_excerpts import error_lines
from cipherfleet_node.errors import ConfigError, ConfigErrors, Mark, refuse
from cipherfleet_node.settings.type_errors import may_be_secret
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.paths import ROOT

FOLDER = ROOT / "tests/data/wrong_fleets"
RIGHT = (FOLDER / "fleet.yaml").read_text()
SECRET = "hunter2hunter2"
PEM = f"|\n  -----BEGIN PRIVATE KEY-----\n  {SECRET}\n  -----END PRIVATE KEY-----"


def excerpt_of(file: Path, text: str) -> list[str]:
    file.write_text(text)
    shutil.copy(FOLDER / "readings.csv", file.parent)
    with pytest.raises(ConfigError) as refused:
        load_fleet(file)
    return list(error_lines(refused.value, "cipherfleet"))


# -- what is shown --------------------------------------------------------------------------------


def test_every_mistake_stands_above_its_line_and_a_caret(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    text = RIGHT.replace("rounds: 50", "rounds: many").replace("port: 1883", "prot: 1883")
    text = text.replace("kind: ridge", "kind: rigde").replace("tls: false", "tls: on")
    assert excerpt_of(file, text) == [
        f"cipherfleet: {file}:7:3: broker.prot is not a known key, did you mean 'port'?",
        "    7 |   prot: 1883",
        "      |   ^",
        f"cipherfleet: {file}:8:8: broker.tls is 'on', must be true or false",
        "    8 |   tls: on",
        "      |        ^",
        f"cipherfleet: {file}:18:11: algorithm.rounds is 'many', must be a whole number >= 1 or "
        "nothing",
        "   18 |   rounds: many",
        "      |           ^",
        f"cipherfleet: {file}:26:9: objective.kind is 'rigde', must be one of average, mean, "
        "least_squares, ridge, logistic, huber or module:Class, did you mean 'ridge'?",
        "   26 |   kind: rigde",
        "      |         ^",
        "cipherfleet: 4 errors",
    ]  # fmt: skip


def test_one_mistake_is_not_counted(tmp_path: Path) -> None:
    lines = excerpt_of(tmp_path / "fleet.yaml", RIGHT.replace("rounds: 50", "rounds: many"))
    assert len(lines) == 3


def test_no_more_than_fifty_are_shown(tmp_path: Path) -> None:
    start = RIGHT.index("  - id: north")
    sensor = "{kind: csv, path: readings.csv, where: {bad: 1}}"
    nodes = "".join(f"  - {{id: n{i}, sensor: {sensor}}}\n" for i in range(60))
    text = RIGHT[:start].replace("kind: edges", "kind: ring") + nodes
    text = "".join(line for line in text.splitlines(True) if "edges:" not in line)
    lines = excerpt_of(tmp_path / "fleet.yaml", text)
    assert lines[-1] == "cipherfleet: 60 errors, the first 50 are shown"
    assert len(lines) == 3 * 50 + 1
    assert "did you mean 'bed'?" in lines[0]


def test_the_part_of_a_long_line_around_the_mistake_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: [" + "1, " * 500 + "wrong, " + "2, " * 500 + "]")
    error = ConfigError("x", Mark(str(file), 1, 4 + 1500 + 1))
    _, line, caret = error_lines(error, "cipherfleet")
    assert len(line) < 110
    assert line[caret.index("^") :].startswith("wrong")


def test_control_characters_and_other_encodings_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("\ufeffa: \x1b[31mred\u202e\n")
    _, line, caret = error_lines(ConfigError("x", Mark(str(file), 1, 4)), "cipherfleet")
    assert (line, caret) == ("    1 | a:  [31mred", "      |    ^")
    file.write_bytes(b"\xff\xfe")
    assert list(error_lines(ConfigError("x", Mark(str(file), 1, 1)), "p")) == ["p: x"]
    assert list(error_lines(ConfigError("x", Mark(str(file) + "?", 1, 1)), "p")) == ["p: x"]


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        RIGHT + f"password: {SECRET}\n",
        RIGHT + f"api_token: [{SECRET}]\n",
        RIGHT + f"privateKey: {PEM}\n",
        RIGHT + f"certificate: {PEM}\n",
        RIGHT + f"key: {SECRET}\n",
        RIGHT + f"'my-passphrase' : {SECRET}\n",
        RIGHT + f"secret:\n  - {SECRET}\n",
        RIGHT.replace("port: 1883", f"port: 1883\n  password: {SECRET}"),
        RIGHT.replace("port: 1883", f"port: 1883\n  password: {{a: {SECRET}"),
        RIGHT.replace("port: 1883", f"port: 1883\n  api_key: '{SECRET}"),
        RIGHT.replace("port: 1883", f"port: 1883\n  api_key: !mine {SECRET}"),
        RIGHT.replace("port: 1883", f"port: 1883\n  token: {SECRET}\n  token: {SECRET}"),
        RIGHT.replace("host: 127.0.0.1", f"host: {PEM.replace(chr(10), chr(10) + '    ')}"),
        RIGHT.replace("{bed: 3}", f"{{private_bed: {SECRET}}}"),
        RIGHT.replace("[[north", f"[[{PEM[4:]!r}").replace("'", '"'),
        RIGHT.replace("port: 1883", f"port: 1883\n  password: *{SECRET}"),
        RIGHT.replace("{bed: 1}", f"{{bed: 1, private: {{x: {SECRET}}}}}"),
        RIGHT.replace("{bed: 2}", f"{{token: [{SECRET}]}}").replace("bed: 2", f"token: [{SECRET}]"),
    ],
)  # fmt: skip
def test_a_secret_in_the_wrong_place_is_not_echoed(text: str, tmp_path: Path) -> None:
    lines = excerpt_of(tmp_path / "fleet.yaml", text)
    assert SECRET in text
    assert SECRET not in "\n".join(lines)
    assert "PRIVATE KEY" not in "\n".join(lines)
    assert all("fleet.yaml:" in line or line.endswith("errors") for line in lines)


@pytest.mark.parametrize("name", ["key_bits", "allow_weak_keys", "fingerprint", "kind", "edges"])
def test_names_that_only_resemble_secrets_are_shown(name: str) -> None:
    assert not may_be_secret(name)


# -- the device -----------------------------------------------------------------------------------


def test_the_device_tells_all_mistakes_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(
        "config_version: 1\nfleet: lab\nnode: n-1\nalgorithm: {round: 5}\n"
        "objective: {kind: averge, values: [{field: t}]}\n"
        "sensor: {kind: synthetic, fields: {t: {mean: one}}}\n"
        "neighbours: [{id: n-1, neighbours: [], fingerprint: abc}]\n"
        "crypto: {exchange: sealed, leafs: open}\nseals: {a b: x, n-7: 3}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "cipherfleet_node", "check-config", tmp_path],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert [line.split("node.yaml:")[1].split(" is ")[0] for line in lines] == [
        "4:13: algorithm.round",
        "5:19: objective.kind",
        "6:46: sensor.fields.t.mean",
        "7:19: neighbours[0].id",
        "7:24: neighbours[0].neighbours",
        "8:28: crypto.leafs",
        "9:9: seals.a b",
        "9:22: seals.n-7",
    ]
    assert all(line.startswith("cipherfleet-node: ") for line in lines)


# -- errors that carry several --------------------------------------------------------------------


def test_findings_are_sorted_by_place_and_those_without_one_come_last() -> None:
    late, early = ConfigError("late", Mark("a", 9, 1)), ConfigError("early", Mark("a", 2, 7))
    nowhere = ConfigError("--nodes is 99")
    with pytest.raises(ConfigErrors) as refused:
        refuse([nowhere, late, early])
    assert refused.value.findings == (early, late, nowhere)
    assert str(refused.value) == "early (and 2 more)"
    assert refused.value.exit_code == 3


def test_one_finding_is_raised_as_it_is_and_none_is_no_error(tmp_path: Path) -> None:
    refuse([])
    only = ConfigError("only")
    with pytest.raises(ConfigError) as refused:
        refuse([only])
    assert refused.value is only
    assert only.findings == (only,)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    assert read_document(tmp_path / "x.yaml").convert(dict) == {"a": 1}
