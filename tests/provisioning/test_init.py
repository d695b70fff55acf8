"""`cipherfleet init` writes a first fleet.yaml."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cipherfleet_deploy.cli import main as cli
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.fleet import template as module
from cipherfleet_provisioning.fleet.file import Brokers
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.fleet.schema import SCHEMA_FILE
from cipherfleet_provisioning.fleet.template import Plan, template, write_template
from cipherfleet_provisioning.topology.section import KEYS_OF_KIND
from tests.support.command_line import run_here
from tests.support.ssh_server import free_port

COMMAND = [sys.executable, "-m", "cipherfleet_deploy"]
OFF = re.compile(r"^( *)#(\w+): ", re.MULTILINE)
ALL_KINDS = list(KEYS_OF_KIND)
SIZES = {kind: [2, 3, 4, 5, 6, 9, 10, 16, 30, 64] for kind in ALL_KINDS} | {
    "small_world": [3, 4, 5, 6, 9, 10, 16, 30, 64],
    "torus": [9, 12, 15, 16, 30, 63, 64],
}


def as_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=600, check=False, cwd=cwd,
    )  # fmt: skip


def written(folder: Path, plan: Plan | None = None) -> Fleet:
    write_template(folder, plan or Plan())
    return load_fleet(folder / "fleet.yaml", endless=False)


# -- what is written loads ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_loads_at_every_size_that_it_has(kind: str, tmp_path: Path) -> None:
    for nodes in SIZES[kind]:
        fleet = written(tmp_path / str(nodes), Plan(nodes, kind))
        assert len(fleet.members) == len(fleet.graph.ids) == nodes
        assert len(fleet.graph.parts()) == 1
        topology = fleet.file.topology
        assert (topology.kind or "edges") == kind


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL_KINDS if kind not in ("star", "complete")]
)  # both have nodes with all others as neighbours
def test_kinds_for_large_fleets_load_with_a_thousand_nodes(kind: str, tmp_path: Path) -> None:
    assert len(written(tmp_path, Plan(1000, kind)).graph.ids) == 1000


def test_ids_have_leading_zeros_that_sort_them(tmp_path: Path) -> None:
    for nodes in (2, 9, 10, 100):
        ids = written(tmp_path / str(nodes), Plan(nodes)).graph.ids
        assert list(ids) == sorted(ids)
        assert ids[-1] == f"node{nodes}"
        assert ids == tuple(module.node_id(n, nodes) for n in range(1, nodes + 1))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("lab", "lab"), ("1e3", "1e3"), ("no", "no"), ("my fleet, ü", "my-fleet"), ("{n}", "n"),
        ("'\"#:\n", "fleet"), ("a" * 200, "a" * 63), ("-x-", "x"), ("null", "null"),
    ],
)  # fmt: skip
def test_the_fleet_is_called_after_its_folder(folder: str, name: str, tmp_path: Path) -> None:
    assert written(tmp_path / folder).file.fleet == name


def test_safe_keys_are_the_default_and_weak_ones_are_called_so(tmp_path: Path) -> None:
    safe = written(tmp_path / "safe").file.crypto
    assert (safe.key_bits, safe.allow_weak_keys) == (2048, False)
    assert "WEAK" not in (tmp_path / "safe" / "fleet.yaml").read_text()
    weak = written(tmp_path / "weak", Plan(key_bits=512)).file.crypto
    assert (weak.key_bits, weak.allow_weak_keys) == (512, True)
    assert "WEAK KEYS" in (tmp_path / "weak" / "fleet.yaml").read_text()


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("broker.lan", "broker.lan", 8883), ("10.5", "10.5", 8883),
        ("192.168.1.5:18883", "192.168.1.5", 18883), ("[fe80::1]:8884", "fe80::1", 8884),
        ("null", "null", 8883),
    ],
)  # fmt: skip
def test_a_fleet_of_devices_has_the_broker_with_tls_and_rounds_without_end(
    address: str, host: str, port: int, tmp_path: Path
) -> None:
    plan = Plan(3, broker=module.parse_broker(address))
    write_template(tmp_path, plan)
    fleet = load_fleet(tmp_path / "fleet.yaml")
    assert fleet.file.broker == Brokers(host=host, port=port, tls=True)
    assert (fleet.file.algorithm.rounds, fleet.file.algorithm.period_s) == (None, 60)
    assert "until you set the sensors" in (tmp_path / "fleet.yaml").read_text()


@pytest.mark.parametrize("address", ["", "a b", "host:0", "host:65536", "host:", "a:b", "fe80::1"])
def test_what_is_no_address_of_a_broker_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must be a host name or an address"):
        module.parse_broker(address)


# -- its comments ---------------------------------------------------------------------------------


def text_of_template() -> str:
    return template("lab", Plan())["fleet.yaml"]


def switched_on(text: str, off: re.Match[str]) -> str:
    """*text* with the setting at *off* turned on, in place of the same key where that is on."""
    indent, key = off[1], off[2]
    begin = text.rindex("\n\n", 0, off.start())  # sections are paragraphs
    end = text.find("\n\n", off.start())
    section = text[begin:end]
    without = re.sub(rf"^({indent}){key}: ", rf"\1#was-{key}: ", section, flags=re.MULTILINE)
    place = without.index(off.string[off.start() : text.index("\n", off.start())])
    on = without[:place] + without[place:].replace(f"#{key}: ", f"{key}: ", 1)
    return text[:begin] + on + text[end:]


@pytest.mark.parametrize(
    "number", range(len(OFF.findall(text_of_template()))), ids=lambda n: f"alternative {n}"
)
def test_every_setting_that_is_off_can_be_turned_on(number: int, tmp_path: Path) -> None:
    text = text_of_template()
    off = list(OFF.finditer(text))[number]
    (tmp_path / "network.txt").write_text("\n".join(f"node{n} node{n + 1}" for n in range(1, 9)))
    edges = "".join(f'<edge source="node{n}" target="node{n + 1}"/>' for n in range(1, 9))
    (tmp_path / "network.graphml").write_text(f"<graphml><graph>{edges}</graph></graphml>")
    numbers = range(1, 10)
    (tmp_path / "positions.csv").write_text(
        "id,x,y\n" + "".join(f"node{n},{n},{n % 3}\n" for n in numbers)
    )
    readings = "".join(f"{n},20.5,40\n" for n in numbers)
    (tmp_path / "readings.csv").write_text("node,temperature_c,humidity_pct\n" + readings)
    plain, changed = tmp_path / "plain.yaml", tmp_path / "fleet.yaml"
    plain.write_text(text)
    changed.write_text(switched_on(text, off))
    setting = text[off.start() : text.index("\n", off.start())]
    on_already = setting.replace("#", "", 1) in text.splitlines()  # the topology of the plan
    assert (load_fleet(changed).file == load_fleet(plain).file) == on_already


def test_the_alternatives_name_every_kind_of_topology_and_sensor() -> None:
    text = text_of_template()
    kinds = set(re.findall(r"^#topology: \{kind: (\w+)", text, re.MULTILINE))
    assert kinds == set(ALL_KINDS) - {"edges"}
    sensors = set(re.findall(r"sensor: \{kind: (\w+)", text))
    named = {"iio", "w1", "serial", "modbus", "mqtt", "http"}
    assert sensors == named | {"synthetic", "csv", "thermal", "hwmon", "command"}


def test_an_editor_finds_the_schema_beside_the_fleet_which_keeps_to_it(tmp_path: Path) -> None:
    for kind in ALL_KINDS:
        folder = tmp_path / kind
        written(folder, Plan(9, kind))
        first = (folder / "fleet.yaml").read_text().partition("\n")[0]
        name = first.removeprefix("# yaml-language-server: $schema=")
        assert (folder / name).read_bytes() == SCHEMA_FILE.read_bytes()
        schema = jsonschema.Draft202012Validator(json.loads((folder / name).read_text()))
        schema.validate(read_document(folder / "fleet.yaml").data)


def test_comments_stand_before_every_section() -> None:
    for section in ("objective", "topology", "algorithm", "nodes", "crypto", "broker"):
        assert re.search(rf"^# .*\n{section}:", text_of_template(), re.MULTILINE), section


# -- nothing is overwritten -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fleet.yaml", ".gitignore", "fleet.schema.json", "network.txt"])
@pytest.mark.parametrize("how", ["file", "folder", "dangling link"])
def test_what_exists_is_refused_and_left_alone(name: str, how: str, tmp_path: Path) -> None:
    there = tmp_path / name
    if how == "file":
        there.write_text("mine")
    elif how == "folder":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    result = run_here("init", tmp_path, "--topology", "file")
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr == (
        f"cipherfleet: {there}: exists already; name another folder, or move it away\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if how == "file":
        assert there.read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        if target.name == "fleet.yaml":
            target.write_text("mine")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ConfigError, match=r"fleet\.yaml: exists already"):
        write_template(tmp_path, Plan())
    assert (tmp_path / "fleet.yaml").read_text() == "mine"


def test_other_files_of_the_folder_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("mine")
    written(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".gitignore", "fleet.schema.json", "fleet.yaml", "readings.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("step", range(1, 8))
def test_a_killed_init_leaves_no_half_written_file(step: int, tmp_path: Path) -> None:
    """SIGKILL at the step-th call to the system that writes or names a file."""
    code = f"""
import os, signal
from pathlib import Path
from cipherfleet_provisioning.fleet.template import Plan, write_template
calls = 0
def counted(call):
    def dying(*arguments):
        global calls
        calls += 1
        if calls == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return dying
os.fsync, os.link = counted(os.fsync), counted(os.link)
write_template(Path({str(tmp_path / "lab")!r}), Plan())
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == (-signal.SIGKILL if step <= 6 else 0)
    whole = template("lab", Plan())
    found = {p.name: p.read_text() for p in (tmp_path / "lab").iterdir() if p.is_file()}
    assert found == {name: whole[name] for name in found}
    assert ("fleet.yaml" in found) == (step == 7)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(topology="rign"), "did you mean 'ring'"),
        (Plan(topology=""), "is '', must be one of ring, line"),
        (Plan(7, "torus"), "7 nodes do not give; 9 nodes would"),
        (Plan(11, "torus"), "11 nodes do not give; 9 or 12 nodes would"),
        (Plan(2, "small_world"), "at least 3 nodes"),
        (Plan(65, "star"), "64 neighbours, at most 63"),
        (Plan(65, "complete"), "64 neighbours, at most 63"),
        (Plan(key_bits=2047), "--key-bits is 2047, must be a multiple of 16"),
    ],
)  # fmt: skip
def test_a_plan_that_no_fleet_can_have_makes_nothing(
    plan: Plan, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        write_template(tmp_path / "lab", plan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["file", "file/lab"])
def test_a_file_in_the_way_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run_here("init", tmp_path / target)
    assert result.returncode == 3
    assert re.fullmatch(rf"cipherfleet: .*/{target}: cannot be filled: .*\n", result.stderr)


# -- the command ----------------------------------------------------------------------------------


def test_the_help_names_every_kind() -> None:
    (topology,) = (o for o in cli.cli.commands["init"].params if o.name == "topology")
    help_text = getattr(topology, "help", "")
    assert set(re.findall(r"\w+", help_text.partition(":")[2])) - {"or"} == set(ALL_KINDS)


def test_the_next_step_of_devices_is_a_set(tmp_path: Path) -> None:
    result = run_here("init", "lab", "--broker", "broker.lan", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cipherfleet provision bundle lab/fleet.yaml my-set" in result.stdout
    assert run_here("init", "lab2", "--broker", "a b", cwd=tmp_path).returncode == 3


def test_what_init_suggests_is_quoted_for_a_shell(tmp_path: Path) -> None:
    result = run_here("init", "my fleet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    suggested = shlex.split(result.stdout.splitlines()[-1].removeprefix("try it: "))
    assert suggested == ["cipherfleet", "run", "my fleet/fleet.yaml", "--rounds", "3"]


@pytest.mark.parametrize("name", ["", " "])
def test_a_folder_without_a_name_is_refused(name: str, tmp_path: Path) -> None:
    result = run_here("init", name, cwd=tmp_path)
    assert result.returncode == 2
    assert "DIR is empty: name a folder, or . for this one" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fleet
def test_the_doctor_finds_no_fault_in_a_fleet_that_was_just_made(tmp_path: Path) -> None:
    as_process("init", "lab", cwd=tmp_path)
    file = tmp_path / "lab" / "fleet.yaml"  # on 1883 somebody's broker may answer
    text = file.read_text().replace("port: 1883", f"port: {free_port()}")
    file.write_text(text)
    result = as_process("doctor", "lab/fleet.yaml", "--json", cwd=tmp_path)
    findings = json.loads(result.stdout)["findings"]
    fleets = [each for each in findings if each["subject"] in ("broker", "check", "fleet file")]
    assert [each for each in fleets if each["level"] == "fail"] == []
    (broker,) = (each for each in fleets if each["subject"] == "broker")
    assert broker["level"] == "skip"
    assert "`run` starts its own" in broker["text"]


def test_the_template_says_what_counts_alike() -> None:
    comments = " ".join(text_of_template().replace("#", "").split())
    assert "node (default): every node counts alike, however many readings it has" in comments
    assert "reading: every reading counts alike; normalise_by is about" in comments


def test_json_names_the_files(tmp_path: Path) -> None:
    result = run_here("init", "lab", "--topology", "file", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = [".gitignore", "fleet.schema.json", "network.txt", "fleet.yaml"]
    assert json.loads(result.stdout) == {"written": [f"lab/{name}" for name in names]}
    assert sorted(p.name for p in (tmp_path / "lab").iterdir()) == sorted(names)


def test_secrets_and_results_are_not_versioned_but_the_fleet_is(tmp_path: Path) -> None:
    written(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    secret = [
        "cipherfleet-out/lab-1/nodes/a/node.yaml", "out/nodes/a/keys/paillier.json",
        "a/keys/identity.pem", "out/tls/node.key", "a/state/current", "a/logs/spans.jsonl",
    ]  # fmt: skip
    shared = [
        "fleet.yaml", "fleet.schema.json", ".gitignore", "network.txt", "readings.csv",
        "positions.csv",
    ]  # fmt: skip
    for name in secret + shared:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = subprocess.run(
        ["git", "-C", tmp_path, "ls-files", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(done.stdout.split()) == sorted(shared)


@pytest.mark.fleet
def test_a_fleet_of_four_runs_as_it_is_written(tmp_path: Path) -> None:
    found = as_process("init", "lab", "--nodes", 4, "--key-bits", 512, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    suggested = found.stdout.splitlines()[-1].removeprefix("try it: cipherfleet ").split()
    assert suggested == ["run", "lab/fleet.yaml", "--rounds", "3"]
    ran = as_process("run", "lab/fleet.yaml", "--rounds", 2, "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["nodes"], result["edges"], result["rounds"]) == (4, 4, 2)
    assert (result["silent"], result["rejected"], result["restarts"]) == (0, 0, 0)
