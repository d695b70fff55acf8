"""`cipherfleet run` and `cipherfleet demo`: a fleet as processes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cipherfleet_deploy.data_folders import example_folder

from .options import AS_JSON, METHOD, SIZES, Command, print_result, with_options

if TYPE_CHECKING:
    from cipherfleet_node.settings.sections import Method

DEMO_NODES = 10
STATISTICS_ROUNDS = 50  # of the demo: within them it comes to a relative error of 1e-6


def run_flags(command: Command) -> Command:
    """Add the options that `demo` and `run` share."""
    flags = [
        *SIZES,
        METHOD,
        click.option(
            "--broker",
            default="embedded",
            show_default=True,
            metavar="embedded|mosquitto|HOST:PORT",
            help="broker to start, or the address of a running one",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="folder for keys, logs and results (default: cipherfleet-out/FLEET-TIME)",
        ),
        AS_JSON,
    ]
    return with_options(command, flags)


@click.command()
@run_flags
def demo(nodes: int | None, rounds: int | None, method: str | None, **flags: Any) -> None:
    """Fit real sensor readings on this machine.

    Starts a broker and ten daemons, with recorded readings of the Intel lab data. Ends with the
    fleet's answer beside the answer of a centralised solver that sees all readings. Method
    statistics runs 50 rounds, unless --rounds or --nodes is given.

    \b
    Example:
      cipherfleet demo --nodes 50 --rounds 20
      cipherfleet demo --method statistics
    """
    if method == "statistics" and nodes is None:
        rounds = rounds or STATISTICS_ROUNDS
    flags |= {"nodes": nodes or DEMO_NODES, "rounds": rounds, "method": method}
    _run(example_folder("intel_lab") / "fleet.yaml", **flags)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@run_flags
def run(file: Path, **flags: Any) -> None:
    """Run the fleet of FILE on this machine.

    FILE is a fleet.yaml. Each node runs as a daemon in its own process. In the table of results,
    `silent` counts the answers that did not arrive in time, `rejected` counts the messages that
    nodes refused, and `restarts` counts the daemons that ended early and were started again.

    \b
    Example:
      cipherfleet run examples/average/fleet.yaml --json
    """
    _run(file, **flags)


def _run(
    file: Path,
    *,
    nodes: int | None,
    rounds: int | None,
    key_bits: int | None,
    method: Method | None,
    seed: int | None,
    broker: str,
    out: Path | None,
    as_json: bool,
) -> None:
    # Imported here: --help and usage errors must not wait for these imports.
    from rich.console import Console

    from cipherfleet_deploy.local.run import RunOptions, run_fleet, show_result
    from cipherfleet_provisioning.fleet.file import Overrides

    options = RunOptions(Overrides(nodes, rounds, key_bits, method), broker, seed, out)
    result = run_fleet(file, options, Console(stderr=True))
    print_result(result, show_result, as_json=as_json)
