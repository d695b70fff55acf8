"""Write the man pages of `cipherfleet` and `cipherfleet-node` from the help of their commands.

python deploy/debian/man_pages.py FOLDER
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cipherfleet_deploy.cli.main import cli
from cipherfleet_node import __version__
from cipherfleet_node.__main__ import _parser as node_parser

AS_IT_STANDS = "\b"  # click's mark of a paragraph whose lines stay as they are


@dataclass(frozen=True)
class Entry:
    """A command as its man page describes it."""

    usage: str
    text: str
    options: Sequence[tuple[str, str]]  # each with its help


def main(folder: Path) -> None:
    """Write the man pages into *folder*."""
    for section in ("man1", "man8"):
        (folder / section).mkdir(parents=True, exist_ok=True)
    context = click.Context(cli, info_name="cipherfleet", **cli.context_settings)
    operator = list(of_click(cli, context))
    node = list(of_argparse(node_parser()))
    write(folder, "cipherfleet", "run and provision sensor fleets", operator, "cipherfleet-node")
    write(folder, "cipherfleet-node", "run and check one node of a fleet", node, "cipherfleet")
    write_install(folder)


def write(folder: Path, name: str, title: str, entries: Sequence[Entry], other: str) -> None:
    """Write the man page of the command *name*. The first entry is the command itself."""
    first, *commands = entries
    lines = [
        *head(name, 1, title),
        *(".SH SYNOPSIS", f".B {escape(first.usage)}"),
        *(".SH DESCRIPTION", *paragraphs(first.text), *options(first.options)),
        ".SH COMMANDS",
    ]
    for each in commands:
        lines += [f'.SS "{escape(each.usage)}"', *paragraphs(each.text), *options(each.options)]
    lines += [".SH SEE ALSO", f".BR {escape(other)} (1)"]
    (folder / "man1" / f"{name}.1").write_text("\n".join(lines) + "\n")


def write_install(folder: Path) -> None:
    """Write the man page of cipherfleet-install, which is install.sh under another name."""
    script = Path(__file__).parents[1] / "devices/install.sh"
    done = subprocess.run(["/bin/sh", script, "--help"], capture_output=True, text=True, check=True)
    text = done.stdout.replace("install.sh", "cipherfleet-install").splitlines()
    lines = [
        *head("cipherfleet-install", 8, "install a node on this device"),
        *(".SH DESCRIPTION", ".nf", *map(escape, text), ".fi"),
        *(".SH SEE ALSO", ".BR cipherfleet\\-node (1)"),
    ]
    (folder / "man8/cipherfleet-install.8").write_text("\n".join(lines) + "\n")


def head(name: str, section: int, title: str) -> Iterator[str]:
    """The first lines of a man page. Lines are not stretched to the right margin."""
    yield ".ds AD l"  # for groff 1.23; older ones know .ad only
    yield f'.TH {name.upper()} {section} "" "cipherfleet {__version__}" "cipherfleet"'
    yield from (".ad l", ".SH NAME", f"{escape(name)} \\- {escape(title)}")


def of_click(command: click.Command, context: click.Context) -> Iterator[Entry]:
    """Describe *command* and all commands below it."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = (each.get_help_record(context) for each in command.get_params(context))
    text = inspect.cleandoc(command.help or "")
    yield Entry(usage, text, [record for record in records if record])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from of_click(below, click.Context(below, context, name))


def of_argparse(parser: argparse.ArgumentParser) -> Iterator[Entry]:
    """Describe *parser* and all commands below it."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    plain = [each for each in parser._actions if each.nargs != argparse.PARSER]
    records = [
        (", ".join(each.option_strings) or each.dest, each.help or "")
        for each in plain
        if each.help != argparse.SUPPRESS
    ]
    yield Entry(usage, f"{parser.description}\n\n{parser.epilog}", records)
    for action in parser._actions:
        if action.nargs == argparse.PARSER:
            assert isinstance(action.choices, dict)
            for below in action.choices.values():
                yield from of_argparse(below)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text, in troff."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        lines = [escape(line) for line in paragraph.strip("\n").split("\n")]
        if lines[0] == AS_IT_STANDS:
            yield from (".nf", *lines[1:], ".fi")
        else:
            yield " ".join(lines)


def options(records: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Options with their help, in troff."""
    for name, text in records:
        yield from (".TP", f".B {escape(name)}", escape(text))


def escape(text: str) -> str:
    """Return *text* so that troff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
