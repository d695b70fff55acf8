"""`cipherfleet init`: write a first fleet.yaml."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from .options import AS_JSON, print_result

if TYPE_CHECKING:
    from rich.console import Console


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The files that `init` has written."""

    written: list[str]  # the last one is fleet.yaml


@click.command()
@click.argument("folder", metavar="DIR")
@click.option(
    "--nodes", type=click.IntRange(2, 10_000), default=9, show_default=True, help="number of nodes"
)
@click.option(
    "--topology",
    default="ring",
    show_default=True,
    metavar="KIND",
    help="which nodes are neighbours: ring, line, star, grid, torus, complete, random_regular, "
    "erdos_renyi, small_world, geometric, file or edges",
)
@click.option(
    "--key-bits",
    type=click.IntRange(256, 8192),
    default=2048,
    show_default=True,
    help="Paillier key size in bits; below 2048 is unsafe",
)
@AS_JSON
def init(folder: str, nodes: int, topology: str, key_bits: int, as_json: bool) -> None:
    """Write a first fleet.yaml into DIR.

    The fleet runs without any change. Comments in the file explain each setting. Existing files
    are never overwritten.

    \b
    Example:
      cipherfleet init my-fleet --nodes 12 --topology geometric
    """
    from cipherfleet_provisioning.fleet.template import Plan, write_template

    if not folder.strip():
        raise click.UsageError("DIR is empty: name a folder, or . for this one")
    plan = Plan(nodes, topology, key_bits)
    result = InitResult(written=[str(file) for file in write_template(Path(folder), plan)])
    print_result(result, _show, as_json=as_json)


def _show(result: InitResult, _console: Console) -> None:
    click.echo("".join(f"wrote {file}\n" for file in result.written), nl=False)
    click.echo(f"try it: cipherfleet run {shlex.quote(result.written[-1])} --rounds 3")
