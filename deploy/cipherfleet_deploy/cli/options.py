"""Options that several commands share, and the output of a result as JSON or as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Command = Callable[..., None]
Flag = Callable[[Any], Any]
R = TypeVar("R")

AS_JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object")
METHOD = click.option(
    "--method",
    type=click.Choice(["exact", "statistics", "article"]),
    help="iteration, in place of the file's; settings that it does not use are ignored",
)
SIZES: tuple[Flag, ...] = (
    click.option(
        "--nodes", type=click.IntRange(2), help="number of nodes, chosen evenly from the fleet file"
    ),
    click.option("--rounds", type=click.IntRange(1), help="number of rounds"),
    click.option("--key-bits", type=click.IntRange(256, 8192), help="Paillier key size in bits"),
    click.option(
        "--seed", type=int, help="fixed random seed, for experiments: the run has no privacy"
    ),
)


def with_options(command: Command, flags: Sequence[Flag]) -> Command:
    """Add *flags* to *command*; its help lists them in this order."""
    for flag in reversed(flags):
        command = flag(command)
    return command


def print_result(result: R, show: Callable[[R, Any], None], *, as_json: bool) -> None:
    """Print *result*, a msgspec struct, as one JSON object, or let *show* render it."""
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    show(result, Console())


def print_json(result: object) -> None:
    """Print *result* as one JSON object on one line."""
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(result), allow_nan=False))


EXIT_FAILED = 1
