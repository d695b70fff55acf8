"""Searches over schedules: exhaustive up to a number of faults, and at random.

The exhaustive search deepens the number of faults one by one, so the first schedule that it finds
has the fewest. States that were visited with as many faults left are not visited again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cipherfleet_node.core.messages import Presence

from .invariants import FAILURES, MAX_STEPS, heal
from .model_nodes import MEMORIES, Memory
from .world import DOWN_S, STEP, Action, Violation, World

NewWorld = Callable[[], World]
Deviation = tuple[int, Action]  # the step at which a fault happens
Schedule = tuple[Deviation, ...]


@dataclass(frozen=True)
class Limits:
    """What the exhaustive search may do."""

    faults: Mapping[str, int]  # the most faults of each kind
    most: int = 2  # faults in all
    first_round: int = 1  # faults happen while the slowest node is in these rounds
    last_round: int = 3
    rounds: int = 6  # a schedule ends when every node has come to this round
    until_s: float = 12.0  # or at this time
    memories: tuple[Memory, ...] = ("saved",)
    downs: tuple[float, ...] = DOWN_S
    focus: frozenset[str] = frozenset()  # only their messages and wills are disturbed; empty: all
    crashing: frozenset[str] = frozenset()  # only these nodes crash; empty: all
    effects: tuple[int, ...] = (0, 1, 2, 3, 4)  # of an event, after which a process dies
    healing_s: float = 0.0  # check progress so long after each schedule; 0: not at all


@dataclass
class Report:
    """What a search has visited and found."""

    states: int = 0
    schedules: int = 0
    faults: int = -1  # all schedules with so many faults were visited
    depth: int = 0  # steps of the longest schedule
    wall_s: float = 0.0
    rejected: Counter[str] = field(default_factory=Counter)
    found: dict[str, tuple[Violation, Schedule]] = field(default_factory=dict)  # first of each kind
    counts: Counter[str] = field(default_factory=Counter)  # schedules by kind

    def note(self, world: World, schedule: Schedule, before: frozenset[Violation]) -> None:
        """Record the violations of *world* that were not there *before*."""
        for violation in sorted(world.violations - before):
            self.counts[violation.kind] += 1
            self.found.setdefault(violation.kind, (violation, schedule))


def explore(
    new_world: NewWorld,
    limits: Limits,
    *,
    wanted: frozenset[str] = frozenset(),
    seconds: float = float("inf"),
    states: float = float("inf"),
) -> Report:
    """Visit all schedules within *limits*, fewest faults first.

    Ends when a violation of a *wanted* kind is found, or after so many *seconds* or *states*.
    """
    search = _Search(limits, wanted, time.monotonic() + seconds, states)
    began = time.monotonic()
    for most in range(limits.most + 1):
        if not search.run(new_world(), most):
            break
        search.report.faults = most
    search.report.wall_s = time.monotonic() - began
    return search.report


@dataclass
class _Search:
    limits: Limits
    wanted: frozenset[str]
    until: float
    states: float
    report: Report = field(default_factory=Report)

    def run(self, world: World, most: int) -> bool:
        """Visit all schedules of at most *most* faults; False if it had to end before."""
        visited = set[int]()
        stack: list[tuple[World, Schedule, Iterator[Action]]] = []
        stack.append((world, (), self._actions(world, ())))
        while stack and not self._is_over():
            world, schedule, actions = stack[-1]
            action = next(actions, None)
            if action is None:
                stack.pop()
                continue
            child, after = self._child(world, schedule, action)
            if len(after) >= most:
                self._finish(child, after)
                continue
            key = hash((child.fingerprint(), _spent(after)))
            if key not in visited:
                visited.add(key)
                stack.append((child, after, self._actions(child, after)))
        return not stack

    def _child(self, world: World, schedule: Schedule, action: Action) -> tuple[World, Schedule]:
        child = world.fork()
        after = schedule if action is STEP else (*schedule, (world.steps, action))
        self._apply(child, after, action)
        return child, after

    def _apply(self, world: World, schedule: Schedule, action: Action) -> None:
        before = world.violations
        world.apply(action)
        self.report.states += 1
        self.report.depth = max(self.report.depth, world.steps)
        if world.violations is not before:
            self.report.note(world, schedule, before)

    def _finish(self, world: World, schedule: Schedule) -> None:
        """Go on to the end of a schedule that has all its faults: there is no choice any more."""
        while not self._is_at_end(world):
            self._apply(world, schedule, STEP)
        self._end(world, schedule)

    def _is_at_end(self, world: World) -> bool:
        slowest = min(node.round_number for node in world.nodes.values())
        return slowest >= self.limits.rounds or world.now >= self.limits.until_s

    def _is_over(self) -> bool:
        is_found = any(kind in self.report.found for kind in self.wanted)
        return is_found or time.monotonic() > self.until or self.report.states >= self.states

    def _actions(self, world: World, schedule: Schedule) -> Iterator[Action]:
        limits, slowest = self.limits, min(n.round_number for n in world.nodes.values())
        if self._is_at_end(world):
            self._end(world, schedule)
            return
        if limits.first_round <= slowest <= limits.last_round:
            spent = Counter(action.kind for _, action in schedule)
            for action in faults_of(world, limits):
                if spent[action.kind] < limits.faults.get(action.kind, 0):
                    yield action
        yield STEP

    def _end(self, world: World, schedule: Schedule) -> None:
        self.report.schedules += 1
        for _, reason in world.rejected:
            self.report.rejected[reason] += 1
        if self.limits.healing_s:
            healed = world.fork()
            heal(healed, self.limits.healing_s)
            self.report.note(healed, schedule, world.violations)


def _spent(schedule: Schedule) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(action.kind for _, action in schedule).items()))


def faults_of(world: World, limits: Limits) -> Iterator[Action]:
    """Yield every fault that can happen now."""
    if world.flights:
        yield from _faults_of_flights(world, limits)
        return
    for place in range(len(world.withheld)):
        yield Action("release", place=place)
    for name, node in world.nodes.items():
        if node.is_connected and node.effects_left is None:
            shown = [other for other in node.neighbours if _is_in(limits.focus, other)]
            yield from (Action("will", name, other) for other in shown)
            yield from (Action("cut", name, down_s=down_s) for down_s in limits.downs)
            yield from _crashes(name, limits)


def _faults_of_flights(world: World, limits: Limits) -> Iterator[Action]:
    head = world.flights[0]
    in_focus = _is_in(limits.focus, head.sender, head.receiver)
    if in_focus and not isinstance(head.message, Presence):
        for kind in ("late", "drop", "duplicate"):
            yield Action(kind, head.receiver, head.sender, message=head.message.KIND)
    senders = {f.sender for f in world.flights if f.receiver == head.receiver} - {head.sender}
    yield from (Action("reorder", head.receiver, sender) for sender in sorted(senders))
    node = world.nodes[head.receiver]
    if node.is_connected and node.effects_left is None:
        yield from _crashes(head.receiver, limits)


def _is_in(names: frozenset[str], *found: str) -> bool:
    return not names or not names.isdisjoint(found)


def _crashes(name: str, limits: Limits) -> Iterator[Action]:
    if not _is_in(limits.crashing, name):
        return
    for effects in limits.effects:
        for memory in limits.memories:
            for down_s in limits.downs:
                yield Action("crash", name, "", effects, memory, down_s)


def replay(new_world: NewWorld, schedule: Schedule, until_s: float = 20.0) -> World:
    """Return the world after *schedule*, at virtual time *until_s*."""
    world, faults = new_world(), dict(schedule)
    while world.now < until_s and world.steps < MAX_STEPS:
        world.apply(faults.get(world.steps, STEP))
    return world


def shows(new_world: NewWorld, schedule: Schedule, kind: str, until_s: float = 20.0) -> bool:
    """True if *schedule*, and then a fleet without faults, breaks the invariant *kind*."""
    try:
        world = replay(new_world, schedule, until_s)
    except (IndexError, KeyError, StopIteration):
        return False  # the schedule names a message or a node that is not there
    if kind in FAILURES:
        heal(world)
    return any(violation.kind == kind for violation in world.violations)


def shrink(new_world: NewWorld, schedule: Schedule, kind: str) -> Schedule:
    """Return a part of *schedule* that still breaks *kind*, and none of whose faults can go."""
    size = max(len(schedule) // 2, 1)
    while True:
        for start in range(0, len(schedule), size):
            part = schedule[:start] + schedule[start + size :]
            if shows(new_world, part, kind):
                schedule = part
                break
        else:
            if size == 1:
                return schedule
            size //= 2


# -- at random --------------------------------------------------------------------------------

KINDS = ("late", "drop", "duplicate", "reorder", "will", "crash", "cut", "release")


def wander(
    new_world: NewWorld,
    seed: int,
    *,
    kinds: tuple[str, ...] = KINDS,
    memories: tuple[Memory, ...] = MEMORIES,
    faults_s: float = 15.0,
    until_s: float = 20.0,
) -> tuple[World, Schedule]:
    """Run one random schedule, then let the fleet heal.

    Each run uses a random part of *kinds* at a random rate (swarm testing): a fault that is common
    may hide what another one would show.
    """
    chance, world = random.Random(f"schedule {seed}"), new_world()
    used = {kind for kind in kinds if chance.random() < 0.4} | {"release"}
    limits = Limits({}, memories=memories)
    rate, schedule = 10.0 ** -chance.uniform(0.7, 2.5), list[Deviation]()
    while world.now < until_s and world.steps < MAX_STEPS:
        action = STEP
        if world.now < faults_s and chance.random() < rate:
            action = _random_fault(world, limits, used, chance)
        if action is not STEP:
            schedule.append((world.steps, action))
        world.apply(action)
    heal(world)
    return world, tuple(schedule)


def _random_fault(world: World, limits: Limits, used: set[str], chance: random.Random) -> Action:
    """Return a fault: first its kind is chosen, then one of those that can happen."""
    possible = [action for action in faults_of(world, limits) if action.kind in used]
    if not possible:
        return STEP
    kind = chance.choice(sorted({action.kind for action in possible}))
    return chance.choice([action for action in possible if action.kind == kind])


def wander_many(
    new_worlds: list[NewWorld], seeds: Iterator[int], *, seconds: float = float("inf")
) -> Report:
    """Run random schedules, one per seed, on the worlds in turn."""
    report, began = Report(), time.monotonic()
    for seed in seeds:
        world, schedule = wander(new_worlds[seed % len(new_worlds)], seed)
        report.schedules += 1
        report.states += world.steps
        report.depth = max(report.depth, world.steps)
        report.rejected.update(reason for _, reason in world.rejected)
        report.note(world, schedule, frozenset())
        _shrink_new(report, schedule, new_worlds[seed % len(new_worlds)])
        if time.monotonic() - began > seconds:
            break
    report.wall_s = time.monotonic() - began
    return report


def _shrink_new(report: Report, schedule: Schedule, new_world: NewWorld) -> None:
    """Keep only the faults that matter in the schedules that *report* has just got."""
    for kind, (violation, found) in report.found.items():
        if found is schedule and shows(new_world, schedule, kind):
            report.found[kind] = violation, shrink(new_world, schedule, kind)
