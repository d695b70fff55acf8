"""`cipherfleet provision`: sets made, devices enrolled, and running fleets changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from cipherfleet_broker.running import parse_address
from cipherfleet_node.core.messages import Membership
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_provisioning.claims import Examined, examine
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import Ledger, Maker, read_ledger
from cipherfleet_provisioning.memberships import (
    HEALTH_EVERY_S,
    Pace,
    awaited,
    due,
    needs_round,
    pace_of,
    safe_round,
)
from cipherfleet_provisioning.operations import (
    OPERATOR_FOLDER,
    SAID,
    accept,
    ask_for_keys,
    make_set,
    read_token,
    recertify,
    revoke,
    tell,
    update_set,
)
from cipherfleet_provisioning.operator_session import OperatorLink, operator_context
from cipherfleet_provisioning.sets import NODES, Draft, current, drafted, locked

from .progress import counting, print_line

QUIET_S = 1.0  # claims come retained, all at once: after this they have all come
RELOAD = (
    "the broker's rules have changed: copy {place}/broker to {whom} and reload it "
    "(systemctl reload mosquitto, or nats-server --signal reload)"
)

Told = dict[str, Any]  # what --json prints


@dataclass(frozen=True)
class Reach:
    """How the broker is reached, and how much time its users get."""

    broker: str | None = None  # HOST:PORT; None: as in the set
    margin_s: float = 10.0  # before new neighbours hold
    timeout_s: float = 10.0  # waiting for claims
    hear_s: float = HEALTH_EVERY_S + 1.5  # waiting for running nodes to say where they are


# -- bundle -------------------------------------------------------------------------------------


def bundle(file: Path, home: Path, maker: Maker, console: Console) -> Told:
    """Make the set of the fleet in *file*, or complete one that exists; raises CipherfleetError."""
    fleet = load_fleet(file)
    began = time.monotonic()
    with locked(home, make=True), drafted(home) as draft:
        with _progress(maker, len(fleet.members), console) as advance:
            ledger = make_set(draft, fleet, maker, advance, datetime.now(UTC))
        changed = draft.commit()
    return {
        **_summary(home, ledger),
        "changed": changed,
        "wall_s": round(time.monotonic() - began, 2),
    }


@contextmanager
def _progress(maker: Maker, total: int, console: Console) -> Iterator[Callable[[str], None]]:
    what = "keys" if maker == "operator" else "bundles"
    with counting(what, total, console) as advance:
        yield lambda _name: advance()


def _summary(home: Path, ledger: Ledger) -> Told:
    return {
        "fleet": ledger.fleet,
        "set": str(home / "current"),
        "version": ledger.version,
        "nodes": len(ledger.present),
        "enrolled": ledger.named("enrolled"),
        "pending": ledger.named("pending"),
        "revoked": ledger.named("revoked"),
        "operator": ledger.operator,
    }


# -- enroll -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consent:
    """Which of the acceptable claims are believed."""

    auto: bool = False
    approved: Collection[str] = ()
    ask: Callable[[Examined], bool] | None = None  # on a terminal

    def to(self, examined: Examined) -> bool:
        """Whether this one is."""
        if self.auto or examined.node in self.approved:
            return True
        return self.ask is not None and self.ask(examined)


def enroll(home: Path, consent: Consent, reach: Reach) -> Told:
    """Believe claims, tell all whose neighbourhoods are complete; what is still awaited.

    It ends when nobody is pending, or after the time given. Raises CipherfleetError.
    """
    with locked(home):
        ledger = read_ledger(_place(home))
        _check_names(ledger, consent.approved)
        with _link(home, ledger, reach) as link:
            seen: dict[str, Examined] = {}
            declined: set[tuple[str, str]] = set()
            enrolled: list[str] = []
            ends = time.monotonic() + reach.timeout_s
            while True:
                link.listen(QUIET_S, max(QUIET_S, ends - time.monotonic()))
                seen = _examined(home, ledger, link)
                chosen = []
                for each in seen.values():
                    mark = (each.node, each.fingerprint)
                    if each.acceptable and mark not in declined:
                        if consent.to(each):
                            chosen.append(each)
                        else:
                            declined.add(mark)
                if chosen:
                    ledger = _enter(home, ledger, chosen, link, reach)
                    enrolled += [each.node for each in chosen]
                if not ledger.named("pending") or time.monotonic() >= ends:
                    break
            ledger, told = _tell_due(home, ledger, link, reach, None)
            _publish(home, ledger, link)
    refused = {name: each.trouble for name, each in seen.items() if each.trouble}
    return {
        **_summary(home, ledger),
        "claims": [
            {
                **{
                    k: v for k, v in asdict(each).items() if k in ("node", "fingerprint", "trouble")
                },
                "enrolled": ledger.members[each.node].fingerprint == each.fingerprint != ""
                if each.node in ledger.members
                else False,
            }
            for each in seen.values()
        ],
        "newly_enrolled": enrolled,
        "refused": refused,
        "not_seen": sorted(set(consent.approved) - seen.keys()),
        "awaited": awaited(ledger),
        **told,
    }


def _examined(home: Path, ledger: Ledger, link: OperatorLink) -> dict[str, Examined]:
    place = _place(home)
    found = {}
    for topic, payload in sorted(link.claims.copy().items()):
        node = topic.rsplit("/", 1)[-1]
        token = read_token(place, node) if node in ledger.members else None
        found[node] = examine(ledger, token, topic, payload)
    return found


def _enter(
    home: Path, ledger: Ledger, chosen: list[Examined], link: OperatorLink, reach: Reach
) -> Ledger:
    with drafted(home) as draft:
        ledger = accept(draft, ledger, chosen, datetime.now(UTC))
        draft.commit()
    ledger, _ = _tell_due(home, ledger, link, reach, None)
    _publish(home, ledger, link)
    return ledger


# -- update, rotate, revoke ---------------------------------------------------------------------


def update(
    file: Path,
    home: Path,
    maker: Maker,
    from_round: int | None,
    reach: Reach,
    console: Console,
) -> Told:
    """Let the fleet be that of *file* from a round on; raises CipherfleetError."""
    fleet = load_fleet(file)
    with locked(home):
        before = read_ledger(_place(home))
        with _link(home, before, reach) as link:
            with drafted(home) as draft:
                count = sum(m.id not in before.members for m in fleet.members)
                with _progress(maker, count, console) as advance:
                    ledger = update_set(draft, fleet, maker, advance, datetime.now(UTC))
                ledger, told = _told(draft, ledger, link, reach, from_round)
                changed = draft.commit()
            gone = [name for name in before.present if name not in ledger.members]
            _publish(home, ledger, link, gone)
    return {
        **_summary(home, ledger),
        "changed": changed,
        "added": [name for name in ledger.present if name not in before.members],
        "removed": gone,
        "former_edges": len(ledger.former),
        "awaited": awaited(ledger),
        **told,
        **_reload(home, before, ledger),
    }


def rotate(home: Path, name: str, what: str, from_round: int | None, reach: Reach) -> Told:
    """New keys, or a new certificate, for *name*; raises CipherfleetError."""
    with locked(home):
        ledger = read_ledger(_place(home))
        if ledger.entry(name).status != "enrolled":
            raise ConfigError(f"{name!r} is {ledger.entry(name).status}, not enrolled")
        with _link(home, ledger, reach) as link:
            if what == "certificate":
                with drafted(home) as draft:
                    ledger = recertify(draft, ledger, name, datetime.now(UTC))
                    ledger, told = _told(draft, ledger, link, reach, from_round or 0)
                    draft.commit()
            else:
                ledger = _ask_for_keys(home, ledger, name, link)
                claim = _await_claim(home, ledger, name, link, reach)
                with drafted(home) as draft:
                    ledger = accept(draft, ledger, [claim], datetime.now(UTC))
                    ledger, told = _told(draft, ledger, link, reach, from_round)
                    draft.commit()
            _publish(home, ledger, link)
    entry = ledger.members[name]
    return {
        **_summary(home, ledger),
        "node": name,
        "fingerprint": entry.fingerprint,
        "awaited": awaited(ledger),
        **told,
    }


def _ask_for_keys(home: Path, ledger: Ledger, name: str, link: OperatorLink) -> Ledger:
    if open_ends := awaited(ledger):
        raise ConfigError(
            f"{open_ends[0]!r} has not been told its neighbours yet: enrol all nodes first"
        )
    with drafted(home) as draft:
        ledger = ask_for_keys(draft, ledger, name)
        draft.commit()
    _publish(home, ledger, link)
    return ledger


def _await_claim(
    home: Path, ledger: Ledger, name: str, link: OperatorLink, reach: Reach
) -> Examined:
    ends, found = time.monotonic() + reach.timeout_s, None
    while time.monotonic() < ends:
        link.listen(0.2, 0.2)
        found = _examined(home, ledger, link).get(name)
        if found is not None and found.acceptable:
            return found
    why = f": the claim it makes is {found.trouble}" if found and found.trouble else ""
    raise CipherfleetError(
        f"{name!r} has claimed no new keys within {reach.timeout_s:g} s{why}; it makes them "
        "when it runs and hears of it: look at its log, and run this command again"
    )


def revoke_node(home: Path, name: str, reach: Reach) -> Told:
    """Take *name* out of the fleet at once; raises CipherfleetError.

    The set is changed before the broker is reached: rules without *name* can be installed.
    """
    with locked(home):
        before = read_ledger(_place(home))
        if before.entry(name).status == "revoked":
            ledger, changed = before, False
        else:
            with drafted(home) as draft:
                ledger = revoke(draft, before, name)
                changed = draft.commit()
        try:
            with _link(home, ledger, reach) as link:
                _publish(home, ledger, link)
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{name!r} is revoked in the set, but nobody has been told: {error} Install "
                f"{home}/current/broker, and run this command again"
            ) from None
    return {
        **_summary(home, ledger),
        "changed": changed,
        "node": name,
        "told": [n for n, e in ledger.members.items() if e.version > before.version],
        "from_round": 0,
        **_reload(home, before, ledger),
    }


# -- what they share ----------------------------------------------------------------------------


def _place(home: Path) -> Path:
    place = current(home)
    assert place is not None  # the lock has looked
    return place


def _check_names(ledger: Ledger, names: Collection[str]) -> None:
    for name in names:
        ledger.entry(name)


def _link(home: Path, ledger: Ledger, reach: Reach) -> OperatorLink:
    host, port = ledger.broker.host, ledger.broker.port
    if reach.broker is not None:
        host, port = parse_address(reach.broker)
    context = operator_context(_place(home) / OPERATOR_FOLDER) if ledger.broker.tls else None
    return OperatorLink(ledger.fleet, host, port, context)


def _tell_due(
    home: Path, ledger: Ledger, link: OperatorLink, reach: Reach, from_round: int | None
) -> tuple[Ledger, Told]:
    with drafted(home) as draft:
        ledger, told = _told(draft, ledger, link, reach, from_round)
        draft.commit()
    return ledger, told


def _told(
    draft: Draft, ledger: Ledger, link: OperatorLink, reach: Reach, from_round: int | None
) -> tuple[Ledger, Told]:
    """Sign what is due; from which round on, and how that was found."""
    contents: Mapping[str, Membership] = due(ledger)
    pace = None
    if from_round is None and needs_round(ledger, contents):
        running = [name for name, entry in ledger.members.items() if entry.holds]
        pace = pace_of(link.hear(running, reach.hear_s), ledger.period_s)
    start = safe_round(pace, reach.margin_s) if from_round is None else from_round
    ledger = tell(draft, ledger, contents, start)
    return ledger, {
        "told": sorted(contents),
        "from_round": start if contents else None,
        "pace": _shown(pace, reach.margin_s),
    }


def _shown(pace: Pace | None, margin_s: float) -> Told | None:
    if pace is None:
        return None
    return {**msgspec.to_builtins(pace), "margin_s": margin_s}


def _publish(home: Path, ledger: Ledger, link: OperatorLink, gone: Collection[str] = ()) -> None:
    """All that is said, again too: nodes take each word once; nothing more to who is out."""
    place = _place(home) / SAID
    said = {name: (place / name).read_bytes() for name in ledger.present if (place / name).exists()}
    link.publish({**said, **dict.fromkeys([*ledger.named("revoked"), *gone], b"")})


def _reload(home: Path, before: Ledger, after: Ledger) -> Told:
    changed = before.broker.tls and before.linked != after.linked
    whom = "its broker, HOST/ to each of the cluster," if after.cluster else "the broker"
    return {"reload": RELOAD.format(place=home / "current", whom=whom) if changed else None}


def show(told: Told, console: Console) -> None:
    """What people read."""

    def say(text: str) -> None:
        print_line(console, text)

    for claim in told.get("claims", ()):
        state = claim["trouble"] or ("enrolled" if claim["enrolled"] else "waits for approval")
        say(f"{claim['node']}  {claim['fingerprint'] or '-'}  {state}")
    for word in ("added", "removed", "newly_enrolled", "not_seen"):
        if told.get(word):
            say(f"{word.replace('_', ' ')}: {', '.join(told[word])}")
    if told.get("told"):
        say(f"told: {', '.join(told['told'])}; holds from round {told['from_round']}")
    if pace := told.get("pace"):
        say(
            f"(highest round heard: {pace['highest']}, of {pace['node']!r}; {pace['round_s']:.3g} "
            f"s a round, {pace['margin_s']:g} s of margin)"
        )
        if pace["ignored"]:
            say(f"ignored, since too far ahead: {', '.join(pace['ignored'])}")
    if told.get("awaited"):
        say(f"not told yet, since neighbours are awaited: {', '.join(told['awaited'])}")
    say(
        f"{told['fleet']}: {told['nodes']} nodes, {len(told['enrolled'])} enrolled, "
        f"{len(told['pending'])} pending, {len(told['revoked'])} revoked, version {told['version']}"
    )
    if "changed" in told and not told["changed"]:
        say("nothing has changed")
    if told.get("reload"):
        say(told["reload"])
    if told.get("former_edges"):
        say(
            f"{told['former_edges']} former edges stay open at the broker for the rounds until "
            "then: run this command again afterwards, to close them"
        )
    say(f"the set: {told['set']} ({NODES}, archives, broker, operator)")
