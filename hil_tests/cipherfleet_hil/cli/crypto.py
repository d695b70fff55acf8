"""The command `cipherfleet bench crypto`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cipherfleet_deploy.cli.options import AS_JSON, Command, with_options

from .options import BENCH, check_writable, command_line, refuse_invalid

if TYPE_CHECKING:
    from cipherfleet_hil.measurement.document import Measurement
    from cipherfleet_hil.measuring.crypto import CryptoPlan


def add_size_options(command: Command) -> Command:
    """Add the options for the sizes to measure."""
    flags: list[Callable[[Any], Any]] = [
        click.option(
            "--bits",
            type=click.Choice(["1024", "2048", "3072", "4096"]),
            multiple=True,
            default=["2048"],
            show_default=True,
            help="Paillier key size in bits; 1024 is unsafe",
        ),
        click.option(
            "--dimension",
            type=click.IntRange(1, 4000),
            multiple=True,
            default=[1, 8, 32],
            show_default=True,
            help="dimension of the estimate",
        ),
        click.option(
            "--degree",
            type=click.IntRange(1, 63),
            multiple=True,
            default=[1, 4],
            show_default=True,
            help="number of neighbours of the asking node",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0),
            default=14.0,
            show_default=True,
            help="minimum seconds per process and key size",
        ),
    ]
    return with_options(command, flags)


@click.command()
@add_size_options
@click.option(
    "--processes", type=click.IntRange(1), default=5, show_default=True, help="number of processes"
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="clock for the timings: wall time, or CPU time of the process",
)
@click.option(
    "--percentile",
    type=click.Choice(["50", "90", "95", "99"]),
    multiple=True,
    default=["50"],
    show_default=True,
    help="required percentile: not valid if there are too few samples",
)
@BENCH
@click.option("--target", metavar="NAME", help="name of a target in the bench (default: the first)")
@click.option("--case", multiple=True, help="measure only the case of this name (default: all)")
@click.option("--quick", is_flag=True, help="one short pass in two processes; never valid")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="file for the measurement document",
)
@AS_JSON
def crypto(
    bits: tuple[str, ...],
    dimension: tuple[int, ...],
    degree: tuple[int, ...],
    seconds: float,
    processes: int,
    clock: str,
    percentile: tuple[str, ...],
    bench_file: Path | None,
    target: str | None,
    case: tuple[str, ...],
    quick: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time keys, pools and the exchange.

    The parts of the exchange and the naive exchange with phe are timed too. Independent processes
    run one after another. In each process the cases are interleaved after a warm-up, and every
    decrypted result is checked. --json prints and --out writes a document with the raw samples, the
    state of the machine before and after, and the validity (`bench schema`; pyperf reads it too).
    Exit code 5: the figures are not valid; the reasons are printed. Repeat an option to measure
    several sizes.

    \b
    Example:
      cipherfleet bench crypto --bits 2048 --bits 3072 --dimension 32 --out here.json
    """
    from cipherfleet_hil.measuring.crypto import CryptoPlan
    from cipherfleet_hil.measuring.sampling import Effort

    dimension, degree = tuple(dict.fromkeys(dimension)), tuple(dict.fromkeys(degree))
    plan = CryptoPlan(
        key_bits=[int(size) for size in dict.fromkeys(bits)],
        dimensions=dimension[:1] if quick else dimension,
        degrees=degree[:1] if quick else degree,
        processes=2 if quick else processes,
        effort=Effort(0.0 if quick else seconds, 1),
        clock="cpu" if clock == "cpu" else "wall",
        percentiles=[f"p{number}" for number in percentile],
        cases=case,
    )
    _check_cases(case)
    check_writable(out)
    _publish(_measure(plan, bench_file, target), out, as_json=as_json)


def _check_cases(names: tuple[str, ...]) -> None:
    from cipherfleet_hil.measuring.cases import CASE_DESCRIPTIONS
    from cipherfleet_node.settings.type_errors import did_you_mean

    for name in names:
        if name not in CASE_DESCRIPTIONS:
            text = f"--case is {name!r}, must be one of {', '.join(CASE_DESCRIPTIONS)}"
            raise click.UsageError(text + did_you_mean(name, [*CASE_DESCRIPTIONS]))


def _measure(plan: CryptoPlan, bench_file: Path | None, target: str | None) -> Measurement:
    from rich.console import Console

    from cipherfleet_hil.measuring.crypto import make_worker_host, measure_crypto, this_machine
    from cipherfleet_hil.report.terminal import track_progress
    from cipherfleet_hil.targets.bench_file import load_bench

    progress = track_progress("processes", Console(stderr=True))
    if bench_file is None and target is None:
        return measure_crypto(plan, this_machine(), command_line(), progress)
    machines = load_bench(bench_file)
    with machines.target(target or machines.targets[0].name) as held:
        return measure_crypto(plan, make_worker_host(held), command_line(), progress)


def _publish(document: Measurement, out: Path | None, *, as_json: bool) -> None:
    """Write and show the measurement. Raises NotValid (exit code 5) if it is not valid."""
    from cipherfleet_hil.measurement.document import to_text, write_measurement
    from cipherfleet_hil.report.terminal import show

    if out is not None:
        write_measurement(out, document)
    if as_json:
        click.echo(to_text(document), nl=False)
    else:
        show(document)
    refuse_invalid(document)
