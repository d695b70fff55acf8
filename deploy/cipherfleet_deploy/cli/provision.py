"""`cipherfleet provision`: bundle, enroll, update, rotate, revoke."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, EXIT_FAILED, Command, flagged, tell


@click.group()
def provision() -> None:
    """Prepare and change a fleet of devices.

    A set of files in DIR is replaced as a whole or not at all; DIR/current is the present one.

    \b
    Example:
      cipherfleet provision bundle fleet.yaml my-set
      cipherfleet provision enroll my-set --auto
    """


def reach_flags(timeout_s: float, margin_s: float) -> Callable[[Command], Command]:
    """The flags of the commands that talk to running nodes."""
    flags = [
        click.option("--broker", metavar="HOST:PORT", help="where it is (default: as in the set)"),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(0),
            default=timeout_s,
            show_default=True,
            help="seconds to wait for claims",
        ),
        click.option(
            "--margin",
            "margin_s",
            type=click.FloatRange(0),
            default=margin_s,
            show_default=True,
            help="seconds that running nodes get before new neighbours hold",
        ),
        AS_JSON,
    ]
    return lambda command: flagged(command, flags)


keys_flag = click.option(
    "--keys",
    "maker",
    type=click.Choice(["device", "operator"]),
    default="device",
    show_default=True,
    help="who makes the nodes' private keys; an operator who has them can read every reading",
)


set_argument = click.argument("home", metavar="DIR", type=click.Path(path_type=Path))


from_round_flag = click.option(
    "--from-round",
    type=click.IntRange(0),
    help="the round from which it holds (default: the highest heard of, and a margin)",
)


def _show_provision(told: dict[str, Any], *, as_json: bool) -> None:
    from cipherfleet_deploy.provision_session import show

    tell(told, show, as_json=as_json)


@provision.command()
@click.argument("file", type=click.Path(path_type=Path))
@set_argument
@keys_flag
@AS_JSON
def bundle(file: Path, home: Path, maker: Any, as_json: bool) -> None:
    """Write the set of the fleet of FILE to DIR.

    It holds an archive per node, the broker's files and a ledger. Keys that exist are kept; run
    twice it changes nothing.

    \b
    Example:
      cipherfleet provision bundle fleet.yaml my-set --keys operator
    """
    from rich.console import Console

    from cipherfleet_deploy.provision_session import bundle as make

    _show_provision(make(file, home, maker, Console(stderr=True)), as_json=as_json)


@provision.command()
@set_argument
@click.option("--auto", is_flag=True, help="believe every sound claim with the right token")
@click.option("--approve", "approved", metavar="ID", multiple=True, help="believe this node's")
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

    An approved device gets its neighbours. Without --auto and --approve it asks, on a terminal;
    compare the fingerprint with the one in the device's log. Exit code 1 when a claim is refused,
    or one to be approved was not made.

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
    told = run_enroll(home, consent, Reach(broker, margin_s, timeout_s))
    _show_provision(told, as_json=as_json)
    if told["refused"] or told["not_seen"]:
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
    """Tell a running fleet that FILE has changed.

    Nodes may be added or removed, edges may change. Every node concerned gets its new neighbours,
    which take effect at one round. Reload the broker's rules before.

    \b
    Example:
      cipherfleet provision update fleet.yaml my-set --from-round 5000
    """
    from rich.console import Console

    from cipherfleet_deploy.provision_session import Reach
    from cipherfleet_deploy.provision_session import update as run_update

    reach = Reach(broker, margin_s, timeout_s)
    told = run_update(file, home, maker, from_round, reach, Console(stderr=True))
    _show_provision(told, as_json=as_json)


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

    The device makes its new keys itself. A new certificate is for the key that it has.

    \b
    Example:
      cipherfleet provision rotate my-set n7 --certificate
    """
    from cipherfleet_deploy.provision_session import Reach
    from cipherfleet_deploy.provision_session import rotate as run_rotate

    told = run_rotate(home, node, what, from_round, Reach(broker, margin_s, timeout_s))
    _show_provision(told, as_json=as_json)


@provision.command()
@set_argument
@click.argument("node")
@click.option("--broker", metavar="HOST:PORT", help="where it is (default: as in the set)")
@AS_JSON
def revoke(home: Path, node: str, broker: str | None, as_json: bool) -> None:
    """Take NODE out of the fleet at once.

    Its neighbours accept nothing from it any more.

    \b
    Example:
      cipherfleet provision revoke my-set n7
    """
    from cipherfleet_deploy.provision_session import Reach, revoke_node

    _show_provision(revoke_node(home, node, Reach(broker)), as_json=as_json)
