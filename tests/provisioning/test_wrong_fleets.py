"""Over two hundred wrong fleets with one error each: position, text, suggestion, schema."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import OBJECTIVE_KINDS
from cipherfleet_node.settings.type_errors import nearest, validate
from cipherfleet_node.settings.yaml_document import parse_document, read_document
from cipherfleet_provisioning.fleet.file import FleetFile
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.fleet.members import ENTRY_RULES
from cipherfleet_provisioning.fleet.readings import FILE_RULES, READING_RULES
from cipherfleet_provisioning.fleet.rules import FLEET_RULES, describe_rules
from cipherfleet_provisioning.fleet.schema import SCHEMA_FILE, fleet_schema, schema_text
from cipherfleet_provisioning.topology.section import KEYS_OF_KIND
from tests.support.paths import ROOT

FOLDER = ROOT / "tests/data/wrong_fleets"
RIGHT = (FOLDER / "fleet.yaml").read_text()
SCHEMA = jsonschema.Draft202012Validator(fleet_schema())


class Mistake(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An entry of mistakes.yaml, which says what the fields mean."""

    name: str
    old: str
    new: str
    line: int
    column: int
    must_contain: str
    refused_by: str
    suggestion: str | None = None

    @property
    def text(self) -> str:
        assert RIGHT.count(self.old) == 1, f"{self.old!r} stands {RIGHT.count(self.old)} times"
        return RIGHT.replace(self.old, self.new)

    @property
    def span(self) -> range:
        start = RIGHT.index(self.old)
        lines = RIGHT.count("\n", 0, start), RIGHT.count("\n", 0, start + len(self.old))
        return range(lines[0], lines[1] + 1)


# Each process of the suite reads this long file; libyaml does so ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MISTAKES = msgspec.convert(yaml.load((FOLDER / "mistakes.yaml").read_text(), LOADER), list[Mistake])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wrong")
    for name in ("readings.csv", "positions.csv"):
        shutil.copy(FOLDER / name, made)
    return made


def findings(folder: Path, text: str) -> tuple[ConfigError, ...]:
    file = folder / "fleet.yaml"
    file.write_text(text)
    try:
        load_fleet(file)
    except ConfigError as error:
        return error.findings
    return ()


@cache
def only_finding(folder: Path, mistake: Mistake) -> ConfigError:
    (finding,) = findings(folder, mistake.text)
    return finding


def place_of(finding: ConfigError) -> tuple[int, int]:
    assert finding.mark is not None
    assert str(finding).startswith(f"{finding.mark}: ")
    return finding.mark.line, finding.mark.column


# -- one mistake ----------------------------------------------------------------------------------


def test_there_are_enough_of_them() -> None:
    assert len({mistake.text for mistake in MISTAKES}) == len(MISTAKES) >= 200
    assert sum(mistake.suggestion is not None for mistake in MISTAKES) >= 90


def test_the_right_fleet_is_right(folder: Path) -> None:
    assert findings(folder, RIGHT) == ()
    SCHEMA.validate(read_document(folder / "fleet.yaml").data)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_one_mistake_is_one_complaint_that_explains_it(mistake: Mistake, folder: Path) -> None:
    finding = only_finding(folder, mistake)
    assert mistake.must_contain in str(finding)
    assert "\n" not in str(finding)
    assert len(str(finding)) < 600


def test_places_and_suggestions_are_right(folder: Path) -> None:
    """The shares that the README of a validator would boast of, measured."""
    misplaced, unhelped = [], []
    for mistake in MISTAKES:
        finding = only_finding(folder, mistake)
        if place_of(finding) != (mistake.line, mistake.column):
            misplaced.append(mistake.name)
        if mistake.suggestion and f"did you mean {mistake.suggestion!r}?" not in str(finding):
            unhelped.append(mistake.name)
    typos = sum(mistake.suggestion is not None for mistake in MISTAKES)
    assert len(misplaced) <= 0.05 * len(MISTAKES), misplaced
    assert len(unhelped) <= 0.10 * typos, unhelped


# -- several mistakes -----------------------------------------------------------------------------

SHAPES = [m for m in MISTAKES if m.name.startswith(("type", "range")) and m.refused_by == "schema"]


@given(st.lists(st.sampled_from(SHAPES), min_size=2, max_size=6, unique=True))
@settings(max_examples=60)
def test_independent_mistakes_are_all_told_at_once_in_order(chosen: list[Mistake]) -> None:
    kept: list[Mistake] = []
    for mistake in chosen:
        if not any(set(mistake.span) & set(other.span) for other in kept):
            kept.append(mistake)
    text = RIGHT
    for mistake in kept:
        text = text.replace(mistake.old, mistake.new)
    with pytest.raises(ConfigError) as refused:
        parse_document(text, Path("fleet.yaml")).convert(FleetFile)
    result = refused.value.findings
    assert len(result) == len(kept)
    for mistake in kept:
        assert any(mistake.must_contain in str(finding) for finding in result), mistake
    assert [place_of(finding) for finding in result] == sorted(map(place_of, result))


def test_mistakes_of_every_kind_are_told_together(folder: Path) -> None:
    text = RIGHT
    for old, new in (
        ("port: 1883", "port: 70000"),
        ("key_bits: 2048", "key_bits: 2050"),
        ("rounds: 50", "ruonds: 50"),
        ("law: uniform", "law: unifrom"),
        ("scale: 10", "scale: 0"),
        ("harmonics: 1", "harmonics: 1, harmonics: 2"),
        ("[[north, east], [east, south]", "[[nort, east], [east, suoth]"),
        ("        bed: 2", "        bad: 2"),
        ("seed: 3", "seed: three"),
        ("where: {bed: 3}", "where: {bed: 9}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    found = [
        re.sub(r".*fleet.yaml:(\d+):\d+: (\S+).*", r"\1 \2", str(f)) for f in findings(folder, text)
    ]
    assert found == [
        "7 broker.port",
        "11 crypto.key_bits",
        "18 algorithm.ruonds",
        "21 algorithm.stepsize.law",
        "27 objective.target.scale",
        "31 objective.features[2].harmonics",
        "37 topology.edges[0][0]",
        "37 topology.edges[1][1]",
        "47 nodes[1].sensor.where.bad",
        "53 nodes[2].sensor.seed",
    ]  # the last node's readings hang on the objective, which is not sound


def test_mistakes_of_newer_keys_are_told_together(folder: Path) -> None:
    """The leaf is reported with the others: nothing about the graph is in doubt."""
    text = RIGHT
    for old, new in (
        (", [west, north]]", "]"),
        ("pool: 4", "pool: -4"),
        ("  - id: north\n", "  - id: north\n    owner: a farm\n"),
        ("  - id: south\n", "  - id: south\n    owner: {n: 1}\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    found = [str(f).partition("fleet.yaml:")[2].split(" ")[:2] for f in findings(folder, text)]
    assert found == [
        ["12:13:", "crypto.exchange"],
        ["14:9:", "crypto.pool"],
        ["41:12:", "nodes[0].owner"],
        ["52:5:", "nodes[2].owner"],
    ]


def test_all_that_is_wrong_with_the_keys_and_positions_of_a_topology_is_told(folder: Path) -> None:
    start, end = RIGHT.index("  kind: edges"), RIGHT.index("nodes:")
    keys = "{kind: geometric, degree: 2, probability: 0.5, file: a.txt}"
    found = findings(folder, RIGHT[:start].rstrip() + f" {keys}\n" + RIGHT[end:])
    assert [f.path for f in found] == [
        ("topology", key) for key in ("neighbours", "degree", "probability", "file")
    ]
    places = "{nroth: [0, 0], east: [1, 0], shed: [2, 2], west: [1, 1]}"
    keys = f"{{kind: geometric, neighbours: 2, positions: {places}}}"
    found = findings(folder, RIGHT[:start].rstrip() + f" {keys}\n" + RIGHT[end:])
    assert [str(f).partition(": topology.")[2] for f in found] == [
        "positions lacks 'south': every node needs a position",
        "positions.nroth belongs to no node, did you mean 'north'?",
        "positions.shed belongs to no node",
    ]


def test_positions_that_are_right_are_right(folder: Path) -> None:
    start, end = RIGHT.index("  kind: edges"), RIGHT.index("\nnodes:")
    keys = "  kind: geometric\n  neighbours: 2\n  positions_file: positions.csv\n"
    assert findings(folder, RIGHT[:start] + keys + RIGHT[end:]) == ()


def test_a_file_of_mistakes_is_not_read_for_ever(folder: Path) -> None:
    nodes = "".join(f"  - {{id: n{i}, sensor: {i}, x{i}: 1}}\n" for i in range(500))
    found = findings(folder, RIGHT[: RIGHT.index("  - id: north")] + nodes)
    assert len(found) == 50


def test_what_follows_from_a_mistake_is_not_told_beside_it(folder: Path) -> None:
    """Every key of the right file, misspelt past recognition: at most it is missed as well."""
    columns = (FOLDER / "readings.csv").read_text().split("\n")[0].split(",")
    for key in sorted(set(re.findall(r"^ *(\w+): \S", RIGHT, re.M)).difference(columns)):
        text = re.sub(rf"^( *){key}: ", r"\1qqqqqq: ", RIGHT, count=1, flags=re.M)
        result = findings(folder, text)
        unknown = [finding for finding in result if "qqqqqq is not a known key" in str(finding)]
        lacks = [finding for finding in result if re.search("is (missing|needed)", str(finding))]
        assert len(unknown) == 1
        assert len(lacks) <= 1
        assert len(result) == len(unknown) + len(lacks), result


# -- the command ----------------------------------------------------------------------------------

SAMPLE = MISTAKES[:: len(MISTAKES) // 4]


@pytest.mark.parametrize("mistake", SAMPLE, ids=lambda mistake: mistake.name)
def test_the_real_command_names_the_place_in_one_line(mistake: Mistake, folder: Path) -> None:
    (folder / "fleet.yaml").write_text(mistake.text)
    done = subprocess.run(
        [sys.executable, "-m", "cipherfleet_deploy", "run", folder / "fleet.yaml"],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    first, *excerpt = done.stderr.splitlines()
    assert mistake.must_contain in first
    assert len(excerpt) in (0, 2)


def test_the_schema_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cipherfleet_deploy", "schema"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == schema_text()


# -- the schema -----------------------------------------------------------------------------------


def test_the_committed_schema_is_current() -> None:
    hint = "run: .venv/bin/python -m cipherfleet_provisioning.fleet.schema"
    assert SCHEMA_FILE.read_text() == schema_text(), hint
    jsonschema.Draft202012Validator.check_schema(fleet_schema())


@pytest.mark.parametrize("name", ["average", "intel_lab", "air", "rooms", "thermometers"])
def test_the_examples_name_the_schema_and_keep_to_it(name: str) -> None:
    file = ROOT / "examples" / name / "fleet.yaml"
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
    assert named is not None
    assert (file.parent / named[1]).resolve() == SCHEMA_FILE
    SCHEMA.validate(read_document(file).data)


@pytest.mark.parametrize(
    "mistake", [m for m in MISTAKES if m.refused_by != "yaml"], ids=lambda mistake: mistake.name
)
def test_the_schema_refuses_what_is_a_matter_of_shape(mistake: Mistake) -> None:
    data = parse_document(mistake.text, Path("fleet.yaml")).data
    assert SCHEMA.is_valid(data) == (mistake.refused_by == "check")


ODD: list[Any] = [
    None, True, False, "", "x", "none", "ring", "2^-24", "north", -1, 0, 1, 3, 0.5, 70000, 10_001,
    [], ["a"], [["a", "b"]], [0, 1], {}, {"kind": "csv"}, {"field": "t"}, {"a": 1}, "a\n",
    "module:Class",
]  # fmt: skip
DATA = parse_document(RIGHT, Path("fleet.yaml")).data


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for step, item in items if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from places(item, (*path, step))


def mutated(seed: int) -> Any:
    """The right file with one to three values replaced, added or taken away."""
    draw = random.Random(seed)
    data = copy.deepcopy(DATA)
    for _ in range(draw.randint(1, 3)):
        spot = data
        for step in draw.choice(list(places(data))):
            spot = spot[step]
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        if isinstance(spot, dict) and draw.random() < 0.2:
            spot[draw.choice(["x", "kind", "each", "field", "limits", "seed"])] = draw.choice(ODD)
        elif keys and draw.random() < 0.3:
            del spot[draw.choice(keys)]
        elif keys:
            spot[draw.choice(keys)] = copy.deepcopy(draw.choice(ODD))
    return data


@given(st.integers(0, 2**32))
@settings(max_examples=150)
def test_the_schema_and_the_types_agree_on_mutated_files(seed: int) -> None:
    data = mutated(seed)
    _, misfits = validate(data, FleetFile)
    topology = data.get("topology")
    kind = topology.get("kind") if isinstance(topology, dict) else None
    known = kind is None or kind in KEYS_OF_KIND if isinstance(kind, str | None) else True
    assert SCHEMA.is_valid(data) == (not misfits and known)


@given(st.integers(0, 2**32))
@example(5475)  # a file whose name ends in a new line
@settings(max_examples=100)
def test_what_the_schema_refuses_is_refused_with_a_place(folder: Path, seed: int) -> None:
    text = json.dumps(mutated(seed))
    result = findings(folder, text)
    assert result or SCHEMA.is_valid(parse_document(text, Path("fleet.yaml")).data)
    assert all(place_of(finding)[0] == 1 and "\n" not in str(finding) for finding in result)


def test_a_whole_number_with_a_point_is_beyond_the_schema() -> None:
    """JSON Schema takes 4.0 for a whole number, fleet.yaml does not."""
    text = RIGHT.replace("rounds: 50", "rounds: 50.0")
    document = parse_document(text, Path("fleet.yaml"))
    assert SCHEMA.is_valid(document.data)
    with pytest.raises(ConfigError, match=r"rounds is 50.0, must be a whole number"):
        document.convert(FleetFile)


# -- suggestions ----------------------------------------------------------------------------------


def slips(word: str) -> Iterator[str]:
    """What fingers make of *word*: a letter left out, doubled, swapped with the next, or wrong."""
    for i, letter in enumerate(word):
        yield word[:i] + word[i + 1 :]
        yield word[:i] + letter + word[i:]
        yield word[:i] + word[i + 1 : i + 2] + letter + word[i + 2 :]
        yield word[:i] + ("q" if letter != "q" else "w") + word[i + 1 :]


def test_slips_of_every_key_and_word_find_their_way_back() -> None:
    families = [list(part["properties"]) for part in fleet_schema()["$defs"].values()]
    families += [
        list(KEYS_OF_KIND),
        list(OBJECTIVE_KINDS),
        ["csv", "synthetic", "thermal", "hwmon", "command"],
    ]
    tried = [
        (slip, word, nearest(slip, family))
        for family in families
        for word in family
        for slip in set(slips(word)).difference(family)
        if len(slip) > 1
    ]
    lost = [(slip, word, found) for slip, word, found in tried if found != word]
    assert len(tried) > 2000
    assert len(lost) <= 0.02 * len(tried), lost


# -- the rules ------------------------------------------------------------------------------------


def test_every_rule_of_fleet_yaml_says_what_must_hold() -> None:
    rules = [*FLEET_RULES, *ENTRY_RULES, *FILE_RULES, *READING_RULES]
    texts = [str(rule) for rule in rules]
    assert len(set(texts)) == len(texts)
    assert all(text in describe_rules() for text in texts)
    assert all(text[0].isupper() and "  " not in text for text in texts)


def test_an_entry_of_many_nodes_gives_one_error_for_a_wrong_column(folder: Path) -> None:
    nodes = (
        "  - {id: n1, sensor: {kind: synthetic, fields: {t: {mean: 1}}, limits: {u: [0, 1]}}}\n"
        "  - each: 5\n    id: 'm{n}'\n"
        "    sensor: {kind: synthetic, fields: {t: {mean: 1}}, limits: {u: [0, 1], v: [0, 1]}}\n"
    )
    text = RIGHT[: RIGHT.index("  kind: edges")].rstrip() + " {kind: ring}\nnodes:\n" + nodes
    found = [error.path for error in findings(folder, text) if error.path is not None]
    assert [path[1:] for path in found if path[0] == "nodes"] == [
        (0, "sensor", "limits", "u"),
        (1, "sensor", "limits", "u"),
        (1, "sensor", "limits", "v"),
    ]
