"""One error at a time: one clear line, the right exit code, and no partial output."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cipherfleet_deploy.cli import main as cli
from cipherfleet_node import __main__ as node_command
from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet

GOOD = """\
config_version: 1
fleet: lab
broker: {host: 127.0.0.1, port: 1883}
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm:
  rounds: 4
  method: article
  resolution: 2^-24
  stepsize: {initial: 0.5, decay: 0.03}
  attenuation: none
objective:
  kind: least_squares
  target: {field: humidity}
  features: [{constant: 1}, {field: temperature}]
topology: {kind: ring}
nodes:
  - {id: a, sensor: {kind: csv, path: data.csv, where: {room: 1}}}
  - {id: b, sensor: {kind: csv, path: data.csv, where: {room: 2}}}
  - {id: c, sensor: {kind: csv, path: data.csv, where: {room: 3}}}
"""
READINGS = """\
room,temperature,humidity
1,0.731641,0.113377
2,0.731642,0.113378
3,0.731643,0.113379
"""
EDGES = "topology: {kind: edges, edges: [[a, b], [b, c]]}"
RING = "topology: {kind: ring}"
LAST_NODE = "  - {id: c, sensor: {kind: csv, path: data.csv, where: {room: 3}}}\n"
MANY = f'  - {{each: {MAX_DEGREE}, id: "m{{n:02}}", sensor: {{kind: csv, path: data.csv}}}}\n'


@dataclass(frozen=True)
class Mistake:
    """*old* in the good file becomes *new*; the complaint points at the '@' in *new*."""

    name: str
    old: str
    new: str
    words: str  # what the complaint says, a regular expression

    def text(self) -> str:
        assert GOOD.count(self.old) == 1, f"{self.old!r} stands {GOOD.count(self.old)} times"
        return GOOD.replace(self.old, self.new.replace("@", "", 1))

    def place(self) -> str:
        before = GOOD[: GOOD.index(self.old)] + self.new[: self.new.index("@")]
        return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


MISTAKES = [
    # -- keys ------------------------------------------------------------------------------------
    Mistake("unknown key at the top", "fleet: lab", "@flet: lab", "flet is not a known key.*fleet"),
    Mistake("unknown section", RING, RING + "\n@logging: loud", "logging is not a known key"),
    Mistake("unknown key of crypto", "key_bits: 512", "@keybits: 512", "did you mean 'key_bits'"),
    Mistake("unknown key of algorithm", "  rounds: 4", "  @round: 4", "did you mean 'rounds'"),
    Mistake("unknown key of stepsize", "decay: 0.03", "@decays: 0.03", "did you mean 'decay'"),
    Mistake("unknown key of broker", "port: 1883", "@tsl: true", "did you mean 'tls'"),
    Mistake("unknown key of target", "{field: humidity}", "{@feild: humidity}", "'field'"),
    Mistake("unknown key of a feature", "{constant: 1}", "{@const: 1}", "did you mean 'constant'"),
    Mistake("unknown key of a node", "{id: a, ", "{@name: x, id: a, ", "name is not a known key"),
    Mistake("unknown key of a sensor", "where: {room: 1}", "@were: x", r"nodes\[0\].sensor.were"),
    Mistake("unknown key of topology", "{kind: ring}", "{kind: ring, @size: 3}", "not a known key"),
    Mistake("key given twice", "fleet: lab", "fleet: lab\n@fleet: lab", "twice, first at 2:1"),
    Mistake("fleet missing", "fleet: lab\n", "", "fleet is missing"),
    Mistake("objective kind missing", "  kind: least_squares\n", "", "objective.kind is missing"),
    Mistake("node without sensor", ", sensor: {kind: csv, path: data.csv, where: {room: 1}}", "",
            r"nodes\[0\].sensor.kind is none, which only a follower may have"),
    Mistake("node without id", "id: a, ", "", r"nodes\[0\].id is missing"),
    # -- types and ranges ------------------------------------------------------------------------
    Mistake("another version", "config_version: 1", "config_version: @2", "is 2, must be .*1"),
    Mistake("fleet is a number", "fleet: lab", "fleet: @7", "must be a text"),
    Mistake("fleet with a slash", "fleet: lab", "fleet: @a/b", "is 'a/b', must be"),
    Mistake("rounds is a word", "rounds: 4", "rounds: @many", "is 'many', must be a whole number"),
    Mistake("rounds with a unit", "rounds: 4", "rounds: @4x", "is '4x', must be a whole number"),
    Mistake("rounds is a fraction", "rounds: 4", "rounds: @4.5", "is 4.5, must be a whole number"),
    Mistake("rounds is zero", "rounds: 4", "rounds: @0", "is 0, must be"),
    Mistake("rounds missing", "  rounds: 4\n", "", "algorithm needs rounds .*or period_s"),
    Mistake("the article's method with a scale", "  rounds: 4", "  rounds: 4\n  @scale: 1",
            "scale is not used by method article"),
    Mistake("an unknown method", "method: article", "method: @exakt", "is 'exakt'"),
    Mistake("a time with a unit", "  rounds: 4", "  rounds: 4\n  answer_timeout_s: @5s",
            "is '5s', must be a number"),
    Mistake("a negative time", "  rounds: 4", "  rounds: 4\n  answer_timeout_s: @-1", "is -1"),
    Mistake("an infinite stepsize", "initial: 0.5", "initial: @1e999", "finite|not allowed"),
    Mistake("a stepsize that is NaN", "initial: 0.5", "initial: @.nan", "'.nan', must be a number"),
    Mistake("a negative stepsize", "initial: 0.5", "initial: @-0.5", "is -0.5, must be"),
    Mistake("a spread above one", "decay: 0.03", "spread: @1.5", "is 1.5, must be .*1"),
    Mistake("an unknown law", "decay: 0.03", "law: @cauchy", "is 'cauchy', must be"),
    Mistake("resolution as a sum", "2^-24", "@2**-24", r"is '2\*\*-24'.*for example 2\^-24"),
    Mistake("resolution zero", "2^-24", "@0", "is 0, must be a positive number"),
    Mistake("resolution negative", "2^-24", "@-1e-6", "must be a positive number"),
    Mistake("resolution with a unit", "2^-24", "@1mK", "is '1mK', must be a positive number"),
    Mistake("resolution infinite", "2^-24", "@1e999", "finite|not allowed"),
    Mistake("resolution too coarse", "2^-24", "@2^30", r"is '2\^30', must be"),
    Mistake("attenuation a word", "attenuation: none", "attenuation: @some", "is 'some', must be"),
    Mistake("a port out of range", "port: 1883", "port: @70000", "is 70000, must be .*65535"),
    Mistake("a host elsewhere", "host: 127.0.0.1", "host: @192.168.1.5", "loopback"),
    Mistake("weak key", ", allow_weak_keys: true", "", "is 512, which is a weak key.*2048"),
    Mistake("odd key size", "key_bits: 512", "key_bits: @2047", "is 2047, .* multiple of 16"),
    Mistake("key size as text", "key_bits: 512", "key_bits: @strong", "must be a whole number"),
    Mistake("key size too great", "key_bits: 512", "key_bits: @16384", "is 16384, .*8192"),
    Mistake("unknown exchange", "key_bits: 512", "exchange: @plain", "is 'plain', must be"),
    Mistake("yes is no boolean", "allow_weak_keys: true", "allow_weak_keys: @yes",
            "is 'yes', must be true or false"),
    # -- YAML itself -----------------------------------------------------------------------------
    Mistake("bracket not closed", "{kind: ring}\n", "{kind: ring\n", "is not valid YAML"),
    Mistake("a tab for indent", "  rounds: 4", "@\trounds: 4", "is not valid YAML"),
    Mistake("an alias", RING, "topology: &t {kind: ring}\nbroken: @*t", "alias"),
    Mistake("a tag", "fleet: lab", "fleet: @!!python/name:os.system x", "tag"),
    # -- objective -------------------------------------------------------------------------------
    Mistake("unknown objective", "least_squares", "@lest_squares", "must be one of average, mean"),
    Mistake("objective of no module", "least_squares", "@no_such_module:Class", "imported"),
    Mistake("values for a fit", "least_squares", "mean", "objective.values is needed for .*mean"),
    Mistake("no features", "  features: [{constant: 1}, {field: temperature}]\n", "",
            "objective.features is needed"),
    Mistake("an empty feature list", "features: [{constant: 1}, {field: temperature}]",
            "@features: []", "objective.features is needed"),
    Mistake("a feature of two kinds", "{constant: 1}", "@{constant: 1, field: temperature}",
            "exactly one of constant, field and daily"),
    Mistake("a feature of no kind", "{constant: 1}", "@{scale: 2}", "exactly one of"),
    Mistake("scale zero", "{field: humidity}", "{field: humidity, scale: @0}", "scale is 0"),
    Mistake("harmonics without daily", "{constant: 1}", "{constant: 1, harmonics: @2}", "daily"),
    Mistake("too many harmonics", "{constant: 1}", "{daily: room, harmonics: @99}", "is 99"),
    # -- topology --------------------------------------------------------------------------------
    Mistake("unknown topology", "{kind: ring}", "{kind: @rng}", "did you mean 'ring'"),
    Mistake("a key of another kind", "{kind: ring}", "{kind: ring, degree: @3}", "to kind ring"),
    Mistake("a needed key missing", "{kind: ring}", "{kind: geometric}", "neighbours is needed"),
    Mistake("degree of too few nodes", "{kind: ring}", "{kind: random_regular, degree: @3}",
            "below the number of nodes, 3"),
    Mistake("unknown node in edges", RING, EDGES.replace("b, c", "b, @x"), "'x', which is no node"),
    Mistake("self loop", RING, EDGES.replace("[b, c]", "@[c, c]"), "links 'c' to itself"),
    Mistake("edge given twice", RING, EDGES.replace("[b, c]", "[b, c], @[b, a]"), "already"),
    Mistake("disconnected edges", RING, "topology: {kind: edges, @edges: [[a, b]]}",
            "leaves 'a' and 'c' without a path"),
    Mistake("positions lacking", "{kind: ring}",
            "{kind: geometric, neighbours: 1, @positions: {a: [0, 0]}}", "lacks 'b', 'c'"),
    Mistake("a position of no node", "{kind: ring}",
            "{kind: geometric, neighbours: 1, positions: {a: [0, 0], @bb: [1, 0], c: [2, 0]}}",
            "belongs to no node, did you mean 'b'"),
    Mistake("no file of edges", "{kind: ring}", "{file: @net.txt}", "net.txt: cannot be read: No"),
    Mistake("readings as edges", "{kind: ring}", "{file: @data.csv}", "must end in .graphml"),
    Mistake("a torus of three", RING, "@topology: {kind: torus}", "9 nodes would"),
    Mistake("an edge of three", RING, EDGES.replace("[b, c]", "@[a, b, c]"), "length 2"),
    # -- nodes -----------------------------------------------------------------------------------
    Mistake("no nodes", GOOD[GOOD.index("nodes:") :], "@nodes: []", "nodes .*1"),
    Mistake("one node", GOOD[GOOD.index("  - {id: b") :], "", "needs at least 2 nodes"),
    Mistake("two nodes of one id", "id: c", "id: @a", "gives the id 'a' twice"),
    Mistake("an id with a slash", "id: c", "id: @c/d", "gives the id 'c/d'"),
    Mistake("an id that is a number", "id: c", "id: @08", "id|tag"),
    Mistake("a pattern without each", "id: c", 'id: @"c{n}"', "beside each, {n} and {n:02}"),
    Mistake("an unknown pattern", "id: c", 'each: 2, id: @"c{x}"', "beside each, {n} and {n:02}"),
    Mistake("each without a pattern", "id: c", "each: 2, id: @c", "the id 'c' twice, put {n}"),
    Mistake("each is zero", "id: c", 'each: @0, id: "c{n}"', "is 0, must be"),
    Mistake("each is beyond reason", "id: c", 'each: @1000000000, id: "c{n}"', "must be .*10000"),
    # -- sensors and their readings --------------------------------------------------------------
    Mistake("unknown sensor kind", "{kind: csv, path: data.csv, where: {room: 1}}",
            "{kind: @cvs, path: data.csv}", "cvs"),
    Mistake("sensor kind missing", "{kind: csv, path: data.csv, where: {room: 1}}",
            "{path: data.csv}", "kind"),
    Mistake("file missing", "{kind: csv, path: data.csv, where: {room: 1}}",
            "{kind: csv, path: @date.csv}", "No such file or directory, did you mean 'data.csv'"),
    Mistake("file is a folder", "path: data.csv, where: {room: 1}", "path: .", "regular file"),
    Mistake("where matches nothing", "room: 1", "room: 9", "none of its 3 rows matches"),
    Mistake("where names no column", "room: 1", "@flat: 1", r"where.flat is no field of .*'a'"),
    Mistake("where is a list", "where: {room: 1}", "@where: [1]", "is a list, must be a mapping"),
    Mistake("limits upside down", "where: {room: 1}", "limits: {@temperature: [1, 0]}", "lowest"),
    Mistake("limits of no column", "where: {room: 1}", "limits: {@pressure: [0, 1]}",
            "limits.pressure is no field of the sensor"),
    Mistake("a reading beyond limits", "{room: 1}", "{room: 1}, limits: {humidity: [5, 6]}",
            "data.csv:2: column 'humidity' is outside its limits"),
    Mistake("a made-up sensor lacks a field", "csv, path: data.csv, where: {room: 1}",
            "synthetic, fields: {temperature: {mean: 1}}", "needs 'humidity'"),
    Mistake("a chip lacks a field", "csv, path: data.csv, where: {room: 1}",
            "hwmon, chip: x, inputs: {temp1_input: temperature}", "needs 'humidity'"),
    Mistake("a negative deviation", "csv, path: data.csv, where: {room: 1}",
            "synthetic, fields: {temperature: {mean: 1, deviation: @-1}}", "is -1, must be"),
    Mistake("an empty command", "csv, path: data.csv, where: {room: 1}", "command, @command: []",
            "is empty"),
    Mistake("a class target of 0.11", "least_squares", "logistic", "target must be 0 or 1"),
    Mistake("readings beyond headroom", "{constant: 1}", "{constant: 1e9}", "order one by offset"),
]  # fmt: skip

CSV_MISTAKES = {
    "empty": ("", "is empty"),
    "header only": ("room,temperature,humidity\n", "no rows"),
    "no header": (READINGS.partition("\n")[2], "is a number, not a name"),
    "NaN cell": (READINGS.replace("0.113378", "nan"), "data.csv:3: .*not a finite number"),
    "infinite cell": (READINGS.replace("0.113378", "1e999"), "data.csv:3: .*too large"),
    "empty cell": (READINGS.replace("0.113378", ""), "data.csv:3: .*is empty"),
    "text cell": (READINGS.replace("0.113378", "wet"), "data.csv:3: .*is 'wet', must be a number"),
    "decimal comma": (READINGS.replace("0.113378", "0,113378"), "data.csv:3: .*too long"),
    "short row": (READINGS.replace(",0.113378", ""), "data.csv:3: the row is too short"),
    "open quote": (READINGS.replace("0.113378", '"0.113378'), "is not valid CSV"),
    "column twice": (READINGS.replace("room", "humidity"), "'humidity' twice"),
}


def written(folder: Path, text: str = GOOD, readings: str = READINGS) -> Path:
    (folder / "data.csv").write_text(readings)
    file = folder / "fleet.yaml"
    file.write_text(text)
    return file


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    lines: list[str]  # of standard error


Command = Callable[..., Ended]


@pytest.fixture
def cipherfleet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The operator's command in this process, from the command line to the exit code."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["cipherfleet", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Ended(code, out, err.splitlines())

    yield run
    signal.signal(signal.SIGTERM, handler)


def as_process(*arguments: object, program: str = "cipherfleet_deploy") -> Ended:
    command = [sys.executable, "-m", program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr.splitlines())


def complaint(ended: Ended, code: int = 3, program: str = "cipherfleet") -> str:
    """The one complaint of a command that ended with *code* and printed nothing else.

    Below it stands the line of the file, with a caret at the place, or nothing.
    """
    assert ended.code == code, ended
    assert ended.out == ""
    line, *excerpt = ended.lines
    assert len(excerpt) in (0, 2), ended.lines
    if excerpt:
        place = re.match(r".*?:(\d+):(\d+): ", line)
        assert place is not None
        assert excerpt[0].startswith(f"{place[1]:>5} | ")
        assert excerpt[1] == "      | " + " " * (int(place[2]) - 1) + "^"
        assert "0.7316" not in excerpt[0]
    assert line.startswith(f"{program}: ")
    assert "Traceback" not in line
    for value in ("0.7316", "0.1133"):
        assert value not in line, "a reading was shown"
    return line


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert len(load_fleet(written(tmp_path)).members) == 3


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_in_the_file_gives_one_line_with_its_place(
    mistake: Mistake, tmp_path: Path, cipherfleet: Command
) -> None:
    file = written(tmp_path, mistake.text())
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    place = re.match(rf"cipherfleet: {re.escape(str(file))}:(\d+:\d+): ", line)
    assert place is not None, line
    if "@" in mistake.new:
        assert place[1] == mistake.place(), line
    assert re.search(mistake.words, line), line
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data.csv", file]


@pytest.mark.parametrize("name", CSV_MISTAKES)
def test_a_mistake_in_the_readings_gives_one_line_with_both_places(
    name: str, tmp_path: Path, cipherfleet: Command
) -> None:
    readings, words = CSV_MISTAKES[name]
    file = written(tmp_path, readings=readings)
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    at = r"17:39: nodes\[0\].sensor.path of |1[789]:13: nodes\[\d\].sensor of "
    assert re.match(rf"cipherfleet: {re.escape(str(file))}:({at})", line), line
    assert f"{tmp_path / 'data.csv'}:" in line
    assert re.search(words, line), line
    assert not (tmp_path / "out").exists()


def test_a_field_that_no_sensor_has_is_told_where_it_is_asked_for(
    tmp_path: Path, cipherfleet: Command
) -> None:
    file = written(tmp_path, readings=READINGS.replace("humidity", "humidity_pct"))
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    assert "fleet.yaml:13:19: objective.target.field is 'humidity', which no sensor has" in line
    assert line.endswith(", did you mean 'humidity_pct'?")


def test_readings_that_are_not_text_are_refused(tmp_path: Path, cipherfleet: Command) -> None:
    file = written(tmp_path)
    (tmp_path / "data.csv").write_bytes(READINGS.encode() + b"4,\xff\xfe,1\n")
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    assert "data.csv:5: is not UTF-8 text" in line


def test_a_fleet_file_that_is_not_text_is_refused(tmp_path: Path, cipherfleet: Command) -> None:
    file = written(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    assert "fleet.yaml: is not UTF-8 text" in complaint(cipherfleet("run", file))


def test_an_empty_fleet_file_is_refused(tmp_path: Path, cipherfleet: Command) -> None:
    assert "fleet.yaml:1:1: is empty" in complaint(cipherfleet("run", written(tmp_path, "# no\n")))


def test_a_list_is_no_fleet_file(tmp_path: Path, cipherfleet: Command) -> None:
    assert "fleet.yaml:1:1: must be a mapping" in complaint(
        cipherfleet("run", written(tmp_path, "- 1\n"))
    )


def test_too_many_neighbours_are_refused(tmp_path: Path, cipherfleet: Command) -> None:
    file = written(tmp_path, GOOD.replace(LAST_NODE, MANY).replace("ring", "star"))
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    assert f"gives 'a' {MAX_DEGREE + 1} neighbours, at most {MAX_DEGREE}" in line
    assert "fleet.yaml:15:1: topology" in line


def test_a_run_needs_an_end(tmp_path: Path, cipherfleet: Command) -> None:
    file = written(tmp_path, GOOD.replace("rounds: 4", "period_s: 4"))
    line = complaint(cipherfleet("run", file, "--out", tmp_path / "out"))
    assert "fleet.yaml:5:1: algorithm has no rounds" in line
    assert not (tmp_path / "out").exists()


# -- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--nodes", "1"), 2, "'--nodes': 1 is not in the range"),
        (("--nodes", "99"), 3, "--nodes is 99, must be from 2 to 3"),
        (("--nodes", "two"), 2, "'two' is not a valid"),
        (("--rounds", "0"), 2, "'--rounds': 0 is not in the range"),
        (("--key-bits", "2047"), 3, "multiple of 16, .*2048 .2047 is from --key-bits"),
        (("--key-bits", "64"), 2, "'--key-bits': 64 is not in the range"),
        (("--seed", "1.5"), 2, "'--seed': '1.5' is not a valid"),
        (("--nod", "3"), 2, "No such option '?--nod"),
        (("--broker",), 2, "requires an argument"),
        (("another.yaml",), 2, "unexpected extra argument"),
    ],
)  # fmt: skip
def test_a_wrong_flag_gives_one_line(
    flags: tuple[str, ...], code: int, words: str, tmp_path: Path, cipherfleet: Command
) -> None:
    arguments = ("run", written(tmp_path), "--out", tmp_path / "out", *flags)
    line = complaint(cipherfleet(*arguments), code)
    assert re.search(words, line), line
    assert code == 3 or re.search(r"; see cipherfleet( run)? --help$", line), line
    assert not (tmp_path / "out").exists()


def test_a_weak_key_from_the_command_line_names_the_flag(
    tmp_path: Path, cipherfleet: Command
) -> None:
    file = written(tmp_path, GOOD.replace("key_bits: 512, allow_weak_keys: true", "key_bits: 2048"))
    line = complaint(cipherfleet("run", file, "--key-bits", 1024))
    assert "is 1024, which is a weak key" in line
    assert line.endswith("(1024 is from --key-bits)")


def test_fewer_nodes_than_explicit_edges_name_are_refused(
    tmp_path: Path, cipherfleet: Command
) -> None:
    line = complaint(cipherfleet("run", written(tmp_path, GOOD.replace(RING, EDGES)), "--nodes", 2))
    assert "--nodes is 2, but topology.edges names its 3 nodes" in line


def test_a_folder_of_an_earlier_run_is_refused_and_stays_as_it_is(
    tmp_path: Path, cipherfleet: Command
) -> None:
    kept = tmp_path / "out" / "nodes" / "a"
    kept.mkdir(parents=True)
    line = complaint(cipherfleet("run", written(tmp_path), "--out", tmp_path / "out"))
    assert "out: holds keys and logs of a run without a result.json: it was killed" in line
    assert line.endswith(f"or remove this one: rm -r {tmp_path}/out")
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["nodes", "a"]


@pytest.mark.parametrize("out", ["data.csv", "data.csv/deeper"])
def test_a_file_in_the_way_of_the_out_folder_is_refused(
    out: str, tmp_path: Path, cipherfleet: Command
) -> None:
    line = complaint(cipherfleet("run", written(tmp_path), "--out", tmp_path / out))
    assert "cannot be made" in line
    assert (tmp_path / "data.csv").read_text() == READINGS


def test_control_characters_of_a_name_reach_no_terminal(
    tmp_path: Path, cipherfleet: Command
) -> None:
    line = complaint(cipherfleet("run", tmp_path / "a\nb\x1b[31m.yaml"))
    assert r"a\nb\x1b[31m.yaml: cannot be read" in line


# -- the real commands ---------------------------------------------------------------------------


def test_the_real_command_keeps_to_one_line_for_a_mistake_in_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD.replace("rounds: 4", "rounds: four"))
    line = complaint(as_process("run", file, "--out", tmp_path / "out"))
    assert f"{file}:6:11: algorithm.rounds is 'four'" in line
    assert not (tmp_path / "out").exists()


def test_the_real_command_keeps_to_one_line_for_a_folder(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in complaint(as_process("run", tmp_path))


def test_a_broker_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD.replace("512, allow_weak_keys: true", "2048"))
    ended = as_process("run", file, "--broker", "nonsense", "--out", tmp_path / "out")
    notes = [line for line in ended.lines if not line.startswith("cipherfleet: ")]
    assert "broker is 'nonsense'" in complaint(
        Ended(ended.code, ended.out, [line for line in ended.lines if line not in notes])
    )
    assert not (tmp_path / "out").exists()


def test_a_broker_that_does_not_answer_is_exit_code_4(tmp_path: Path) -> None:
    file = written(tmp_path)
    ended = as_process("run", file, "--broker", "127.0.0.1:1", "--out", tmp_path / "out")
    last = complaint(Ended(ended.code, ended.out, ended.lines[-1:]), code=4)
    assert "no working broker at 127.0.0.1:1" in last
    assert not (tmp_path / "out").exists()


# -- any value anywhere --------------------------------------------------------------------------

INFINITE = "1e999"
ODD_VALUES: list[Any] = [
    None, True, "", "x", "a\nb", "\0", "{n.__class__}", "é" * 300, -1, 0, 1, 2**53, 10**400, 1e-320,
    1e300, INFINITE, [], [[]], {}, {"": None}, "..a:B", "os:path", "2^999",
]  # fmt: skip


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for step, item in items:
        yield from paths_in(item, (*path, step))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    items = dict(value) if isinstance(value, dict) else list(value)
    items[path[0]] = replaced(value[path[0]], path[1:], new)
    return items


FULL = yaml.safe_load(GOOD) | {
    "topology": {"kind": "geometric", "neighbours": 2, "seed": 1},
    "algorithm": {
        "rounds": 4, "period_s": 1, "resolution": "2^-24", "answer_timeout_s": 5,
        "method": "article",
        "attenuation": {"scale": 0.1, "exponent": 0.81}, "start_timeout_s": 5,
        "stepsize": {"initial": 0.5, "decay": 0.03, "exponent": 1, "spread": 1, "law": "normal"},
    },
}  # fmt: skip
FULL["objective"] |= {
    "penalty": 0.1,
    "threshold": 1,
    "window": 9,
    "window_s": 60,
    "minibatch": 1,
    "weight": "reading",
    "normalise_by": 1,
}
FULL["objective"]["features"].append({"daily": "temperature", "harmonics": 2, "scale": 1})
FULL["nodes"][0]["sensor"] |= {"limits": {"humidity": [0, 1]}, "rows_per_round": 1, "timeout_s": 1}
FULL["nodes"][1] |= {"each": 2, "id": "b{n}"}
FULL["nodes"][2]["sensor"] = {
    "kind": "synthetic", "seed": 1,
    "fields": {"humidity": {"mean": 1, "deviation": 1}, "temperature": {"mean": 1}},
}  # fmt: skip


@pytest.mark.parametrize("path", list(paths_in(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    path: tuple[Any, ...], tmp_path: Path
) -> None:
    file = written(tmp_path)
    taken = []
    for value in ODD_VALUES:
        file.write_text(json.dumps(replaced(FULL, path, value)).replace(f'"{INFINITE}"', INFINITE))
        try:
            load_fleet(file)
            taken.append(value)
        except ConfigError as error:
            text = str(error).replace("a\nb", "")  # a file's name is the command's to escape
            assert "\n" not in text, (value, text)
            assert len(text) < 1000, (value, text)
    assert INFINITE not in taken


# -- a node's folder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    fleet = load_fleet(written(folder))
    return write_bundles(fleet, folder / "nodes", Broker(port=1), Simulation())


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A fresh copy of the folder of node a."""
    return Path(shutil.copytree(bundles["a"], tmp_path / "a"))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def _foreign_keys(bundle: Path) -> None:
    shutil.copy(bundle / "neighbours" / "c.json", bundle / "neighbours" / "b.json")


BUNDLE_MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "key file open to others": (
        lambda b: (b / "keys" / "paillier.json").chmod(0o644),
        r"has mode 0644, .*: chmod 600 {folder}/keys/paillier.json$",
    ),
    "identity open to the group": (
        lambda b: (b / "keys" / "identity.pem").chmod(0o640),
        r"has mode 0640, .*: chmod 600 {folder}/keys/identity.pem$",
    ),
    "key file missing": (lambda b: (b / "keys" / "paillier.json").unlink(), "No such file"),
    "identity missing": (lambda b: (b / "keys" / "identity.pem").unlink(), "No such file"),
    "key file is no JSON": (
        lambda b: (b / "keys" / "paillier.json").write_text("{"), "paillier.json: is not JSON",
    ),
    "key without p": (
        lambda b: change(b / "keys" / "paillier.json", '"p"', '"P"'), "p is missing",
    ),
    "p is not prime": (
        lambda b: change(b / "keys" / "paillier.json", '"p": "', '"p": "AAAA" , "was": "'),
        "not two primes",
    ),
    "identity is garbage": (
        lambda b: (b / "keys" / "identity.pem").write_text("{"), "unencrypted PEM private key",
    ),
    "another key size": (
        lambda b: change(b / "node.yaml", "key_bits: 512", "key_bits: 528"), "has 512 bits.*528",
    ),
    "neighbour file missing": (
        lambda b: (b / "neighbours" / "b.json").unlink(), "b.json: cannot be read",
    ),
    "neighbour file of another node": (_foreign_keys, "b.json: the keys of 'b' have fingerprint"),
    "neighbour's modulus is even": (
        lambda b: change(b / "neighbours" / "b.json", '"n": "', '"n": "AA'), "b.json: ",
    ),
    "neighbour's identity cut": (
        lambda b: change(b / "neighbours" / "b.json", '"identity": "', '"identity": "AAAA'),
        "identity is not 32 bytes",
    ),
    "unknown key": (lambda b: change(b / "node.yaml", "fleet:", "flet:"), "node.yaml:2:1: flet is"),
    "wrong value": (
        lambda b: change(b / "node.yaml", "rounds: 4", "rounds: x"), "node.yaml:5:11: .*is 'x'",
    ),
    "settings missing": (lambda b: (b / "node.yaml").unlink(), "node.yaml: cannot be read"),
    "readings missing": (lambda b: (b / "readings.csv").unlink(), "readings.csv: cannot be read"),
    "readings without a column": (
        lambda b: change(b / "readings.csv", "humidity", "moisture"), "needs 'humidity'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLE_MISTAKES)
def test_a_mistake_in_a_node_folder_gives_one_line(
    name: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BUNDLE_MISTAKES[name]
    spoil(bundle)
    code = node_command.main(["check-config", str(bundle)])
    out, err = capsys.readouterr()
    line = complaint(Ended(code, out, err.splitlines()), program="cipherfleet-node")
    assert re.search(words.replace("{folder}", re.escape(str(bundle))), line), line


def test_the_good_node_folder_is_good(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert node_command.main(["check-config", str(bundle), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["node"], result["neighbours"], result["dimension"]) == ("a", ["b", "c"], 2)


def test_the_real_node_command_keeps_to_one_line(bundle: Path) -> None:
    (bundle / "keys" / "paillier.json").chmod(0o604)
    ended = as_process("check-config", bundle, program="cipherfleet_node")
    assert "has mode 0604" in complaint(ended, program="cipherfleet-node")
    ended = as_process("run", bundle, program="cipherfleet_node")
    assert "has mode 0604" in complaint(ended, program="cipherfleet-node")
    assert not (bundle / "state").exists()


@pytest.mark.parametrize("command", ["run", "check-config", "show-state", "doctor", "health"])
def test_the_folder_of_another_user_is_told_in_one_line(bundle: Path, command: str) -> None:
    """As a user without rights to the folder sees it: root gives up what sets it above modes."""
    as_others: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads every folder: apt-get install util-linux")
        as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    words = [sys.executable, "-m", "cipherfleet_node", command, str(bundle)]
    bundle.chmod(0)
    try:
        done = subprocess.run([*as_others, *words], capture_output=True, text=True, check=False)
    finally:
        bundle.chmod(0o700)
    assert "Traceback" not in done.stderr
    if command == "doctor":
        assert done.returncode == 3
        assert f"fail  node.yaml     {bundle}/node.yaml: cannot be read: Permission" in done.stdout
        assert "remedy: run it as the user who owns the folder" in done.stdout
    elif command == "health":
        assert done.returncode != 0
    else:
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"cipherfleet-node: {bundle}/")
        assert "Permission denied" in line
        assert line.endswith("; run it as the user who owns the folder, or as root")


def test_no_complaint_shows_a_private_key(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = json.loads((bundle / "keys" / "paillier.json").read_text())["p"]
    change(bundle / "keys" / "paillier.json", secret, secret[:-2] + "AA")
    assert node_command.main(["check-config", str(bundle)]) == 3
    assert secret[:12] not in textwrap.dedent(capsys.readouterr().err)
