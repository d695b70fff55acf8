"""`cipherfleet init`: write a first fleet.yaml."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cipherfleet_provisioning.fleet.proposal import Proposal

from .options import AS_JSON, print_result

if TYPE_CHECKING:
    from rich.console import Console


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The files that `init` has written."""

    written: list[str]  # the last one is fleet.yaml
    proposal: Proposal | msgspec.UnsetType = msgspec.UNSET  # with --sample


def _proposal_lines(result: InitResult) -> Iterator[str]:
    """Yield what was proposed from the sample, and what was left out."""
    if isinstance(result.proposal, msgspec.UnsetType):
        return
    for column in result.proposal.columns:
        role = " (target)" if column.field == result.proposal.target else ""
        yield f"column {column.field}{role}: offset {column.offset:g}, scale {column.scale:g}"
    for other in result.proposal.left_out:
        yield f"left out: {other.field!r} {other.reason}"


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
@click.option(
    "--sample",
    metavar="FILE.csv",
    help="propose the objective from a sample of readings: offset and scale of each column",
)
@click.option(
    "--target", metavar="FIELD", help="with --sample: fit this column by all others, not their mean"
)
@AS_JSON
def init(
    folder: str,
    nodes: int,
    topology: str,
    key_bits: int,
    broker: str | None,
    sample: str | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Write a first fleet.yaml into DIR.

    The fleet runs without any change. Comments in the file explain each setting. Existing files
    are never overwritten. With --broker, the file is for devices: set their sensors in it.
    With --sample, the objective is the mean of all columns of numbers in FILE.csv, or with
    --target the least squares fit of one column by the others. Only rounded medians and spreads
    of the sample are written.

    \b
    Example:
      cipherfleet init my-fleet --nodes 12 --topology geometric
      cipherfleet init my-fleet --nodes 3 --broker broker.example.org
      cipherfleet init my-fleet --sample readings.csv --target humidity_pct
    """
    from cipherfleet_provisioning.fleet.sample import propose_objective
    from cipherfleet_provisioning.fleet.template import Plan, parse_broker, write_template

    if not folder.strip():
        raise click.UsageError("DIR is empty: name a folder, or . for this one")
    if target is not None and sample is None:
        raise click.UsageError("--target needs --sample FILE.csv, whose column it names")
    proposal = None if sample is None else propose_objective(Path(sample), target)
    address = None if broker is None else parse_broker(broker)
    plan = Plan(nodes, topology, key_bits, address, proposal)
    written = [str(file) for file in write_template(Path(folder), plan)]
    result = InitResult(written=written, proposal=proposal or msgspec.UNSET)

    def show(result: InitResult, _console: Console) -> None:
        file = shlex.quote(result.written[-1])
        click.echo("".join(f"wrote {each}\n" for each in result.written), nl=False)
        for line in _proposal_lines(result):
            click.echo(line)
        click.echo(f"try it: cipherfleet run {file} --rounds 3")
        if address is not None:
            click.echo(f"next: set the sensors in {file}, then")
            click.echo(f"  provision the devices: cipherfleet provision bundle {file} my-set")

    print_result(result, show, as_json=as_json)
