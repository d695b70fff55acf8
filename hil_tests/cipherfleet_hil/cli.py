"""`cipherfleet bench`: what encryption costs, measured where it is to run."""

from __future__ import annotations

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
    from .cost_tables import show  # noqa: PLC0415
    from .exchange_cost import Plan, measure, report  # noqa: PLC0415

    where = machine()
    plan = Plan([int(size) for size in bits], dimension, degree, Effort(seconds))
    told = report(measure(plan, Console(stderr=True)), where)
    tell(told, show, as_json=as_json)
