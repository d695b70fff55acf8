"""Print docstrings, help texts and pages that a seed chooses, for a review of their English.

python -m tests.tools.sample_texts --seed 1
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cipherfleet_deploy.cli.main import cli
from tests.tools.code_figures import PACKAGES, ROOT

DOCSTRINGS, HELP_TEXTS, PAGES = 20, 10, 5


def main() -> None:
    """Print the sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="another seed, another choice")
    parser.add_argument("--whole", action="store_true", help="print whole pages, not their heads")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for where, text in rng.sample(sorted(docstrings()), DOCSTRINGS):
        show(where, text)
    for argv in rng.sample(sorted(subcommands(cli)), HELP_TEXTS):
        show(" ".join(("cipherfleet", *argv, "--help")), help_text(argv))
    pages = sorted(path for path in ROOT.rglob("*.md") if not is_foreign(path))
    for page in rng.sample(pages, PAGES):
        lines = page.read_text().splitlines()
        show(str(page.relative_to(ROOT)), "\n".join(lines if options.whole else lines[:40]))


def show(where: str, text: str) -> None:
    """Print *text* under the line *where*."""
    sys.stdout.write(f"--- {where}\n{text.rstrip()}\n\n")


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield place and text of every docstring of the packages."""
    for file in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                name = "" if isinstance(node, ast.Module) else f":{node.name}"
                if text:
                    yield f"{file.relative_to(ROOT)}{name}", text


def subcommands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command of *group*, groups included."""
    yield path
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None:
                yield from subcommands(command, (*path, name))


def help_text(argv: tuple[str, ...]) -> str:
    """Return what the program prints for `--help` after *argv*."""
    program = [sys.executable, "-m", "cipherfleet_deploy", *argv, "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        program, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def is_foreign(path: Path) -> bool:
    """True for pages of installed libraries and of tools' caches."""
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


if __name__ == "__main__":
    main()
