"""`cipherfleet attack` as a user runs it, and the table of all attacks on all systems."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_lab.attacks.catalogue import ATTACKS, SYSTEMS, load_system
from cipherfleet_lab.attacks.names import EXCHANGE_GUARDS, GRAPHS, GUARDS
from cipherfleet_lab.attacks.subjects import GRAPHS as EDGES
from cipherfleet_lab.attacks.table import COLUMNS, ROWS, AttackTable, attack_table, plot_table
from tests.support.command_line import run_here
from tests.support.results import check_result


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here("attack", *arguments)


def attacked(*arguments: object) -> Any:
    done = ended(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no bar where there is no terminal"
    name = "attack-all-result" if arguments[0] == "all" else "attack-result"
    return check_result(name, done.stdout)


def test_the_names_of_the_command_line_are_those_of_what_runs() -> None:
    assert set(EDGES) == set(GRAPHS)
    assert {guard for name in SYSTEMS for guard in load_system(name).guards} == set(GUARDS)


def test_the_names_are_listed_without_importing_what_runs() -> None:
    code = (
        "import sys, cipherfleet_lab.attacks.catalogue;"
        "print([name for name in ('numpy', 'scipy', 'gmpy2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finding_has_its_number_its_guess_and_its_verdict() -> None:
    off = attacked("common-factor", "--guard", "off:dither", "--trials", 10)
    on = attacked("common-factor", "--trials", 10)
    assert (off["system"], on["system"]) == ("pairwise without dither", "pairwise")
    assert (off["verdict"], on["verdict"]) == ("recovered", "nothing beyond chance")
    assert off["value"] >= 0.95
    assert on["value"] == 0
    assert off["chance"] == pytest.approx(1 / 1024)
    assert {"sought", "saw", "knew", "guess", "adversary"} <= off.keys()


def test_a_result_is_printed_in_words() -> None:
    done = ended("telescoping", "--on", "sealed", "--graph", "complete", "--trials", 2)
    assert done.returncode == 0, done.stderr
    assert "telescoping, by all neighbours" in done.stdout
    assert "error: recovered (between " in done.stdout
    assert "100 % error: zero" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["common-factor", "--on", "dsgd"], "does not apply to"),
        (["observer", "--on", "dsgd", "--guard", "off:dither"], "no guard 'dither'; it has: none"),
        (["wiretap", "--on", "pairwise", "--guard", "off:masks"], "it has: dither, rerandomise"),
        (["guesswork"], "'guesswork' is not one of"),
        (["observer", "--out", "folder"], "--out is for `attack all`"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], words: str) -> None:
    done = ended(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_all_attacks_on_one_system_become_a_table_and_a_figure(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = attacked("all", "--on", "dsgd", "--quick", "--out", out)
    assert {finding["attack"] for finding in result["findings"]} < set(ATTACKS)
    assert {finding["system"] for finding in result["findings"]} == {"dsgd"}
    assert result["markdown"] in (out / "attacks.md").read_text()
    assert (out / "attacks.png").read_bytes().startswith(b"\x89PNG")


def test_all_attacks_on_an_exchange_without_a_rule_of_rounds_have_a_table_of_pairs() -> None:
    result = attacked("all", "--on", "sealed", "--guard", "off:digests", "--quick")
    both = [f for f in result["findings"] if f["attack"] == "second-query-after-restart"]
    systems = [(finding["system"], finding["value"]) for finding in both]
    assert systems == [("sealed without digests", 1.0), ("sealed", 0.0)]
    assert (
        "| second-query-after-restart | sealed | digests | 100 % found | 0 % found |"
        in (result["markdown"])
    )


# -- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> AttackTable:
    """The short version of the whole table."""
    return attack_table(seed=3, trials=1)


def test_every_system_is_attacked_by_everything_that_applies(table: AttackTable) -> None:
    assert len(table.systems) == len(ROWS) == len(set(table.systems))
    assert {name for name, _ in ROWS} == set(SYSTEMS)
    for guard in EXCHANGE_GUARDS:
        assert any(guard in off for _, off in ROWS)
    for system in table.systems:
        assert {(system, "eavesdropper"), (system, "wiretap")} & table.findings.keys()
    for attack in COLUMNS:
        assert any((system, attack.name) in table.findings for system in table.systems)
    assert ("sealed", "key-holder") not in table.findings
    assert ("consensus", "telescoping") not in table.findings


def test_the_table_shows_what_each_guard_is_for(table: AttackTable) -> None:
    def verdict(system: str, attack: str) -> str:
        return table.findings[system, attack].verdict

    recovered, nothing = "recovered", "nothing beyond chance"
    pairs = [("dither", "common-factor"), ("rerandomise", "randomness"), ("rerandomise", "wiretap")]
    for guard, attack in pairs:
        assert verdict(f"pairwise without {guard}", attack) == recovered
        assert verdict("pairwise", attack) == nothing
    for guard, attack in (("stepsizes", "one-round"), ("half-weights", "direction")):
        assert verdict(f"pairwise without {guard}", attack) == recovered
        assert verdict("pairwise", attack) == "partly"
    assert verdict("sealed without masks", "triangulation") == recovered
    assert verdict("sealed", "triangulation") != recovered
    assert verdict("pairwise", "telescoping") == recovered, "no guard helps against it"


def test_the_table_is_the_same_for_the_same_seed(table: AttackTable) -> None:
    rows = [row for row in ROWS if row[0] in ("pairwise", "ternary", "consensus")][-3:]
    again = attack_table(seed=3, trials=1, rows=rows)
    for key, finding in again.findings.items():
        assert finding == table.findings[key]
    other = attack_table(seed=4, trials=1, rows=rows)
    assert other.findings["ternary", "telescoping"] != again.findings["ternary", "telescoping"]


def test_the_markdown_has_a_row_for_each_system_and_marks_what_was_recovered(
    table: AttackTable,
) -> None:
    lines = table.markdown().splitlines()
    assert len(lines) == len(table.systems) + 2
    assert len({line.count("|") for line in lines}) == 1
    (row,) = (line for line in lines if line.startswith("| dsgd |"))
    assert row.count("**exact**") >= 5
    assert "–" in row
    for attack in COLUMNS:
        assert f"* `{attack.name}`, by " in table.page()


def test_the_figure_is_drawn(table: AttackTable, tmp_path: Path) -> None:
    plot_table(table, tmp_path / "attacks.svg")
    drawn = (tmp_path / "attacks.svg").read_text()
    words = re.findall(r"<!-- (.*?) -->", drawn)
    shown = [html.unescape(word) for word in words]
    for finding in table.findings.values():
        assert finding.short in shown
    assert len(shown) > len(table.findings) + len(table.systems) + len(COLUMNS)
