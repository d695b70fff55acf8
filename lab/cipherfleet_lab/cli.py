"""The commands that the lab brings to `cipherfleet`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cipherfleet_deploy.cli.options import AS_JSON, tell

from .attacks.names import ALL, ATTACKS, GRAPHS, GUARDS, SYSTEMS
from .figures import STUDIES

MOST_NODES = 10_000_000


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(["core", "vector"]),
    default="vector",
    show_default=True,
    help="the node's own agents one by one, or all nodes as arrays",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="the first of the seeds"
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="how many, each a run"
)
@click.option("--rounds", type=click.IntRange(1), help="how many rounds")
@click.option(
    "--nodes",
    type=click.IntRange(2, MOST_NODES),
    help="how many nodes, also more than the file's; a million take a GiB",
)
@click.option("--degree", type=click.IntRange(2, 63), help="of a random regular graph instead")
@click.option(
    "--crypto",
    type=click.Choice(["on", "off"]),
    default="off",
    show_default=True,
    help="of the core engine: on one machine the estimates are the same, bit for bit",
)
@AS_JSON
@click.option("--out", type=click.Path(path_type=Path), help="folder for the figures and a plot")
def simulate(file: Path | None, crypto: str, as_json: bool, **flags: Any) -> None:
    """Simulate the fleet of FILE.

    Its error and disagreement, round by round, in this process. Without FILE, a fleet with made-up
    readings. More nodes than FILE has are given the readings of its nodes in turn, on a larger
    graph of the same kind. The core engine gives the estimates of `cipherfleet run FILE --seed S`,
    on the same machine bit for bit; the vector engine is made for many nodes.

    \b
    Example:
      cipherfleet simulate examples/intel_lab/fleet.yaml --seeds 5 --out figures
      cipherfleet simulate --nodes 1000000
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small products, none worth a thread

    from rich.console import Console

    from cipherfleet_lab.simulation.simulate import Options, show
    from cipherfleet_lab.simulation.simulate import simulate as run_simulation

    if crypto == "on" and flags["engine"] != "core":
        raise click.UsageError("--crypto on needs --engine core: arrays are not encrypted")
    options = Options(**flags, encrypted=crypto == "on")
    tell(run_simulation(file, options, Console(stderr=True)), show, as_json=as_json)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="folder of the pages and figures; made if it is not there",
)
@click.option(
    "--only",
    type=click.Choice([*STUDIES]),
    multiple=True,
    metavar="NAME",
    help=f"this one alone; may be given again ({', '.join(STUDIES)})",
)
@click.option("--quick", is_flag=True, help="few seeds and rounds: a trial, no result")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="the first seed")
@AS_JSON
def figures(out: Path, only: tuple[str, ...], quick: bool, seed: int, as_json: bool) -> None:
    """Make the lab's figures and tables.

    The numbers behind them are printed with --json. Every page says which command makes it; the
    same seed gives the same files. All of them take some minutes.

    \b
    Example:
      cipherfleet figures --out docs/results
      cipherfleet figures --out trial --only five-nodes --quick
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from rich.console import Console

    from .figures.make import make
    from .figures.study import Effort

    names = [name for name in STUDIES if not only or name in only]
    with Console(stderr=True).status("") as status:
        told = make(out, names, Effort(quick, seed), status.update)
    tell(told, _show_figures, as_json=as_json)


def _show_figures(told: dict[str, Any], console: Any) -> None:
    for name, study in told["figures"].items():
        console.print(f"[bold]{name}[/]: {study['finding']}")
    console.print(f"\n{len(told['files'])} files in {told['out']}", highlight=False)


@click.command()
@click.argument("name", type=click.Choice([*ATTACKS, ALL]))
@click.option("--on", type=click.Choice(SYSTEMS), help="which system; pairwise, or for all every")
@click.option(
    "--guard",
    "guards",
    type=click.Choice([f"off:{guard}" for guard in GUARDS]),
    multiple=True,
    help="switch a guard of the exchange off",
)
@click.option(
    "--graph",
    type=click.Choice(GRAPHS),
    default="chord",
    show_default=True,
    help="of the five nodes: a ring with a chord, a ring, each next to each",
)
@click.option("--trials", type=click.IntRange(1, 1000), help="20, or 3 with --quick")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--key-bits",
    type=click.Choice(["512", "1024", "2048", "3072"]),
    default="512",
    show_default=True,
    help="of the keys whose answers one attack looks at",
)
@click.option("--quick", is_flag=True, help="fewer trials")
@AS_JSON
@click.option("--out", type=click.Path(path_type=Path), help="with all: folder for the table")
def attack(name: str, guards: tuple[str, ...], key_bits: str, as_json: bool, **flags: Any) -> None:
    """Attack a system of the lab.

    NAME is one attack, or `all` for all of them on every system. The result is a number, the same
    number for a guess without the attack, and a verdict: recovered, partly, or nothing beyond
    chance. Everybody follows the protocol; adversaries make what they can of what they saw. Nothing
    of a real fleet is touched.

    \b
    Example:
      cipherfleet attack common-factor --on pairwise --guard off:dither
      cipherfleet attack telescoping --on sealed --graph ring
      cipherfleet attack all --out attacks
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from rich.console import Console

    from .attacks import command

    off = [guard.removeprefix("off:") for guard in guards]
    options = command.Options(off=off, key_bits=int(key_bits), **flags)  # type: ignore[arg-type]
    if name == ALL:
        told, show = command.attack_all(options, Console(stderr=True)), command.show_all
    else:
        told, show = command.attack_one(name, options), command.show_one
    tell(told, show, as_json=as_json)
