"""`cipherfleet`: the operator's command line."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, NoReturn

import click

from cipherfleet_deploy.cli.provision import provision  # moved
from cipherfleet_deploy.interrupts import EXIT_INTERRUPTED, is_interrupted
from cipherfleet_node import __version__
from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .fleet import fleet
from .options import AS_JSON, EXIT_FAILED, SIZES, Command, flagged, tell
from .seed import seed

DEMO_NODES = 10
PROGRAM = "cipherfleet"


def main() -> None:
    """Run the command line; every failure is one line, every mistake one, and an exit code."""
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except ConfigError as error:
        _fail_at(error)
    except CipherfleetError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", EXIT_INTERRUPTED)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "cipherfleet"
        _fail(f"{error.format_message().rstrip('.?')}; see {command} --help", error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_FAILED)
    except ModuleNotFoundError:
        raise  # __main__ says what to install, or that it was interrupted
    except Exception as error:  # what nobody foresaw: its text may hold a reading, its place not
        if sys.flags.dev_mode:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        _fail(
            f"a fault of ours, {type(error).__name__} at {Path(place.filename).name}:"
            f"{place.lineno}; please report it (PYTHONDEVMODE=1 shows the way there)",
            EXIT_FAILED,
        )


def _fail(text: str, code: int) -> NoReturn:
    if is_interrupted():  # whatever came of it
        text, code = "interrupted", EXIT_INTERRUPTED
    _tell(f"{PROGRAM}: {text}")
    sys.exit(code)


def _fail_at(error: ConfigError) -> NoReturn:
    """Every mistake in the operator's files, each with the line that it stands on."""
    from .error_excerpts import complaints

    for line in complaints(error, PROGRAM):
        _tell(line)
    sys.exit(error.exit_code)


def _tell(text: str) -> None:
    """One line, whatever a file is called or holds: control characters are written as escapes."""
    click.echo(one_line(text), err=True)


def run_flags(command: Command) -> Command:
    """The flags that `demo` and `run` share."""
    flags = [
        *SIZES,
        click.option(
            "--broker",
            default="embedded",
            show_default=True,
            metavar="embedded|mosquitto|HOST:PORT",
            help="which broker to run, or to use",
        ),
        click.option("--out", type=click.Path(path_type=Path), help="folder for logs and results"),
        AS_JSON,
    ]
    return flagged(command, flags)


class Commands(click.Group):
    """Commands of this package, and those that the packages above it bring along.

    The harness and the lab import this package, never the other way round: they name their commands
    as entry points of the group `cipherfleet.commands`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted({*super().list_commands(ctx), *_brought_along().names})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that *args* begin with; a name that is none is answered with a near one."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from cipherfleet_node.settings.type_errors import meant

            ctx.fail(f"no such command {args[0]!r}{meant(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called *cmd_name*; what is brought along is imported only then."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _brought_along().names:
            return own
        loaded: click.Command = _brought_along()[cmd_name].load()
        return loaded


@cache
def _brought_along() -> EntryPoints:
    return entry_points(group="cipherfleet.commands")


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run sensor fleets that agree on one answer.

    Only ciphertexts travel between the nodes.

    \b
    Example:
      cipherfleet demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@run_flags
def demo(nodes: int | None, **flags: Any) -> None:
    """Fit real sensor readings on this machine.

    Ten motes of the Intel lab data, real daemons, a real broker; ends with the fleet's answer
    beside the one of a solver that sees all readings.

    \b
    Example:
      cipherfleet demo --nodes 50 --rounds 20
    """
    _run(example("intel_lab") / "fleet.yaml", nodes=nodes or DEMO_NODES, **flags)


@cli.command()
@click.argument("folder", metavar="DIR")
@click.option(
    "--nodes", type=click.IntRange(2, 10_000), default=9, show_default=True, help="how many nodes"
)
@click.option(
    "--topology",
    default="ring",
    show_default=True,
    metavar="KIND",
    help="ring, line, star, grid, torus, complete, random_regular, erdos_renyi, small_world, "
    "geometric, file or edges",
)
@click.option(
    "--key-bits",
    type=click.IntRange(256, 8192),
    default=2048,
    show_default=True,
    help="Paillier key size; below 2048 is unsafe",
)
@AS_JSON
def init(folder: str, nodes: int, topology: str, key_bits: int, as_json: bool) -> None:
    """Write a fleet.yaml to begin with into DIR.

    It runs as it is; its comments say what can be changed. Nothing is overwritten.

    \b
    Example:
      cipherfleet init my-fleet --nodes 12 --topology geometric
    """
    from cipherfleet_provisioning.fleet.template import Plan, write_template

    if not folder.strip():
        raise click.UsageError("DIR is empty: name a folder, or . for this one")
    plan = Plan(nodes, topology, key_bits)
    written = [str(file) for file in write_template(Path(folder), plan)]
    if as_json:
        click.echo(json.dumps({"written": written}))
    else:
        click.echo("".join(f"wrote {file}\n" for file in written), nl=False)
        click.echo(f"try it: cipherfleet run {shlex.quote(written[-1])} --rounds 3")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@run_flags
def run(file: Path, **flags: Any) -> None:
    """Run the fleet of FILE on this machine.

    FILE is a fleet.yaml. Every node is a daemon of its own. In the table of results, `silent`
    counts the answers that did not come in time, `rejected` the messages that nodes refused, and
    `restarts` the daemons that ended early and were started again.

    \b
    Example:
      cipherfleet run examples/average/fleet.yaml --json
    """
    _run(file, **flags)


def _given_once(
    _context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> str | None:
    """The value of an option; a second one is refused, where click would drop the first."""
    if len(given) > 1:
        raise click.BadParameter(f"{option.opts[0]} is given {len(given)} times, give it once")
    return given[0] if given else None


def _run(
    file: Path,
    *,
    nodes: int | None,
    rounds: int | None,
    key_bits: int | None,
    seed: int | None,
    broker: str,
    out: Path | None,
    as_json: bool,
) -> None:
    # Imported here: --help and mistakes in the command line must not wait for them.
    from rich.console import Console

    from cipherfleet_deploy.local.run import RunOptions, run_fleet, show_result
    from cipherfleet_provisioning.fleet.file import Overrides

    options = RunOptions(Overrides(nodes, rounds, key_bits), broker, seed, out)
    result = run_fleet(file, options, Console(stderr=True))
    tell(result, show_result, as_json=as_json)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="fail at warnings too, for continuous integration")
@click.option(
    "--profile",
    type=click.Choice(["pi-zero-2", "pi-4", "pi-5", "host"]),
    multiple=True,
    callback=_given_once,
    help="boards to estimate the round time for; an estimate, never a measurement",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CARD",
    help="a board's measured card, to predict the round time from",
)
@AS_JSON
def check(
    file: Path, strict: bool, profile: str | None, calibration: Path | None, as_json: bool
) -> None:
    """Say who would learn what in a fleet.

    Also what to expect of the fleet of FILE: whether its schedule can converge, headroom, traffic,
    mixing, the error at the end, the time of a round. Nothing is sent or written. Exit code 1 when
    a finding fails, 3 when FILE is no valid fleet.

    \b
    Example:
      cipherfleet check examples/intel_lab/fleet.yaml --profile pi-4
    """
    # Threads of linear algebra wait for each other: on a busy machine ten times as long as one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from cipherfleet_deploy.check.check import check_fleet, passes, show

    told = check_fleet(file, profile, calibration)
    tell(told, show, as_json=as_json)
    if not passes(told, strict=strict):
        sys.exit(EXIT_FAILED)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--broker", metavar="HOST:PORT", help="a running broker to try")
@AS_JSON
def doctor(file: Path | None, broker: str | None, as_json: bool) -> None:
    """Find faults of this machine and of FILE.

    FILE is a fleet.yaml. One line for each thing: ok, warn, fail or skip, what was found, and the
    mend. Exit code 1 when something fails, 3 when FILE is no valid fleet, 4 when only the broker is
    unreachable. On a device: cipherfleet-node doctor.

    \b
    Example:
      cipherfleet doctor my-fleet/fleet.yaml --broker 192.168.1.5:1883
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in check

    from dataclasses import asdict
    from datetime import UTC, datetime

    from cipherfleet_deploy.doctor import examine, exit_code

    findings = []
    for finding in examine(file, broker, datetime.now(UTC)):
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    code = exit_code(findings)
    if as_json:
        told = {"findings": [asdict(each) for each in findings], "exit_code": code}
        click.echo(json.dumps(told))
    sys.exit(code)


@cli.command()
@click.argument("place", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option("--broker", metavar="HOST:PORT", help="where it is (default: as FILE or DIR says)")
@click.option("--once", is_flag=True, help="show the fleet once, when every node has told")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="end after so long (default: never, with --once 10)",
)
@click.option("--json", "as_json", is_flag=True, help="print a JSON object for every change")
def watch(place: Path, **flags: Any) -> None:
    """Show the state of every running node.

    Also its round, round time and faults. FILE is a fleet.yaml, DIR a provisioned set or the --out
    folder of run or fleet up. Nodes report it themselves; no reading and no estimate is in it.
    Exit code 4 when no broker answers.

    \b
    Example:
      cipherfleet watch cipherfleet-out/intel-lab-20260102-030405
    """
    from rich.console import Console

    from cipherfleet_deploy.watch.watch import WatchOptions
    from cipherfleet_deploy.watch.watch import watch as run_watch

    run_watch(place, WatchOptions(**flags), Console())


@cli.command()
def schema() -> None:
    """Print the JSON Schema of fleet.yaml.

    It is for editors that check while one types. An editor finds it by the first line of the file,
    as in examples/average/fleet.yaml: `# yaml-language-server: $schema=PATH`. What depends on
    several values at once (a graph that is not connected, readings that are not there) only
    `cipherfleet run` finds.

    \b
    Example:
      cipherfleet schema > fleet.schema.json
    """
    from cipherfleet_provisioning.fleet.schema import schema_text

    click.echo(schema_text(), nl=False)


provision.add_command(seed)
cli.add_command(fleet)
cli.add_command(provision)


def example(name: str) -> Path:
    """The folder of an example: inside an installed wheel, or beside the source."""
    package = Path(__file__).parents[1]
    installed = package / "examples" / name
    return installed if installed.is_dir() else package.parents[1] / "examples" / name
