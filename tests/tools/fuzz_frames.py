"""Sends mutated frames, signed and unsigned, to a node in the middle of its rounds.

    python -m tests.tools.fuzz_frames --frames 1000000

Genuine messages of all kinds are changed in their fields, their bytes and their place, many are
signed again by their sender's own key, and all go through wire.decode into an agent, whose messages
are encoded and whose state is serialised as by the daemon. Exit code 1 if an exception escapes, or
a frame takes 1 ms of processor time or 1 MiB of memory. Among the frames are messages of every kind
whose lists are as long as they may be, and longer, on their own and on other topics.

Time is the thread's own processor time. A block with a frame above the limit is run again from its
beginning, up to five times, and the least time of each frame counts: other processes on the machine
cost cache.
Frames that close or open a round cost a round's work, once a round, from any sender: they are
counted apart. So are memberships of the right form that the operator has signed. tracemalloc
measures the memory in a second run of every tenth pair of blocks, one of each exchange (Python's
own allocations; the greatest resident memory of a process is printed beside it).
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, get_args

import msgspec
import numpy as np

from cipherfleet_node.core import topics
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import (
    Event,
    MessageReceived,
    Publish,
    ReadingTaken,
    Rejected,
    RoundClosed,
    Save,
    Stop,
    Surplus,
    TakeReading,
    TimerFired,
)
from cipherfleet_node.core.exchange import Packed
from cipherfleet_node.core.limits import size_limits
from cipherfleet_node.core.messages import (
    MAX_CIPHERTEXTS,
    MAX_CO_NEIGHBOURS,
    MAX_REASONS,
    MAX_UNCOUNTED,
    OPERATOR,
    Answer,
    Claim,
    Health,
    Membership,
    MembershipEntry,
    Message,
    Presence,
    PresenceState,
    Query,
    Refusal,
    RefusalReason,
    Uncounted,
)
from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.core.wire import (
    MAX_COUNTER,
    MAX_MESSAGE_BYTES,
    MAX_ROUND,
    WIRE_VERSION,
    decode,
    encode,
    topic_of,
)
from cipherfleet_node.errors import WireError
from tests.support.wire_fleet import (
    EXCHANGES,
    FLEET,
    NODES,
    Frame,
    agent_of,
    identity_of,
    make_fleet,
)

BLOCK = 500  # frames into one node before the next one is set up
MEMORY_EVERY = 10  # pairs of blocks, one of each exchange
PROGRESS_EVERY = 40  # blocks
BLOCKS_PER_PROCESS = 40  # an older process is slower: its memory is scattered
LIMIT_MS = 1.0
AGAIN = 5  # at most: runs of a block with a slow frame
LIMIT_BYTES = 1024 * 1024
TICK_EVERY = 40  # frames between two looks at the clock
TARGET = "n00"
MANY = 20_000  # entries at most of a list that was repeated
LISTS = (MAX_CIPHERTEXTS, MAX_CIPHERTEXTS + 1, 20_000)  # lengths

APART = ("round", "membership")  # outcomes whose frames may cost more
KINDS = (Query, Answer, Refusal, Presence, Membership, Claim, Health)

Raw = tuple[str, bytes, bool]  # topic, payload, whether the broker had retained it


class Target:
    """A node of a real fleet, stopped at a moment that *seed* decides, that takes any bytes.

    The fleets of even seeds are pairwise, those of odd seeds sealed.
    """

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"target {seed}")
        fleet = make_fleet(seed, rounds=40, exchange=EXCHANGES[seed % 2])
        for name in fleet.seats:
            fleet.start(name)
        until = chance.randint(1, 8)
        while agent_of(fleet, TARGET).round_number < until:
            fleet.advance(fleet.now + chance.uniform(0.0005, 0.002))
        self._fleet, self._agent, self._now = fleet, agent_of(fleet, TARGET), fleet.now
        self._verifiers = {
            name: identity_of(name).public_key() for name in [*fleet.neighbours[TARGET], OPERATOR]
        }
        self._limits = limits_of(self._agent)
        self._signer = fleet.identities[TARGET]
        self.stopped = False

    @property
    def neighbours(self) -> list[str]:
        """Whose messages the node takes."""
        return self._fleet.neighbours[TARGET]

    @property
    def templates(self) -> list[Frame]:
        """What the node got lately, and what is on its way to it."""
        coming = [
            event.message
            for _, _, name, _, event in self._fleet._heap
            if name == TARGET and isinstance(event, MessageReceived)
        ]
        identities = self._fleet.identities
        waiting = [Frame(TARGET, topic_of(m), encode(m, identities[m.sender]), m) for m in coming]
        came = [f for f in self._fleet.log if f.receiver == TARGET][-40:]
        others = [self.health_of(name) for name in self.neighbours] + [self.membership()]
        return waiting * 3 + came + others

    def health_of(self, name: str) -> Frame:
        """What *name* tells the operator, brought to the node by its broker."""
        counts = {"signature": 3, "stale_epoch": 1}
        health = Health(
            FLEET, name, 1, 9, "reading", 3, 2500, 1, 2, counts, {}, 4, 8, 1, [], 0, None, 51, 3
        )
        payload = encode(health, self._fleet.identities[name])
        return Frame(TARGET, topic_of(health), payload, health)

    def membership(self) -> Frame:
        """What the operator may send to the node."""
        around = self._fleet.neighbours
        members = [
            MembershipEntry(name, sorted(around[name]), bytes(128), bytes(32), bytes(32))
            for name in self.neighbours
        ]
        seals = [(name, bytes(32)) for name in NODES if name != TARGET]
        message = Membership(FLEET, OPERATOR, 3, TARGET, 9, "", members, seals, b"", rekey=False)
        return Frame(TARGET, topic_of(message), encode(message, identity_of(OPERATOR)), message)

    def sign(self, sender: str, kind: str, body: bytes) -> bytes:
        """The envelope of *body* as *sender* would sign it."""
        signature = identity_of(sender).sign(b"cipherfleet/v2/" + kind.encode() + b"\0" + body)
        return msgspec.msgpack.encode([WIRE_VERSION, kind, body, signature])

    def take(self, topic: str, payload: bytes, *, retained: bool = False) -> str:
        """What became of the bytes: a reason, "taken in", or one of APART.

        That is "round" if a round was closed, and "membership" for one that the operator signed.
        """
        try:
            message = decode(
                payload, topic, FLEET, self._verifiers, retained=retained, limits=self._limits
            )
        except WireError as error:
            return error.reason
        if isinstance(message, Membership):
            return "membership"  # the daemon does not pass it to the agent
        return self._handle(MessageReceived(message))

    def tick(self) -> None:
        """Let some time pass, with all that is due then."""
        self._now += 0.05
        timer = self._agent.timer()
        if timer is not None and timer <= self._now:
            self._handle(TimerFired())

    def rest(self) -> None:
        """What the daemon does between two messages: the reading that was asked for."""
        if self._agent._reading_awaited:
            self._handle(ReadingTaken(()))

    def _handle(self, event: Event) -> str:
        outcome = "taken in"
        for effect in self._agent.handle(event, self._now):
            match effect:
                case Publish(message):
                    encode(message, self._signer)
                case Save(state):
                    msgspec.msgpack.encode(state)
                    outcome = "round"
                case RoundClosed():
                    outcome = "round"
                case Rejected(_, reason) | Surplus(_, reason):
                    outcome = reason if outcome != "round" else outcome
                case TakeReading():
                    pass
                case Stop():
                    self.stopped = True
        return outcome


def limits_of(agent: Agent) -> Mapping[str, int]:
    """The lengths that the daemon of *agent* accepts."""
    exchange = agent._setup.exchange
    assert isinstance(exchange, Packed)
    return size_limits(exchange._layout)


# -- mutations ------------------------------------------------------------------------------------


@dataclass
class Mutator:
    """Makes frames of genuine ones, at random alone."""

    target: Target
    chance: random.Random
    templates: list[Frame] = field(init=False)

    def __post_init__(self) -> None:
        self.templates = self.target.templates

    def frame(self) -> Raw:
        """One frame; about half are signed by the sender of the genuine one."""
        if self.chance.random() < 0.02:
            topic, payload = self.long_lists()
        else:
            topic, payload = self.mutated(self.chance.choice(self.templates))
        return topic, payload, self.chance.random() < 0.02

    def mutated(self, frame: Frame) -> tuple[str, bytes]:
        roll = self.chance.random()
        if roll < 0.05:
            return self.topic(frame), self.chance.randbytes(self.chance.randrange(300))
        if roll < 0.25:
            return self.topic(frame), self.bytes_of(frame.payload)
        kind, body = frame.message.KIND, msgspec.msgpack.encode(frame.message)
        if roll < 0.40:
            body = self.bytes_of(body)
        else:
            fields = msgspec.msgpack.decode(body)
            for _ in range(self.chance.choice([1, 1, 1, 2, 4])):
                self.change(frame.message, fields)
            body = msgspec.msgpack.encode(fields)
        if self.chance.random() < 0.02 and body[:1] > b"\x90":  # the array's header, longer
            body = b"\xdc\0" + bytes([body[0] & 15]) + body[1:]
        if self.chance.random() < 0.02:
            kind = self.chance.choice([*(each.KIND for each in KINDS), "", "x" * 300])
        if self.chance.random() < 0.7:
            payload = self.target.sign(frame.sender, kind, body)
        else:
            payload = msgspec.msgpack.encode([WIRE_VERSION, kind, body, self.chance.randbytes(64)])
        return self.topic(frame), payload

    def long_lists(self) -> tuple[str, bytes]:
        """A message with long lists, of any kind, signed by a node or not, on any of its topics."""
        message = self.chance.choice(LONG)(self.chance)
        sender = self.chance.choice(self.target.neighbours)
        if isinstance(message, Membership):
            sender = self.chance.choice([OPERATOR, sender])
        else:
            message = msgspec.structs.replace(message, sender=sender)
        payload = self.target.sign(sender, message.KIND, msgspec.msgpack.encode(message))
        if self.chance.random() < 0.3:
            payload = payload[:-64] + self.chance.randbytes(64)
        return self.chance.choice([topic_of(message)] * 3 + topics_of(sender)), payload

    def topic(self, frame: Frame) -> str:
        if self.chance.random() < 0.95:
            return frame.topic
        other = self.chance.choice(NODES)
        return self.chance.choice(
            [
                "",
                topics.query_topic(FLEET, other),
                topics.answer_topic(FLEET, other, frame.sender),
                topics.presence_topic(FLEET, other),
                topics.membership_topic(FLEET, TARGET),
                topics.health_topic(FLEET, frame.sender),
                topics.claim_topic(FLEET, frame.sender),
                "/" * 60_000,
                frame.topic + "\0\n\x1b[31m",
                "\U0010ffff" * 1000,
            ]
        )

    def bytes_of(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.chance.choice([1, 1, 2, 8])):
            place = self.chance.randrange(len(changed) + 1)
            match self.chance.randrange(8):
                case 0:
                    del changed[place:]
                case 1:
                    del changed[place : place + self.chance.randint(1, 8)]
                case 2:
                    changed[place:place] = self.chance.randbytes(self.chance.randint(1, 8))
                case 3:
                    changed[place:place] = changed[: self.chance.randrange(200)]
                case 4:
                    other = self.chance.choice(self.templates).payload
                    changed[place:] = other[self.chance.randrange(len(other)) :]
                case 5:  # a header that announces a lot
                    header = self.chance.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
                    changed[place : place + 5] = header + self.chance.randbytes(4)
                case 6 if place < len(changed):
                    changed[place] = self.chance.choice([0, 0x7F, 0x80, 0xC0, 0xC1, 0xFF, 0x91])
                case _ if place < len(changed):
                    changed[place] ^= 1 << self.chance.randrange(8)
        if self.chance.random() < 0.002:
            changed += bytes(MAX_MESSAGE_BYTES)
        return bytes(changed)

    def change(self, message: Message, fields: list[Any]) -> None:
        """Change one of *message*'s fields, or their number."""
        index = self.chance.randrange(min(len(fields), len(message.__struct_fields__)))
        name = message.__struct_fields__[index]
        roll = self.chance.random()
        if self.chance.random() < 0.85:
            self.change_within_bounds(message, fields)
        elif roll < 0.04:
            fields[index] = self.anything()
        elif roll < 0.06:
            fields.insert(index, self.anything())
        elif isinstance(message, Query | Answer) and (name == "ciphertexts" or roll < 0.3):
            fields[message.__struct_fields__.index("ciphertexts")] = self.ciphertexts(message)
        else:
            fields[index] = self.like(fields[index])

    def change_within_bounds(self, message: Message, fields: list[Any]) -> None:
        """A change that passes the checks of the wire, so that the agent's own are reached."""
        names = [n for n in message.__struct_fields__ if n not in ("fleet", "sender", "receiver")]
        name = self.chance.choice(names)
        index = message.__struct_fields__.index(name)
        match name:
            case "epoch":  # seldom: after a greater one all genuine messages are stale
                fields[index] = self.chance.choice([0, 1] * 30 + [2, 3, MAX_ROUND, MAX_COUNTER])
            case "waited_ms":
                fields[index] = self.chance.choice([0, 0, 1, 1000, 2**32, MAX_COUNTER])
            case "roster":
                fields[index] = self.roster(getattr(message, name))
            case "uncounted":
                rounds = range(self.chance.choice([1, 2, 4, 5]))
                fields[index] = [[self.round_number(), self.roster([])] for _ in rounds]
            case "round" | "theirs":
                fields[index] = self.round_number()
            case "ciphertexts" | "averaged":
                assert isinstance(message, Query | Answer)
                fields[index] = self.ciphertexts(message)
            case "state" | "reason":
                kinds = PresenceState if name == "state" else RefusalReason
                fields[index] = self.chance.choice(get_args(kinds))
            case "unbalanced":
                fields[index] = self.chance.random() < 0.5
            case "phase":
                fields[index] = self.chance.choice(["starting", "collecting", "finished", "asleep"])
            case "rejected" | "surplus":
                fields[index] = self.counts()
            case (
                "number"
                | "round_us"
                | "silent"
                | "missed"
                | "pool"
                | "pool_size"
                | "inline"
                | "temperature"
                | "unanswered_s"
                | "scale"
                | "settled"
                | "generation"
            ):
                near = [-321, -320, 320, 65_535, 65_536]
                odd = [None, True, 0, 1, 999, 2**40, MAX_COUNTER]
                fields[index] = self.chance.choice([*odd, *near])
            case "members" | "seals":
                before = fields[index]  # an earlier change may have put anything there
                entries = before if isinstance(before, list) else list(getattr(message, name))
                fields[index] = (entries * self.chance.choice([0, 1, 2, 30, 2000]))[:MANY]
            case "generation":
                fields[index] = self.note()
            case _:  # tags, digests and more
                value = getattr(message, name)
                is_bytes = isinstance(value, bytes)
                fields[index] = (
                    self.chance.randbytes(len(value)) if is_bytes else self.like(fields[index])
                )

    def note(self) -> Any:
        """A note on generations, of right and of wrong forms."""
        names, bits = [b"", bytes(16), bytes(15)], [b"", b"\xff", b"\0", b"\xff" * 129]
        name, some = self.chance.choice(names), self.chance.choice(bits)
        votes = self.chance.choice([None, [name, some], [some, name]])
        number = self.chance.choice([0, 1, -1, MAX_ROUND, MAX_COUNTER])
        return self.chance.choice([None, [number, name, some, some, name, votes], [number, name]])

    def like(self, value: Any) -> Any:
        """Another value of the same type."""
        match value:
            case int():
                edges = [0, 1, MAX_COUNTER - 1, MAX_COUNTER, MAX_COUNTER + 1, -1, 2**63, 2**64 - 1]
                steps = [value - 1, value - 1, value - 2, value + 1, value - 5]
                chosen = self.chance.choice([*edges, *steps, 2**64 - 1, -(2**63)])
                return max(-(2**63), min(chosen, 2**64 - 1))
            case str():
                odd = ["", "\0", "toy/q/#", "n01\n", "é" * 40, "x" * 10_000, "lost", "finished"]
                return self.chance.choice([*NODES, *odd])
            case bytes():
                return self.chance.randbytes(self.chance.choice([0, 7, 8, 8, 8, 9, 16, 16, 1000]))
            case list():
                return (value * self.chance.choice([0, 2, 30]))[:MANY]
            case _:
                return value

    def roster(self, genuine: list[str]) -> list[str]:
        """Often one that could be: in order, and of neighbours only."""
        some = sorted(self.chance.sample(NODES, self.chance.randint(0, len(NODES))))
        fewer = sorted(self.chance.sample(genuine, self.chance.randint(0, len(genuine))))
        with_target = sorted({*fewer, TARGET})
        odd = [some[::-1], [TARGET] * 2, ["n99"], [""], ["a\0b"], ["n" * 64], ["n00"] * 64]
        if self.chance.random() < 0.02:
            return [""] * self.chance.choice([MAX_DEGREE, MAX_DEGREE + 1, 200_000])
        return self.chance.choice([some, *[fewer, with_target] * 3, *odd])

    def round_number(self) -> int:
        """Mostly one near the round of the target."""
        now = self.target._agent.round_number
        near = [now + step for step in range(-8, 9)]
        return max(0, self.chance.choice([*near, 2**32, MAX_ROUND, MAX_COUNTER]))

    def counts(self) -> dict[str, int]:
        """By reason: few, as many as there may be, and more."""
        number = self.chance.choice([0, 1, 1, 3, 64, 65, 3000])
        end = self.chance.choice(["", "", "", "\n", "x" * 40, "\x1b[2J"])
        letters = "abcdefghij"
        names = ["".join(letters[int(digit)] for digit in str(n)) + end for n in range(number)]
        return dict.fromkeys(names, self.chance.choice([0, 1, MAX_COUNTER, -1]))

    def ciphertexts(self, message: Query | Answer) -> list[bytes]:
        owner = message.sender if isinstance(message, Query) else message.receiver
        key = self.target._fleet.keys[owner]
        n, n2 = int(key.public.n), int(key.public.n_squared)
        numbers = [0, 1, n - 1, n, n + 1, n2 - 1, n2, n2 + 1, int(key.p), 2**1024 - 1]
        numbers += [self.chance.randrange(n2), self.chance.randrange(n) * int(key.q)]
        one = self.chance.choice(numbers).to_bytes(128, "big")
        many = self.chance.choice([0, 1, 1, 1, 1, 1, 2, *LISTS])
        if many > 2:
            return [self.chance.choice([b"", b"\0", one[:12]])] * many
        length = self.chance.choice([128] * 20 + [0, 127, 129, 60_000, 250_000])
        return [one[:length].rjust(length, b"\1")] * many

    def anything(self) -> Any:
        deep: Any = []
        for _ in range(self.chance.choice([1, 20, 900])):
            deep = [deep]
        plain: list[Any] = [None, True, 1.5, float("nan"), -(2**63), 2**64 - 1, "", b"", {}]
        odd: list[Any] = [deep, {"a": [1]}, {1: 2}, [[]] * 500, "\U0010ffff", bytes(100_000)]
        return self.chance.choice(plain + odd)


def topics_of(sender: str) -> list[str]:
    """On which a node may hear *sender*, or the operator, in the order of KINDS."""
    return [
        topics.query_topic(FLEET, sender),
        topics.answer_topic(FLEET, TARGET, sender),
        topics.presence_topic(FLEET, sender),
        topics.membership_topic(FLEET, TARGET),
        topics.claim_topic(FLEET, sender),
        topics.health_topic(FLEET, sender),
    ]


def length(chance: random.Random, limit: int, most: int) -> int:
    """Of a list: as long as it may be, one longer, or as long as fits into a message."""
    return chance.choice([limit, limit, limit + 1, most])


def long_query(chance: random.Random) -> Query:
    roster = ["n01"] * length(chance, MAX_DEGREE, 60_000) if chance.random() < 0.5 else []
    missing = ["n01"] * length(chance, MAX_DEGREE, 60_000) if chance.random() < 0.5 else []
    rounds = length(chance, MAX_UNCOUNTED, 60_000 // (1 + len(missing)))
    uncounted, tags = [Uncounted(2, missing)] * rounds, (bytes(8), bytes(8))
    return Query(
        FLEET, "", 1, 3, roster, uncounted, False, None, 0, *tags, long_ciphertexts(chance)
    )


def long_answer(chance: random.Random) -> Answer:
    return Answer(FLEET, "", 1, TARGET, 3, 0, bytes(32), long_ciphertexts(chance))


def long_ciphertexts(chance: random.Random) -> list[bytes]:
    if chance.random() < 0.3:
        return [bytes(120)] * length(chance, MAX_CIPHERTEXTS, 1)
    return [b""] * length(chance, MAX_CIPHERTEXTS, 30_000)


def long_membership(chance: random.Random) -> Membership:
    names = [f"n{number:02}" for number in range(MAX_DEGREE)]
    if chance.random() < 0.3:
        names = ["n"] * length(chance, MAX_DEGREE, 60_000)
    member = MembershipEntry("n01", names, bytes(128), bytes(32), bytes(32))
    count = 1 if len(names) > MAX_DEGREE else length(chance, MAX_DEGREE, 500)
    seals = [("n01", bytes(32))] * length(chance, MAX_CO_NEIGHBOURS, 1)
    if chance.random() < 0.3:
        seals = [("", b"")] * length(chance, MAX_CO_NEIGHBOURS, 60_000)
    return Membership(FLEET, OPERATOR, 3, TARGET, 9, "", [member] * count, seals, b"", rekey=False)


def long_health(chance: random.Random) -> Health:
    names = ["".join("abcdefghij"[int(d)] for d in f"{number:032}") for number in range(2500)]
    counts = dict.fromkeys(names[: length(chance, MAX_REASONS, 2500)], MAX_COUNTER)
    left_out = ["n01"] * length(chance, MAX_DEGREE, 60_000) if chance.random() < 0.5 else []
    rest = counts, counts, 4, 8, 1, left_out, 0, None, 51, MAX_COUNTER
    return Health(FLEET, "", 1, 9, "reading", 3, 25, 1, 2, *rest)


def long_claim(chance: random.Random) -> Claim:
    return Claim(FLEET, "", 1, *[bytes(length(chance, 512, 50_000))] * 5)


LONG: list[Callable[[random.Random], Message]] = [
    long_query,
    long_answer,
    long_membership,
    long_health,
    long_claim,
]

# -- blocks ---------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What was measured of all frames."""

    ms: list[float] = field(default_factory=list)  # of all other frames
    apart_ms: list[float] = field(default_factory=list)  # of frames with an outcome in APART
    peaks: list[int] = field(default_factory=list)  # bytes, of the frames of some blocks
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    repeated: int = 0  # blocks that were run again, to tell a slow frame from a busy machine
    resident_kib: int = 0  # greatest resident memory of a process that ran blocks

    def add(self, other: Figures) -> None:
        """Count the figures of another block in."""
        self.ms += other.ms
        self.apart_ms += other.apart_ms
        self.peaks += other.peaks
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.repeated += other.repeated
        self.resident_kib = max(self.resident_kib, other.resident_kib)

    @property
    def good(self) -> bool:
        """No exception, every frame below both limits."""
        slow = max(self.ms, default=0.0) >= LIMIT_MS
        return not (self.failures or slow or max(self.peaks, default=0) >= LIMIT_BYTES)


@dataclass
class Run:
    """One run of a block: what became of each frame, its time, its peak."""

    outcomes: list[str] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


def make_block(seed: int, size: int = BLOCK) -> list[Raw]:
    """The frames of block *seed*."""
    mutator = Mutator(Target(seed), random.Random(f"frames {seed}"))
    return [mutator.frame() for _ in range(size)]


def run_block(seed: int, frames: Sequence[Raw], *, memory: bool = False) -> Run:
    """All *frames* into a fresh target."""
    run, target = Run(), Target(seed)
    gc.collect()
    gc.freeze()
    if memory:
        tracemalloc.start()
    try:
        for index, frame in enumerate(frames):
            if target.stopped:
                target = Target(seed)
            take_one(target, frame, run, memory=memory)
            between(target, index, run)
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    return run


def take_one(target: Target, frame: Raw, run: Run, *, memory: bool) -> None:
    topic, payload, retained = frame
    if memory:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
    began = time.thread_time_ns()
    try:
        outcome = target.take(topic, payload, retained=retained)
    except Exception:
        outcome = "EXCEPTION"
        report(topic, payload)
    run.ms.append((time.thread_time_ns() - began) / 1e6)
    run.outcomes.append(outcome)
    if memory:
        run.peaks.append(tracemalloc.get_traced_memory()[1] - before)


def between(target: Target, index: int, run: Run) -> None:
    """Time and readings: what earlier frames have left behind must not fail then."""
    try:
        target.rest()
        if index % TICK_EVERY == 0:
            target.tick()
    except Exception:
        run.outcomes[-1] = "EXCEPTION"
        report("(between two frames)", b"")


def report(topic: str, payload: bytes) -> None:
    traceback.print_exc()
    print(f"topic {topic[:200]!r}, {len(payload)} bytes: {payload[:300].hex()}", file=sys.stderr)


def jobs(frames: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """The seed and the size of each block that *frames* frames need."""
    for seed, done in enumerate(range(0, frames, BLOCK), first):
        yield seed, min(BLOCK, frames - done)


def measure(job: tuple[int, int]) -> Figures:
    """Run one block, again if a frame was slow, and every so often with a look at its memory."""
    seed, size = job
    block = make_block(seed, size)
    run, figures = run_block(seed, block), Figures()
    plain = [o not in (*APART, "EXCEPTION") for o in run.outcomes]
    for _ in range(AGAIN):
        if max((ms for ms, p in zip(run.ms, plain, strict=True) if p), default=0.0) < LIMIT_MS:
            break
        figures.repeated += 1
        again = run_block(seed, block)
        run.ms = [min(pair) for pair in zip(run.ms, again.ms, strict=True)]
    if seed // 2 % MEMORY_EVERY == 0:
        traced = run_block(seed, block, memory=True)
        figures.peaks = [
            peak
            for peak, outcome in zip(traced.peaks, traced.outcomes, strict=True)
            if outcome not in APART
        ]
    if "EXCEPTION" in run.outcomes:
        print(f"block {seed} failed: --first {seed} --frames {BLOCK} repeats it", flush=True)
    figures.failures = run.outcomes.count("EXCEPTION")
    figures.outcomes.update(run.outcomes)
    figures.ms = [ms for ms, p in zip(run.ms, plain, strict=True) if p]
    figures.apart_ms = [ms for ms, o in zip(run.ms, run.outcomes, strict=True) if o in APART]
    figures.resident_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return figures


def percentiles(values: Sequence[float]) -> str:
    """The usual ones, and the greatest."""
    if not values:
        return "none"
    at = np.percentile(values, [50, 95, 99, 99.9])
    return (
        " ".join(f"p{p} {v:.3f}" for p, v in zip((50, 95, 99, 99.9), at, strict=True))
        + f" max {max(values):.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first block")
    parser.add_argument("--processes", type=int, default=1, help="that run blocks, default 1")
    options = parser.parse_args(arguments)
    figures, began = Figures(), time.monotonic()
    # ProcessPoolExecutor with max_tasks_per_child may stop in the middle (CPython issue 115634).
    with get_context("spawn").Pool(options.processes, maxtasksperchild=BLOCKS_PER_PROCESS) as pool:
        done = 0
        for number, block in enumerate(pool.imap(measure, jobs(options.frames, options.first)), 1):
            figures.add(block)
            done += block.outcomes.total()
            if number % PROGRESS_EVERY == 0 or done == options.frames:
                print(
                    f"{done:9,} frames, {figures.failures} exceptions, max "
                    f"{max(figures.ms):.3f} ms, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
    print("outcomes: " + ", ".join(f"{o} {n:,}" for o, n in figures.outcomes.most_common()))
    print(f"processor time, ms: {percentiles(figures.ms)} ({figures.repeated} blocks run again)")
    print(f"rounds closed or opened, signed memberships, ms: {percentiles(figures.apart_ms)}")
    kib = [peak / 1024 for peak in figures.peaks]
    print(f"peak allocation, KiB: {percentiles(kib)} (of {len(kib):,} frames)")
    print(f"a process that ran blocks took {figures.resident_kib / 1024:.0f} MiB at most")
    print("good" if figures.good else "NOT GOOD")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
