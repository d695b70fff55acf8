"""The command `cipherfleet`: its subcommands and its exit codes.

Commands import what they need when they run. `--help` and usage errors answer at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cipherfleet_deploy.interrupts import EXIT_INTERRUPTED, is_interrupted
from cipherfleet_deploy.result_schemas import FLEET_FILE, make_schema, schema_names
from cipherfleet_node import __version__
from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .fleet import fleet
from .fleet_files import compose, stack
from .init import init
from .options import AS_JSON, EXIT_FAILED, print_json, print_result
from .provision import provision
from .run import demo, run
from .seed import seed

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "cipherfleet"


def main() -> None:
    """Run the command line. A failure is one line on standard error and an exit code."""
    _replace_what_cannot_be_shown()
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except ConfigError as error:
        _fail_config(error)
    except CipherfleetError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", EXIT_INTERRUPTED)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "cipherfleet"
        _fail(f"{error.format_message().rstrip('.?')}; see {command} --help", error.exit_code)
    except OSError as error:  # such as a full disk or a folder without write permission
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_FAILED)
    except ModuleNotFoundError:
        raise  # __main__ handles it: it says what to install, or that it was interrupted
    except Exception as error:  # the text of an unexpected error may hold a reading: show its place
        if sys.flags.dev_mode:
            raise
        _fail(_describe_bug(error), EXIT_FAILED)


def _replace_what_cannot_be_shown() -> None:
    """Print a question mark for a character such as "°" where the locale has none, and go on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _describe_bug(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"internal error, {type(error).__name__} at {Path(place.filename).name}:"
        f"{place.lineno}; please report it (PYTHONDEVMODE=1 prints the traceback)"
    )


def _fail(text: str, code: int) -> NoReturn:
    if is_interrupted():  # the failure may be a consequence of the interrupt
        text, code = "interrupted", EXIT_INTERRUPTED
    _print_error(f"{PROGRAM}: {text}")
    sys.exit(code)


def _fail_config(error: ConfigError) -> NoReturn:
    """Print every error in the operator's files, each with the line of the file it is in."""
    from .error_excerpts import error_lines

    for line in error_lines(error, PROGRAM):
        _print_error(line)
    sys.exit(error.exit_code)


def _print_error(text: str) -> None:
    """Print *text* on one line: names of files and their content may hold control characters."""
    click.echo(one_line(text), err=True)


class Commands(click.Group):
    """The commands of this package and those of the harness and the lab.

    The harness and the lab import this package, and this package never imports them. They declare
    their commands as entry points of the group `cipherfleet.commands`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_command_entry_points().names})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* begin with; an unknown name fails with a suggestion."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from cipherfleet_node.settings.type_errors import did_you_mean

            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command *cmd_name*; a command of another package is imported only here."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _command_entry_points().names:
            return own
        loaded: click.Command = _command_entry_points()[cmd_name].load()
        return loaded


@cache
def _command_entry_points() -> EntryPoints:
    return entry_points(group="cipherfleet.commands")


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run sensor fleets that solve a joint problem.

    Each node keeps its readings. Nodes exchange only ciphertexts, and their estimates converge to
    one answer.

    \b
    Example:
      cipherfleet demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _refuse_repetition(
    _context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> str | None:
    """Return the value of an option. Refuse a second value: click would drop the first one."""
    if len(given) > 1:
        raise click.BadParameter(f"{option.opts[0]} is given {len(given)} times, give it once")
    return given[0] if given else None


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--strict", is_flag=True, help="warnings are failures too, for continuous integration"
)
@click.option(
    "--profile",
    type=click.Choice(["pi-zero-2", "pi-4", "pi-5", "host"]),
    multiple=True,
    callback=_refuse_repetition,
    help="estimate the round time on this board; an estimate, not a measurement",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CARD",
    help="predict the round time from this file, which cipherfleet bench calibrate has written",
)
@AS_JSON
def check(
    file: Path, strict: bool, profile: str | None, calibration: Path | None, as_json: bool
) -> None:
    """Check privacy and settings before a run.

    Reports what each participant of the fleet in FILE could learn, and whether the settings are
    sound. Predicts convergence, headroom, traffic, mixing, the final error and the round time.
    Sends and writes nothing. Exit code 1 when a finding fails, 3 when FILE is not a valid fleet.

    \b
    Example:
      cipherfleet check examples/intel_lab/fleet.yaml --profile pi-4
    """
    # Threads of linear algebra wait for each other. On a busy machine they take ten times as long
    # as a single thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from cipherfleet_deploy.check.check import check_fleet, passes, show

    result = check_fleet(file, profile, calibration)
    print_result(result, show, as_json=as_json)
    if not passes(result, strict=strict):
        sys.exit(EXIT_FAILED)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--broker", metavar="HOST:PORT", help="test this running broker")
@AS_JSON
def doctor(file: Path | None, broker: str | None, as_json: bool) -> None:
    """Diagnose this machine, and FILE if given.

    FILE is a fleet.yaml. Prints one line per check: ok, warn, fail or skip, what was found, and the
    remedy. Exit code 1 when a check fails, 3 when FILE is not a valid fleet, 4 when only the broker
    is unreachable. On a device: cipherfleet-node doctor.

    \b
    Example:
      cipherfleet doctor my-fleet/fleet.yaml --broker 192.168.1.5:1883
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in check

    from datetime import UTC, datetime

    from cipherfleet_deploy.doctor import describe_findings, examine

    findings = []
    for finding in examine(file, broker, datetime.now(UTC)):
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    result = describe_findings(findings)
    if as_json:
        print_json(result)
    sys.exit(result.exit_code)


@cli.command()
@click.argument("place", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option(
    "--broker", metavar="HOST:PORT", help="address of the broker (default: from FILE or DIR)"
)
@click.option("--once", is_flag=True, help="show the fleet once, when every node has reported")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="stop after this time (default: run until interrupted, with --once 10)",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object for every change")
@click.option("--page", is_flag=True, help="serve a page for a browser, until interrupted")
@click.option("--port", type=click.IntRange(0, 65535), help="of the page (default: 8080)")
@click.option("--host", help="address that serves the page (default: 127.0.0.1); needs --token")
@click.option(
    "--token",
    envvar="CIPHERFLEET_PAGE_TOKEN",
    help="admit only browsers that open the page with ?token=TOKEN",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="show on the page what watch --json has printed into RECORD",
)
def watch(
    place: Path,
    page: bool,
    port: int | None,
    host: str | None,
    token: str | None,
    replay: Path | None,
    **flags: Any,
) -> None:
    """Show the state of every running node.

    Shows the state, round, round time and faults of each node, from the signed reports that nodes
    send. Reports contain no reading and no estimate. FILE is a fleet.yaml. DIR is a provisioned
    set, or the --out folder of run or fleet up. Exit code 4 when no broker answers.

    With --page, a browser shows them, with their history and the graph of the fleet. It also shows
    a run that has finished.

    \b
    Example:
      cipherfleet watch cipherfleet-out/intel-lab-20260102-030405
      cipherfleet watch my-set --page
    """
    from cipherfleet_deploy.watch.watch import WatchOptions

    given = {"port": port, "host": host, "replay": replay}
    if not page:
        _refuse_without_page(given)

        from rich.console import Console

        from cipherfleet_deploy.watch.watch import watch as run_watch

        run_watch(place, WatchOptions(**flags), Console())
        return
    if flags["once"] or flags["as_json"]:
        raise click.UsageError("--page cannot be combined with --once or --json")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in check

    from cipherfleet_deploy.watch.page.serve import PageOptions, access_problem, show_page

    chosen: dict[str, Any] = {**given, "token": token}
    options = PageOptions(**{name: value for name, value in chosen.items() if value is not None})
    if problem := access_problem(options):
        raise click.UsageError(problem)
    watching = WatchOptions(**flags, is_endless=True)
    show_page(place, watching, options, lambda address: click.echo(f"page: {address}"))


def _refuse_without_page(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"--{name} is an option of --page, which is not given")


# A click.Choice would read the names of other packages at the start of every command.
def _check_schema_name(context: click.Context, option: click.Parameter, name: str) -> str:
    return click.Choice(schema_names()).convert(name, option, context)


def _complete_schema_name(
    context: click.Context, option: click.Parameter, begun: str
) -> list[CompletionItem]:
    return click.Choice(schema_names()).shell_complete(context, option, begun)


@cli.command()
@click.option(
    "--of",
    "name",
    callback=_check_schema_name,
    shell_complete=_complete_schema_name,
    default=FLEET_FILE,
    metavar="NAME",
    help="what the schema describes",
)
@click.option("--names", is_flag=True, help="print the names of all schemas")
def schema(name: str, names: bool) -> None:
    """Print the JSON Schema of fleet.yaml.

    An editor can use it to check a fleet.yaml as you type. The first line of the file names the
    schema, as in examples/average/fleet.yaml: `# yaml-language-server: $schema=PATH`. A schema
    cannot express rules over several values, such as a connected graph or missing readings. Use
    `cipherfleet check` for these.

    With --of, prints the schema of what a command prints with --json.

    \b
    NAME is one of:
      fleet (fleet.yaml, the default)
      run-result watch-result init-result check-result doctor-result
      bundle-result broker-result enroll-result update-result rotate-result
      replace-result revoke-result seed-result seed-all-result
      up-result status-result down-result compose-result stack-result image-result
      answer-result sense-result
    or a result of bench, simulate, figures or attack (see --names).

    \b
    Example:
      cipherfleet schema > fleet.schema.json
      cipherfleet schema --of run-result
    """
    click.echo("\n".join(schema_names()) + "\n" if names else make_schema(name), nl=False)


fleet.add_command(compose)
fleet.add_command(stack)
provision.add_command(seed)
for command in (demo, fleet, init, provision, run):
    cli.add_command(command)
