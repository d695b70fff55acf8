"""The command `cipherfleet bench rounds`."""

from __future__ import annotations

from pathlib import Path

import click

from cipherfleet_deploy.cli.options import AS_JSON

from .options import BENCH, command_line, refuse_invalid


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@BENCH
@click.option(
    "--rounds",
    type=click.IntRange(2),
    default=100,
    show_default=True,
    help="measured rounds; p95 needs 59 samples, p99 needs 299",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    help="rounds before the measured ones (default: 5; with --calibration, until tables are built)",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CARD",
    help="calibration card of the targets, to compare predicted with measured times",
)
@click.option(
    "--nodes",
    type=click.IntRange(2),
    help="number of nodes (default: all of FILE; 3 of the example)",
)
@click.option("--out", type=click.Path(path_type=Path), help="folder for rounds.json and the spans")
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

    The nodes run on the targets of a bench, the broker runs on this machine. Each node measures
    its phases with its own clock; the phases add up to the rounds. The time of broker and network
    is the round-trip time minus the neighbour's service time. Exit code 5: the figures are not
    valid; the reasons are printed.

    \b
    Example:
      cipherfleet bench rounds my-fleet/fleet.yaml --bench bench.yaml --rounds 300 --out measured
    """
    from rich.console import Console

    from cipherfleet_analysis.cost.board_card import read_calibration
    from cipherfleet_deploy.data_folders import example_folder
    from cipherfleet_hil.measurement.document import to_text, write_measurement
    from cipherfleet_hil.measuring.prediction import warm_up_rounds
    from cipherfleet_hil.measuring.rounds import WARM_UP, RoundsPlan, measure_rounds
    from cipherfleet_hil.report.rounds_table import show_rounds
    from cipherfleet_hil.targets.bench_file import load_bench
    from cipherfleet_provisioning.fleet.file import Overrides
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    bench = load_bench(bench_file)
    if file is None:
        file = example_folder("intel_lab") / "fleet.yaml"
        nodes = nodes or max(3, len(bench.targets))
    console = Console(stderr=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    card = read_calibration(calibration) if calibration else None
    if warm_up is None:
        fleet = load_fleet(file, Overrides(nodes), endless=False)
        warm_up = warm_up_rounds(fleet, card) if card else WARM_UP
    document = measure_rounds(
        RoundsPlan(file=file, bench=bench, rounds=rounds, nodes=nodes, warm_up=warm_up, card=card),
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
