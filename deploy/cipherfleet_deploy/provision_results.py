"""Results of the commands of `cipherfleet provision`, and their display."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

import msgspec
from rich.console import Console

from cipherfleet_provisioning.claims import ReviewedClaim
from cipherfleet_provisioning.ledger import Ledger, Maker
from cipherfleet_provisioning.memberships import Pace
from cipherfleet_provisioning.sets import ARCHIVES, NODES

from .progress import print_line


class SetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The provisioned set after a command; `--json` prints the keys of all results in this order.

    Lists of nodes hold their ids.
    """

    fleet: str
    set: str  # the folder DIR/current
    version: int  # of the memberships; it rises whenever memberships are signed
    nodes: int
    enrolled: list[str]
    pending: list[str]
    revoked: list[str]
    operator: str  # the operator's public key


class FleetPace(msgspec.Struct, frozen=True, kw_only=True):
    """The pace of the running fleet, from which the round of a change was computed."""

    highest: int  # the highest plausible round
    node: str  # the node that reported it
    round_s: float
    heard: int  # number of nodes that reported
    ignored: list[str]  # nodes whose round is implausibly high
    margin_s: float  # time before the change takes effect


class SignedUpdates(msgspec.Struct, frozen=True, kw_only=True):
    """The memberships that a command has signed."""

    notified: list[str]
    from_round: int | None  # at which they take effect; None: there are none
    pace: FleetPace | None  # None: it was not needed


class BundleResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision bundle`."""

    changed: bool
    wall_s: float


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """The claim of one device."""

    node: str
    fingerprint: str  # of its keys; empty if they cannot be read
    trouble: str  # the problem in the claim; empty if it is valid
    enrolled: bool


class EnrollResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision enroll`."""

    claims: list[ClaimResult]
    newly_enrolled: list[str]
    refused: dict[str, str]  # the problem in the claim, by node
    not_seen: list[str]  # nodes given with --approve that made no claim
    awaited: list[str]  # nodes whose neighbours have not all enrolled
    notified: list[str]  # nodes that new neighbours were sent to
    from_round: int | None  # at which the new neighbours take effect
    pace: FleetPace | None


class UpdateResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision update`."""

    changed: bool
    added: list[str]
    removed: list[str]
    former_edges: int  # removed edges that the broker still allows
    awaited: list[str]
    notified: list[str]
    from_round: int | None
    pace: FleetPace | None
    reload: str | None  # how to reload the broker's rules; None: they have not changed


class RotateResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision rotate`."""

    node: str
    fingerprint: str
    awaited: list[str]
    notified: list[str]
    from_round: int | None
    pace: FleetPace | None


class ReplaceResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision replace`."""

    node: str
    keys: Maker  # who makes its new keys
    former_card: str | None  # the id of its card, which is forgotten; None: it had no card
    awaited: list[str]
    notified: list[str]
    from_round: int | None
    pace: FleetPace | None
    reload: str | None


class RevokeResult(SetSummary, frozen=True, kw_only=True):
    """The result of `provision revoke`."""

    changed: bool
    node: str
    notified: list[str]
    from_round: int
    awaited: list[str]  # they have dropped the node, and wait for keys of their new neighbours
    warnings: list[str]  # the problems of the remaining graph, and then the remedy
    reload: str | None


ProvisionResult = (
    BundleResult | EnrollResult | UpdateResult | RotateResult | ReplaceResult | RevokeResult
)


def describe_set(home: Path, ledger: Ledger) -> SetSummary:
    return SetSummary(
        fleet=ledger.fleet,
        set=str(home / "current"),
        version=ledger.version,
        nodes=len(ledger.present),
        enrolled=ledger.list_members("enrolled"),
        pending=ledger.list_members("pending"),
        revoked=ledger.list_members("revoked"),
        operator=ledger.operator,
    )


def describe_claim(claim: ReviewedClaim, ledger: Ledger) -> ClaimResult:
    entry = ledger.members.get(claim.node)
    return ClaimResult(
        node=claim.node,
        fingerprint=claim.fingerprint,
        trouble=claim.problem,
        enrolled=entry is not None and entry.fingerprint == claim.fingerprint != "",
    )


def describe_pace(pace: Pace, margin_s: float) -> FleetPace:
    return FleetPace(
        highest=pace.highest,
        node=pace.node,
        round_s=pace.round_s,
        heard=pace.heard,
        ignored=list(pace.ignored),
        margin_s=margin_s,
    )


def show(result: ProvisionResult, console: Console) -> None:
    """Print *result* line by line."""
    for line in _lines(result):
        print_line(console, line)


def _lines(result: ProvisionResult) -> Iterator[str]:
    match result:
        case BundleResult():
            yield _summary_line(result)
            yield from _unchanged_lines(result.changed)
        case EnrollResult():
            yield from map(_claim_line, result.claims)
            yield from _list_lines("newly enrolled", result.newly_enrolled)
            yield from _list_lines("not seen", result.not_seen)
            yield from _update_lines(result.notified, result.from_round, result.pace)
            yield from _awaited_lines(result.awaited)
            yield _summary_line(result)
        case UpdateResult():
            yield from _list_lines("added", result.added)
            yield from _list_lines("removed", result.removed)
            yield from _update_lines(result.notified, result.from_round, result.pace)
            yield from _awaited_lines(result.awaited)
            yield _summary_line(result)
            yield from _unchanged_lines(result.changed)
            yield from filter(None, [result.reload])
            yield from _former_edges_lines(result.former_edges)
        case RotateResult():
            yield from _update_lines(result.notified, result.from_round, result.pace)
            yield from _awaited_lines(result.awaited)
            yield _summary_line(result)
        case ReplaceResult():
            yield from _update_lines(result.notified, result.from_round, result.pace)
            yield from _awaited_lines(result.awaited)
            yield _summary_line(result)
            yield from filter(None, [result.reload])
            yield from _replace_steps(result)
        case RevokeResult():
            yield from _update_lines(result.notified, result.from_round, None)
            yield from _awaited_lines(result.awaited)
            yield _summary_line(result)
            yield from _unchanged_lines(result.changed)
            yield from filter(None, [result.reload])
            yield from (f"warning: {warning}" for warning in result.warnings)
        case _:
            assert_never(result)
    yield f"provisioned set: {result.set} ({NODES}, archives, broker, operator)"
    yield from _next_step_lines(result)


def _next_step_lines(result: ProvisionResult) -> Iterator[str]:
    """Yield the commands that follow *result*, in their order."""
    home = shlex.quote(str(Path(result.set).parent))
    broker = (
        f"set up the broker, on its machine, as root: cipherfleet provision broker {home} --install"
    )
    cards = (
        f"write the cards: cipherfleet provision seed --all {home} --python 3.13 --image IMAGE.img "
        "--out cards"
    )
    enrol = f"enrol the devices that are switched on: cipherfleet provision enroll {home} --auto"
    watch = f"watch the fleet: cipherfleet watch {home}"
    match result:
        case BundleResult():
            steps = [broker, cards, *([enrol] if result.pending else []), watch]
        case UpdateResult():
            steps = [broker] if result.reload else []
            steps += [cards] if result.added else []
            steps += [enrol] if result.pending else []
            steps.append(watch)
        case EnrollResult():
            steps = [*([enrol] if result.pending else []), watch]
        case _:
            return
    yield "next:"
    yield from (f"  {step}" for step in steps)


def _replace_steps(result: ReplaceResult) -> Iterator[str]:
    home = shlex.quote(str(Path(result.set).parent))
    yield f"next: cipherfleet provision seed {result.node} {home} --image CARD"
    yield f"      (or install {home}/current/{ARCHIVES}/{result.node}.tar.gz), and start the device"
    if result.keys == "device":
        yield f"then: cipherfleet provision enroll {home} --approve {result.node}"


def _claim_line(claim: ClaimResult) -> str:
    state = claim.trouble or ("enrolled" if claim.enrolled else "waits for approval")
    return f"{claim.node}  {claim.fingerprint or '-'}  {state}"


def _list_lines(heading: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{heading}: {', '.join(names)}"


def _update_lines(
    names: Sequence[str], from_round: int | None, pace: FleetPace | None
) -> Iterator[str]:
    if names:
        yield (
            f"new neighbours sent to: {', '.join(names)}; they take effect at round {from_round}"
        )
    if pace is not None:
        yield (
            f"(highest reported round: {pace.highest}, by {pace.node!r}; "
            f"{pace.round_s:.3g} s per round, {pace.margin_s:g} s of margin)"
        )
        yield from _list_lines("ignored, because too far ahead", pace.ignored)


def _awaited_lines(names: Sequence[str]) -> Iterator[str]:
    yield from _list_lines("not sent yet, because neighbours have not enrolled", names)


def _summary_line(result: ProvisionResult) -> str:
    return (
        f"{result.fleet}: {result.nodes} nodes, {len(result.enrolled)} enrolled, "
        f"{len(result.pending)} pending, {len(result.revoked)} revoked, version {result.version}"
    )


def _unchanged_lines(changed: bool) -> Iterator[str]:
    if not changed:
        yield "nothing has changed"


def _former_edges_lines(edges: int) -> Iterator[str]:
    if edges:
        yield (
            f"the broker still allows {edges} former edges, for the rounds until then; run this "
            "command again afterwards to close them"
        )
