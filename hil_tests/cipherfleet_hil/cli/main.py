"""`cipherfleet bench`: measure the cost of encryption on the machines where it will run."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path

import click

from cipherfleet_deploy.cli.options import AS_JSON, print_json, print_result

from .crypto import crypto
from .options import NotValid, command_line
from .rounds import rounds


@click.group()
def bench() -> None:
    """Measure what encryption costs.

    A measurement that cannot be trusted is marked as not valid, with the reasons.

    \b
    Example:
      cipherfleet bench crypto --out before.json
      cipherfleet bench compare before.json after.json --fail-above 5%
      cipherfleet bench report before.json after.json --out report.html
    """


bench.add_command(crypto)
bench.add_command(rounds)


# -- documents -----------------------------------------------------------------------------------


@bench.command()
def schema() -> None:
    """Print the JSON Schema of measurements.

    \b
    Example:
      cipherfleet bench schema > measurement.schema.json
    """
    from cipherfleet_hil.measurement.document import schema_text

    click.echo(schema_text(), nl=False)


def _share(_context: click.Context, _option: click.Parameter, text: str) -> float:
    """Parse a share of time: '5%' or '0.05'."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 100:
        raise click.BadParameter(f"{text!r} is not a share of time, must be like 5% or 0.05")
    return number


FILE = click.Path(path_type=Path, dir_okay=False)


@bench.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option(
    "--fail-above",
    callback=_share,
    default="5%",
    show_default=True,
    metavar="SHARE",
    help="exit code 1 if B is significantly slower by more than this",
)
@click.option(
    "--allow-not-valid", is_flag=True, help="also compare measurements that are not valid"
)
@AS_JSON
def compare(a: Path, b: Path, fail_above: float, allow_not_valid: bool, as_json: bool) -> None:
    """Test if measurement B is slower than A.

    The result is the ratio of medians with its interval. A hierarchical bootstrap samples processes
    with replacement, then samples within each process; the intervals of all benchmarks hold jointly
    with 95 % confidence. Measurements of different kinds or settings are not compared. Exit codes:
    1, significantly slower by more than the limit; 5, A or B is not valid, no conclusion.

    \b
    Example:
      cipherfleet bench compare before.json after.json --fail-above 5%
    """
    from cipherfleet_hil.measurement.compare import compare as compared
    from cipherfleet_hil.measurement.document import read_measurement
    from cipherfleet_hil.report.terminal import show_comparison

    result = compared(read_measurement(a), read_measurement(b), fail_above)
    show = partial(show_comparison, compares_invalid=allow_not_valid)
    print_result(result, show, as_json=as_json)
    if not (result.valid or allow_not_valid):
        raise NotValid(
            "A or B is not valid, so there is no conclusion",
            remedy="--allow-not-valid compares them anyway",
        )
    if result.failed:
        sys.exit(1)


@bench.command()
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option(
    "--out",
    type=FILE,
    default="report.html",
    show_default=True,
    help="the HTML page; the summary gets the suffix .md",
)
@AS_JSON
def report(files: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write an HTML page of measurements.

    A summary in Markdown is written beside the page. The page loads no other file: it can be sent
    by mail and opened offline.

    \b
    Example:
      cipherfleet bench report host.json pi-4.json --out report.html
    """
    from cipherfleet_hil.measurement.document import read_measurement
    from cipherfleet_hil.report.html import ReportResult, write_report

    documents = [(file.name, read_measurement(file)) for file in files]
    summary = write_report(documents, out)
    result = ReportResult(
        report=str(out),
        summary=str(summary),
        valid={name: each.cipherfleet.verdict.valid for name, each in documents},
    )
    print_result(result, lambda _, console: console.print(f"{out}, {summary}"), as_json=as_json)


# -- cards and studies ----------------------------------------------------------------------------


@bench.command()
@click.option("--board", help="name of this machine in the card (default: its CPU)")
@click.option(
    "--bits",
    type=click.IntRange(1024, 8192),
    multiple=True,
    default=[2048, 3072],
    show_default=True,
    help="Paillier key size in bits",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="calibration.json",
    show_default=True,
    help="file for the card",
)
@AS_JSON
def calibrate(board: str | None, bits: tuple[int, ...], out: Path, as_json: bool) -> None:
    """Write the calibration card of this machine.

    The card contains the costs of the parts of a round on this machine. From it,
    `cipherfleet check --calibration CARD` predicts the round times of any fleet on such machines.
    The measurement takes about half a minute. Exit code 5: it did not finish.

    \b
    Example:
      cipherfleet bench calibrate --board "Raspberry Pi 4" --out pi4.json
    """
    from msgspec.structs import asdict

    from cipherfleet_analysis.cost.board_card import write_calibration
    from cipherfleet_hil.measurement.environment import cpu_model
    from cipherfleet_hil.measuring.calibrate import CalibrateResult, measure_calibration

    card = measure_calibration(board or cpu_model(), sorted(bits))
    write_calibration(out, card)
    if as_json:
        print_json(CalibrateResult(card=str(out), **asdict(card)))
    else:
        click.echo(f"wrote {out}: cipherfleet check FILE --calibration {shlex.quote(str(out))}")


@bench.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="cipherfleet-study",
    show_default=True,
    help="folder for the page, its figures and study.json",
)
@click.option(
    "--bits",
    type=click.Choice(["1024", "2048", "3072", "4096"]),
    multiple=True,
    help="Paillier key size in bits (default: 1024, which is unsafe, 2048 and 3072)",
)
@click.option("--quick", is_flag=True, help="only two small fleets, with unsafe keys")
@AS_JSON
def study(out: Path, bits: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Run fleets of many settings and compare.

    The settings are key size, resolution and dimension; the results are cost and error. Real
    encrypted fleets run on this machine, one after another; this takes about six minutes.

    \b
    Example:
      cipherfleet bench study --out docs/study
    """
    from dataclasses import replace

    from rich.console import Console

    from cipherfleet_hil.measurement.environment import describe_machine
    from cipherfleet_hil.measuring.study import QUICK, Grid, StudyResult, run_study
    from cipherfleet_hil.report.study_pages import write_study

    machine = describe_machine()
    grid = QUICK if quick else Grid()
    if bits:
        grid = replace(grid, key_bits=sorted(map(int, bits)))
    outcomes = run_study(grid, Console(stderr=True))
    result = StudyResult(kind="host", command=command_line(), machine=machine, outcomes=outcomes)
    written = write_study(result, out)
    if as_json:
        print_json(result)
    else:
        click.echo("".join(f"wrote {file}\n" for file in written), nl=False)
