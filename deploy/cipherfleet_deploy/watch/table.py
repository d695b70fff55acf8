"""The latest reports of all nodes of a fleet, and their display as a table, as lines or as JSON.

The display contains only node names that are known in advance, words of the protocol and numbers.
A message can therefore not put arbitrary text on the operator's terminal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cipherfleet_deploy.column_widths import columns_that_fit, left_out_note
from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Health, Presence
from cipherfleet_node.errors import WireError
from cipherfleet_provisioning.operator_session import AcceptAnySignature

STALE_S = 15.0  # three health messages in a row did not arrive
UNANSWERED = "unanswered"  # no neighbour answers the node, although neighbours speak
ABSENT = "absent"  # no message of the node has arrived
# The states of a device of a set before its first message, in their order.
UNENROLLED = "unenrolled"  # no card was written for it yet
SEEDED = "seeded"  # its card was written; the first boot has not come so far, or has failed
CLAIMING = "claiming"  # it is installed and waits until the operator accepts its keys
EXPECTED = (UNENROLLED, SEEDED, CLAIMING)
GONE = ("lost", "disconnected")
RESTING = (*GONE, "finished", ABSENT, *EXPECTED)  # states in which a node sends no health messages
# The states that need attention come first.
ORDER = (
    "lost", "disconnected", "stale", UNANSWERED, ABSENT, CLAIMING, SEEDED, UNENROLLED,
    "alert", "waiting", "ready", "done", "finished",
)  # fmt: skip
STYLES = {
    "lost": "bold white on red",
    "disconnected": "bold red",
    "stale": "bold magenta",
    UNANSWERED: "bold magenta",
    ABSENT: "magenta",
    CLAIMING: "bold yellow",
    SEEDED: "yellow",
    UNENROLLED: "dim",
    "alert": "bold yellow",
    "waiting": "yellow",
    "ready": "green",
    "done": "cyan",
    "finished": "blue",
}
BIG = 10**7  # numbers from here on are shown in powers of ten


class NodeStatus(msgspec.Struct, frozen=True):
    """The state of one node at one moment. A value that it has not reported is None."""

    node: str
    state: str  # reported by the node or by its last will; ABSENT or one of EXPECTED before that
    stale: bool  # True: a health message is overdue
    age_s: float | None  # seconds since its latest message
    epoch: int | None = None
    phase: str | None = None
    round: int | None = None
    round_ms: float | None = None
    silent: int | None = None
    missed: int | None = None
    rejected: int | None = None
    pool: int | None = None
    pool_size: int | None = None
    settled: bool | None = None  # None: the fleet has no accuracy to reach
    temperature_c: int | None = None
    unanswered_s: int | None = None  # without an answer, although neighbours speak; 0: no alert
    verified: bool = True  # False: its public key is not known here
    refused: int = 0  # messages under its name with a wrong signature or an invalid content
    refusals: dict[str, int] | None = None  # messages that it has refused, by reason
    left_out: list[str] | None = None  # neighbours that it does not ask, see node/PROTOCOL.md
    generation: int | None = None  # that gave it its shares; 0: it has none; None also: no shield

    @property
    def standing(self) -> str:
        """The node's state, or what needs attention: "stale" or UNANSWERED."""
        if self.stale:
            return "stale"
        return UNANSWERED if self.unanswered_s and self.state not in RESTING else self.state

    @property
    def without_age(self) -> NodeStatus:
        """The status without its age. If two of them differ, the node's state has changed."""
        return msgspec.structs.replace(self, age_s=None)


class WatchSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all nodes together."""

    nodes: int
    standing: dict[str, int]  # number of nodes, by standing
    lowest_round: int | None  # of the nodes that are present
    highest_round: int | None
    slowest: str | None  # the node with the longest rounds
    slowest_ms: float | None
    settled: int | None  # nodes that have reached the accuracy; None: no node reports it
    unverified: int  # number of nodes whose public key is not known here
    refused: int  # number of messages with a wrong signature or an invalid content


@dataclass
class _Reports:
    """The latest messages of one node. All are from the node's latest start."""

    epoch: int | None = None
    presence: Presence | None = None
    health: Health | None = None
    received_at: float | None = None  # monotonic seconds
    refused: int = 0
    has_claimed: bool = False  # a claim of keys was published under its name


class FleetStatus:
    """The latest reports of the nodes in *verifiers*. Messages of other senders are dropped.

    *expected* holds a state of EXPECTED for the devices of a set that may not be installed yet.
    """

    def __init__(
        self,
        fleet: str,
        verifiers: Mapping[str, wire.Verifier],
        expected: Mapping[str, str] | None = None,
    ) -> None:
        self._fleet, self._keys, self._expected = fleet, dict(verifiers), dict(expected or {})
        self._verifiers: dict[str, wire.Verifier] = dict(verifiers)
        self._seen = {name: _Reports() for name in verifiers}

    def update(
        self, verifiers: Mapping[str, wire.Verifier], expected: Mapping[str, str] | None = None
    ) -> None:
        """Take over the nodes and keys of a changed fleet, and the devices that are expected.

        If a node has a new key, signatures with its previous key are accepted, too: the node signs
        with that key until it activates the new one.
        """
        self._expected = dict(expected or {})
        for name in self._seen.keys() - verifiers.keys():
            del self._seen[name], self._verifiers[name], self._keys[name]
        for name, key in verifiers.items():
            self._seen.setdefault(name, _Reports())
            before = self._keys.get(name, key)
            if name not in self._keys or key != before:
                known = key != before and not isinstance(before, AcceptAnySignature)
                self._verifiers[name] = wire.Either(before, key) if known else key
            self._keys[name] = key

    def receive(self, topic: str, payload: bytes, now: float) -> None:
        """Store the message that arrived on *topic*. An invalid message is only counted."""
        seen = self._seen.get(topics.sender_of(topic))
        # An empty payload clears a retained message.
        if seen is None or not payload:
            return
        if topic == topics.claim_topic(self._fleet, topics.sender_of(topic)):
            seen.has_claimed = True  # the operator checks the claim, not this display
            return
        try:
            message = wire.decode(payload, topic, self._fleet, self._verifiers)
        except WireError:
            seen.refused += 1
            return
        if seen.epoch is not None and message.epoch < seen.epoch:
            return  # most likely the last will of an earlier start
        if message.epoch != seen.epoch:
            seen.epoch, seen.presence, seen.health = message.epoch, None, None
        match message:
            case Presence() if message != seen.presence:
                seen.presence, seen.received_at = message, now
            case Health() if seen.health is None or message.number > seen.health.number:
                seen.health, seen.received_at = message, now
            case _:  # a repeated message is no sign of life: a broker may deliver it twice
                pass

    def rows(self, now: float) -> list[NodeStatus]:
        """Return the status of each node; nodes that need attention come first."""
        return sorted((self._row(name, now) for name in self._seen), key=_sort_key)

    def is_finished(self, now: float) -> bool:
        """Return True if all nodes have finished."""
        return all(row.state == "finished" for row in self.rows(now))

    def has_all_reports(self, now: float) -> bool:
        """Return True if each node has reported its round, or is in a state without reports."""
        return all(
            row.state not in (ABSENT, *EXPECTED) and (row.state in RESTING or row.round is not None)
            for row in self.rows(now)
        )

    def _row(self, name: str, now: float) -> NodeStatus:
        seen = self._seen[name]
        health = seen.health
        state: str = seen.presence.state if seen.presence else "ready"
        if seen.presence is None and health is None:
            state = self._state_before_messages(name)
        age = None if seen.received_at is None else max(0.0, now - seen.received_at)
        stale = age is not None and age > STALE_S and state not in RESTING
        verified = not isinstance(self._verifiers[name], AcceptAnySignature)
        status = NodeStatus(
            node=name,
            state=state,
            stale=stale,
            age_s=None if age is None else round(age, 1),
            epoch=seen.epoch,
            verified=verified,
            refused=seen.refused,
        )
        if health is None:
            return status
        return msgspec.structs.replace(
            status,
            phase=health.phase,
            round=health.round,
            round_ms=health.round_us / 1000 if health.round_us else None,
            silent=health.silent,
            missed=health.missed,
            rejected=sum(health.rejected.values()),
            refusals=dict(health.rejected),
            left_out=list(health.left_out),
            pool=health.pool,
            pool_size=health.pool_size,
            settled=health.settled,
            temperature_c=health.temperature,
            unanswered_s=health.unanswered_s,
            generation=health.generation,
        )

    def _state_before_messages(self, name: str) -> str:
        state = self._expected.get(name, ABSENT)
        return CLAIMING if state in EXPECTED and self._seen[name].has_claimed else state


def _sort_key(row: NodeStatus) -> tuple[int, list[str | int]]:
    return ORDER.index(row.standing), natural_sort_key(row.node)


def natural_sort_key(name: str) -> list[str | int]:
    """Return a sort key that puts n10 behind n9."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts


# -- the fleet as a whole -----------------------------------------------------------------------


def summarise_rows(rows: Sequence[NodeStatus]) -> WatchSummary:
    """Count the nodes by state; find the slowest node, and the lowest and the highest round."""
    standing = Counter(row.standing for row in rows)
    present = [row for row in rows if row.standing not in (*GONE, "stale", ABSENT, *EXPECTED)]
    rounds = [row.round for row in present if row.round is not None]
    timed = [(row.round_ms, row.node) for row in present if row.round_ms is not None]
    reported = [row.settled for row in rows if row.settled is not None]
    slowest_ms, slowest = max(timed, default=(None, None), key=lambda each: each[0] or 0.0)
    return WatchSummary(
        nodes=len(rows),
        standing={name: standing[name] for name in ORDER if standing[name]},
        lowest_round=min(rounds, default=None),
        highest_round=max(rounds, default=None),
        slowest=slowest,
        slowest_ms=slowest_ms,
        settled=sum(reported) if reported else None,
        unverified=sum(not row.verified for row in rows),
        refused=sum(row.refused for row in rows),
    )


def headline(fleet: str, rows: Sequence[NodeStatus], *, connected: bool) -> Text:
    """Return the line that summarises the fleet."""
    result = summarise_rows(rows)
    text = Text(f"{fleet}: {result.nodes} nodes")
    for standing, count in result.standing.items():
        text.append("  ")
        text.append(f"{count} {standing}", STYLES[standing])
    if result.lowest_round is not None:
        low, high = _number(result.lowest_round), _number(result.highest_round)
        text.append(f"  round {low}" if low == high else f"  rounds {low} to {high}")
    if result.settled is not None:
        text.append(f"  settled {result.settled} of {result.nodes}")
    if result.slowest is not None:
        text.append(f"  slowest {_number(result.slowest_ms)} ms ({result.slowest})")
    if result.unverified:
        text.append(f"  {result.unverified} unverified", "yellow")
    if result.refused:
        text.append(f"  {result.refused} messages refused", "bold red")
    if not connected:
        text.append("  ")
        text.append("BROKER UNREACHABLE", STYLES["lost"])
    return text


# -- rows as text -------------------------------------------------------------------------------

COLUMNS = (
    "node", "state", "epoch", "round", "ms/round", "silent", "rejected", "pool", "°C", "heard",
    "signature",
)  # fmt: skip


# The columns that are left out first on a narrow terminal. Faults are in the headline, too.
LEAST = ("epoch", "°C", "signature", "pool", "rejected", "silent", "heard", "ms/round", "round")
GAP = 2  # characters between two columns


def cells(row: NodeStatus) -> tuple[str, ...]:
    """Return the texts of *row*, in the order of COLUMNS."""
    state = row.state if row.standing == row.state else f"{row.state}, {row.standing}"
    signature = "good" if row.verified else "unverified"
    pool = "-" if row.pool is None else f"{_number(row.pool)}/{_number(row.pool_size)}"
    return (
        row.node,
        state,
        "-" if row.epoch is None else str(row.epoch),
        _number(row.round),
        _number(row.round_ms),
        _number(row.silent),
        _number(row.rejected),
        pool,
        _number(row.temperature_c),
        "-" if row.age_s is None else f"{_number(row.age_s)} s ago",
        f"{_number(row.refused)} REFUSED" if row.refused else signature,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= BIG:
        return f"{value:.1e}"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def table(head: Text, rows: Sequence[NodeStatus], width: int | None = None) -> Group:
    """Return *head* above a table of *rows*, for the live display.

    Columns that do not fit into *width* characters are left out and named; None: all fit.
    """
    texts = [cells(row) for row in rows]
    columns = {name: [text[k] for text in texts] for k, name in enumerate(COLUMNS)}
    kept = list(COLUMNS) if width is None else columns_that_fit(columns, LEAST, width, GAP)
    body = Table(box=None, header_style="bold", pad_edge=False)
    for name in kept:
        is_word = name in ("node", "state")
        body.add_column(name, justify="left" if is_word else "right", no_wrap=True)
    for k, row in enumerate(rows):
        style = STYLES[row.standing]
        node, state, *rest = (Text(columns[name][k]) for name in kept)
        state.stylize(style)
        if row.standing in (*GONE, "stale"):
            node.stylize(style)
        body.add_row(node, state, *rest)
    note = left_out_note(columns, kept)
    return Group(head, body, Text(note, "dim")) if note else Group(head, body)


def line(row: NodeStatus) -> str:
    """Return *row* as one line, for output that is not a terminal."""
    named_cells = zip(COLUMNS, cells(row), strict=True)
    return "  ".join(
        text if name in ("node", "state") else f"{name} {text}" for name, text in named_cells
    )
