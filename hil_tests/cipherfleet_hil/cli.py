"""`cipherfleet bench`: what encryption costs, measured where it is to run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cipherfleet_deploy.flags import AS_JSON, tell


@click.group()
def bench() -> None:
    """Measure what encryption costs on this machine.

    \b
    Example:
      cipherfleet bench crypto
    """


@bench.command()
@click.option(
    "--bits",
    type=click.Choice(["1024", "2048", "3072", "4096"]),
    multiple=True,
    default=["2048"],
    show_default=True,
    help="Paillier key size; 1024 is unsafe",
)
@click.option(
    "--dimension",
    type=click.IntRange(1, 4000),
    multiple=True,
    default=[1, 8, 32],
    show_default=True,
    help="entries of an estimate",
)
@click.option(
    "--degree",
    type=click.IntRange(1, 63),
    multiple=True,
    default=[1, 4],
    show_default=True,
    help="neighbours of the asker",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=4.0,
    show_default=True,
    help="least CPU time per contest; three laps are always run",
)
@AS_JSON
def crypto(
    bits: tuple[str, ...],
    dimension: tuple[int, ...],
    degree: tuple[int, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Time the encrypted exchange against the reference library phe, on this machine.

    Cases take turns in one process and every decrypted result is checked. The figures are this
    machine's, never a device's. Give an option several times for several sizes.

    \b
    Example:
      cipherfleet bench crypto --bits 2048 --bits 3072 --dimension 32
    """
    from rich.console import Console  # noqa: PLC0415

    from .contest import Effort, machine  # noqa: PLC0415
    from .cost_tables import bar, show  # noqa: PLC0415
    from .exchange_cost import Plan, measure, report  # noqa: PLC0415

    where = machine()
    plan = Plan([int(size) for size in bits], dimension, degree, Effort(seconds))
    told = report(measure(plan, bar(Console(stderr=True))), where)
    tell(told, show, as_json=as_json)


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
    """Measure what the parts of a round cost on this machine, and write a small card.

    `cipherfleet check --calibration CARD` predicts from it how long the rounds of any fleet take
    on such machines. About half a minute; exit code 5 where a measurement does not come to its end.

    \b
    Example:
      cipherfleet bench calibrate --board "Raspberry Pi 4" --out pi4.json
    """
    from msgspec import to_builtins  # noqa: PLC0415

    from cipherfleet_provisioning.calibrate import measure_calibration  # noqa: PLC0415
    from cipherfleet_provisioning.calibration import write_calibration  # noqa: PLC0415

    from .contest import machine  # noqa: PLC0415

    card = measure_calibration(board or machine()["cpu"], sorted(bits))
    write_calibration(out, card)
    if as_json:
        click.echo(json.dumps({"card": str(out), **to_builtins(card)}))
    else:
        click.echo(f"wrote {out}: cipherfleet check FILE --calibration {out}")


@bench.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="cipherfleet-study",
    show_default=True,
    help="folder for the page, its figures and study.json",
)
@click.option("--quick", is_flag=True, help="two small fleets with unsafe keys, for a first look")
@AS_JSON
def study(out: Path, quick: bool, as_json: bool) -> None:
    """Run fleets over key size, resolution and dimension, and show what each costs and reaches.

    Real fleets, encrypted, on this machine, one after the other: about ten minutes.

    \b
    Example:
      cipherfleet bench study --out docs/study
    """
    from rich.console import Console  # noqa: PLC0415

    from .contest import machine  # noqa: PLC0415
    from .study import QUICK, Grid, run_study  # noqa: PLC0415
    from .study_pages import to_json, write_study  # noqa: PLC0415

    where, command = machine(), f"cipherfleet bench study --out {out}" + " --quick" * quick
    outcomes = run_study(QUICK if quick else Grid(), Console(stderr=True))
    written = write_study(outcomes, where, command, out)
    if as_json:
        click.echo(json.dumps(to_json(outcomes, where, command), allow_nan=False))
    else:
        click.echo("".join(f"wrote {file}\n" for file in written), nl=False)
