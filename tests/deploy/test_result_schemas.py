"""The published JSON Schemas of results: what commands really print is valid, and is documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from cipherfleet_broker import start_broker
from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.result_schemas import FLEET_FILE, RESULTS, make_schema, schema_names
from cipherfleet_provisioning.fleet.schema import schema_text
from tests.support.paths import ROOT
from tests.support.results import check_result

NAMES = schema_names()  # with those of the harness and the lab
PAGE = ROOT / "docs" / "reference" / "json-results.md"
FLEET = """\
config_version: 1
fleet: toy
broker: {{port: {port}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: 2}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: complete}}
nodes:
  - {{each: 4, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}
"""


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET.format(port=1883))
    return file


# -- the schemas --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(make_schema(name)))


def test_the_command_prints_the_schema_of_the_given_name() -> None:
    def printed(*words: str) -> str:
        command = [sys.executable, "-m", "cipherfleet_deploy", "schema", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert printed() == printed("--of", FLEET_FILE) == schema_text()
    assert printed("--of", "run-result") == make_schema("run-result")


def test_the_help_lists_the_names_of_its_package_and_an_option_lists_all() -> None:
    text = CliRunner().invoke(cli, ["schema", "--help"]).output
    assert {*re.findall(r"[\w-]+", text)} >= {FLEET_FILE, *RESULTS}
    assert CliRunner().invoke(cli, ["schema", "--names"]).output.split() == NAMES


def json_commands(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from json_commands(command)
        elif any(option.name == "as_json" for option in command.params):
            yield command


def test_each_command_with_json_has_a_schema() -> None:
    named = {f"{command.name}-result" for command in json_commands(cli)}
    others = {
        "demo-result",  # demo prints a run-result
        "crypto-result", "rounds-result",  # measurements: `bench schema`
    }  # fmt: skip
    of_an_option = {"attack-all-result", "seed-all-result"}  # --all
    of_the_node = {"answer-result", "sense-result"}  # cipherfleet-node answer, sense
    assert named - others == {*NAMES} - {FLEET_FILE} - of_an_option - of_the_node


def test_an_unknown_name_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["schema", "--of", "walk-result"]).exit_code == 2


# -- the page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != FLEET_FILE])
def test_the_page_explains_each_key_of_each_result(name: str) -> None:
    sections = re.split(r"^##+ (.+)$", PAGE.read_text(), flags=re.M)[1:]
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    text = texts[name]
    if "common keys" in text:
        text += texts["Provisioned sets"]
    for kind in json.loads(make_schema(name))["$defs"].values():
        missing = {key for key in kind["properties"] if f"`{key}`" not in text}
        if name == "up-result":
            missing -= {"nodes_p50", "nodes_max", "broker"}  # explained for run-result
        assert missing == set()


# -- what commands print ------------------------------------------------------------------------


def test_the_results_of_commands_that_write_files_are_valid(tmp_path: Path, file: Path) -> None:
    check_result("init-result", run("init", tmp_path / "first"))
    for command in ("compose", "stack"):
        check_result(f"{command}-result", run("fleet", command, file, "--out", tmp_path / command))


def test_the_results_of_provisioning_are_valid(tmp_path: Path, file: Path) -> None:
    home, card = tmp_path / "set", tmp_path / "card"
    with start_broker("embedded") as broker:
        file.write_text(FLEET.format(port=broker.port))
        made = check_result("bundle-result", run("provision", "bundle", file, home))
        assert made["pending"] == ["n1", "n2", "n3", "n4"]
        check_result("enroll-result", run("provision", "enroll", home, "--auto", "--timeout", "1"))
        card.mkdir()
        for name in ("config.txt", "cmdline.txt", "user-data"):
            (card / name).write_text("")
        check_result("seed-result", run("provision", "seed", "n1", home, "--boot", card))
        home = tmp_path / "complete"
        run("provision", "bundle", file, home, "--keys", "operator")
        edges = "edges: [[n1, n2], [n1, n3], [n2, n3], [n2, n4], [n3, n4]]"
        file.write_text(file.read_text().replace("kind: complete", edges))
        words = ["--keys", "operator", "--from-round", "9"]
        updated = check_result("update-result", run("provision", "update", file, home, *words))
        assert updated["from_round"] == 9
        replaced = check_result("replace-result", run("provision", "replace", home, "n3"))
        assert (replaced["pending"], replaced["former_card"]) == (["n3"], None)
        check_result("revoke-result", run("provision", "revoke", home, "n4"))


@pytest.mark.fleet
def test_the_results_of_a_run_are_valid(tmp_path: Path, file: Path) -> None:
    text = run("run", file, "--out", tmp_path / "out")
    assert check_result("run-result", text)["ended"] == "complete"
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(text)


@pytest.mark.fleet
def test_the_result_of_the_doctor_is_valid(file: Path) -> None:
    command = [sys.executable, "-m", "cipherfleet_deploy", "doctor", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check_result("doctor-result", done.stdout)["exit_code"] == done.returncode
