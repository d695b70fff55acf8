"""`cipherfleet fleet`: run a fleet in containers on this machine, one container per node."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import AS_JSON, SIZES, Command, print_result, with_options

if TYPE_CHECKING:
    from rich.console import Console

    from cipherfleet_deploy.containers.results import (
        DownResult,
        ImageResult,
        StatusResult,
        UpResult,
    )
    from cipherfleet_deploy.containers.run import ContainerOptions
    from cipherfleet_deploy.local.results import RunResult

NAMES_SHOWN = 20
FILE = click.argument("file", type=click.Path(path_type=Path))


def container_flags(command: Command) -> Command:
    """Add the options for the size of a fleet, and for the limits and image of its containers."""
    flags = [
        *SIZES,
        click.option(
            "--profile",
            metavar="pi-zero-2|pi-4|pi-5|cpu=N,memory=SIZE",
            help="limits of each node's container: an emulation, not a device",
        ),
        click.option(
            "--image", help="image of all containers (default: the image of this version)"
        ),
    ]
    return with_options(command, flags)


def container_options(
    *,
    nodes: int | None,
    rounds: int | None,
    key_bits: int | None,
    seed: int | None,
    profile: str | None,
    image: str | None,
    out: Path | None,
) -> ContainerOptions:
    """Return the options of a fleet in containers. Raises ConfigError for an unknown profile."""
    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE
    from cipherfleet_deploy.containers.run import ContainerOptions
    from cipherfleet_provisioning.fleet.file import Overrides

    return ContainerOptions(
        Overrides(nodes, rounds, key_bits),
        seed,
        out,
        image or IMAGE,
        read_profile(profile) if profile else None,
    )


@click.group()
def fleet() -> None:
    """Run a fleet in Docker containers.

    The containers run on this machine, with one node in each.

    \b
    Example:
      cipherfleet fleet up examples/intel_lab/fleet.yaml --nodes 20 --rounds 30 --wait
    """


@fleet.command()
@FILE
@container_flags
@click.option("--out", type=click.Path(path_type=Path), help="folder for keys, logs and results")
@click.option(
    "--wait", is_flag=True, help="wait for the last round, print the results, remove the containers"
)
@click.option(
    "--backend",
    type=click.Choice(["docker", "process"]),
    default="docker",
    show_default=True,
    help="process: run without containers, as cipherfleet run does",
)
@AS_JSON
def up(file: Path, wait: bool, backend: str, as_json: bool, **flags: Any) -> None:
    """Start each node of FILE in a container.

    Each container sees only the folder of its own node. It has a read-only root file system and no
    capabilities. Its network reaches the fleet and nothing else. Exit code 4 when no Docker engine
    answers.

    \b
    Example:
      cipherfleet fleet up examples/average/fleet.yaml --wait --json
    """
    # Imported here: --help and usage errors must not wait for these imports.
    from rich.console import Console

    from cipherfleet_deploy.local.run import watch_hint

    def show(result: RunResult | UpResult, console: Console) -> None:
        _show_run(result, console)
        if not wait:
            status_of = shlex.join(["cipherfleet", "fleet", "status", str(file)])
            click.echo(f"{result.nodes} nodes are up: {status_of}")
            click.echo(watch_hint(Path(result.out)))

    console = Console(stderr=True)
    if backend == "process":
        result: RunResult | UpResult = _run_processes(file, wait, console, **flags)
    else:
        result = _run_containers(file, wait, console, container_options(**flags))
    print_result(result, show, as_json=as_json)


def _run_processes(
    file: Path,
    wait: bool,
    console: Console,
    *,
    nodes: int | None,
    rounds: int | None,
    key_bits: int | None,
    seed: int | None,
    profile: str | None,
    image: str | None,
    out: Path | None,
) -> RunResult:
    from cipherfleet_deploy.local.run import RunOptions, run_fleet
    from cipherfleet_provisioning.fleet.file import Overrides

    if profile or image:
        raise click.UsageError("--profile and --image need --backend docker")
    if not wait:
        raise click.UsageError("--backend process needs --wait: processes end with the command")
    return run_fleet(
        file, RunOptions(Overrides(nodes, rounds, key_bits), seed=seed, out=out), console
    )


def _run_containers(
    file: Path, wait: bool, console: Console, options: ContainerOptions
) -> RunResult | UpResult:
    from cipherfleet_deploy.containers.engine import ContainerEngine
    from cipherfleet_deploy.containers.run import bring_up, run_to_end

    with ContainerEngine() as engine:
        return (run_to_end if wait else bring_up)(engine, file, options, console)


def _show_run(result: RunResult | UpResult, console: Console) -> None:
    """Print the figures of a run, and those that only a fleet in containers has."""
    import msgspec

    from cipherfleet_deploy.local.results import RunResult
    from cipherfleet_deploy.local.run import show_result

    if isinstance(result, RunResult):
        show_result(result, console)
    figures = msgspec.to_builtins(result)
    for name in ("emulated", "start", "memory_mib", "image"):
        figure = figures.get(name)
        if isinstance(figure, dict):
            parts = [f"{key} {value}" for key, value in figure.items() if value is not None]
            figure = ", ".join(parts)
        if figure:
            click.echo(f"{name}: {figure}")


@fleet.command()
@FILE
@AS_JSON
def status(file: Path, as_json: bool) -> None:
    """Show the state of each container.

    Also shows its round and its memory. Exit code 1 if the fleet has no container.

    \b
    Example:
      cipherfleet fleet status examples/intel_lab/fleet.yaml
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine
    from cipherfleet_deploy.containers.run import read_status

    with ContainerEngine() as engine:
        result = read_status(engine, _read_name(file))
    print_result(result, _show_status, as_json=as_json)
    if not result.containers:
        _fail_not_up(result.fleet)


def _show_status(result: StatusResult, _console: Console) -> None:
    for each in result.containers:
        memory = "-" if each.memory_mib is None else f"{each.memory_mib:.1f} MiB"
        number = "-" if each.round is None else f"round {each.round}"
        click.echo(f"{each.name:<20} {number:<12} {memory:<12} {each.status}")


@fleet.command()
@FILE
@click.argument("node", required=False)
@click.option(
    "--tail", type=click.IntRange(1), default=10, show_default=True, help="lines per container"
)
@click.option(
    "--follow", is_flag=True, help="keep printing new lines until all containers have ended"
)
def logs(file: Path, node: str | None, tail: int, follow: bool) -> None:
    """Print the latest log lines of containers.

    Prints those of all containers of the fleet of FILE, or those of NODE.

    \b
    Example:
      cipherfleet fleet logs examples/intel_lab/fleet.yaml mote01 --tail 50 --follow
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine

    name = _read_name(file)
    with ContainerEngine() as engine:
        names = engine.names(name)
        if node:
            check_node(names, node, name)
            names = [node]
        if follow:
            lines = engine.follow(name, names, tail)
        else:
            lines = (
                (each, line) for each in names for line in engine.log(name, each, tail).splitlines()
            )
        for each, line in lines:
            click.echo(line if node else f"{each}: {line}")
    if not names:
        _fail_not_up(name)


@fleet.command("exec", context_settings={"ignore_unknown_options": True})
@FILE
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(file: Path, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the container of NODE.

    Exits with the exit code of COMMAND.

    \b
    Example:
      cipherfleet fleet exec examples/intel_lab/fleet.yaml mote01 cipherfleet-node show-state .
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine

    with ContainerEngine() as engine:
        name = _read_name(file)
        check_node(engine.names(name), node, name)
        code, output = engine.run(name, node, command)
    click.echo(output, nl=False)
    sys.exit(code)


@fleet.command()
@FILE
@AS_JSON
def down(file: Path, as_json: bool) -> None:
    """Stop and remove the containers of a fleet.

    Also removes the fleet's network. Containers and network are found by their label. This command
    therefore also cleans up after a command that was killed. Keys, logs and results in the --out
    folder of `up` stay.

    \b
    Example:
      cipherfleet fleet down examples/intel_lab/fleet.yaml
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine
    from cipherfleet_deploy.containers.results import DownResult

    name = _read_name(file)
    with ContainerEngine() as engine:
        result = DownResult(fleet=name, removed=engine.down(name))
    print_result(result, _show_down, as_json=as_json)


def _show_down(result: DownResult, _console: Console) -> None:
    click.echo(f"removed {len(result.removed)} containers and networks of {result.fleet}")


@fleet.command()
@click.option("--tag", help="name of the image (default: cipherfleet:VERSION)")
@click.option("--base", help="base image (default: the one in the Dockerfile)")
@click.option(
    "--offline", is_flag=True, help="pull no image: make the base and get the wheels locally"
)
@click.option(
    "--platform",
    type=click.Choice(["linux/amd64", "linux/arm64"]),
    help="processor to build for (default: that of the Docker engine); boards have linux/arm64. "
    "The tag gets the suffix -arm64 or -amd64. Another processor needs an emulator here.",
)
@AS_JSON
def image(
    tag: str | None, base: str | None, offline: bool, platform: str | None, as_json: bool
) -> None:
    """Build the image of nodes and brokers.

    Builds the image from the source of this installation. With --offline, no image registry is
    needed: mmdebstrap makes a base image from Debian packages, and the pip of this machine
    downloads the wheels.

    \b
    Example:
      cipherfleet fleet image --offline
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine
    from cipherfleet_deploy.containers.image import ImageOptions, build_image
    from cipherfleet_deploy.containers.plan import IMAGE

    machine = platform and platform.partition("/")[2]
    options = ImageOptions(tag or IMAGE, base, offline, machine)
    with ContainerEngine() as engine:
        result = build_image(engine, options, lambda text: click.echo(text, err=True))
    print_result(result, _show_image, as_json=as_json)


def _show_image(result: ImageResult, _console: Console) -> None:
    click.echo(f"built {result.image}, {result.mib} MiB")


def _read_name(file: Path) -> str:
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    return load_fleet(file).file.fleet


def check_node(names: list[str], node: str, fleet_name: str) -> None:
    """Raise CipherfleetError if *node* is not among *names*, the containers of the fleet."""
    from cipherfleet_node.errors import CipherfleetError
    from cipherfleet_node.settings.type_errors import did_you_mean

    if not names:
        _fail_not_up(fleet_name)
    if node not in names:
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise CipherfleetError(
            f"the fleet {fleet_name!r} has no container {node!r}, it has "
            f"{', '.join(names[:NAMES_SHOWN])}{more}{did_you_mean(node, names)}"
        )


def _fail_not_up(name: str) -> None:
    from cipherfleet_node.errors import CipherfleetError

    raise CipherfleetError(
        f"the fleet {name!r} has no container on this machine",
        remedy="start it with cipherfleet fleet up FILE",
    )
