"""`cipherfleet fleet`: a fleet whose nodes run in containers on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, SIZES, Command, flagged

NAMES_SHOWN = 20
FILE = click.argument("file", type=click.Path(path_type=Path))
IMAGE = click.option("--image", help="the image of all containers, if not this version's own")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="folder for keys, logs and results"
)


def _size_flags(command: Command) -> Command:
    flags = [
        *SIZES,
        click.option(
            "--profile",
            metavar="pi-zero-2|pi-4|pi-5|cpu=N,memory=SIZE",
            help="limits of each node's container: emulation, never a device",
        ),
    ]
    return flagged(command, flags)


@click.group()
def fleet() -> None:
    """Run a fleet in Docker containers.

    They run on this machine, a node in each.

    \b
    Example:
      cipherfleet fleet up examples/intel_lab/fleet.yaml --nodes 20 --rounds 30 --wait
    """


@fleet.command()
@FILE
@_size_flags
@IMAGE
@OUT
@click.option("--wait", is_flag=True, help="wait for the last round, report, take it down")
@click.option(
    "--backend",
    type=click.Choice(["docker", "process"]),
    default="docker",
    show_default=True,
    help="process: without containers, as cipherfleet run",
)
@AS_JSON
def up(file: Path, **flags: Any) -> None:
    """Start each node of FILE in a container.

    Every container has the folder of its node and no other, a read-only root file system, no
    capabilities, and a network that leads nowhere but to the fleet's broker. Exit code 4 where no
    engine answers.

    \b
    Example:
      cipherfleet fleet up examples/average/fleet.yaml --wait --json
    """
    # Imported here: --help and mistakes in the command line must not wait for them.
    from rich.console import Console

    from cipherfleet_deploy.local.run import show_result, watch_hint

    console = Console(stderr=True)
    if flags["backend"] == "process":
        result = _up_as_processes(file, flags, console)
    else:
        result = _up_in_containers(file, flags, console)
    if flags["as_json"]:
        click.echo(json.dumps(result, allow_nan=False))
    elif "relative_error" in result:
        show_result(result, Console())
        _show_figures(result)
    else:
        _show_figures(result)
        status_of = shlex.join(["cipherfleet", "fleet", "status", str(file)])
        click.echo(f"{result['nodes']} nodes are up: {status_of}")
        click.echo(watch_hint(Path(result["out"])))


def _overrides(flags: dict[str, Any]) -> Any:
    from cipherfleet_provisioning.fleet.file import Overrides

    return Overrides(flags["nodes"], flags["rounds"], flags["key_bits"])


def _up_as_processes(file: Path, flags: dict[str, Any], console: Any) -> dict[str, Any]:
    from cipherfleet_deploy.local.run import RunOptions, run_fleet

    if flags["profile"] or flags["image"]:
        raise click.UsageError("--profile and --image are for --backend docker")
    if not flags["wait"]:
        raise click.UsageError("--backend process needs --wait: processes end with the command")
    options = RunOptions(_overrides(flags), seed=flags["seed"], out=flags["out"])
    return run_fleet(file, options, console)


def _up_in_containers(file: Path, flags: dict[str, Any], console: Any) -> dict[str, Any]:
    from cipherfleet_deploy.containers.engine import Engine
    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as OURS
    from cipherfleet_deploy.containers.run import UpOptions, bring_up, run_to_end

    options = UpOptions(
        _overrides(flags),
        flags["seed"],
        flags["out"],
        flags["image"] or OURS,
        read_profile(flags["profile"]) if flags["profile"] else None,
    )
    with Engine() as engine:
        return (run_to_end if flags["wait"] else bring_up)(engine, file, options, console)


def _show_figures(result: dict[str, Any]) -> None:
    """What containers have to tell beyond processes."""
    for name in ("emulated", "start", "memory_mib", "image"):
        told = result.get(name)
        if isinstance(told, dict):
            told = ", ".join(f"{key} {value}" for key, value in told.items() if value is not None)
        if told:
            click.echo(f"{name}: {told}")


@fleet.command()
@FILE
@AS_JSON
def status(file: Path, as_json: bool) -> None:
    """Say what each container is doing.

    Exit code 1 if there is none.

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
        click.echo(f"{each['name']:<20} {number:<12} {memory:<12} {each['told']}")
    if not states:
        _not_up(name)


@fleet.command()
@FILE
@click.argument("node", required=False)
@click.option("--tail", type=click.IntRange(1), default=10, show_default=True, help="lines")
@click.option("--follow", is_flag=True, help="go on as they speak, until all have ended")
def logs(file: Path, node: str | None, tail: int, follow: bool) -> None:
    """Print the last lines of the containers.

    All containers of the fleet of FILE, or the one of NODE.

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
            said = engine.follow(name, names, tail)
        else:
            said = (
                (each, line) for each in names for line in engine.log(name, each, tail).splitlines()
            )
        for each, line in said:
            click.echo(line if node else f"{each}: {line}")
    if not names:
        _not_up(name)


@fleet.command("exec", context_settings={"ignore_unknown_options": True})
@FILE
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(file: Path, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the container of NODE.

    Ends with the exit code of COMMAND.

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

    Its network, too. They are found by their label, so this also cleans up after a command that was
    killed. Keys, logs and results in the folder of `up` stay.

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

    The folders of its containers are written beside it.

    \b
    Example:
      cipherfleet fleet compose examples/average/fleet.yaml --out my-fleet
    """
    from rich.console import Console

    from cipherfleet_deploy.containers.compose import write_compose
    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as OURS
    from cipherfleet_deploy.containers.plan import container_user, prepare
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    profile = read_profile(flags["profile"]) if flags["profile"] else None
    found = load_fleet(file, _overrides(flags))
    containers = prepare(found, out, Simulation(seed=flags["seed"]), profile, Console(stderr=True))
    user = container_user(rootless=False)
    written = write_compose(found.file.fleet, containers, out, flags["image"] or OURS, user)
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
    help="members of a cluster of brokers; as many as broker.cluster has, else 1",
)
@click.option("--host", "hosts", multiple=True, help="a host that services go to, in turn")
@AS_JSON
def stack(
    file: Path, out: Path, brokers: int | None, hosts: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """Write stack.yaml for a Docker Swarm.

    The secrets of the fleet of FILE are written beside it. A volume stays on its host: without
    --host a node that Swarm moves begins without its state.

    \b
    Example:
      cipherfleet fleet stack examples/average/fleet.yaml --out my-fleet --brokers 3
    """
    from rich.console import Console

    from cipherfleet_deploy.containers.limits import read_profile
    from cipherfleet_deploy.containers.plan import IMAGE as OURS
    from cipherfleet_deploy.containers.plan import prepare
    from cipherfleet_deploy.containers.swarm_stack import write_stack
    from cipherfleet_node.settings.sections import Simulation
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    profile = read_profile(flags["profile"]) if flags["profile"] else None
    found, told = load_fleet(file, _overrides(flags)), Console(stderr=True)
    count = brokers or len(found.file.broker.hosts)
    if count % 2 == 0:
        note = f"note: {count} brokers are no safer than {count - 1}: more than half must be there"
        told.print(note, markup=False, highlight=False, soft_wrap=True)
    containers = prepare(found, out, Simulation(seed=flags["seed"]), profile, told, count)
    written = write_stack(containers, out, flags["image"] or OURS, hosts)
    if as_json:
        click.echo(json.dumps({"written": str(written), "services": len(containers)}))
    else:
        name = f"cipherfleet-{found.file.fleet.lower()}"
        deploy = ["docker", "stack", "deploy", "--compose-file", str(written), name]
        click.echo(f"wrote {written}: {shlex.join(deploy)}")


@fleet.command()
@click.option("--tag", help="its name, if not this version's own")
@click.option("--base", help="the image to begin with, if not the Dockerfile's")
@click.option("--offline", is_flag=True, help="pull nothing: base and wheels from here")
@click.option(
    "--platform",
    type=click.Choice(["linux/amd64", "linux/arm64"]),
    help="of boards: linux/arm64; its name ends in -arm64, and an emulator is needed here",
)
@AS_JSON
def image(
    tag: str | None, base: str | None, offline: bool, platform: str | None, as_json: bool
) -> None:
    """Build the image of nodes and brokers.

    It is built from this source. With --offline no registry of images is needed: a base is made of
    Debian's packages with mmdebstrap, and wheels are downloaded by the pip of this machine.

    \b
    Example:
      cipherfleet fleet image --offline
    """
    from cipherfleet_deploy.containers.engine import Engine
    from cipherfleet_deploy.containers.image import ImageOptions, build_image
    from cipherfleet_deploy.containers.plan import IMAGE as OURS

    machine = platform and platform.partition("/")[2]
    options = ImageOptions(tag or OURS, base, offline, machine)
    with Engine() as engine:
        made = build_image(engine, options, lambda text: click.echo(text, err=True))
    click.echo(json.dumps(made) if as_json else f"built {made['image']}, {made['mib']} MiB")


def _name_of(file: Path) -> str:
    from cipherfleet_provisioning.fleet.fleet import load_fleet

    return load_fleet(file).file.fleet


def check_node(names: list[str], node: str, fleet_name: str) -> None:
    """Raise CipherfleetError if no container is called *node*, with the *names* that there are."""
    from cipherfleet_node.errors import CipherfleetError
    from cipherfleet_node.settings.type_errors import meant

    if not names:
        _not_up(fleet_name)
    if node not in names:
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise CipherfleetError(
            f"no container of the fleet {fleet_name!r} is called {node!r}, there are "
            f"{', '.join(names[:NAMES_SHOWN])}{more}{meant(node, names)}"
        )


def _not_up(name: str) -> None:
    from cipherfleet_node.errors import CipherfleetError

    raise CipherfleetError(f"no container of a fleet {name!r} is there: cipherfleet fleet up FILE")
