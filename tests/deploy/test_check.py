"""`cipherfleet check` as operators and scripts use it.

All of it is in one file: every test runs the same command on variants of the same few fleets.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from rich.console import Console

from cipherfleet_deploy.check.check import CheckResult, check_fleet, passes, show
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.findings import Finding
from tests.support.command_line import run_here
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
FLEET = """\
config_version: 1
fleet: toy
algorithm: {rounds: 40, method: article, stepsize: {initial: 0.5}}
objective: {kind: mean, values: [{field: t}]}
topology: {kind: ring}
nodes:
  - {each: 5, id: "n{n}", sensor: {kind: synthetic, fields: {t: {mean: 1}}}}
"""
COMPLETE = FLEET.replace("ring", "complete")  # with four neighbours there is no warning
LINE = FLEET.replace("ring", "line")
OWNED = FLEET.replace("each: 5,", "each: 5, owner: acme,") + (
    "  - {id: x, sensor: {kind: synthetic, fields: {t: {mean: 1}}}}\n"
)
TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "number", "minimum": 0}
COUNT = {"type": "integer", "minimum": 0}
MAYBE = {"type": ["number", "null"], "minimum": 0}
BOUNDS = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}


def exactly(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


MOVED = {"anyOf": [{"type": "null"}, exactly(rounds=NUMBER, node=NUMBER, edge=NUMBER)]}
FORECAST = exactly(
    room=exactly(
        slot_bits=COUNT,
        slots=COUNT,
        ciphertexts=COUNT,
        value_bits=COUNT,
        start_bits=MAYBE,
        largest_bits=MAYBE,
    ),
    mixing=exactly(spectral_gap=BOUNDS, diameter=BOUNDS, method=TEXT),
    traffic=exactly(
        payload_per_edge=NUMBER,
        query=NUMBER,
        answer=NUMBER,
        per_node=NUMBER,
        busiest=COUNT,
        busiest_node=TEXT,
        per_edge=NUMBER,
        overhead=NUMBER,
    ),
    per_run=MOVED,
    per_day=MOVED,
    expected={
        "anyOf": [
            {"type": "null"},
            exactly(
                rounds=COUNT,
                of={"type": ["integer", "null"]},
                readings=TEXT,
                relative_error=MAYBE,
                disagreement=MAYBE,
                stays_in_range={"type": "boolean"},
            ),
        ]
    },
    round_time={
        "anyOf": [
            {"type": "null"},
            exactly(
                board=TEXT,
                kind={"enum": ["measured", "estimate"]},
                source=TEXT,
                apart_ms=NUMBER,
                together_ms=NUMBER,
                cpu_ms=NUMBER,
                cpu_share=NUMBER,
                ahead_ms=NUMBER,
                pools_keep_up={"type": "boolean"},
                first_rounds=COUNT,
                first_apart_ms=NUMBER,
                first_together_ms=NUMBER,
            ),
        ]
    },
)
CONVERGENCE = exactly(
    source={"enum": ["simulation", "spectral gap"]},
    within=MAYBE,
    rounds_to=exactly(**{"1e-4": MAYBE, "1e-6": MAYBE}),
    lag={"anyOf": [{"type": "null"}, exactly(rounds=NUMBER, seconds=MAYBE)]},
    link={
        "anyOf": [
            {"type": "null"},
            exactly(
                between={"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2},
                rounds=COUNT,
                saved=COUNT,
            ),
        ]
    },
)
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "fleet",
        "nodes",
        "edges",
        "exchange",
        "weight",
        "findings",
        "forecast",
        "convergence",
        "who_learns_what",
    ],
    "properties": {
        "fleet": TEXT,
        "nodes": {"type": "integer", "minimum": 2},
        "edges": {"type": "integer", "minimum": 1},
        "exchange": {"enum": ["pairwise", "sealed"]},
        "weight": {"enum": ["node", "reading"]},
        "findings": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["level", "subject", "nodes", "text", "remedy"],
                "properties": {
                    "level": {"enum": ["ok", "note", "warn", "fail"]},
                    "subject": TEXT,
                    "nodes": {"type": "array", "items": TEXT},
                    "text": TEXT,
                    "remedy": {"type": "string"},
                },
            },
        },
        "forecast": FORECAST,
        "convergence": {"anyOf": [{"type": "null"}, CONVERGENCE]},
        "who_learns_what": {
            "type": "array",
            "minItems": 4,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["observer", "count", "each_round", "many_rounds", "never"],
                "properties": {
                    "observer": TEXT,
                    "count": {"type": "integer", "minimum": 1},
                    "each_round": TEXT,
                    "many_rounds": TEXT,
                    "never": TEXT,
                },
            },
        },
    },
}


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(text)
    return file


def ended(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_here("check", *arguments, cwd=cwd)


def exact(text: str) -> str:
    """Return the fleet *text* with the exact method and live sensors."""
    live = text.replace("{kind: synthetic, fields: {t: {mean: 1}}}", "{kind: thermal, zone: 0}")
    return live.replace("method: article, stepsize: {initial: 0.5}", "period_s: 60").replace(
        "field: t}", "field: temperature_c}"
    )


def test_expected_rounds_lag_and_a_link_that_helps_are_shown(tmp_path: Path) -> None:
    result = check_fleet(written(tmp_path, exact(LINE.replace("each: 5", "each: 9"))))
    jsonschema.validate(json.loads(msgspec.json.encode(result)), SCHEMA)
    assert result.convergence is not None
    text = " ".join(shown(result, 200).split())
    assert re.search(r"relative error below 1e-4 after about \d+ rounds, below 1e-6 after", text)
    assert "from the spectral gap; nine of ten fleets" in text
    assert re.search(r"the answer trails a moving optimum of the windows by about \d+ rounds", text)
    (advice,) = of(result, "link")
    assert re.match(
        r"one more link between '.+' and '.+' saves about \d+ of \d+ rounds", advice.text
    )
    assert of(check_fleet(written(tmp_path, exact(COMPLETE))), "link") == []


def shown(result: CheckResult, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def of(result: CheckResult, subject: str) -> list[Finding]:
    return [finding for finding in result.findings if finding.subject == subject]


@pytest.mark.parametrize(
    ("text", "flags", "code"),
    [
        (FLEET, [], 0),
        (COMPLETE, ["--strict"], 0),
        (LINE, [], 0),
        (LINE, ["--strict"], 1),
        (OWNED, [], 1),
        (FLEET.replace("ring", "rung"), [], 3),
        (FLEET.replace("topology", "broker: {host: other.example}\ntopology"), [], 3),
    ],
    ids=[
        "good",
        "good, strict",
        "warnings",
        "warnings, strict",
        "failure",
        "no fleet",
        "plain TCP",
    ],
)
def test_the_exit_code_tells_what_was_found(
    text: str, flags: list[str], code: int, tmp_path: Path
) -> None:
    done = ended(written(tmp_path, text), *flags)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    if code == 3:
        assert done.stdout == ""
        assert done.stderr.startswith(f"cipherfleet: {tmp_path}/fleet.yaml:")
    else:
        assert done.stderr == ""
        assert "who learns what" in done.stdout


def test_a_file_that_is_no_fleet_is_reported_as_by_run(tmp_path: Path) -> None:
    text = FLEET.replace("ring", "rung").replace("rounds", "round")
    file = written(tmp_path, text)
    *lines, count = ended(file).stderr.splitlines()
    wrong, excerpt, caret = lines[0::3], lines[1::3], lines[2::3]
    assert [line.partition("fleet.yaml:")[2].split()[:2] for line in wrong] == [
        ["3:13:", "algorithm.round"], ["5:18:", "topology.kind"],
    ]  # fmt: skip
    assert [line[line.index("did you") :] for line in wrong] == [
        "did you mean 'rounds'?", "did you mean 'ring'?",
    ]  # fmt: skip
    assert [line[:9] for line in excerpt] == ["    3 | a", "    5 | t"]
    assert [line.index("^") - 8 for line in caret] == [12, 17]
    assert count == "cipherfleet: 2 errors"


@pytest.mark.parametrize(("text", "code"), [(LINE, 0), (OWNED, 1)])
def test_json_is_one_object_of_the_schema(text: str, code: int, tmp_path: Path) -> None:
    done = ended(written(tmp_path, text), "--json")
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == 1
    jsonschema.validate(json.loads(done.stdout), SCHEMA)


def test_the_forecast_is_printed_for_people_and_for_scripts(tmp_path: Path) -> None:
    result = check_fleet(written(tmp_path, FLEET), "pi-zero-2")
    jsonschema.validate(json.loads(msgspec.json.encode(result)), SCHEMA)
    text = " ".join(shown(result, 200).split())
    assert "slots 34 of 59 bits in a plaintext, 1 ciphertext per vector" in text
    assert "first estimates and steps use 32 of 39 bits" in text
    assert "diameter 2" in text
    assert "after 40 rounds, simulated with made up readings: relative error" in text
    assert "ESTIMATE, Raspberry Pi Zero 2 W" in text
    assert "measured" not in text
    bare = " ".join(shown(check_fleet(written(tmp_path, FLEET)), 200).split())
    assert "round time choose a board: --profile pi-zero-2, pi-4, pi-5 or host" in bare


def test_profiles_and_cards_are_taken_one_at_a_time(tmp_path: Path) -> None:
    file = written(tmp_path, FLEET)
    unknown = ended(file, "--profile", "pi-6")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    twice = ended(file, "--profile", "pi-zero-2", "--profile", "pi-4")
    assert (twice.returncode, twice.stdout) == (2, "")
    assert "--profile is given 2 times, give it once" in twice.stderr
    lost = ended(file, "--calibration", tmp_path / "lost.json")
    assert (lost.returncode, lost.stdout) == (3, "")
    assert lost.stderr == (
        f"cipherfleet: {tmp_path}/lost.json: cannot be read: No such file or directory\n"
    )
    done = ended(file, "--profile", "pi-4", "--json")
    assert json.loads(done.stdout)["forecast"]["round_time"]["kind"] == "estimate"


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    ended(written(tmp_path, FLEET), cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.yaml"]


@pytest.mark.parametrize("name", ["intel_lab", "average", "air", "thermometers"])
def test_the_examples_pass_a_strict_check(name: str) -> None:
    result = check_fleet(EXAMPLES / name / "fleet.yaml")
    assert passes(result, strict=True), [f for f in result.findings if f.level == "warn"]
    jsonschema.validate(json.loads(msgspec.json.encode(result)), SCHEMA)


def test_a_fleet_of_four_desks_passes_but_for_its_few_neighbours() -> None:
    result = check_fleet(EXAMPLES / "rooms" / "fleet.yaml")
    assert passes(result, strict=False)
    (warning,) = [finding for finding in result.findings if finding.level == "warn"]
    assert warning.text.startswith("4 nodes can separate a sum into single differences")


def shielded(count: int, more: str = "") -> str:
    text = exact(FLEET).replace("each: 5", f"each: {count}")
    return text.replace("period_s: 60", "period_s: 60, shield: linear") + more


def test_a_shield_is_as_strong_as_the_partners_of_each_node(tmp_path: Path) -> None:
    (finding,) = of(check_fleet(written(tmp_path, shielded(5))), "shield")
    assert finding.level == "note"
    assert finding.text == (
        "it takes all partners of a node together, 4 of 5 nodes, to cut it off from all honest "
        "partners and take its shield away"
    )
    (finding,) = of(check_fleet(written(tmp_path, shielded(40))), "shield")
    fewest, most = map(int, re.findall(r"together, (\d+) to (\d+) of 40", finding.text)[0])
    assert 16 <= fewest < most < 40
    assert of(check_fleet(written(tmp_path, exact(FLEET))), "shield") == []


@pytest.mark.parametrize(
    ("shield", "error", "remedy"),
    [
        ("linear", "to 0.5 % of a guess", "set algorithm.shield: quadratic where these matter"),
        ("quadratic", "to 20 .. 40 % of a guess", ""),
    ],
)
def test_what_a_shield_leaves_to_all_neighbours_is_said(
    shield: str, error: str, remedy: str, tmp_path: Path
) -> None:
    text = shielded(5).replace("shield: linear", f"shield: {shield}")
    (finding,) = of(check_fleet(written(tmp_path, text)), "telescoping")
    assert finding.text.endswith(f"they learn second moments of features, {error}")
    assert finding.remedy == remedy


def test_an_owner_of_all_partners_of_a_node_is_a_warning(tmp_path: Path) -> None:
    other = "  - {{id: x, owner: {owner}, sensor: {{kind: thermal, zone: 0}}}}\n"
    text = shielded(5, other.format(owner="b")).replace("each: 5,", "each: 5, owner: acme,")
    (finding,) = of(check_fleet(written(tmp_path, text)), "shield")
    assert (finding.level, finding.nodes) == ("warn", ("x",))
    assert finding.text.endswith("; acme alone owns all partners of node 'x'")
    text += other.format(owner="c").replace("id: x", "id: y")
    (finding,) = of(check_fleet(written(tmp_path, text)), "shield")
    assert finding.level == "note"
    assert finding.text.endswith("; none of 3 owners alone owns all partners of a node")


def test_the_advice_of_a_run_is_among_the_findings(tmp_path: Path) -> None:
    hovering = FLEET.replace("{initial: 0.5}", "{decay: 0}")
    (finding,) = of(check_fleet(written(tmp_path, hovering)), "schedule")
    assert finding.level == "warn"
    assert "sum lambda^2 is infinite" in finding.text
    (rounds,) = of(check_fleet(EXAMPLES / "average" / "fleet.yaml"), "schedule")
    assert rounds.text.startswith("82 rounds bring every node")


LAB = (EXAMPLES / "intel_lab" / "fleet.yaml").read_text()


def lab(folder: Path, algorithm: str, **changes: str) -> CheckResult:
    text = LAB.replace("method: exact", algorithm).replace("each: 50", "each: 10")
    text = text.replace("path: intel_lab.csv", f"path: {EXAMPLES}/intel_lab/intel_lab.csv")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return check_fleet(written(folder, text))


def test_statistics_are_proposed_where_they_save_most_of_the_rounds(tmp_path: Path) -> None:
    (finding,) = of(lab(tmp_path, "method: exact"), "method")
    assert finding.level == "note"
    text = r"method (\w+) needs (\d+) rounds, with (\d+) numbers in 1 ciphertext per message"
    found = {method: (int(rounds), int(n)) for method, rounds, n in re.findall(text, finding.text)}
    assert 2 * found["statistics"][0] < found["exact"][0]
    assert (found["statistics"][1], found["exact"][1]) == (14, 4)
    assert "set algorithm.method: statistics, if every node may learn" in finding.remedy
    (same,) = of(lab(tmp_path, "method: statistics"), "method")
    assert (same.text, same.remedy) == (finding.text, "")


def test_statistics_are_not_proposed_where_they_save_little_or_are_not_possible(
    tmp_path: Path,
) -> None:
    assert of(lab(tmp_path, "method: article"), "method") == []
    assert of(lab(tmp_path, "method: exact", least_squares="huber"), "method") == []
    exact = f"method: exact\n  resolution: 2^-{VALUE_BITS - 5}"  # +-16: no square of a feature fits
    steep = {"offset: 20, scale: 5": "offset: 20, scale: 0.5"}
    assert of(lab(tmp_path, exact, **steep), "method") == []
    even = COMPLETE.replace(
        "kind: mean, values: [{field: t}]",
        "kind: least_squares, target: {field: y}, features: [{constant: 1}, {field: t}]",
    ).replace("t: {mean: 1}", "t: {mean: 0, deviation: 1}, y: {mean: 1}")  # H is nearly I
    even = even.replace("method: article, stepsize: {initial: 0.5}", "method: exact, scale: 1")
    assert of(check_fleet(written(tmp_path, even)), "method") == []
    (finding,) = of(check_fleet(written(tmp_path, even.replace("exact", "statistics"))), "method")
    assert finding.remedy == "set algorithm.method: exact, which shows less to every node"


@pytest.mark.parametrize(
    ("rounds", "level", "text"),
    [
        (1, "warn", "after 1 round the simulated relative error is 0."),
        (4, "note", "after 4 rounds the simulated relative error is 0.0"),
        (40, "ok", "after 40 rounds the simulated relative error is "),
    ],
)
def test_an_answer_that_will_be_far_off_is_a_finding_with_its_remedy(
    rounds: int, level: str, text: str, tmp_path: Path
) -> None:
    file = written(tmp_path, COMPLETE.replace("rounds: 40", f"rounds: {rounds}"))
    result = check_fleet(file)
    (finding,) = of(result, "accuracy")
    assert finding.level == level
    assert finding.text.startswith(text)
    assert passes(result, strict=True) is (level != "warn")
    if level == "ok":
        assert finding.remedy == ""
        return
    needed = re.fullmatch(
        r"set algorithm\.rounds to (\d+) or more: the simulation has settled by then",
        finding.remedy,
    )
    assert needed is not None
    file.write_text(COMPLETE.replace("rounds: 40", f"rounds: {needed[1]}"))
    (finding,) = of(check_fleet(file), "accuracy")
    assert finding.level == "ok"
    file.write_text(COMPLETE.replace("rounds: 40", f"rounds: {int(needed[1]) - 1}"))
    (finding,) = of(check_fleet(file), "accuracy")
    assert finding.level == "note"


def test_a_run_that_no_number_of_rounds_settles_gets_another_remedy(
    tmp_path: Path,
) -> None:
    short = FLEET.replace("initial: 0.5", "initial: 0.001, decay: 1")
    (finding,) = of(check_fleet(written(tmp_path, short)), "accuracy")
    assert finding.level == "warn"
    assert finding.remedy.endswith("the simulation has not settled after 5000 rounds either")


def test_a_run_that_leaves_its_range_is_a_warning(tmp_path: Path) -> None:
    wild = FLEET.replace("initial: 0.5", "initial: 50, decay: 0").replace("mean: 1", "mean: 0.001")
    (finding,) = of(check_fleet(written(tmp_path, wild)), "accuracy")
    assert finding.level == "warn"
    assert "leaves its range" in finding.text


def test_what_was_simulated_in_part_or_not_at_all_is_not_judged(tmp_path: Path) -> None:
    for text in (
        FLEET.replace("rounds: 40", "rounds: 1000000"),
        FLEET.replace("rounds: 40", "period_s: 60"),
    ):
        assert of(check_fleet(written(tmp_path, text)), "accuracy") == []


def test_a_spread_of_zero_is_reported_once(tmp_path: Path) -> None:
    result = check_fleet(written(tmp_path, FLEET.replace("initial: 0.5", "spread: 0")))
    named = [f for f in result.findings if f.text.startswith("stepsize.spread is 0")]
    assert [finding.level for finding in named] == ["warn"]
    assert passes(result, strict=False)
    assert not passes(result, strict=True)


def test_people_see_the_level_the_remedy_and_some_of_the_nodes(tmp_path: Path) -> None:
    star = FLEET.replace("ring", "star").replace("each: 5", "each: 40")
    text = shown(check_fleet(written(tmp_path, star)), 100)
    assert "toy: 40 nodes, 39 edges, pairwise exchange" in text
    assert "n2, n3, n4, n5, n6, and 34 more" in text
    assert "remedy: add a second neighbour" in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) < 110


def test_every_cell_of_the_table_is_shown_in_a_narrow_terminal(tmp_path: Path) -> None:
    result = check_fleet(written(tmp_path, OWNED))
    text = shown(result, 80)
    assert max(map(len, text.splitlines())) <= 80
    for row in result.who_learns_what:
        for cell in (row.observer, row.each_round, row.many_rounds, row.never):
            assert set(cell.split()) <= set(text.split())


# -- the outputs of the answer --------------------------------------------------------------------

EXACT = COMPLETE.replace("method: article, stepsize: {initial: 0.5}", "method: exact")
FITTED = EXACT.replace(
    "kind: mean, values: [{field: t}]",
    "kind: ridge, target: {field: t}, features: [{constant: 1}]",
)


def answer_findings(tmp_path: Path, fleet: str, answer: str) -> list[Finding]:
    file = tmp_path / "fleet.yaml"
    file.write_text(f"{fleet}answer: {answer}\n")
    return [each for each in check_fleet(file).findings if each.subject == "answer"]


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        ("{}", "ok", "answer.file: on each device, its user and the group of that user read"),
        ("{file: false, exec: [notify, now]}", "ok", "the program 'notify' gets the parameters"),
        ("{file: false, mqtt: {port: 1884}}", "ok", "127.0.0.1:1884, a broker on each device it"),
        ("{file: false, mqtt: {host: hub, tls: true}}", "ok", "hub:1883, over TLS: its operator"),
        ("{file: false, mqtt: {host: hub}}", "fail", "hub:1883 without TLS: everybody on the way"),
        ("{file: false, plugins: {influx: {}}}", "note", "the plug-in 'influx' gets the parameter"),
        ("{file: false, metrics: {}}", "ok", "http://127.0.0.1:9477/metrics: programs on each dev"),
        (
            "{file: false, metrics: {values: true}}",
            "ok",
            "counts and durations, and the parameters",
        ),
        ("{file: false, metrics: {host: 0.0.0.0}}", "fail", "is open to the network, without TLS"),
        ("{file: false, metrics: {host: hub.example}}", "fail", "without a password: everybody"),
    ],
)
def test_a_row_says_who_reads_each_output(
    tmp_path: Path, answer: str, level: str, words: str
) -> None:
    (finding,) = answer_findings(tmp_path, EXACT, answer)
    assert finding.level == level
    assert words in finding.text
    assert "readings" not in finding.text
    assert bool(finding.remedy) is (level != "ok")


def test_an_objective_with_a_target_shows_the_readings_of_its_node(tmp_path: Path) -> None:
    answer = "{exec: [notify], mqtt: {port: 1884}}"
    findings = answer_findings(tmp_path, FITTED, answer)
    assert len(findings) == 3
    assert all("the readings of that node" in finding.text for finding in findings)


def test_a_row_says_what_the_mean_residual_shows(tmp_path: Path) -> None:
    fleet = FITTED.replace("kind: ridge,", "kind: ridge, drift: {window: 1},")
    (first, _) = answer_findings(tmp_path, fleet, "{}")
    assert "every node also learns the mean of the residuals of the fleet" in first.text


def test_an_output_to_the_fleets_broker_is_refused_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the broker of the fleet: its operator would read"):
        answer_findings(tmp_path, EXACT, "{mqtt: {host: localhost}}")


def test_the_articles_method_publishes_nothing(tmp_path: Path) -> None:
    (finding,) = answer_findings(tmp_path, COMPLETE, "{exec: [notify]}")
    assert finding.level == "note"
    assert "no node publishes an answer" in finding.text
