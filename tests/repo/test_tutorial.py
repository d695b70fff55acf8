"""The tutorial's commands run, and print what the tutorial shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.support.command_line import run_here
from tests.support.paths import ROOT
from tests.support.tolerances import assert_same_text

TUTORIAL = ROOT / "docs" / "tutorials" / "attacks.md"
# What makes them short. The study `attacks` runs all attacks on all systems.
LONG = {"figures": ["--quick"], "attack all": ["--trials", "1", "--on", "dsgd"]}


@dataclass(frozen=True)
class Shown:
    """A command of a console block, and what stands below it."""

    command: str
    output: str

    def words(self) -> list[str]:
        """Return the words of the command, of a short run if it is long."""
        short = [more for name, more in LONG.items() if self.command.startswith(name)]
        return [*shlex.split(self.command), *chain.from_iterable(short)]


def shown() -> list[Shown]:
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(), re.S)
    parts = [part.partition("\n") for block in blocks for part in re.split(r"(?m)^\$ ", block)[1:]]
    return [Shown(first.removeprefix("cipherfleet "), rest) for first, _, rest in parts]


def test_the_tutorial_goes_from_a_fleet_by_its_figures_to_the_table_of_attacks() -> None:
    verbs = [each.command.split()[0] for each in shown()]
    assert verbs[:5] == ["init", "check", "simulate", "simulate", "figures"]
    assert set(verbs[5:]) == {"attack"}
    assert shown()[-1].command.startswith("attack all")
    assert TUTORIAL.read_text().count("$ cipherfleet ") == len(verbs) > 10


def test_the_tutorials_commands_run_and_print_what_it_shows(tmp_path: Path) -> None:
    for each in shown():
        done = run_here(*each.words(), cwd=tmp_path)
        assert done.returncode == 0, f"{each.command}: {done.stderr}"
        if each.output:
            assert_same_text(done.stdout, each.output)
    for file in (
        "five/fleet.yaml",
        "simulated/simulation.png",
        "results/five-nodes.md",
        "attacks/attacks.md",
        "attacks/attacks.png",
    ):
        assert (tmp_path / file).is_file(), file
        assert file in TUTORIAL.read_text() or file == "five/fleet.yaml"
