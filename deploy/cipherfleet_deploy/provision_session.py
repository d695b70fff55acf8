"""`cipherfleet provision`: make a provisioned set, enrol devices, and change a running fleet.

All commands are in this file, since they share how they connect, sign and publish.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import asdict
from rich.console import Console

from cipherfleet_broker.running import parse_address
from cipherfleet_node.core.messages import Membership
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_provisioning.claims import ReviewedClaim, examine
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import Ledger, Maker, read_ledger
from cipherfleet_provisioning.memberships import (
    HEALTH_EVERY_S,
    compose_updates,
    estimate_pace,
    find_blocked,
    needs_round,
    safe_round,
)
from cipherfleet_provisioning.operations import (
    OPERATOR_FOLDER,
    SIGNED_MEMBERSHIPS,
    accept_claims,
    close_claims,
    issue_memberships,
    make_set,
    read_token,
    recertify,
    request_new_keys,
    update_set,
)
from cipherfleet_provisioning.operator_session import OperatorLink, operator_context
from cipherfleet_provisioning.repair import find_problems
from cipherfleet_provisioning.replacement import replace_device
from cipherfleet_provisioning.revocation import revoke
from cipherfleet_provisioning.sets import StagedSet, find_current_set, lock_set, stage_set

from .cards.identity import forget_card
from .progress import show_count
from .provision_results import (
    BundleResult,
    EnrollResult,
    ReplaceResult,
    RevokeResult,
    RotateResult,
    SignedUpdates,
    UpdateResult,
    describe_claim,
    describe_pace,
    describe_set,
)

# Claims are retained messages: the broker sends all of them at once. None follows after this time.
QUIET_S = 1.0
RELOAD = (
    "the broker's rules have changed: copy {place}/broker to {target} and reload it "
    "(systemctl reload mosquitto, or nats-server --signal reload)"
)


@dataclass(frozen=True)
class Reach:
    """The address of the broker, and the times to wait for nodes."""

    broker: str | None = None  # HOST:PORT; None: the address in the set
    margin_s: float = 10.0  # time before new neighbours take effect
    timeout_s: float = 10.0  # time to wait for claims
    health_s: float = HEALTH_EVERY_S + 1.5  # time to wait for health messages of running nodes


# -- bundle -------------------------------------------------------------------------------------


def bundle(file: Path, home: Path, maker: Maker, console: Console) -> BundleResult:
    """Make the set of the fleet in *file*, or complete an existing one.

    Raises CipherfleetError.
    """
    fleet = load_fleet(file)
    began = time.monotonic()
    with lock_set(home, make=True), stage_set(home) as staged:
        with _show_progress(maker, len(fleet.members), console) as advance:
            ledger = make_set(staged, fleet, maker, advance, datetime.now(UTC))
        changed = staged.commit()
    wall_s = round(time.monotonic() - began, 2)
    return BundleResult(**asdict(describe_set(home, ledger)), changed=changed, wall_s=wall_s)


@contextmanager
def _show_progress(maker: Maker, total: int, console: Console) -> Iterator[Callable[[str], None]]:
    what = "keys" if maker == "operator" else "bundles"
    with show_count(what, total, console) as advance:
        yield lambda _name: advance()


# -- enroll -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consent:
    """The operator's rule for approving claims that are valid."""

    auto: bool = False  # approve all
    approved: Collection[str] = ()  # node ids
    ask: Callable[[ReviewedClaim], bool] | None = None  # asks on a terminal; None: no terminal

    def approves(self, claim: ReviewedClaim) -> bool:
        """Return True if the operator approves *claim*; may ask on the terminal."""
        if self.auto or claim.node in self.approved:
            return True
        return self.ask is not None and self.ask(claim)


def enroll(home: Path, consent: Consent, reach: Reach) -> EnrollResult:
    """Accept claims, and send a membership to each node whose neighbours have all enrolled.

    Ends when no node is pending, or after the timeout of *reach*. Raises CipherfleetError.
    """
    with lock_set(home):
        ledger = read_ledger(_current_set(home))
        _check_names(ledger, consent.approved)
        with _open_link(home, ledger, reach) as link:
            seen: dict[str, ReviewedClaim] = {}
            declined: set[tuple[str, str]] = set()
            enrolled: list[str] = []
            ends = time.monotonic() + reach.timeout_s
            while True:
                link.listen(QUIET_S, max(QUIET_S, ends - time.monotonic()))
                seen = _review_claims(home, ledger, link)
                chosen = []
                for each in seen.values():
                    key = (each.node, each.fingerprint)
                    if each.is_acceptable and key not in declined:
                        if consent.approves(each):
                            chosen.append(each)
                        else:
                            declined.add(key)
                if chosen:
                    ledger = _accept_claims(home, ledger, chosen, link, reach)
                    enrolled += [each.node for each in chosen]
                if not ledger.list_members("pending") or time.monotonic() >= ends:
                    break
            ledger, updates = _stage_updates(home, ledger, link, reach, None)
            _publish(home, ledger, link)
    return EnrollResult(
        **asdict(describe_set(home, ledger)),
        claims=[describe_claim(each, ledger) for each in seen.values()],
        newly_enrolled=enrolled,
        refused={name: each.problem for name, each in seen.items() if each.problem},
        not_seen=sorted(set(consent.approved) - seen.keys()),
        awaited=find_blocked(ledger),
        **asdict(updates),
    )


def _review_claims(home: Path, ledger: Ledger, link: OperatorLink) -> dict[str, ReviewedClaim]:
    place = _current_set(home)
    reviewed = {}
    for topic, payload in sorted(link.claims.copy().items()):
        node = topic.rsplit("/", 1)[-1]
        token = read_token(place, node) if node in ledger.members else None
        found = examine(ledger, token, topic, payload)
        if not (found.fingerprint and found.fingerprint == ledger.members[node].replaced):
            reviewed[node] = found  # the broker still has the claim of a replaced device
    return reviewed


def _accept_claims(
    home: Path, ledger: Ledger, chosen: list[ReviewedClaim], link: OperatorLink, reach: Reach
) -> Ledger:
    with stage_set(home) as staged:
        ledger = accept_claims(staged, ledger, chosen, datetime.now(UTC))
        staged.commit()
    ledger, _ = _stage_updates(home, ledger, link, reach, None)
    _publish(home, ledger, link)
    return ledger


# -- update, replace, rotate, revoke ------------------------------------------------------------


def update(
    file: Path,
    home: Path,
    maker: Maker,
    from_round: int | None,
    reach: Reach,
    console: Console,
) -> UpdateResult:
    """Change the running fleet to that of *file*; the change takes effect at one round.

    Raises CipherfleetError.
    """
    fleet = load_fleet(file)
    with lock_set(home):
        before = read_ledger(_current_set(home))
        with _open_link(home, before, reach) as link:
            with stage_set(home) as staged:
                count = sum(m.id not in before.members for m in fleet.members)
                with _show_progress(maker, count, console) as advance:
                    ledger = update_set(staged, fleet, maker, advance, datetime.now(UTC))
                ledger, updates = _sign_updates(staged, ledger, link, reach, from_round)
                ledger = _close_claims(staged, ledger, link, reach)
                changed = staged.commit()
            removed = [name for name in before.present if name not in ledger.members]
            _publish(home, ledger, link, removed)
    return UpdateResult(
        **asdict(describe_set(home, ledger)),
        changed=changed,
        added=[name for name in ledger.present if name not in before.members],
        removed=removed,
        former_edges=len(ledger.former),
        awaited=find_blocked(ledger),
        **asdict(updates),
        reload=_reload_hint(home, before, ledger),
    )


def _close_claims(staged: StagedSet, ledger: Ledger, link: OperatorLink, reach: Reach) -> Ledger:
    """Withdraw the access for claiming from the enrolled nodes that are heard.

    They have their own certificates. One that is away may not have received its certificate yet.
    """
    enrolled = [name for name in ledger.claiming if ledger.members[name].status == "enrolled"]
    if not enrolled:
        return ledger
    return close_claims(staged, ledger, link.collect_health(enrolled, reach.health_s))


def replace(home: Path, name: str, maker: Maker, reach: Reach, console: Console) -> ReplaceResult:
    """Give the node *name* a new bundle for a new device, and forget its former keys and its card.

    Raises CipherfleetError.
    """
    with lock_set(home):
        before = read_ledger(_current_set(home))
        before.entry(name)
        with _open_link(home, before, reach) as link:
            with stage_set(home) as staged:
                with _show_progress(maker, 1, console) as advance:
                    ledger = replace_device(staged, name, maker, advance, datetime.now(UTC))
                ledger, updates = _sign_updates(staged, ledger, link, reach, None)
                staged.commit()
            former_card = forget_card(home, name)
            # The membership of the former device must not reach the new one.
            cleared = [name] if not ledger.members[name].membership_digest else []
            _publish(home, ledger, link, cleared)
    return ReplaceResult(
        **asdict(describe_set(home, ledger)),
        node=name,
        keys=maker,
        former_card=former_card,
        awaited=find_blocked(ledger),
        **asdict(updates),
        reload=_reload_hint(home, before, ledger),
    )


def rotate(home: Path, name: str, what: str, from_round: int | None, reach: Reach) -> RotateResult:
    """Give the node *name* new keys, or a new certificate. Raises CipherfleetError."""
    with lock_set(home):
        ledger = read_ledger(_current_set(home))
        if ledger.entry(name).status != "enrolled":
            raise ConfigError(f"{name!r} is {ledger.entry(name).status}, not enrolled")
        with _open_link(home, ledger, reach) as link:
            if what == "certificate":
                with stage_set(home) as staged:
                    ledger = recertify(staged, ledger, name, datetime.now(UTC))
                    ledger, updates = _sign_updates(staged, ledger, link, reach, from_round or 0)
                    staged.commit()
            else:
                ledger = _request_new_keys(home, ledger, name, link)
                claim = _wait_for_claim(home, ledger, name, link, reach)
                with stage_set(home) as staged:
                    ledger = accept_claims(staged, ledger, [claim], datetime.now(UTC))
                    ledger, updates = _sign_updates(staged, ledger, link, reach, from_round)
                    staged.commit()
            _publish(home, ledger, link)
    return RotateResult(
        **asdict(describe_set(home, ledger)),
        node=name,
        fingerprint=ledger.members[name].fingerprint,
        awaited=find_blocked(ledger),
        **asdict(updates),
    )


def _request_new_keys(home: Path, ledger: Ledger, name: str, link: OperatorLink) -> Ledger:
    if waiting := find_blocked(ledger):
        raise ConfigError(
            f"{waiting[0]!r} does not have its neighbours yet", remedy="enrol all nodes first"
        )
    with stage_set(home) as staged:
        ledger = request_new_keys(staged, ledger, name)
        staged.commit()
    _publish(home, ledger, link)
    return ledger


def _wait_for_claim(
    home: Path, ledger: Ledger, name: str, link: OperatorLink, reach: Reach
) -> ReviewedClaim:
    ends, claim = time.monotonic() + reach.timeout_s, None
    while time.monotonic() < ends:
        link.listen(0.2, 0.2)
        claim = _review_claims(home, ledger, link).get(name)
        if claim is not None and claim.is_acceptable:
            return claim
    why = f" (its present claim: {claim.problem})" if claim and claim.problem else ""
    raise CipherfleetError(
        f"{name!r} has not claimed new keys within {reach.timeout_s:g} s{why}",
        remedy=(
            "a running node makes them when it receives the request: check its log, and run this "
            "command again"
        ),
    )


def revoke_node(home: Path, name: str, reach: Reach) -> RevokeResult:
    """Remove the node *name* from the fleet at once, whatever this leaves of the graph.

    Raises CipherfleetError.

    The set is changed first, then the broker is contacted. Rules without the node can thus be
    installed even if the broker cannot be reached.
    """
    with lock_set(home):
        before = read_ledger(_current_set(home))
        if before.entry(name).status == "revoked":
            ledger, changed = before, False
        else:
            with stage_set(home) as staged:
                ledger = revoke(staged, before, name)
                changed = staged.commit()
        try:
            with _open_link(home, ledger, reach) as link:
                _publish(home, ledger, link)
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{name!r} is revoked in the set, but its neighbours were not informed: {error} "
                f"Install {home}/current/broker on the broker, and run this command again"
            ) from None
    return RevokeResult(
        **asdict(describe_set(home, ledger)),
        changed=changed,
        node=name,
        notified=[n for n, e in ledger.members.items() if e.version > before.version],
        from_round=0,
        awaited=find_blocked(ledger),
        warnings=find_problems(ledger, name),
        reload=_reload_hint(home, before, ledger),
    )


# -- shared by the commands ---------------------------------------------------------------------


def _current_set(home: Path) -> Path:
    place = find_current_set(home)
    assert place is not None  # the lock has checked it
    return place


def _check_names(ledger: Ledger, names: Collection[str]) -> None:
    for name in names:
        ledger.entry(name)


def _open_link(home: Path, ledger: Ledger, reach: Reach) -> OperatorLink:
    host, port = ledger.broker.host, ledger.broker.port
    if reach.broker is not None:
        host, port = parse_address(reach.broker)
    context = operator_context(_current_set(home) / OPERATOR_FOLDER) if ledger.broker.tls else None
    return OperatorLink(ledger.fleet, host, port, context)


def _stage_updates(
    home: Path, ledger: Ledger, link: OperatorLink, reach: Reach, from_round: int | None
) -> tuple[Ledger, SignedUpdates]:
    with stage_set(home) as staged:
        ledger, updates = _sign_updates(staged, ledger, link, reach, from_round)
        staged.commit()
    return ledger, updates


def _sign_updates(
    staged: StagedSet, ledger: Ledger, link: OperatorLink, reach: Reach, from_round: int | None
) -> tuple[Ledger, SignedUpdates]:
    """Sign the pending memberships.

    The result says which nodes they are for, the round at which they take effect, and the pace of
    the fleet from which that round was computed.
    """
    contents: Mapping[str, Membership] = compose_updates(ledger)
    pace = None
    if from_round is None and needs_round(ledger, contents):
        running = [name for name, entry in ledger.members.items() if entry.membership_digest]
        pace = estimate_pace(link.collect_health(running, reach.health_s), ledger.period_s)
    start = safe_round(pace, reach.margin_s) if from_round is None else from_round
    ledger = issue_memberships(staged, ledger, contents, start)
    return ledger, SignedUpdates(
        notified=sorted(contents),
        from_round=start if contents else None,
        pace=None if pace is None else describe_pace(pace, reach.margin_s),
    )


def _publish(home: Path, ledger: Ledger, link: OperatorLink, removed: Collection[str] = ()) -> None:
    """Publish the signed memberships of all present nodes; clear those of all other nodes.

    Memberships published before are published again: nodes apply each one once.
    """
    place = _current_set(home) / SIGNED_MEMBERSHIPS
    signed = {
        name: (place / name).read_bytes() for name in ledger.present if (place / name).exists()
    }
    link.publish({**signed, **dict.fromkeys([*ledger.list_members("revoked"), *removed], b"")})


def _reload_hint(home: Path, before: Ledger, after: Ledger) -> str | None:
    rules = [(each.allowed_links, each.claiming) for each in (before, after)]
    if not before.broker.tls or rules[0] == rules[1]:
        return None
    target = "the broker"
    if after.cluster:
        target = "the cluster (to each broker the folder with its host name)"
    return RELOAD.format(place=home / "current", target=target)
