"""The lab's commands: `cipherfleet simulate`, `figures` and `attack`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cipherfleet_deploy.cli.options import AS_JSON, METHOD, print_result

from .attacks.catalogue import ATTACKS, SYSTEMS
from .attacks.names import GRAPHS, GUARDS
from .figures import STUDIES

if TYPE_CHECKING:
    from .figures.make import FiguresResult

MOST_NODES = 10_000_000
ALL = "all"  # in place of the name of an attack


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(["core", "vector"]),
    default="vector",
    show_default=True,
    help="the node's own agents (core), or all nodes as arrays (vector)",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="first seed")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="number of seeds, one run each",
)
@click.option("--rounds", type=click.IntRange(1), help="number of rounds")
@click.option(
    "--nodes",
    type=click.IntRange(2, MOST_NODES),
    help="number of nodes, may exceed the file's; a million need 1 GiB",
)
@click.option(
    "--degree", type=click.IntRange(2, 63), help="use a random regular graph of this degree"
)
@METHOD
@click.option(
    "--crypto",
    type=click.Choice(["on", "off"]),
    default="off",
    show_default=True,
    help="encrypt in the core engine; on one machine the estimates are bit-identical",
)
@AS_JSON
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder for simulation.json and a plot"
)
def simulate(file: Path | None, crypto: str, as_json: bool, **flags: Any) -> None:
    """Simulate the fleet of FILE.

    The result is the error and the disagreement of every round. The fleet runs in this process.
    Without FILE it is a fleet with synthetic readings. Nodes beyond those of FILE get the readings
    of its nodes in rotation, on a larger graph of the same kind. The core engine gives the
    estimates of `cipherfleet run FILE --seed S`, bit-identical on the same machine; the vector
    engine is made for many nodes.

    \b
    Example:
      cipherfleet simulate examples/intel_lab/fleet.yaml --seeds 5 --out figures
      cipherfleet simulate --nodes 1000000
    """
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # many small products: threads would not help

    from rich.console import Console

    from cipherfleet_lab.simulation.simulate import SimulationOptions, show
    from cipherfleet_lab.simulation.simulate import simulate as run_simulation

    if crypto == "on" and flags["engine"] != "core":
        raise click.UsageError(
            "--crypto on needs --engine core: the vector engine does not encrypt"
        )
    if file is None and flags["method"] is not None:
        raise click.UsageError("--method needs FILE: a synthetic fleet runs method exact")
    options = SimulationOptions(**flags, encrypted=crypto == "on")
    print_result(run_simulation(file, options, Console(stderr=True)), show, as_json=as_json)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="folder for the pages and figures; created if missing",
)
@click.option(
    "--only",
    type=click.Choice([*STUDIES]),
    multiple=True,
    metavar="NAME",
    help=f"make only this study; may be repeated ({', '.join(STUDIES)})",
)
@click.option("--quick", is_flag=True, help="few seeds and rounds; not a result")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="first seed")
@AS_JSON
def figures(out: Path, only: tuple[str, ...], quick: bool, seed: int, as_json: bool) -> None:
    """Make the lab's figures and tables.

    --json prints the numbers of the figures. Every page states the command that makes it; the same
    seed gives the same files. All studies together take some minutes.

    \b
    Example:
      cipherfleet figures --out docs/results
      cipherfleet figures --out trial --only five-nodes --quick
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from rich.console import Console

    from .figures.make import make
    from .figures.study import StudyEffort

    names = [name for name in STUDIES if not only or name in only]
    with Console(stderr=True).status("") as status:
        result = make(out, names, StudyEffort(quick, seed), status.update)
    print_result(result, _show_figures, as_json=as_json)


def _show_figures(result: FiguresResult, console: Any) -> None:
    for name, study in result.figures.items():
        console.print(f"[bold]{name}[/]: {study['finding']}")
    console.print(f"\n{len(result.files)} files in {result.out}", highlight=False)


@click.command()
@click.argument("name", type=click.Choice([*ATTACKS, ALL]))
@click.option(
    "--on",
    type=click.Choice([*SYSTEMS]),
    help="system to attack (default: pairwise; with all: every system)",
)
@click.option(
    "--guard",
    "guards",
    type=click.Choice([f"off:{guard}" for guard in GUARDS]),
    multiple=True,
    help="switch off a guard of the exchange",
)
@click.option(
    "--graph",
    type=click.Choice(GRAPHS),
    default="chord",
    show_default=True,
    help="graph of the five nodes: ring with a chord, ring, complete",
)
@click.option(
    "--trials", type=click.IntRange(1, 1000), help="number of trials (default: 20, with --quick 3)"
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="first seed")
@click.option(
    "--key-bits",
    type=click.Choice(["512", "1024", "2048", "3072"]),
    default="512",
    show_default=True,
    help="key size of attacks on ciphertexts",
)
@click.option("--quick", is_flag=True, help="fewer trials")
@AS_JSON
@click.option(
    "--out", type=click.Path(path_type=Path), help="with all: folder for table and figure"
)
def attack(name: str, guards: tuple[str, ...], key_bits: str, as_json: bool, **flags: Any) -> None:
    """Attack a system of the lab.

    NAME is one attack, or `all` for all attacks on every system. The result is a number, the same
    number for a guess without the attack, and an outcome: recovered, partly, or nothing beyond
    chance. All participants follow the protocol; the adversary analyses what it received. No real
    fleet is touched.

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
    options = command.AttackOptions(off=off, key_bits=int(key_bits), **flags)  # type: ignore[arg-type]
    if name == ALL:
        table = command.attack_all(options, Console(stderr=True))
        print_result(table, command.show_all, as_json=as_json)
    else:
        print_result(command.attack_one(name, options), command.show_one, as_json=as_json)
