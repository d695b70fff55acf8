"""`cipherfleet fleet`: run a fleet in containers on this machine, one container per node."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import AS_JSON, SIZES, Command, tell, with_options

if TYPE_CHECKING:
    from cipherfleet_deploy.containers.run import UpResult
    from cipherfleet_deploy.local.results import RunResult

NAMES_SHOWN = 20
FILE = click.argument("file", type=click.Path(path_type=Path))
IMAGE = click.option("--image", help="image of all containers (default: the image of this version)")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="folder for keys, logs and results"
)


def _size_flags(command: Command) -> Command:
    flags = [
        *SIZES,
        click.option(
            "--profile",
            metavar="pi-zero-2|pi-4|pi-5|cpu=N,memory=SIZE",
            help="limits of each node's container: an emulation, not a device",
        ),
    ]
    return with_options(command, flags)


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
@_size_flags
@IMAGE
@OUT
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
def up(file: Path, **flags: Any) -> None:
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

    from cipherfleet_deploy.local.results import RunResult
    from cipherfleet_deploy.local.run import show_result, watch_hint

    def show(result: RunResult | UpResult, console: Console) -> None:
        if isinstance(result, RunResult):
            show_result(result, console)
        _show_container_figures(result)
        if not isinstance(result, RunResult):
            status_of = shlex.join(["cipherfleet", "fleet", "status", str(file)])
            click.echo(f"{result.nodes} nodes are up: {status_of}")
            click.echo(watch_hint(Path(result.out)))

    console = Console(stderr=True)
    if flags["backend"] == "process":
        tell(_up_as_processes(file, flags, console), show, as_json=flags["as_json"])
    else:
        tell(_up_in_containers(file, flags, console), show, as_json=flags["as_json"])


def _overrides(flags: dict[str, Any]) -> Any:
    from cipherfleet_provisioning.fleet.file import Overrides

    return Overrides(flags["nodes"], flags["rounds"], flags["key_bits"])


def _up_as_processes(file: Path, flags: dict[str, Any], console: Any) -> RunResult:
    from cipherfleet_deploy.local.run import RunOptions, run_fleet

    if flags["profile"] or flags["image"]:
        raise click.UsageError("--profile and --image need --backend docker")
    if not flags["wait"]:
        raise click.UsageError("--backend process needs --wait: processes end with the command")
    options = RunOptions(_overrides(flags), seed=flags["seed"], out=flags["out"])
    return run_fleet(file, options, console)


def _up_in_containers(file: Path, flags: dict[str, Any], console: Any) -> RunResult | UpResult:
    from cipherfleet_deploy.containers.engine import Engine
    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as DEFAULT_IMAGE
    from cipherfleet_deploy.containers.run import UpOptions, bring_up, run_to_end

    options = UpOptions(
        _overrides(flags),
        flags["seed"],
        flags["out"],
        flags["image"] or DEFAULT_IMAGE,
        read_profile(flags["profile"]) if flags["profile"] else None,
    )
    with Engine() as engine:
        return (run_to_end if flags["wait"] else bring_up)(engine, file, options, console)


def _show_container_figures(result: RunResult | UpResult) -> None:
    """Print the figures that a fleet of containers has and a fleet of processes has not."""
    import msgspec

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
    from cipherfleet_deploy.containers.engine import Engine
    from cipherfleet_deploy.containers.run import status as states_of

    name = _name_of(file)
    with Engine() as engine:
        states = states_of(engine, name)
    if as_json:
        click.echo(json.dumps({"fleet": name, "containers": states}))
    for each in () if as_json else states:
        memory = "-" if each["memory_mib"] is None else f"{each['memory_mib']:.1f} MiB"
        number = "-" if each["round"] is None else f"round {each['round']}"
        click.echo(f"{each['name']:<20} {number:<12} {memory:<12} {each['status']}")
    if not states:
        _not_up(name)


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
    from cipherfleet_deploy.containers.engine import Engine

    name = _name_of(file)
    with Engine() as engine:
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
        _not_up(name)


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
    from cipherfleet_deploy.containers.engine import Engine

    with Engine() as engine:
        name = _name_of(file)
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
    from cipherfleet_deploy.containers.engine import Engine

    name = _name_of(file)
    with Engine() as engine:
        removed = engine.down(name)
    if as_json:
        click.echo(json.dumps({"fleet": name, "removed": removed}))
    else:
        click.echo(f"removed {len(removed)} containers and networks of {name}")


@fleet.command()
@FILE
@_size_flags
@IMAGE
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
    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as DEFAULT_IMAGE
    from cipherfleet_deploy.containers.plan import container_user, prepare
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    profile = read_profile(flags["profile"]) if flags["profile"] else None
    loaded = load_fleet(file, _overrides(flags))
    containers = prepare(loaded, out, Simulation(seed=flags["seed"]), profile, Console(stderr=True))
    user, chosen_image = container_user(rootless=False), flags["image"] or DEFAULT_IMAGE
    written = write_compose(loaded.file.fleet, containers, out, chosen_image, user)
    if as_json:
        click.echo(json.dumps({"written": str(written), "containers": len(containers)}))
    else:
        up_command = shlex.join(["docker", "compose", "-f", str(written), "up", "--detach"])
        click.echo(f"wrote {written}: {up_command}")


@fleet.command()
@FILE
@_size_flags
@IMAGE
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

    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as DEFAULT_IMAGE
    from cipherfleet_deploy.containers.plan import prepare
    from cipherfleet_deploy.containers.swarm_stack import write_stack
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    profile = read_profile(flags["profile"]) if flags["profile"] else None
    loaded, console = load_fleet(file, _overrides(flags)), Console(stderr=True)
    count = brokers or len(loaded.file.broker.hosts)
    if count % 2 == 0:
        note = (
            f"note: {count} brokers tolerate no more failures than {count - 1}: more than half of "
            "the brokers must run"
        )
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    containers = prepare(loaded, out, Simulation(seed=flags["seed"]), profile, console, count)
    written = write_stack(containers, out, flags["image"] or DEFAULT_IMAGE, hosts)
    if as_json:
        click.echo(json.dumps({"written": str(written), "services": len(containers)}))
    else:
        name = f"cipherfleet-{loaded.file.fleet.lower()}"
        deploy = ["docker", "stack", "deploy", "--compose-file", str(written), name]
        click.echo(f"wrote {written}: {shlex.join(deploy)}")


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
    from cipherfleet_deploy.containers.engine import Engine
    from cipherfleet_deploy.containers.image import ImageOptions, build_image
    from cipherfleet_deploy.containers.plan import IMAGE as DEFAULT_IMAGE

    machine = platform and platform.partition("/")[2]
    options = ImageOptions(tag or DEFAULT_IMAGE, base, offline, machine)
    with Engine() as engine:
        result = build_image(engine, options, lambda text: click.echo(text, err=True))
    click.echo(json.dumps(result) if as_json else f"built {result['image']}, {result['mib']} MiB")


def _name_of(file: Path) -> str:
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    return load_fleet(file).file.fleet


def check_node(names: list[str], node: str, fleet_name: str) -> None:
    """Raise CipherfleetError if *node* is not among *names*, the containers of the fleet."""
    from cipherfleet_node.errors import CipherfleetError
    from cipherfleet_node.settings.type_errors import did_you_mean

    if not names:
        _not_up(fleet_name)
    if node not in names:
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise CipherfleetError(
            f"the fleet {fleet_name!r} has no container {node!r}, it has "
            f"{', '.join(names[:NAMES_SHOWN])}{more}{did_you_mean(node, names)}"
        )


def _not_up(name: str) -> None:
    from cipherfleet_node.errors import CipherfleetError

    raise CipherfleetError(
        f"the fleet {name!r} has no container on this machine",
        remedy="start it with cipherfleet fleet up FILE",
    )
