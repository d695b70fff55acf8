"""`cipherfleet bench rounds`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from cipherfleet_deploy.cli.options import AS_JSON

BENCH = click.option(
    "--bench",
    "bench_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of the machines to measure on; without it, this one",
)


def command_line() -> str:
    """What was typed, for documents that say how they were made."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@BENCH
@click.option(
    "--rounds",
    type=click.IntRange(2),
    default=100,
    show_default=True,
    help="how many are measured; p95 needs 59, p99 needs 299",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    help="rounds before them: 5, with --calibration as many as make the tables",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CARD",
    help="the targets' card (bench calibrate): what it predicts stands beside what is measured",
)
@click.option("--nodes", type=click.IntRange(2), help="how many; 3 of the example without FILE")
@click.option("--out", type=click.Path(path_type=Path), help="folder for rounds.json and spans")
@AS_JSON
def rounds(
    file: Path | None,
    bench_file: Path | None,
    rounds: int,
    warm_up: int | None,
    calibration: Path | None,
    nodes: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure rounds of the fleet of FILE.

    Its nodes are spread over the machines of a bench. The broker runs here. Each node's phases,
    taken on its own clock, add up to its rounds. What broker and network took is the round trip
    less the time that the neighbour reports of itself. Exit code 5: the figures are not valid,
    with the reasons.

    \b
    Example:
      cipherfleet bench rounds my-fleet/fleet.yaml --bench bench.yaml --rounds 300 --out measured
    """
    from rich.console import Console

    from cipherfleet_analysis.cost.board_card import read_calibration
    from cipherfleet_deploy.cli.main import example
    from cipherfleet_hil.measurement.document import to_text, write_measurement
    from cipherfleet_hil.measuring.prediction import settled_after
    from cipherfleet_hil.measuring.rounds import WARM_UP, RoundsPlan, measure_rounds
    from cipherfleet_hil.report.rounds_table import show_rounds
    from cipherfleet_hil.targets.bench_file import bench_of
    from cipherfleet_provisioning.fleet.file import Overrides
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    from .options import refuse_invalid

    bench = bench_of(bench_file)
    if file is None:
        file = example("intel_lab") / "fleet.yaml"
        nodes = nodes or max(3, len(bench.targets))
    console = Console(stderr=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    card = read_calibration(calibration) if calibration else None
    if warm_up is None:
        fleet = load_fleet(file, Overrides(nodes), endless=False)
        warm_up = settled_after(fleet, card) if card else WARM_UP
    document = measure_rounds(
        RoundsPlan(file, bench, rounds, nodes, warm_up, card),
        command_line(),
        lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        out,
    )
    if out is not None:
        write_measurement(out / "rounds.json", document)
    if as_json:
        click.echo(to_text(document), nl=False)
    else:
        show_rounds(document)
    refuse_invalid(document)
