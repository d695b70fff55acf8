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
@click.option(
    "--broker",
    metavar="HOST[:PORT]",
    help="for devices: the broker's host, as they reach it; TLS, port 8883 unless another is given",
)
@AS_JSON
def init(
    folder: str, nodes: int, topology: str, key_bits: int, broker: str | None, as_json: bool
) -> None:
    """Write a first fleet.yaml into DIR.

    The fleet runs without any change. Comments in the file explain each setting. Existing files
    are never overwritten. With --broker, the file is for devices: set their sensors in it.

    \b
    Example:
      cipherfleet init my-fleet --nodes 12 --topology geometric
      cipherfleet init my-fleet --nodes 3 --broker broker.example.org
    """
    from cipherfleet_provisioning.fleet.template import Plan, parse_broker, write_template

    if not folder.strip():
        raise click.UsageError("DIR is empty: name a folder, or . for this one")
    address = None if broker is None else parse_broker(broker)
    plan = Plan(nodes, topology, key_bits, address)
    result = InitResult(written=[str(file) for file in write_template(Path(folder), plan)])

    def show(result: InitResult, _console: Console) -> None:
        file = shlex.quote(result.written[-1])
        click.echo("".join(f"wrote {each}\n" for each in result.written), nl=False)
        click.echo(f"try it: cipherfleet run {file} --rounds 3")
        if address is not None:
            click.echo(f"next: set the sensors in {file}, then")
            click.echo(f"  provision the devices: cipherfleet provision bundle {file} my-set")

    print_result(result, show, as_json=as_json)
