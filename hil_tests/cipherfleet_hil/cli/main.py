"""`cipherfleet bench`: what encryption costs, measured where it is to run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cipherfleet_deploy.cli.options import AS_JSON, Command, flagged, tell
from cipherfleet_hil.cli.options import NotValid, check_writable, refuse_invalid  # moved

from .rounds import BENCH, command_line, rounds

if TYPE_CHECKING:
    from cipherfleet_hil.measurement.document import Measurement
    from cipherfleet_hil.measuring.crypto import Plan


@click.group()
def bench() -> None:
    """Measure what encryption costs.

    A measurement that means nothing is marked as not valid, with the reasons.

    \b
    Example:
      cipherfleet bench crypto --out before.json
      cipherfleet bench compare before.json after.json --fail-above 5%
      cipherfleet bench report before.json after.json --out report.html
    """


# -- crypto --------------------------------------------------------------------------------------


def size_flags(command: Command) -> Command:
    """The flags of what is measured."""
    flags: list[Callable[[Any], Any]] = [
        click.option(
            "--bits",
            type=click.Choice(["1024", "2048", "3072", "4096"]),
            multiple=True,
            default=["2048"],
            show_default=True,
            help="Paillier key size; 1024 is unsafe",
        ),
        click.option(
            "--dimension",
            type=click.IntRange(1, 4000),
            multiple=True,
            default=[1, 8, 32],
            show_default=True,
            help="entries of an estimate",
        ),
        click.option(
            "--degree",
            type=click.IntRange(1, 63),
            multiple=True,
            default=[1, 4],
            show_default=True,
            help="neighbours of the asker",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0),
            help="least time per process and key size (14), or CPU time per contest (4)",
        ),
    ]
    return flagged(command, flags)


@bench.command()
@size_flags
@click.option(
    "--processes", type=click.IntRange(1), default=5, show_default=True, help="one after another"
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="what is read: latency, or the process's CPU time",
)
@click.option(
    "--percentile",
    type=click.Choice(["50", "90", "95", "99"]),
    multiple=True,
    default=["50"],
    show_default=True,
    help="must be there: not valid where samples are too few",
)
@BENCH
@click.option("--target", metavar="NAME", help="the machine of the bench; without it, the first")
@click.option("--case", multiple=True, help="only this case, by its name in the table")
@click.option("--quick", is_flag=True, help="one short lap in two processes: a trial, never valid")
@click.option("--ratios", is_flag=True, help="instead, contests with phe in one process: ratios")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write the document")
@AS_JSON
def crypto(
    bits: tuple[str, ...],
    dimension: tuple[int, ...],
    degree: tuple[int, ...],
    seconds: float | None,
    processes: int,
    clock: str,
    percentile: tuple[str, ...],
    bench_file: Path | None,
    target: str | None,
    case: tuple[str, ...],
    quick: bool,
    ratios: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time keys, pools and the exchange.

    Also the parts of the exchange, and the naive exchange with phe. Independent processes run one
    after another; in each all cases take turns, after a warm-up, and every decrypted result is
    checked. Raw samples, the state of the machine before and after, and the verdict stand in the
    document that --json prints and --out writes (`bench schema`; pyperf reads it too). Exit code 5:
    the figures are not valid, with the reasons. Give an option several times for several sizes.

    \b
    Example:
      cipherfleet bench crypto --bits 2048 --bits 3072 --dimension 32 --out here.json
    """
    from cipherfleet_hil.measuring.crypto import Plan
    from cipherfleet_hil.measuring.interleaved import Effort

    sizes = [int(size) for size in dict.fromkeys(bits)]
    dimension, degree = tuple(dict.fromkeys(dimension)), tuple(dict.fromkeys(degree))
    if ratios:
        _contests(sizes, dimension, degree, Effort(4.0 if seconds is None else seconds), as_json)
        return
    plan = Plan(
        sizes,
        dimension[:1] if quick else dimension,
        degree[:1] if quick else degree,
        2 if quick else processes,
        Effort(0.0 if quick else 14.0 if seconds is None else seconds, 1),
        "cpu" if clock == "cpu" else "wall",
        [f"p{number}" for number in percentile],
        case,
    )
    _check_cases(case)
    check_writable(out)
    _measured(_measure(plan, bench_file, target), out, as_json=as_json)


def _check_cases(names: tuple[str, ...]) -> None:
    from cipherfleet_hil.measuring.cases import SAYS
    from cipherfleet_node.settings.type_errors import meant

    for name in names:
        if name not in SAYS:
            told = f"--case {name!r} is none, there are {', '.join(SAYS)}"
            raise click.UsageError(told + meant(name, [*SAYS]))


def _measure(plan: Plan, bench_file: Path | None, target: str | None) -> Measurement:
    from cipherfleet_hil.measuring.crypto import here, measure_crypto, place_of
    from cipherfleet_hil.report.terminal import bar
    from cipherfleet_hil.targets.bench_file import bench_of

    if bench_file is None and target is None:
        return measure_crypto(plan, here(), command_line(), bar())
    machines = bench_of(bench_file)
    with machines.target(target or machines.targets[0].name) as held:
        return measure_crypto(plan, place_of(held), command_line(), bar())


def _measured(document: Measurement, out: Path | None, *, as_json: bool) -> None:
    """Write, tell, and end with 5 where it is not valid."""
    from cipherfleet_hil.measurement.document import to_text, write_measurement
    from cipherfleet_hil.report.terminal import show

    if out is not None:
        write_measurement(out, document)
    if as_json:
        click.echo(to_text(document), nl=False)
    else:
        show(document)
    refuse_invalid(document)


def _contests(
    sizes: list[int],
    dimension: tuple[int, ...],
    degree: tuple[int, ...],
    effort: Any,
    as_json: bool,
) -> None:
    from rich.console import Console

    from cipherfleet_hil.measuring.exchange_scene import Plan, measure, report
    from cipherfleet_hil.measuring.interleaved import machine
    from cipherfleet_hil.report.ratio_tables import bar, show

    where = machine()
    plan = Plan(sizes, dimension, degree, effort)
    told = report(measure(plan, bar(Console(stderr=True))), where)
    tell(told, show, as_json=as_json)


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
    """The fraction in '5%' or '0.05'."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 100:
        raise click.BadParameter(f"{text!r} is no share of time: 5% or 0.05")
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
    help="exit code 1 where B is slower by more than this, significantly",
)
@click.option("--allow-not-valid", is_flag=True, help="judge measurements that are not valid, too")
@AS_JSON
def compare(a: Path, b: Path, fail_above: float, allow_not_valid: bool, as_json: bool) -> None:
    """Say whether measurement B is slower than A.

    The result is the ratio of medians, with its interval. Processes are sampled with replacement,
    then samples within each (a hierarchical bootstrap); the intervals of all benchmarks together
    hold with 95 %. Measurements of different kinds or settings are not compared. Exit codes: 1,
    slower by more than the limit, significantly; 5, A or B is not valid and nothing is concluded.

    \b
    Example:
      cipherfleet bench compare before.json after.json --fail-above 5%
    """
    from cipherfleet_hil.measurement.compare import compare as compared
    from cipherfleet_hil.measurement.document import read_measurement
    from cipherfleet_hil.report.terminal import show_comparison

    told = compared(read_measurement(a), read_measurement(b), fail_above)
    show = partial(show_comparison, judges_invalid=allow_not_valid)
    tell(told.to_json(), show, as_json=as_json)
    if told.doubts and not allow_not_valid:
        raise NotValid("A or B is not valid, so nothing follows (--allow-not-valid judges it)")
    if told.failed:
        sys.exit(1)


@bench.command()
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option(
    "--out", type=FILE, default="report.html", show_default=True, help="the page; a .md beside it"
)
@AS_JSON
def report(files: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write one HTML page of measurements.

    A summary in Markdown is written beside it. The page needs nothing but itself: it can be sent by
    mail and opened anywhere.

    \b
    Example:
      cipherfleet bench report host.json pi-4.json --out report.html
    """
    from cipherfleet_hil.measurement.document import read_measurement
    from cipherfleet_hil.report.html import write_report

    documents = [(file.name, read_measurement(file)) for file in files]
    summary = write_report(documents, out)
    told = {
        "report": str(out),
        "summary": str(summary),
        "valid": {name: each.cipherfleet.verdict.valid for name, each in documents},
    }
    tell(told, lambda _, console: console.print(f"{out}, {summary}"), as_json=as_json)


# -- cards and studies ----------------------------------------------------------------------------


@bench.command()
@click.option("--board", help="what the card calls this machine (default: its CPU)")
@click.option(
    "--bits",
    type=click.IntRange(1024, 8192),
    multiple=True,
    default=[2048, 3072],
    show_default=True,
    help="Paillier key size",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="calibration.json",
    show_default=True,
    help="the card",
)
@AS_JSON
def calibrate(board: str | None, bits: tuple[int, ...], out: Path, as_json: bool) -> None:
    """Write the calibration card of this machine.

    It says what the parts of a round cost here. `cipherfleet check --calibration CARD` predicts
    from it how long the rounds of any fleet take on such machines. About half a minute; exit code 5
    where a measurement does not come to its end.

    \b
    Example:
      cipherfleet bench calibrate --board "Raspberry Pi 4" --out pi4.json
    """
    from msgspec import to_builtins

    from cipherfleet_analysis.cost.board_card import write_calibration
    from cipherfleet_hil.measuring.calibrate import measure_calibration
    from cipherfleet_hil.measuring.interleaved import machine

    card = measure_calibration(board or machine()["cpu"], sorted(bits))
    write_calibration(out, card)
    if as_json:
        click.echo(json.dumps({"card": str(out), **to_builtins(card)}))
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
    help="Paillier key size: 1024 (unsafe), 2048 and 3072 unless said",
)
@click.option("--quick", is_flag=True, help="two small fleets with unsafe keys, for a first look")
@AS_JSON
def study(out: Path, bits: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Run fleets of many settings and compare.

    The settings are key size, resolution and dimension; the results are cost and error. Real
    fleets, encrypted, on this machine, one after the other: six minutes or so.

    \b
    Example:
      cipherfleet bench study --out docs/study
    """
    from dataclasses import replace

    from rich.console import Console

    from cipherfleet_hil.measuring.interleaved import machine
    from cipherfleet_hil.measuring.study import QUICK, Grid, run_study
    from cipherfleet_hil.report.study_pages import to_json, write_study

    where, command = machine(), command_line()
    grid = QUICK if quick else Grid()
    if bits:
        grid = replace(grid, key_bits=sorted(map(int, bits)))
    outcomes = run_study(grid, Console(stderr=True))
    written = write_study(outcomes, where, command, out)
    if as_json:
        click.echo(json.dumps(to_json(outcomes, where, command), allow_nan=False))
    else:
        click.echo("".join(f"wrote {file}\n" for file in written), nl=False)
