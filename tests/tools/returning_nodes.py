"""Nodes that come back with an old state, without one, or under a wrong clock, in whole fleets.

    python -m tests.tools.returning_nodes --runs 1000

In each run a node of a fleet in memory is killed at a random moment, and returns up to ten seconds
later. Its state is then as it was, or a copy from before its latest start, or lost; its clock shows
the present time, 1970 or 2100. One node in three is killed a second time, with another mishap. The
epochs, and what a node concludes from its own retained presence, are those of the daemon. Links
lose, repeat and delay messages, and keep their order, as MQTT over TCP does. With --reorder they do
not keep it, and with --forgetful a third of the brokers has lost the presence of a node that has
lost its state: an accident to both at once, which the protocol does not promise to survive.

Printed for each mishap: the time until the node has closed a coupled round again, as the median and
the maximum, in seconds of the fleet; the nodes that did not within --within seconds; and the round
numbers under which a node sent two queries or two rosters. Exit code 1 if there is one of either.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

import msgspec

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_node.core.events import Event, MessageReceived
from cipherfleet_node.core.state import State, after_loss
from cipherfleet_node.runtime.epochs import EARLIEST, new_epoch
from cipherfleet_node.runtime.own_presence import Conclusion, OwnPresence
from cipherfleet_node.settings.sections import Algorithm
from tests.support.memory_fleet import (
    OBJECTIVE,
    TIMEOUT,
    MemoryFleet,
    reading,
    reused_rounds,
    ring,
)

STATES = ("kept", "copied", "lost")
CLOCKS = {
    "present": EARLIEST.timestamp() + 30 * 86_400,
    "1970": 0.0,
    "2100": datetime(2100, 1, 1, tzinfo=UTC).timestamp(),
}
PERIOD_S = 0.1
WITHIN_S = 120.0
FAULTS = (Faults(), Faults(drop=0.05, duplicate=0.1, delay_s=(0.001, 0.05)))


@dataclass
class Result:
    """What happened to the nodes after one kind of mishap."""

    times_s: list[float] = field(default_factory=list)
    stuck: int = 0
    reused: int = 0


@dataclass
class OrderedFleet(MemoryFleet):
    """A fleet whose links keep the order of their messages if it *is_ordered*."""

    is_ordered: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._latest: dict[tuple[str, str], float] = {}  # delivery, by sender and receiver

    def _push(self, at: float, name: str, event: Event) -> None:
        if self.is_ordered and isinstance(event, MessageReceived):
            link = event.message.sender, name
            at = self._latest[link] = max(at, self._latest.get(link, 0.0))
        super()._push(at, name, event)


@dataclass
class Returning:
    """A fleet whose nodes start with the epochs of daemons."""

    fleet: MemoryFleet
    chance: random.Random
    clock_s: dict[str, float]

    def start(self, name: str) -> None:
        """Start *name* as its daemon would, after a look at its own retained presence."""
        seat = self.fleet.seats[name]
        saved = seat.saved.epoch if seat.saved else 0
        epoch = self._new_epoch(name, saved)
        own = self.fleet.presence.get(name)
        if own is not None:
            judged = OwnPresence(saved, epoch).judge(own.epoch)
            if judged is Conclusion.STATE_IS_OLD:
                epoch = self._new_epoch(name, max(own.epoch, epoch))
                seat.saved = seat.saved and after_loss(seat.saved, self._draw())
        seat.stopped = seat.switched = False
        seat.epoch = epoch - 1  # `start` adds one
        self.fleet.start(name)

    def advance(self, until_s: float) -> None:
        """Let the fleet run; a node that requests a restart gets it."""
        while self.fleet.now < until_s:
            self.fleet.advance(min(until_s, self.fleet.now + PERIOD_S))
            for name, seat in self.fleet.seats.items():
                if seat.switched:
                    self.start(name)

    def _new_epoch(self, name: str, latest: int) -> int:
        clock_s = self.clock_s[name] + self.fleet.now
        return new_epoch(latest, clock_s, self.chance.randrange)

    def _draw(self) -> int:
        return self.chance.getrandbits(48)


def run(seed: int, results: dict[str, Result], options: argparse.Namespace) -> None:
    """One fleet with one or two mishaps."""
    chance = random.Random(f"returning {seed}")
    edges = ring(chance.choice([3, 4, 5]))
    fleet = OrderedFleet(
        edges,
        {name: [reading(name)] for edge in edges for name in edge},
        OBJECTIVE,
        Algorithm(period_s=PERIOD_S, answer_timeout_s=TIMEOUT),
        chance.choice(FAULTS),
        seed,
        sealed=seed % 2 == 1,
        encrypted=not options.plaintext,
        is_ordered=not options.reorder,
    )
    returning = Returning(fleet, chance, dict.fromkeys(fleet.seats, CLOCKS["present"]))
    for name in fleet.seats:
        returning.start(name)
    before = 0
    for _ in range(chance.choice([1, 1, 2])):
        name = chance.choice(sorted(fleet.seats))
        mishap, took_s = have_mishap(
            returning, name, options.within, is_forgetful=options.forgetful
        )
        result = results.setdefault(mishap, Result())
        reused = len(reused_rounds(fleet))
        result.reused, before = result.reused + reused - before, reused
        if took_s is None:
            result.stuck += 1
            print(f"run {seed}: {name} with {mishap} has coupled nothing", flush=True)
            return
        result.times_s.append(took_s)


def have_mishap(
    returning: Returning, name: str, within_s: float, *, is_forgetful: bool
) -> tuple[str, float | None]:
    """Kill *name* and start it again; return the mishap, and the seconds until it is coupled."""
    fleet, chance = returning.fleet, returning.chance
    seat = fleet.seats[name]
    state, clock = chance.choice(STATES), chance.choice(list(CLOCKS))
    returning.advance(fleet.now + chance.uniform(0.05, 2.0))
    copies = kill(returning, name)
    if state == "copied":
        returning.start(name)
        returning.advance(fleet.now + chance.uniform(0.2, 2.0))
        kill(returning, name)
    if state == "copied":
        seat.saved, seat.previous = copies
    elif state == "lost":
        fleet.lose_state(name)
        if is_forgetful and chance.random() < 1 / 3:
            fleet.presence.pop(name, None)
    returning.clock_s[name] = CLOCKS[clock]
    began, closed = fleet.now, len(seat.reported)
    returning.start(name)
    while fleet.now < began + within_s:
        returning.advance(fleet.now + PERIOD_S)
        new = zip(seat.reported[closed:], seat.closed_at[closed:], strict=True)
        if (coupled := next((at for each, at in new if each.is_coupled), None)) is not None:
            seat.has_lost_state = False
            return f"state {state}, clock {clock}", coupled - began
    return f"state {state}, clock {clock}", None


def kill(returning: Returning, name: str) -> tuple[State | None, State | None]:
    """Kill *name* between two effects; return its two saved generations, and let some time pass."""
    fleet, chance = returning.fleet, returning.chance
    seat = fleet.seats[name]
    fleet.kill_within(name, chance.randrange(8))
    returning.advance(fleet.now + 2 * PERIOD_S)
    if seat.agent is not None:
        fleet.kill(name, last_will=chance.random() < 0.5)
    copies = copied(seat.saved), copied(seat.previous)
    returning.advance(fleet.now + chance.choice([0.0, 0.3, chance.uniform(1.0, 10.0)]))
    return copies


def copied(state: State | None) -> State | None:
    """Return *state* as bytes on a disk would keep it."""
    return state and msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--within", type=float, default=WITHIN_S, help="seconds of the fleet")
    parser.add_argument("--reorder", action="store_true", help="links that change the order")
    parser.add_argument("--forgetful", action="store_true", help="brokers that lose a presence")
    parser.add_argument("--plaintext", action="store_true", help="without encryption: faster")
    options = parser.parse_args(arguments)
    results: dict[str, Result] = {}
    for done, seed in enumerate(range(options.first, options.first + options.runs), 1):
        run(seed, results, options)
        if done % 50 == 0:
            reused = sum(result.reused for result in results.values())
            print(f"{done} runs, {reused} numbers used twice", flush=True)
    for mishap, result in sorted(results.items()):
        times = result.times_s or [float("nan")]
        print(
            f"{mishap:28} {len(result.times_s):5} returned, median {median(times):6.2f} s, "
            f"maximum {max(times):6.2f} s, {result.stuck} did not, {result.reused} numbers reused"
        )
    return 1 if any(result.stuck or result.reused for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
