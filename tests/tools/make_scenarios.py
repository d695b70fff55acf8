"""Write node/vectors/scenarios and node/vectors/transcripts, from runs of our own nodes.

Run as `python -m tests.tools.make_scenarios`. node/vectors/README.md explains the format. The node
under test is always `a`. Nothing in the files is secret, and nothing of them protects anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from cipherfleet_node.conformance.scenario import (
    Delivery,
    NodeScenario,
    NodeSetup,
    Published,
    Step,
    Transcript,
)
from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Answer, Message, Query
from cipherfleet_node.settings.sections import Algorithm, ExchangeName
from tests.support.recorded_fleet import (
    DELAY_S,
    FLEET,
    STEPSIZE,
    RecordedFleet,
    identity_of,
    seal_of,
    setups_of,
)

FOLDER = Path(__file__).parents[2] / "node" / "vectors"
SCENARIOS, TRANSCRIPTS = FOLDER / "scenarios", FOLDER / "transcripts"
LATE_S = 3.5  # after both deadlines of a round, and before the round is dropped
PERIOD_S = 0.25  # makes the scenarios short
NEVER: Sequence[float] = ()


# -- fleets ---------------------------------------------------------------------------------------


def complete(size: int) -> list[tuple[str, str]]:
    """Return the edges of the complete graph of a, b, c, ..."""
    return list(combinations("abcdefgh"[:size], 2))


def fleet_of(
    size: int, exchange: ExchangeName = "sealed", rounds: int = 40, *, with_states: bool = False
) -> RecordedFleet:
    """Return a fleet on a complete graph, with an answer timeout of 1 s; nothing is started."""
    algorithm = Algorithm(
        rounds=rounds,
        method="article",
        period_s=PERIOD_S,
        answer_timeout_s=1.0,
        start_timeout_s=8.0,
        stepsize=STEPSIZE,
    )
    return RecordedFleet(setups_of(complete(size), exchange, algorithm), with_states=with_states)


def names_of(fleet: RecordedFleet) -> list[str]:
    return list(fleet.setups)


def started(size: int, exchange: ExchangeName = "sealed", rounds: int = 40) -> RecordedFleet:
    """Return a fleet whose nodes have all just started."""
    fleet = fleet_of(size, exchange, rounds)
    fleet.start(*names_of(fleet))
    return fleet


def run_to_round(fleet: RecordedFleet, number: int, name: str = "a") -> None:
    """Run until *name* has opened round *number*."""
    while fleet.opened(name) < number:
        fleet.run(fleet.now + DELAY_S / 4.0)


def body_of(data: bytes) -> list[Any]:
    """Return the fields of the message in *data*, unchecked."""
    fields: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.decode(data)[2])
    return fields


def answer_in(topic: str, data: bytes) -> tuple[str, int] | None:
    """Return the sender and the round of an answer or refusal; None for any other message."""
    return (topics.sender_of(topic), body_of(data)[4]) if "/a/" in topic else None


def round_in(topic: str, data: bytes) -> int | None:
    """Return the round of a query, answer or refusal; None for presence."""
    level = topic.split("/")[3]
    return body_of(data)[3 if level == "q" else 4] if level in "qa" else None


def slow_answers(sender: str, receiver: str, number: int, delays: Sequence[float]) -> Any:
    """Return a path on which the answer to round *number* takes *delays*."""

    def path(to: str, topic: str, data: bytes) -> Sequence[float]:
        is_slow = to == receiver and answer_in(topic, data) == (sender, number)
        return delays if is_slow else [DELAY_S]

    return path


def latest_to(fleet: RecordedFleet, name: str, kind: str, sender: str) -> Delivery:
    """Return the latest message of *sender* on a topic of level *kind* that *name* got."""
    events = [step.event for step in reversed(fleet.steps(name))]
    return next(
        event
        for event in events
        if isinstance(event, Delivery)
        and f"/{kind}/" in event.topic
        and topics.sender_of(event.topic) == sender
    )


def inject(fleet: RecordedFleet, message: Message) -> None:
    """Let the broker deliver *message* to a, well signed."""
    data = wire.encode(message, identity_of(message.sender))
    fleet.inject("a", wire.topic_of(message), data)


def query_to(fleet: RecordedFleet, sender: str) -> Query:
    """Return the latest query of *sender* that a got."""
    data = bytes.fromhex(latest_to(fleet, "a", "q", sender).data)
    return msgspec.msgpack.decode(msgspec.msgpack.decode(data)[2], type=Query)


# -- scenarios ------------------------------------------------------------------------------------

Make = Callable[[], RecordedFleet]
MADE: dict[str, tuple[Make, str]] = {}


def scenario(section: str) -> Callable[[Make], Make]:
    """Enter a scenario of *section* of node/PROTOCOL.md; its docstring says what it is about."""

    def enter(make: Make) -> Make:
        MADE[make.__name__.replace("_", "-")] = make, section
        return make

    return enter


@scenario("7.2")
def start() -> RecordedFleet:
    """Three sealed nodes start together, run three rounds and finish."""
    fleet = started(3, rounds=3)
    fleet.run(20.0)
    return fleet


@scenario("7.2")
def start_pairwise() -> RecordedFleet:
    """Three pairwise nodes start together, run three rounds and finish."""
    fleet = started(3, "pairwise", rounds=3)
    fleet.run(20.0)
    return fleet


@scenario("7.10")
def retained_presence() -> RecordedFleet:
    """Retained presence is no sign of life: the node waits for the start timeout."""
    fleet = fleet_of(3)
    fleet.start("b", "c")
    fleet.run(1.0)
    for name in ("b", "c"):
        fleet.kill(name, with_will=False)
    fleet.start("a")
    fleet.run(12.0)
    fleet.start("b", "c")
    fleet.run(13.0)
    return fleet


@scenario("7.10")
def first_sign_of_life() -> RecordedFleet:
    """A node that runs answers the first sign of life of a restarted neighbour with its query."""
    fleet = started(3)
    run_to_round(fleet, 3)
    fleet.kill("b", with_will=False)
    fleet.run(fleet.now + 0.5)
    fleet.start("b")
    fleet.run(fleet.now + 0.5)
    return fleet


@scenario("7.11")
def restart() -> RecordedFleet:
    """A node is killed while a round is open, and repeats it byte for byte."""
    fleet = started(4)
    fleet.path = lambda to, topic, data: (
        [1.0] if to == "a" and (answer_in(topic, data) or ("", 0))[1] == 2 else [DELAY_S]
    )
    run_to_round(fleet, 2)
    fleet.run(fleet.now + 2 * DELAY_S)
    fleet.kill("a")
    fleet.run(fleet.now + 0.25)
    fleet.start("a")
    fleet.run(fleet.now + 2.0)
    return fleet


@scenario("7.11")
def reconnection() -> RecordedFleet:
    """The connection is lost in an open round: the deadline begins again, the query is repeated."""
    fleet = started(4)
    run_to_round(fleet, 2)
    fleet.cut("a")
    fleet.run(fleet.now + 5.0)
    fleet.connect("a")
    fleet.run(fleet.now + 0.5)
    return fleet


@scenario("7.11")
def lost_state() -> RecordedFleet:
    """A node that has run before, and has no state, goes on two rounds beyond two claims."""
    fleet = fleet_of(4)
    setup = msgspec.structs.replace(fleet.setups["a"], has_lost_round=True, draw=123_456)
    fleet = RecordedFleet({**fleet.setups, "a": setup})
    fleet.start("b", "c", "d")
    fleet.run(9.0)
    fleet.start("a")
    fleet.run(fleet.now + 1.0)
    return fleet


@scenario("7.8")
def jump() -> RecordedFleet:
    """A node that was away takes the second highest round of its neighbours."""
    fleet = started(4)
    run_to_round(fleet, 2)
    fleet.cut("a")
    fleet.run(fleet.now + 30.0)
    fleet.connect("a")
    fleet.run(fleet.now + 0.5)
    return fleet


@scenario("7.8")
def far_claim() -> RecordedFleet:
    """One neighbour claims round 10^12: it is counted as a fault, and the node goes on."""
    fleet = started(4)
    run_to_round(fleet, 2)
    fleet.run(fleet.now + DELAY_S)
    inject(fleet, msgspec.structs.replace(query_to(fleet, "b"), round=10**12))
    fleet.run(fleet.now + 0.25)
    return fleet


@scenario("7.7")
def silence() -> RecordedFleet:
    """An answer comes after both deadlines: the round is held, and coupled when it comes."""
    fleet = started(4)
    fleet.path = slow_answers("c", "a", 2, [LATE_S])
    run_to_round(fleet, 6)
    return fleet


@scenario("7.7")
def an_answer_never_comes() -> RecordedFleet:
    """A held round is dropped four rounds later."""
    fleet = started(4)
    fleet.path = slow_answers("c", "a", 2, NEVER)
    run_to_round(fleet, 9)
    return fleet


@scenario("7.6")
def last_will() -> RecordedFleet:
    """The last will of a neighbour that is awaited closes a sealed round at once."""
    fleet = started(4)
    fleet.path = slow_answers("c", "a", 2, [0.5])
    run_to_round(fleet, 2)
    fleet.run(fleet.now + 2 * DELAY_S)
    fleet.publish_lost("c")
    fleet.run(fleet.now + 1.0)
    return fleet


@scenario("7.4")
def another_roster() -> RecordedFleet:
    """A neighbour asks with a narrower roster: it is refused, and the next round has a new draw."""
    fleet = started(4)
    fleet.path = lambda to, topic, data: (
        NEVER if to == "c" and answer_in(topic, data) in {("d", 1), ("d", 2)} else [DELAY_S]
    )
    run_to_round(fleet, 6)
    return fleet


@scenario("7.4")
def refusals() -> RecordedFleet:
    """A query of a forgotten round is refused as old; one of an earlier start as stale."""
    fleet = started(4)
    run_to_round(fleet, 1)
    early = latest_to(fleet, "a", "q", "b")
    run_to_round(fleet, 8)
    fleet.handle("a", Delivery(fleet.now, early.topic, early.data))
    fleet.run(fleet.now + 0.25)
    fleet.kill("b", with_will=False)
    before = latest_to(fleet, "a", "q", "b")
    fleet.start("b")
    fleet.run(fleet.now + 0.25)
    fleet.handle("a", Delivery(fleet.now, before.topic, before.data))
    fleet.run(fleet.now + 0.25)
    return fleet


@scenario("7.4")
def closed_pairwise() -> RecordedFleet:
    """Pairwise: a query for a round that was closed without the asker's answer is refused."""
    fleet = started(3, "pairwise")
    late = {("c", 1)}
    fleet.path = lambda to, topic, data: (
        [LATE_S]
        if to == "a" and (topics.sender_of(topic), round_in(topic, data)) in late
        else [DELAY_S]
    )
    run_to_round(fleet, 2)
    fleet.run(fleet.now + 1.5)
    return fleet


@scenario("7.9")
def taken_back() -> RecordedFleet:
    """Pairwise: a neighbour did not count the node, which takes the neighbour's term back."""
    fleet = started(3, "pairwise")
    fleet.path = slow_answers("a", "c", 2, NEVER)
    run_to_round(fleet, 5)
    return fleet


@scenario("7.4")
def second_query() -> RecordedFleet:
    """A neighbour signs two queries of one round: the second one is a fault."""
    fleet = started(4)
    run_to_round(fleet, 3)
    fleet.run(fleet.now + 2 * DELAY_S)
    query = query_to(fleet, "b")
    other = [bytes([*query.ciphertexts[0][:-1], query.ciphertexts[0][-1] ^ 1])]
    inject(fleet, query)
    inject(fleet, msgspec.structs.replace(query, ciphertexts=other))
    fleet.run(fleet.now + 0.25)
    return fleet


@scenario("7.13")
def spoiled_sum() -> RecordedFleet:
    """A neighbour's answers are garbage: after three rounds half of the roster is left out."""
    fleet = started(5)

    def alter(to: str, topic: str, data: bytes) -> bytes:
        if to != "a" or "/a/" not in topic or topics.sender_of(topic) != "b":
            return data
        answer = msgspec.msgpack.decode(msgspec.msgpack.decode(data)[2], type=Answer)
        size = len(answer.ciphertexts[0])
        return wire.encode(
            msgspec.structs.replace(answer, ciphertexts=[(3).to_bytes(size, "big")]),
            identity_of("b"),
        )

    fleet.alter = alter
    run_to_round(fleet, 8)
    return fleet


@scenario("2.3")
def flaws_on_the_wire() -> RecordedFleet:
    """Messages that fail a check are counted under its reason and have no other effect."""
    fleet = started(4)
    run_to_round(fleet, 3)
    genuine = latest_to(fleet, "a", "q", "b")
    data, topic = bytes.fromhex(genuine.data), genuine.topic
    flawed = [
        (topic, b"", False),
        (topic, data[:-1], False),
        (topic, data[:-1] + bytes([data[-1] ^ 1]), False),
        (topics.query_topic(FLEET, "c"), data, False),
        (topics.query_topic(FLEET, "z"), data, False),
        (topic, data, True),
        (topics.answer_topic(FLEET, "a", "b"), data, False),
    ]
    for place, payload, retained in flawed:
        fleet.inject("a", place, payload, retained=retained)
    query = query_to(fleet, "b")
    for change in ({"parameters": bytes(8)}, {"key": bytes(8)}, {"roster": ["c", "a"]}):
        inject(fleet, msgspec.structs.replace(query, **change))
    fleet.run(fleet.now + 0.25)
    return fleet


@scenario("7.12")
def giving_up() -> RecordedFleet:
    """A node that meets no neighbour waits for 512 answer timeouts and ends, not complete."""
    fleet = fleet_of(3)
    fleet.start("a")
    fleet.run(600.0)
    return fleet


def make_scenario(name: str) -> NodeScenario:
    """Return the scenario *name*, from a new run."""
    make, section = MADE[name]
    fleet = make()
    about = (make.__doc__ or "").strip()
    return NodeScenario(name, about, section, fleet.setups["a"], fleet.steps("a"))


# -- transcripts ----------------------------------------------------------------------------------


def make_transcript(exchange: ExchangeName) -> Transcript:
    """Return three rounds of three nodes, with everything that they keep secret."""
    fleet = fleet_of(3, exchange, rounds=3, with_states=True)
    fleet.start(*names_of(fleet))
    fleet.run(20.0)
    setups: dict[str, NodeSetup] = dict(fleet.setups)
    steps: dict[str, list[Step]] = {name: fleet.steps(name) for name in setups}
    seals = {name: seal_of(name).private_bytes_raw().hex() for name in setups}
    about = f"three nodes, three rounds, {exchange}: every message, reading and saved state"
    return Transcript(about, seals, setups, steps)


# -- the command ----------------------------------------------------------------------------------


def write(file: Path, value: msgspec.Struct) -> None:
    """Write *value* as JSON with one step per line."""
    document = json.loads(msgspec.json.encode(value))
    file.parent.mkdir(exist_ok=True)
    file.write_text(_lines(document))


def _lines(document: dict[str, Any]) -> str:
    parts = [f" {json.dumps(key)}: {_value(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[\n  " + ",\n  ".join(json.dumps(each) for each in value) + "\n ]"
    if isinstance(value, dict) and any(isinstance(each, list) for each in value.values()):
        inner = (f"  {json.dumps(key)}: {_value(each)}" for key, each in value.items())
        return "{\n" + ",\n".join(inner) + "\n }"
    return json.dumps(value)


def published(steps: Sequence[Step]) -> list[Published]:
    """Return all messages that come out in *steps*."""
    effects = (effect for step in steps for effect in step.outcome.effects)
    return [effect for effect in effects if isinstance(effect, Published)]


if __name__ == "__main__":
    for scenario_name in MADE:
        write(SCENARIOS / f"{scenario_name}.json", make_scenario(scenario_name))
    for exchange_name in ("sealed", "pairwise"):
        write(TRANSCRIPTS / f"{exchange_name}.json", make_transcript(exchange_name))
