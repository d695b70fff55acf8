"""`cipherfleet provision`: all subcommands but seed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import AS_JSON, EXIT_FAILED, Command, Flag, print_result, with_options

if TYPE_CHECKING:
    from cipherfleet_deploy.provision_results import ProvisionResult


@click.group()
def provision() -> None:
    """Prepare and change a fleet of devices.

    Each command works on the provisioned set in DIR. A command replaces the set as a whole or not
    at all. DIR/current is the present set.

    \b
    Example:
      cipherfleet provision bundle fleet.yaml my-set
      cipherfleet provision broker my-set --install
      cipherfleet provision enroll my-set --auto
    """


broker_flag = click.option(
    "--broker", metavar="HOST:PORT", help="address of the broker (default: from the set)"
)


def margin_flag(margin_s: float) -> Flag:
    """Add the option --margin with the default *margin_s*."""
    return click.option(
        "--margin",
        "margin_s",
        type=click.FloatRange(0),
        default=margin_s,
        show_default=True,
        help="seconds before new neighbours take effect on running nodes",
    )


def reach_flags(timeout_s: float, margin_s: float) -> Callable[[Command], Command]:
    """Add the options of the commands that talk to running nodes."""
    flags: list[Flag] = [
        broker_flag,
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(0),
            default=timeout_s,
            show_default=True,
            help="seconds to wait for claims from devices",
        ),
        margin_flag(margin_s),
        AS_JSON,
    ]
    return lambda command: with_options(command, flags)


keys_flag = click.option(
    "--keys",
    "maker",
    type=click.Choice(["device", "operator"]),
    default="device",
    show_default=True,
    help="who generates the nodes' private keys; with 'operator', the operator can decrypt "
    "everything",
)


set_argument = click.argument("home", metavar="DIR", type=click.Path(path_type=Path))


from_round_flag = click.option(
    "--from-round",
    type=click.IntRange(0),
    help="round at which the change takes effect (default: the highest reported round, plus a "
    "margin)",
)


def _print_provision_result(result: ProvisionResult, *, as_json: bool) -> None:
    from cipherfleet_deploy.provision_results import show

    print_result(result, show, as_json=as_json)


@provision.command()
@click.argument("file", type=click.Path(path_type=Path))
@set_argument
@keys_flag
@AS_JSON
def bundle(file: Path, home: Path, maker: Any, as_json: bool) -> None:
    """Write a set for the fleet of FILE to DIR.

    The set holds one archive per node, the broker's files and a ledger. Existing keys are kept. A
    second run changes nothing.

    \b
    Example:
      cipherfleet provision bundle fleet.yaml my-set --keys operator
    """
    from rich.console import Console

    from cipherfleet_deploy.provision_session import bundle as make

    _print_provision_result(make(file, home, maker, Console(stderr=True)), as_json=as_json)


@provision.command()
@set_argument
@click.option(
    "--install", "installing", is_flag=True, help="install the files on this machine, as root"
)
@click.option("--host", help="the broker's host, where the set has several brokers")
@AS_JSON
def broker(home: Path, installing: bool, host: str | None, as_json: bool) -> None:
    """Set up mosquitto with the files of DIR.

    Without --install, prints where the files are, and the commands that install them on another
    machine. With --install, writes them to /etc/cipherfleet-broker and /etc/mosquitto/conf.d,
    restarts mosquitto if they have changed, and checks that it answers. A second run changes
    nothing. Run it again after each change of the fleet. Exit code 4 when the broker does not
    answer. The variable DESTDIR is a prefix of all paths; no service is started then.

    \b
    Example:
      cipherfleet provision broker my-set --install
    """
    from cipherfleet_deploy.broker_setup import describe_setup, install, show
    from cipherfleet_node.errors import BrokerUnreachable

    if installing:
        result = install(home, host, os.environ.get("DESTDIR", ""))
    else:
        result = describe_setup(home, host)
    print_result(result, show, as_json=as_json)
    if result.answers is False:
        sys.exit(BrokerUnreachable.exit_code)


@provision.command()
@set_argument
@click.option("--auto", is_flag=True, help="accept every valid claim that carries the right token")
@click.option(
    "--approve", "approved", metavar="ID", multiple=True, help="accept the claim of this node"
)
@reach_flags(10.0, 10.0)
def enroll(
    home: Path,
    auto: bool,
    approved: tuple[str, ...],
    broker: str | None,
    timeout_s: float,
    margin_s: float,
    as_json: bool,
) -> None:
    """Approve the claims of new devices.

    Each approved device receives its neighbours. Without --auto and --approve, the command asks
    on a terminal. Compare the fingerprint with the one in the device's log. Exit code 1 when a
    claim is refused, or when a node given with --approve made no claim.

    \b
    Example:
      cipherfleet provision enroll my-set --approve n1 --approve n2
    """
    from cipherfleet_deploy.provision_session import Consent, Reach
    from cipherfleet_deploy.provision_session import enroll as run_enroll

    def ask(examined: Any) -> bool:
        return click.confirm(f"{examined.node} with fingerprint {examined.fingerprint}?", err=True)

    asking = ask if sys.stdin.isatty() and not (auto or approved) else None
    consent = Consent(auto, approved, asking)
    result = run_enroll(home, consent, Reach(broker, margin_s, timeout_s))
    _print_provision_result(result, as_json=as_json)
    if result.refused or result.not_seen:
        sys.exit(EXIT_FAILED)


@provision.command()
@click.argument("file", type=click.Path(path_type=Path))
@set_argument
@keys_flag
@from_round_flag
@reach_flags(10.0, 30.0)
def update(
    file: Path,
    home: Path,
    maker: Any,
    from_round: int | None,
    broker: str | None,
    timeout_s: float,
    margin_s: float,
    as_json: bool,
) -> None:
    """Apply a changed FILE to a running fleet.

    Nodes may be added or removed, and edges may change. Every affected node receives its new
    neighbours. All of them take effect at the same round. Reload the broker's rules before.

    \b
    Example:
      cipherfleet provision update fleet.yaml my-set --from-round 5000
    """
    from rich.console import Console

    from cipherfleet_deploy.provision_session import Reach
    from cipherfleet_deploy.provision_session import update as run_update

    reach = Reach(broker, margin_s, timeout_s)
    result = run_update(file, home, maker, from_round, reach, Console(stderr=True))
    _print_provision_result(result, as_json=as_json)


@provision.command()
@set_argument
@click.argument("node")
@click.option("--keys", "what", flag_value="keys", default=True, help="new keys (the default)")
@click.option("--certificate", "what", flag_value="certificate", help="a new certificate")
@from_round_flag
@reach_flags(60.0, 10.0)
def rotate(
    home: Path,
    node: str,
    what: str,
    from_round: int | None,
    broker: str | None,
    timeout_s: float,
    margin_s: float,
    as_json: bool,
) -> None:
    """Give NODE new keys or a new certificate.

    The device generates its new keys itself. A new certificate is for the device's present key.

    \b
    Example:
      cipherfleet provision rotate my-set n7 --certificate
    """
    from cipherfleet_deploy.provision_session import Reach
    from cipherfleet_deploy.provision_session import rotate as run_rotate

    result = run_rotate(home, node, what, from_round, Reach(broker, margin_s, timeout_s))
    _print_provision_result(result, as_json=as_json)


@provision.command()
@set_argument
@click.argument("node")
@keys_flag
@broker_flag
@margin_flag(10.0)
@AS_JSON
def replace(
    home: Path, node: str, maker: Any, broker: str | None, margin_s: float, as_json: bool
) -> None:
    """Prepare a new device for NODE.

    For a device that is broken or lost. NODE gets a new bundle, its former keys and its card are
    forgotten, and the other nodes continue. They accept the new device when its claim is accepted
    (enroll). The certificate of the former device stays valid until it expires: revoke a stolen
    one.

    \b
    Example:
      cipherfleet provision replace my-set n7
      cipherfleet provision seed n7 my-set --image raspios.img
      cipherfleet provision enroll my-set --approve n7
    """
    from rich.console import Console

    from cipherfleet_deploy.provision_session import Reach
    from cipherfleet_deploy.provision_session import replace as run_replace

    result = run_replace(home, node, maker, Reach(broker, margin_s), Console(stderr=True))
    _print_provision_result(result, as_json=as_json)


@provision.command()
@set_argument
@click.argument("node")
@broker_flag
@AS_JSON
def revoke(home: Path, node: str, broker: str | None, as_json: bool) -> None:
    """Remove NODE from the fleet at once.

    Its neighbours accept no further message from it. This is done whatever it leaves of the graph.
    Warnings name the problems of the rest, and the edges that repair it. Use it for a device that
    is stolen; for one that is broken or lost, see replace.

    \b
    Example:
      cipherfleet provision revoke my-set n7
    """
    from cipherfleet_deploy.provision_session import Reach, revoke_node

    _print_provision_result(revoke_node(home, node, Reach(broker)), as_json=as_json)
