"""Every command of every page is run by a test, or marked with the reason why not.

The table is tests/data/documented_commands.yaml.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from cipherfleet_deploy.cli.main import cli
from cipherfleet_node import __main__ as node_program
from tests.support.command_line import run_here
from tests.support.paths import ROOT

TABLE = yaml.safe_load((ROOT / "tests/data/documented_commands.yaml").read_text())
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.S | re.M)
INLINE = re.compile(r"(?<!`)`(cipherfleet(?:-node)? [^`\n]+)`(?!`)")


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines()]


def commands_of(text: str) -> Iterator[str]:
    """The commands in the shell blocks of a page, without comments and folded into one line."""
    for language, block in FENCE.findall(text):
        for written in block.replace("\\\n", "").splitlines():
            line = " ".join(re.sub(r"(^|\s)#.*", "", written).split())
            if language == "console" and line.startswith("$ "):
                yield line[2:]
            shown = re.match(r"cipherfleet(-node)? [a-z]", line) and language in {"", "text"}
            if shown or (language == "sh" and line):
                yield line


def documented() -> set[str]:
    return {command for page in pages() for command in commands_of(page.read_text())}


def listed() -> list[str]:
    parts = (TABLE["scenes"], TABLE["tests"], TABLE["by hand"])
    return [command for part in parts for group in part.values() for command in group]


def test_every_command_of_a_page_is_in_the_table_once() -> None:
    assert len(documented()) > 150
    assert documented() - set(listed()) == set(), "add it to tests/data/documented_commands.yaml"
    assert set(listed()) - documented() == set(), "no page has it any more"
    assert len(listed()) == len(set(listed()))


def test_commands_are_found_in_blocks_of_every_kind() -> None:
    text = (
        "```console\n$ one --a \\\n    b   # why\nits output\n```\n\n```sh\ntwo  # why\n```\n"
        "```text\ncipherfleet three\nits output\n```\n```python\nfour()\n```\n"
    )
    assert list(commands_of(text)) == ["one --a b", "two", "cipherfleet three"]


@pytest.mark.parametrize("test", TABLE["tests"])
def test_a_test_of_the_table_exists(test: str) -> None:
    file, _, name = test.partition("::")
    source = (ROOT / file).read_text()
    assert f"def {name}(" in source, "the table names a test that is not there"


def test_a_command_by_hand_has_a_reason() -> None:
    assert all(reason.startswith(("needs ", "takes ")) for reason in TABLE["by hand"])
    ours = [each for group in TABLE["by hand"].values() for each in group]
    assert not [each for each in ours if each.startswith("cipherfleet ") and "--boot" not in each]


# -- scenes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", TABLE["scenes"])
def test_the_commands_of_a_scene_run(scene: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "fleet.yaml").write_text(fleet_of_the_readme())
    rows = [f"{20 + n % 7},{40 + 3 * (n % 5)}" for n in range(40)]
    (tmp_path / "readings.csv").write_text("\n".join(["temperature_c,humidity_pct", *rows]) + "\n")
    for command in TABLE["scenes"][scene]:
        words, _, target = command.partition(" > ")
        done = run_here(*shlex.split(words)[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if target:
            (tmp_path / target).write_text(done.stdout)


def fleet_of_the_readme() -> str:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return str(block)


# -- words in a line of text ----------------------------------------------------------------------


def inline_commands() -> set[str]:
    """Commands in a line of text, lists of subcommands and shortened ones left out."""
    found = {each for page in pages() for each in INLINE.findall(page.read_text())}
    return {each for each in found if ", " not in each and "..." not in each and '"' not in each}


def fault_of(command: str) -> str:
    """What is wrong with the names in *command*: a subcommand or an option that there is not."""
    program, *words = command.split()
    if program == "cipherfleet-node":
        return _fault_of_node(words)
    group: click.Command = cli
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(group)
        found = group.get_command(context, words[0])
        if found is None:
            return f"{words[0]} is no command"
        group, words = found, words[1:]
    options = {name for each in group.params for name in (*each.opts, *each.secondary_opts)}
    return _unknown(words, options | {"--help", "--version"})


def _fault_of_node(words: list[str]) -> str:
    (commands,) = (
        each
        for each in node_program._parser()._actions
        if isinstance(each, argparse._SubParsersAction)
    )
    if words[0].startswith("-"):
        return ""
    if words[0] not in commands.choices:
        return f"{words[0]} is no command"
    return _unknown(words[1:], set(commands.choices[words[0]]._option_string_actions))


def _unknown(words: list[str], options: set[str]) -> str:
    given = {word.partition("=")[0].rstrip(",.") for word in words if word.startswith("--")}
    return f"no option {', '.join(sorted(given - options))}" if given - options else ""


def test_commands_within_a_line_of_text_have_names_that_exist() -> None:
    assert len(inline_commands()) > 60
    faults = {each: fault_of(each) for each in inline_commands() if fault_of(each)}
    assert not faults


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("cipherfleet chekc FILE", "chekc is no command"),
        ("cipherfleet provision seed n7 my-set --imag x", "no option --imag"),
        ("cipherfleet-node sens DIR", "sens is no command"),
        ("cipherfleet-node answer DIR --json", ""),
    ],
)
def test_a_name_that_does_not_exist_is_found(command: str, fault: str) -> None:
    assert fault_of(command) == fault
