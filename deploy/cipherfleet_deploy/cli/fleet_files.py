"""`cipherfleet fleet compose` and `cipherfleet fleet stack`: files that start a fleet elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .fleet import FILE, container_flags, container_options
from .options import AS_JSON, print_result

if TYPE_CHECKING:
    from rich.console import Console

    from cipherfleet_deploy.containers.results import ComposeResult, StackResult


@click.command()
@FILE
@container_flags
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="folder for keys and compose.yaml"
)
@AS_JSON
def compose(file: Path, out: Path, as_json: bool, **flags: Any) -> None:
    """Write compose.yaml for the fleet of FILE.

    Also writes the folders of the containers, beside compose.yaml.

    \b
    Example:
      cipherfleet fleet compose examples/average/fleet.yaml --out my-fleet
    """
    from rich.console import Console

    from cipherfleet_deploy.containers.compose import write_compose
    from cipherfleet_deploy.containers.plan import container_user, prepare_containers
    from cipherfleet_deploy.containers.results import ComposeResult
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    options = container_options(out=out, **flags)
    fleet = load_fleet(file, options.overrides)
    simulation = Simulation(seed=options.seed)
    containers = prepare_containers(fleet, out, simulation, options.profile, Console(stderr=True))
    user = container_user(rootless=False)
    written = write_compose(fleet.file.fleet, containers, out, options.image, user)
    result = ComposeResult(written=str(written), containers=len(containers))
    print_result(result, _show_compose, as_json=as_json)


def _show_compose(result: ComposeResult, _console: Console) -> None:
    command = shlex.join(["docker", "compose", "-f", result.written, "up", "--detach"])
    click.echo(f"wrote {result.written}: {command}")


@click.command()
@FILE
@container_flags
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="folder for keys and stack.yaml"
)
@click.option(
    "--brokers",
    type=click.IntRange(1, 9),
    help="number of brokers in the cluster (default: as many as broker.cluster has, else 1)",
)
@click.option(
    "--host", "hosts", multiple=True, help="place services on these hosts in turn; may be repeated"
)
@AS_JSON
def stack(
    file: Path, out: Path, brokers: int | None, hosts: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """Write stack.yaml for a Docker Swarm.

    Also writes the secrets of the fleet of FILE, beside stack.yaml. Without --host, Swarm may move
    a node to another host. The node's volume stays on the first host, so the node then starts
    without its state.

    \b
    Example:
      cipherfleet fleet stack examples/average/fleet.yaml --out my-fleet --brokers 3
    """
    from rich.console import Console

    from cipherfleet_deploy.containers.plan import prepare_containers
    from cipherfleet_deploy.containers.results import StackResult
    from cipherfleet_deploy.containers.swarm_stack import write_stack
    from cipherfleet_deploy.progress import print_line
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    options = container_options(out=out, **flags)
    fleet, console = load_fleet(file, options.overrides), Console(stderr=True)
    count = brokers or len(fleet.file.broker.hosts)
    if count % 2 == 0:
        print_line(
            console,
            f"note: {count} brokers tolerate no more failures than {count - 1}: more than half of "
            "the brokers must run",
        )
    simulation = Simulation(seed=options.seed)
    containers = prepare_containers(fleet, out, simulation, options.profile, console, count)
    written = write_stack(containers, out, options.image, hosts)
    result = StackResult(written=str(written), services=len(containers))

    def show(result: StackResult, _console: Console) -> None:
        name = f"cipherfleet-{fleet.file.fleet.lower()}"
        command = ["docker", "stack", "deploy", "--compose-file", result.written, name]
        click.echo(f"wrote {result.written}: {shlex.join(command)}")

    print_result(result, show, as_json=as_json)
