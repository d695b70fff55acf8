"""What nodes say of themselves, collected; and how it is shown: a table, lines, JSON.

Only names that are known beforehand, words of the protocol and numbers are ever shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Health, Presence
from cipherfleet_node.errors import WireError
from cipherfleet_provisioning.operator_session import Anybody

STALE_S = 15.0  # three words on its health that did not come
ABSENT = "absent"  # nothing was heard of it
GONE = ("lost", "disconnected")
RESTING = (*GONE, "finished", ABSENT)  # from whom no more words are to come
# Who needs looking after comes first.
ORDER = ("lost", "disconnected", "stale", ABSENT, "alert", "waiting", "init", "ready", "finished")
STYLES = {
    "lost": "bold white on red",
    "disconnected": "bold red",
    "stale": "bold magenta",
    ABSENT: "magenta",
    "alert": "bold yellow",
    "waiting": "yellow",
    "init": "cyan",
    "ready": "green",
    "finished": "blue",
}
BIG = 10**7  # from here on a number is shown in powers of ten


@dataclass(frozen=True)
class Row:
    """One node at one moment; None where it has not told."""

    node: str
    state: str  # as it or its last will says, or ABSENT
    stale: bool  # it should have spoken, and has not
    age_s: float | None  # since it was heard
    epoch: int | None = None
    phase: str | None = None
    round: int | None = None
    round_ms: float | None = None
    silent: int | None = None
    missed: int | None = None
    rejected: int | None = None
    pool: int | None = None
    pool_size: int | None = None
    temperature_c: int | None = None
    verified: bool = True  # False: its key is not known here
    refused: int = 0  # messages under its name that it did not sign, or that are none

    @property
    def standing(self) -> str:
        """Its state, or "stale"."""
        return "stale" if self.stale else self.state

    @property
    def lasting(self) -> dict[str, Any]:
        """All but its age: if this is another, something has changed."""
        return {name: value for name, value in asdict(self).items() if name != "age_s"}


@dataclass
class _Seen:
    """What was heard of one node; of its latest start only."""

    epoch: int | None = None
    presence: Presence | None = None
    health: Health | None = None
    heard: float | None = None  # monotonic seconds
    refused: int = 0


class Board:
    """What was heard of the nodes whose *verifiers* there are; of others nothing is kept."""

    def __init__(self, fleet: str, verifiers: Mapping[str, wire.Verifier]) -> None:
        self._fleet, self._keys = fleet, dict(verifiers)
        self._verifiers: dict[str, wire.Verifier] = dict(verifiers)
        self._seen = {name: _Seen() for name in verifiers}

    def know(self, verifiers: Mapping[str, wire.Verifier]) -> None:
        """The fleet has changed. Until a node uses its new key, it signs with the one before."""
        for name in self._seen.keys() - verifiers.keys():
            del self._seen[name], self._verifiers[name], self._keys[name]
        for name, key in verifiers.items():
            self._seen.setdefault(name, _Seen())
            before = self._keys.get(name, key)
            if name not in self._keys or key != before:
                known = key != before and not isinstance(before, Anybody)
                self._verifiers[name] = wire.Either(before, key) if known else key
            self._keys[name] = key

    def hear(self, topic: str, payload: bytes, now: float) -> None:
        """Take in what came on *topic*; what is not to be believed is only counted."""
        seen = self._seen.get(topics.sender_of(topic))
        if seen is None or not payload:  # nobody of ours, or what was retained is taken back
            return
        try:
            message = wire.decode(payload, topic, self._fleet, self._verifiers)
        except WireError:
            seen.refused += 1
            return
        if seen.epoch is not None and message.epoch < seen.epoch:
            return  # the last will of an earlier start, most likely
        if message.epoch != seen.epoch:
            seen.epoch, seen.presence, seen.health = message.epoch, None, None
        match message:
            case Presence() if message != seen.presence:
                seen.presence, seen.heard = message, now
            case Health() if seen.health is None or message.number > seen.health.number:
                seen.health, seen.heard = message, now
            case _:  # what was heard before is no sign of life: brokers may repeat it
                pass

    def rows(self, now: float) -> list[Row]:
        """All nodes, who needs looking after first."""
        return sorted((self._row(name, now) for name in self._seen), key=_place_of)

    def finished(self, now: float) -> bool:
        """Whether no node has anything more to say."""
        return all(row.state == "finished" for row in self.rows(now))

    def complete(self, now: float) -> bool:
        """Whether all has been said that is to be expected within a moment."""
        return all(
            row.state != ABSENT and (row.state in RESTING or row.round is not None)
            for row in self.rows(now)
        )

    def _row(self, name: str, now: float) -> Row:
        seen = self._seen[name]
        health = seen.health
        state = seen.presence.state if seen.presence else (ABSENT if health is None else "ready")
        age = None if seen.heard is None else max(0.0, now - seen.heard)
        stale = age is not None and age > STALE_S and state not in RESTING
        verified = not isinstance(self._verifiers[name], Anybody)
        row: dict[str, Any] = {"verified": verified, "refused": seen.refused, "epoch": seen.epoch}
        if health is not None:
            row |= {name: getattr(health, name) for name in _TOLD}
            row["round_ms"] = health.round_us / 1000 if health.round_us else None
            row["rejected"] = sum(health.rejected.values())
            row["temperature_c"] = health.temperature
        return Row(name, state, stale, None if age is None else round(age, 1), **row)


_TOLD = ("phase", "round", "silent", "missed", "pool", "pool_size")


def _place_of(row: Row) -> tuple[int, list[str | int]]:
    return ORDER.index(row.standing), by_number(row.node)


def by_number(name: str) -> list[str | int]:
    """A key to sort by that puts n10 behind n9."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts


# -- the fleet as a whole -----------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How many nodes stand how, who has the slowest rounds, which rounds they are in."""
    standing = Counter(row.standing for row in rows)
    there = [row for row in rows if row.standing not in (*GONE, "stale", ABSENT)]
    rounds = [row.round for row in there if row.round is not None]
    timed = [(row.round_ms, row.node) for row in there if row.round_ms is not None]
    slowest_ms, slowest = max(timed, default=(None, None), key=lambda each: each[0] or 0.0)
    return {
        "nodes": len(rows),
        "standing": {name: standing[name] for name in ORDER if standing[name]},
        "lowest_round": min(rounds, default=None),
        "highest_round": max(rounds, default=None),
        "slowest": slowest,
        "slowest_ms": slowest_ms,
        "unverified": sum(not row.verified for row in rows),
        "refused": sum(row.refused for row in rows),
    }


def headline(fleet: str, rows: Sequence[Row], *, connected: bool) -> Text:
    """The fleet in a line, for people."""
    told = summary(rows)
    text = Text(f"{fleet}: {told['nodes']} nodes")
    for standing, count in told["standing"].items():
        text.append("  ")
        text.append(f"{count} {standing}", STYLES[standing])
    if told["lowest_round"] is not None:
        low, high = _number(told["lowest_round"]), _number(told["highest_round"])
        text.append(f"  round {low}" if low == high else f"  rounds {low} to {high}")
    if told["slowest"] is not None:
        text.append(f"  slowest {_number(told['slowest_ms'])} ms ({told['slowest']})")
    if told["unverified"]:
        text.append(f"  {told['unverified']} unverified", "yellow")
    if told["refused"]:
        text.append(f"  {told['refused']} messages refused", "bold red")
    if not connected:
        text.append("  ")
        text.append("THE BROKER IS AWAY", STYLES["lost"])
    return text


# -- rows, for people ---------------------------------------------------------------------------

COLUMNS = (
    "node", "state", "epoch", "round", "ms/round", "silent", "rejected", "pool", "°C", "heard",
    "signature",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """The texts of *row*, in the order of COLUMNS."""
    state = f"{row.state}, stale" if row.stale else row.state
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


def table(head: Text, rows: Iterable[Row]) -> Group:
    """The live picture."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in ("node", "state") else "right")
    for row in rows:
        style = STYLES[row.standing]
        node, state, *rest = (Text(text) for text in cells(row))
        state.stylize(style)
        if row.standing in (*GONE, "stale"):
            node.stylize(style)
        made.add_row(node, state, *rest)
    return Group(head, made)


def line(row: Row) -> str:
    """A node in a line, where there is no terminal."""
    told = zip(COLUMNS, cells(row), strict=True)
    return "  ".join(text if name in ("node", "state") else f"{name} {text}" for name, text in told)
