"""What several commands share: options, and how a result is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

Command = Callable[..., None]
Flag = Callable[[Any], Any]

AS_JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object")
SIZES: tuple[Flag, ...] = (
    click.option("--nodes", type=click.IntRange(2), help="how many nodes, spread over the file's"),
    click.option("--rounds", type=click.IntRange(1), help="how many rounds"),
    click.option("--key-bits", type=click.IntRange(256, 8192), help="Paillier key size"),
    click.option("--seed", type=int, help="repeatable draws: for trials, protects nothing"),
)


def flagged(command: Command, flags: Sequence[Flag]) -> Command:
    """*command* with *flags*, which its help lists in this order."""
    for flag in reversed(flags):
        command = flag(command)
    return command


def tell(
    told: dict[str, Any], show: Callable[[dict[str, Any], Any], None], *, as_json: bool
) -> None:
    """One JSON object, or what *show* makes of it on a console."""
    if as_json:
        click.echo(json.dumps(told, allow_nan=False))
        return
    from rich.console import Console

    show(told, Console())


EXIT_FAILED = 1
