"""Forged messages of every class, and whole fleets that must refuse each of them.

    python -m tests.tools.forgeries --count 10000 --exchange both

makes that many forgeries of each class in fleets of each exchange, hands them to the nodes of a
running fleet as their daemons would (bytes on a topic), and prints a table. Exit code 1 if any was
accepted, counted under another reason than its class has, or moved the fleet's result by one bit.
The sealed fleets lose some answers by themselves, so that rounds are held and rosters change. All
classes are in one file, since they make their forgeries of the same genuine frames.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any, Literal

import gmpy2
import msgspec
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import paillier, topics
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.messages import (
    DIGEST_BYTES,
    MAX_CIPHERTEXTS,
    OPERATOR,
    Answer,
    GenerationNote,
    GenerationVotes,
    Health,
    Membership,
    MembershipEntry,
    Message,
    Presence,
    Query,
    Refusal,
    RefusalReason,
    Reply,
)
from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.core.round import Phase
from cipherfleet_node.core.wire import (
    MAX_COUNTER,
    MAX_MESSAGE_BYTES,
    MAX_ROUND,
    WIRE_VERSION,
    encode,
    topic_of,
)
from tests.support.wire_fleet import (
    EXCHANGES,
    FLEET,
    NODES,
    ExchangeName,
    Forgery,
    Frame,
    Outcome,
    WireFleet,
    agent_of,
    ending,
    identity_of,
    make_fleet,
    past,
    recorded_powers,
    undisturbed,
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group
LATEST = 600  # messages in which answered queries are looked for
LONGEST_S = 2000.0
REFUSALS: list[RefusalReason] = ["old", "closed", "roster"]
MOMENTS = 40  # of one run in which an attacker is at work, at least

# -- the attackers' tools -------------------------------------------------------------------------


@dataclass
class ExchangeScenario:
    """What an attacker has at a moment: all that was ever said, and the message about to come."""

    fleet: WireFleet
    pending: Frame
    chance: random.Random

    @property
    def receiver(self) -> str:
        return self.pending.receiver

    @property
    def agent(self) -> Agent:
        return agent_of(self.fleet, self.receiver)

    def captured(
        self,
        kind: type[Message] = Message,
        where: Callable[[Frame], bool] = lambda _: True,
        log: list[Frame] | None = None,
    ) -> Frame | None:
        """One message of *kind* that came to the receiver, at random."""
        log = self.fleet.log if log is None else log
        for _ in range(200):
            frame = self.chance.choice(log)
            if frame.receiver == self.receiver and isinstance(frame.message, kind) and where(frame):
                return frame
        fitting = [f for f in log if f.receiver == self.receiver and isinstance(f.message, kind)]
        return self.one_of([f for f in fitting if where(f)])

    def one_of(self, frames: Sequence[Frame]) -> Frame | None:
        """Any of *frames*, None if there is none."""
        return self.chance.choice(frames) if frames else None

    def overheard(self, where: Callable[[Frame], bool]) -> Frame | None:
        """One message between any two nodes, at random."""
        drawn = (self.chance.choice(self.fleet.log) for _ in range(200))
        return next(filter(where, drawn), None)

    def any_frame(self) -> Frame:
        """What is about to come, or something that came before."""
        return (self.chance.random() < 0.5 and self.captured()) or self.pending

    def forged(self, payload: bytes, topic: str | None = None) -> Forgery:
        return Forgery(self.receiver, self.pending.topic if topic is None else topic, payload)

    def brought(self, frame: Frame | None) -> Forgery | None:
        """*frame* as it is, again."""
        return self.forged(frame.payload, frame.topic) if frame else None

    def signed(self, message: Message) -> Forgery:
        """*message* as its sender itself would sign it: a node that deviates."""
        payload = encode(message, self.fleet.identities[message.sender])
        return Forgery(self.receiver, topic_of(message), payload)

    def signed_body(self, frame: Frame, body: bytes) -> Forgery:
        """*frame* with another *body*, as its sender itself would sign it."""
        kind = frame.message.KIND
        signature = self.fleet.identities[frame.sender].sign(signed_bytes(kind, body))
        return self.forged(close_envelope([WIRE_VERSION, kind, body, signature]), frame.topic)

    def health(self) -> Health:
        """What the sender of the message about to come may tell the operator."""
        message = self.pending.message
        result = Health(
            FLEET,
            message.sender,
            1,
            9,
            "reading",
            3,
            2000,
            0,
            0,
            {},
            {},
            4,
            8,
            0,
            [],
            0,
            None,
            None,
            None,
        )
        number = self.agent.round_number
        counts = {"topic": self.chance.randrange(99)}
        return msgspec.structs.replace(result, epoch=message.epoch, round=number, rejected=counts)

    def live_query(self) -> Query | None:
        """The query about to come, if it is the first of a round that the receiver has opened."""
        query = self.pending.message
        if not isinstance(query, Query) or self.agent.phase is Phase.STARTING:
            return None
        state, answerer = self.agent.state, self.agent.answerer
        record = state.open_record
        if record is None or record.number != query.round or query.sender in record.answered:
            return None
        asked = not self.fleet.sealed or self.receiver in query.roster
        return query if asked and answerer._may_see(query, record, state) else None

    def live_answer(self) -> Answer | None:
        """The answer about to come, if the receiver waits for it."""
        answer, current = self.pending.message, self.agent.collector.current
        if not isinstance(answer, Answer) or current is None:
            return None
        if current.number != answer.round or answer.sender not in current.roster:
            return None
        return answer if answer.sender not in current.answered else None

    def answered_query(self) -> Query | None:
        """A query that the receiver has answered, in a round that it still has."""
        answered = {
            (asker, record.number, digest)
            for record in self.agent.state.records
            for asker, digest in record.answered.items()
            if (asker, record.number) in self.agent.answerer._sent
        }
        frame = self.one_of([f for f in self.queries() if query_place(f) in answered])
        return frame.message if frame and isinstance(frame.message, Query) else None

    def queries(self) -> list[Frame]:
        """The latest queries that came to the receiver."""
        latest = self.fleet.log[-LATEST:]
        return [f for f in latest if f.receiver == self.receiver and isinstance(f.message, Query)]

    def own_query(self) -> Query | None:
        """What the receiver asks in its open round."""
        agent = self.agent
        record = agent.state.open_record
        if (
            agent.collector.current is None
            or record is None
            or agent.collector.current.number != record.number
        ):
            return None
        return agent._query(record)

    def again(self, query: Query | None) -> Forgery | None:
        """*query* to the receiver once more, byte for byte."""
        if query is None:
            return None
        return self.brought(self.captured(Query, lambda frame: frame.message == query))

    def key_of(self, message: Query | Answer) -> paillier.PrivateKey:
        """The key under which *message*'s ciphertexts are."""
        return self.fleet.keys[message.sender if isinstance(message, Query) else message.receiver]

    def unit(self, key: paillier.PrivateKey) -> bytes:
        """Some ciphertext under *key*."""
        c = gmpy2.mpz(self.chance.randrange(1, int(key.public.n_squared)))
        return int(c).to_bytes(128, "big")


def query_place(frame: Frame) -> tuple[str, int, bytes]:
    """The asker, the round and the digest of a query."""
    assert isinstance(frame.message, Query)
    return frame.sender, frame.message.round, frame.message.digest


Make = Callable[[ExchangeScenario], Forgery | None]
Enter = Callable[[Make], Make]


@dataclass(frozen=True)
class Kind:
    """A class of forgeries: who can make it, and under which reasons it must be counted."""

    name: str
    by: Literal["broker", "neighbour"]
    reasons: frozenset[str]
    make: Make
    most_verified: int  # how many signatures one forgery may cost its receiver
    exchanges: tuple[ExchangeName, ...]  # in which it can be made


# For these a message without a genuine signature is refused before any signature is looked at.
BEFORE_SIGNATURE = frozenset(
    {"too_long", "topic", "unknown_sender", "retained", "malformed", "version", "kind", "encoding"}
)
KINDS: dict[str, Kind] = {}


def broker(*reasons: str, genuine: bool = False, only: ExchangeName | None = None) -> Enter:
    """Enter what a broker can make, without any key, that must be counted under *reasons*.

    One signature may be checked for it, none where all *reasons* are of BEFORE_SIGNATURE and it is
    not *genuine*: the bytes that the sender of its topic has signed.
    """
    cheap = BEFORE_SIGNATURE.issuperset(reasons) and not genuine
    return _entering("broker", reasons, 0 if cheap else 1, only)


def neighbour(*reasons: str, only: ExchangeName | None = None) -> Enter:
    """Enter what takes a neighbour's own signing key."""
    return _entering("neighbour", reasons, 1, only)


def _entering(
    by: Literal["broker", "neighbour"],
    reasons: Sequence[str],
    most: int,
    only: ExchangeName | None,
) -> Enter:
    def enter(make: Make) -> Make:
        name = make.__name__.replace("_", " ")
        exchanges = EXCHANGES if only is None else (only,)
        KINDS[name] = Kind(name, by, frozenset(reasons), make, most, exchanges)
        return make

    return enter


def open_envelope(payload: bytes) -> list[Any]:
    """[version, kind, body, signature]."""
    parts: list[Any] = msgspec.msgpack.decode(payload)
    return parts


def close_envelope(parts: Sequence[Any]) -> bytes:
    return msgspec.msgpack.encode(list(parts))


def with_part(payload: bytes, index: int, part: Any) -> bytes:
    """*payload* with one part of its envelope replaced."""
    parts = open_envelope(payload)
    parts[index] = part
    return close_envelope(parts)


def with_fields(frame: Frame, **changes: Any) -> bytes:
    """The message with other fields under its old signature."""
    message = msgspec.structs.replace(frame.message, **changes)
    return with_part(frame.payload, 2, msgspec.msgpack.encode(message))


def flipped(data: bytes, chance: random.Random, start: int, end: int) -> bytes:
    """*data* with one bit of data[start:end] turned."""
    place = chance.randrange(start, end)
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def ciphertexts_in(frame: Frame) -> tuple[int, int] | None:
    """Where the first ciphertext of *frame* lies in its bytes."""
    if not isinstance(frame.message, Query | Answer) or not frame.message.ciphertexts:
        return None
    first = frame.message.ciphertexts[0]
    start = frame.payload.index(first)
    return start, start + len(first)


# -- altered bytes --------------------------------------------------------------------------------

NUMBERS = {"epoch", "round", "waited_ms", "theirs"}
ENVELOPE_REASONS = ("malformed", "version", "kind", "encoding")


@broker(*ENVELOPE_REASONS, "signature")
def a_bit_flipped_anywhere(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(flipped(frame.payload, scene.chance, 0, len(frame.payload)), frame.topic)


@broker("signature")
def a_bit_of_the_signature_flipped(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    end = len(frame.payload)
    return scene.forged(flipped(frame.payload, scene.chance, end - 64, end), frame.topic)


@broker("signature")
def a_bit_of_a_ciphertext_flipped(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.any_frame()
    if (place := ciphertexts_in(frame)) is None:
        return None
    return scene.forged(flipped(frame.payload, scene.chance, *place), frame.topic)


@broker("signature")
def a_bit_of_the_other_fields_flipped(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2]
    place = ciphertexts_in(frame)
    end = body.index(frame.payload[slice(*place)]) if place else len(body)
    body = flipped(body, scene.chance, 0, end)
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker(*ENVELOPE_REASONS)
def a_bit_of_the_envelope_flipped(scene: ExchangeScenario) -> Forgery:
    """Its header, version and kind."""
    frame = scene.any_frame()
    end = 3 + len(frame.message.KIND)
    return scene.forged(flipped(frame.payload, scene.chance, 0, end), frame.topic)


@broker("malformed")
def truncated(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(frame.payload[: scene.chance.randrange(len(frame.payload))], frame.topic)


@broker("signature")
def truncated_inside(scene: ExchangeScenario) -> Forgery:
    """The body is cut, the envelope fits it."""
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2]
    body = body[: scene.chance.randrange(len(body))]
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker("malformed")
def extended(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    more = scene.chance.randbytes(scene.chance.randint(1, 200))
    return scene.forged(frame.payload + more, frame.topic)


@broker("signature")
def extended_inside(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2] + scene.chance.randbytes(scene.chance.randint(1, 200))
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker("too_long")
def too_long(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(frame.payload.ljust(MAX_MESSAGE_BYTES + 1, b"\0"), frame.topic)


@neighbour("malformed")
def a_list_too_long(scene: ExchangeScenario) -> Forgery:
    """Short bytes that have very many entries, well signed."""
    frame = scene.captured(Query) or scene.pending
    body = msgspec.msgpack.decode(open_envelope(frame.payload)[2])
    if isinstance(frame.message, Query) and scene.chance.random() < 0.5:
        many = scene.chance.choice([MAX_DEGREE + 1, 4097, 200_000])
        name = scene.chance.choice(["", scene.receiver])
        body[Query.__struct_fields__.index("roster")] = [name] * min(many, 40_000)
    else:
        body[-1] = [b""] * scene.chance.randint(MAX_CIPHERTEXTS + 1, 20_000)
    return scene.signed_body(frame, msgspec.msgpack.encode(body))


@broker("signature")
def a_list_too_long_unsigned(scene: ExchangeScenario) -> Forgery:
    """Its entries are not read: the signature is not that of these bytes."""
    signed = a_list_too_long(scene)
    assert signed is not None
    return scene.forged(with_part(signed.payload, 3, bytes(64)), signed.topic)


@broker("malformed")
def random_bytes(scene: ExchangeScenario) -> Forgery:
    return scene.forged(scene.chance.randbytes(scene.chance.randrange(200)))


@broker("signature")
def values_of_wrong_types(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(with_part(frame.payload, 2, wrong_types(frame, scene.chance)), frame.topic)


@neighbour("malformed")
def values_of_wrong_types_signed(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    return scene.signed_body(frame, wrong_types(frame, scene.chance))


def wrong_types(frame: Frame, chance: random.Random) -> bytes:
    """The message's body with one field of a type that this field does not have."""
    body = open_envelope(frame.payload)[2]
    while True:
        fields: list[Any] = msgspec.msgpack.decode(body)
        for _ in range(2):
            wrong: list[Any] = [None, True, 1.5, {}, {"a": 1}, [1], [[]], [None], 2**63]
            fields[chance.randrange(len(fields))] = chance.choice(wrong)
        changed = msgspec.msgpack.encode(fields)
        try:
            msgspec.msgpack.decode(changed, type=type(frame.message))
        except msgspec.ValidationError:
            return changed  # other fields may be None or a truth value


def signed_bytes(kind: str, body: bytes) -> bytes:
    return b"cipherfleet/v2/" + kind.encode() + b"\0" + body


@broker("version")
def another_wire_version(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    version = scene.chance.choice([-1, 0, 1, 3, 127, 255, 2**32, 2**64 - 1, -(2**63)])
    return scene.forged(with_part(frame.payload, 0, version), frame.topic)


@broker("kind")
def an_unknown_kind(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    kind = scene.chance.choice(["", "Health", "Query", "answer\0", "pre" * 30, "querÿ"])
    return scene.forged(with_part(frame.payload, 1, kind), frame.topic)


@broker("topic")
def another_kind(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    kind = scene.chance.choice(
        sorted({"query", "answer", "presence", "health"} - {frame.message.KIND})
    )
    return scene.forged(with_part(frame.payload, 1, kind), frame.topic)


@neighbour("malformed")
def a_state_that_is_none(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.captured(Presence)
    state: Any = scene.chance.choice(["", "Ready", "root", "lost\0"])
    return scene.signed(msgspec.structs.replace(frame.message, state=state)) if frame else None


@neighbour("encoding")
def a_longer_form_signed(scene: ExchangeScenario) -> Forgery:
    """The array of the fields, or the length of the fleet's name, in more bytes than it needs."""
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2]
    name = len(FLEET)
    forms = [
        b"\xdc\0" + bytes([body[0] & 15]) + body[1:],
        b"\xdd\0\0\0" + bytes([body[0] & 15]) + body[1:],
        body[:1] + b"\xd9" + bytes([name]) + body[2:],
        body[:1] + b"\xda\0" + bytes([name]) + body[2:],
    ]
    return scene.signed_body(frame, scene.chance.choice(forms))


@neighbour("encoding")
def a_reason_twice_in_a_map(scene: ExchangeScenario) -> Forgery:
    """One reader would take the first count, another the second."""
    health = msgspec.structs.replace(scene.health(), rejected={"topic": 1})
    count = scene.chance.randrange(100)
    body = msgspec.msgpack.encode(health)
    once, twice = b"\x81\xa5topic\x01", b"\x82\xa5topic\x01\xa5topic" + bytes([count])
    frame = Frame(scene.receiver, topic_of(health), b"", health)
    return scene.signed_body(frame, body.replace(once, twice, 1))


# -- signatures -----------------------------------------------------------------------------------


@broker("signature")
def a_signature_of_another_length(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    signature = open_envelope(frame.payload)[3]
    wrong = scene.chance.choice(
        [b"", signature[:-1], signature + b"\0", signature * 2, bytes(64), signature[32:]]
    )
    return scene.forged(with_part(frame.payload, 3, wrong), frame.topic)


@broker("signature")
def a_signature_plus_the_groups_order(scene: ExchangeScenario) -> Forgery:
    """Ed25519 signatures are malleable where s is not checked to be below the order."""
    frame = scene.any_frame()
    signature = open_envelope(frame.payload)[3]
    s = int.from_bytes(signature[32:], "little") + ORDER
    return scene.forged(
        with_part(frame.payload, 3, signature[:32] + s.to_bytes(32, "little")), frame.topic
    )


@broker("signature")
def body_of_one_round_signature_of_another(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.any_frame()
    other = scene.captured(
        type(frame.message), lambda f: f.sender == frame.sender and f.payload != frame.payload
    )
    if other is None or isinstance(frame.message, Presence):
        return None
    signature = open_envelope(other.payload)[3]
    return scene.forged(with_part(frame.payload, 3, signature), frame.topic)


@broker("signature")
def ciphertexts_of_another_message(scene: ExchangeScenario) -> Forgery | None:
    """Of another round, another edge or another sender, under the old signature."""
    frame = scene.any_frame()
    other = scene.captured(Message, lambda f: ciphertexts_in(f) is not None)
    if other is None or not isinstance(frame.message, Query | Answer):
        return None
    assert isinstance(other.message, Query | Answer)
    if other.message.ciphertexts == frame.message.ciphertexts:
        return None
    return scene.forged(with_fields(frame, ciphertexts=other.message.ciphertexts), frame.topic)


@broker("signature")
def a_signature_of_another_node(scene: ExchangeScenario) -> Forgery:
    """A neighbour names another neighbour as the sender."""
    frame = scene.any_frame()
    others = [name for name in NODES if name != frame.sender]
    signer = scene.fleet.identities[scene.chance.choice(others)]
    return scene.forged(encode(frame.message, signer), frame.topic)


@broker("signature")
def a_signature_of_a_strangers_key(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    signer = identity_of(f"stranger {scene.chance.random()}")
    return scene.forged(encode(frame.message, signer), frame.topic)


@broker("signature")
def other_numbers(scene: ExchangeScenario) -> Forgery | None:
    """Stale, future and huge rounds, waits and epochs, under the old signature."""
    frame = scene.any_frame()
    names = NUMBERS & set(frame.message.__struct_fields__)
    name = scene.chance.choice(sorted(names))
    old = getattr(frame.message, name)
    number = scene.chance.choice([0, old - 1, old + 1, old + 2, old + 1000, 2**32, MAX_COUNTER])
    if number == old or number < 0:
        return None
    return scene.forged(with_fields(frame, **{name: number}), frame.topic)


# -- the wrong place ------------------------------------------------------------------------------


@broker("topic", "unknown_sender", "signature", genuine=True)
def another_topic(scene: ExchangeScenario) -> Forgery:
    frame = scene.any_frame()
    sender, receiver = frame.sender, scene.receiver
    wrong = {
        "",
        "/",
        "#",
        "cf/v2/toy/q/+",
        f"{frame.topic}/",
        f"/{frame.topic}",
        f"{frame.topic}\0",
        frame.topic.upper(),
        topics.query_topic("other", sender),
        topics.query_topic(FLEET, sender),
        topics.query_topic(FLEET, receiver),
        topics.answer_topic(FLEET, receiver, sender),
        topics.answer_topic(FLEET, sender, receiver),
        topics.answer_topic(FLEET, "n99", sender),
        topics.presence_topic(FLEET, sender),
        topics.health_topic(FLEET, sender),
        "x" * 60_000,
    } - {frame.topic}
    return scene.forged(frame.payload, scene.chance.choice(sorted(wrong)))


@broker("unknown_sender", "signature")
def a_query_under_another_nodes_topic(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.captured(Query)
    if frame is None:
        return None
    other = scene.chance.choice([name for name in NODES if name != frame.sender])
    return scene.forged(frame.payload, topics.query_topic(FLEET, other))


@broker("topic", genuine=True)
def an_answer_to_another_node_readdressed(scene: ExchangeScenario) -> Forgery | None:
    frame = answer_for_another(scene)
    if frame is None:
        return None
    return scene.forged(frame.payload, topics.answer_topic(FLEET, scene.receiver, frame.sender))


@broker("other_receiver")
def an_answer_to_another_node_on_its_own_topic(scene: ExchangeScenario) -> Forgery | None:
    """Nobody here subscribed to it; the broker brings it all the same."""
    frame = answer_for_another(scene)
    return scene.brought(frame)


@broker("other_receiver")
def what_a_neighbour_tells_the_operator(scene: ExchangeScenario) -> Forgery:
    """Genuine: nodes do not subscribe to it, and count none of it as a sign of life."""
    return scene.signed(scene.health())


@neighbour("range")
def health_that_cannot_be(scene: ExchangeScenario) -> Forgery:
    odd = scene.chance.choice([-274, 2**63, 2**64 - 1])
    name = scene.chance.choice(["round", "round_us", "missed", "pool", "temperature"])
    return scene.signed(msgspec.structs.replace(scene.health(), **{name: odd}))


def answer_for_another(scene: ExchangeScenario) -> Frame | None:
    """An answer that a neighbour of the receiver gave to somebody else."""
    around = scene.fleet.neighbours[scene.receiver]
    return scene.overheard(
        lambda frame: (
            isinstance(frame.message, Answer)
            and frame.receiver != scene.receiver
            and frame.sender in around
        )
    )


@broker("unknown_sender")
def a_message_of_no_neighbour(scene: ExchangeScenario) -> Forgery | None:
    """Genuine, of the same fleet, but from a node with which there is no edge."""
    strangers = set(NODES) - {scene.receiver, *scene.fleet.neighbours[scene.receiver]}
    return scene.brought(scene.overheard(lambda frame: frame.sender in strangers))


@broker("unknown_sender")
def the_nodes_own_message_back(scene: ExchangeScenario) -> Forgery | None:
    return scene.brought(scene.overheard(lambda frame: frame.sender == scene.receiver))


@broker("unknown_sender")
def a_message_of_somebody_made_up(scene: ExchangeScenario) -> Forgery:
    name = scene.chance.choice(["", "n99", "N00", "n00 ", "n0\u0660", "_operators", "x" * 5000])
    frame = scene.any_frame()
    message = msgspec.structs.replace(frame.message, sender=name)
    return scene.forged(encode(message, identity_of(name)), topic_of(message))


@broker("topic")
def a_nodes_message_in_the_operators_name(scene: ExchangeScenario) -> Forgery:
    message = msgspec.structs.replace(scene.any_frame().message, sender=OPERATOR)
    return scene.forged(encode(message, identity_of(OPERATOR)), topic_of(message))


@neighbour("signature")
def a_membership_that_a_neighbour_signs(scene: ExchangeScenario) -> Forgery:
    """It would show with which nodes the receiver exchanges."""
    membership = Membership(
        FLEET, scene.pending.sender, 2, scene.receiver, 1, "", [], [], b"", rekey=True
    )
    return scene.signed(membership)


@neighbour("topic")
def a_membership_on_the_topic_of_a_neighbour(scene: ExchangeScenario) -> Forgery:
    """With lists as long as they may be: they are not read."""
    names = [f"n{number:02}" for number in range(MAX_DEGREE)]
    member = MembershipEntry(scene.receiver, names, bytes(256), bytes(32), bytes(32))
    seals = [(f"n{number}", bytes(32)) for number in range(scene.chance.choice([1, 100, 3000]))]
    rest = scene.receiver, 1, "", [member] * scene.chance.randint(1, 63), seals, b""
    membership = Membership(FLEET, OPERATOR, 2, *rest, rekey=False)
    payload = encode(membership, scene.fleet.identities[scene.pending.sender])
    topic = scene.chance.choice([topics.query_topic, topics.presence_topic, topics.health_topic])
    return scene.forged(payload, topic(FLEET, scene.pending.sender))


@broker("retained")
def a_query_or_answer_that_was_kept(scene: ExchangeScenario) -> Forgery | None:
    """Genuine: a neighbour or the broker had it retained for the next subscriber."""
    frame = scene.any_frame()
    if isinstance(frame.message, Presence):
        return None
    return Forgery(scene.receiver, frame.topic, frame.payload, retained=True)


@broker("fleet", "topic")
def a_message_of_another_fleet(scene: ExchangeScenario) -> Forgery:
    """The same node, with the same keys, in a fleet of another name."""
    frame = scene.any_frame()
    name = scene.chance.choice(["other", "", "toy ", "Toy", "toy2"])
    message = msgspec.structs.replace(frame.message, fleet=name)
    topic = scene.chance.choice([frame.topic, topic_of(message)])
    return scene.forged(encode(message, scene.fleet.identities[frame.sender]), topic)


@neighbour("range")
def numbers_out_of_range(scene: ExchangeScenario) -> Forgery:
    message = scene.any_frame().message
    names = NUMBERS & set(message.__struct_fields__)
    odd = [-2, -(2**63), MAX_COUNTER + 1, 2**64 - 1]
    name = scene.chance.choice(sorted(names))
    return scene.signed(msgspec.structs.replace(message, **{name: scene.chance.choice(odd)}))


@neighbour("length")
def tags_of_another_length(scene: ExchangeScenario) -> Forgery | None:
    message = scene.any_frame().message
    names = {"parameters", "key", "query"} & set(message.__struct_fields__)
    if not names:
        return None
    name = scene.chance.choice(sorted(names))
    wrong = scene.chance.randbytes(scene.chance.choice([0, 1, 7, 9, 15, 17, 64]))
    return scene.signed(msgspec.structs.replace(message, **{name: wrong}))


# -- the wrong time -------------------------------------------------------------------------------


def is_pending(agent: Agent, round_number: int) -> bool:
    """Whether *agent* still takes the answers of a round that it has closed."""
    record = agent.state.record(round_number)
    return record is not None and record.outcome == "held" and bool(record.roster)


def of_closed_round(scene: ExchangeScenario) -> Callable[[Frame], bool]:
    """Whether a reply is to a round that is closed, and does not wait for its last answers."""
    agent = scene.agent
    return lambda frame: (
        isinstance(frame.message, Reply)
        and frame.message.round < agent.state.round
        and not is_pending(agent, frame.message.round)
    )


@broker("late_answer")
def an_answer_of_a_closed_round_again(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.captured(Answer, of_closed_round(scene))
    return scene.brought(frame)


@broker("late_answer")
def an_answer_of_the_round_before(scene: ExchangeScenario) -> Forgery | None:
    """Delivered only when the next round is open."""
    before = scene.agent.state.round - 1
    if is_pending(scene.agent, before):
        return None
    frame = scene.captured(Answer, lambda f: getattr(f.message, "round", None) == before)
    return scene.brought(frame)


@broker("encoding")
def an_answer_of_a_closed_round_in_other_bytes(scene: ExchangeScenario) -> Forgery | None:
    """The envelope's form is not signed: lengths and numbers may be written longer."""
    frame = scene.captured(Answer, of_closed_round(scene))
    if frame is None:
        return None
    _, kind, body, signature = open_envelope(frame.payload)
    longer = b"\x94\xcc\x02" + msgspec.msgpack.encode(kind)
    for part in (body, signature):
        longer += b"\xc6" + len(part).to_bytes(4, "big") + part
    return scene.forged(longer, frame.topic)


@broker("repeated_answer")
def an_answer_of_the_open_round_again(scene: ExchangeScenario) -> Forgery | None:
    current = scene.agent.collector.current
    if current is None or not current.answered:
        return None
    frame = scene.captured(
        Answer,
        lambda f: (
            f.sender in current.answered
            and isinstance(f.message, Answer)
            and f.message.round == current.number
        ),
    )
    return scene.brought(frame)


@broker("repeated_query")
def a_query_again(scene: ExchangeScenario) -> Forgery | None:
    """Of the open round or a closed one: it gets the very answer it got before."""
    return scene.again(scene.answered_query())


@broker("repeated_answer", only="sealed")
def an_answer_of_a_pending_round_again(scene: ExchangeScenario) -> Forgery | None:
    """The round is held, and others of its answers are still awaited."""
    return scene.brought(answer_of_pending_round(scene))


@neighbour("repeated_answer", only="sealed")
def another_answer_of_a_pending_round(scene: ExchangeScenario) -> Forgery | None:
    frame = answer_of_pending_round(scene)
    if frame is None or not isinstance(frame.message, Answer):
        return None
    return with_ciphertexts(frame.message, scene, scene.unit(scene.key_of(frame.message)))


def answer_of_pending_round(scene: ExchangeScenario) -> Frame | None:
    """An answer that the receiver keeps for a held round."""
    agent = scene.agent
    kept = {
        (name, record.number)
        for record in agent.state.records
        if is_pending(agent, record.number)
        for name in record.answers
    }
    latest = scene.fleet.log[-LATEST:]
    frames = [f for f in latest if f.receiver == scene.receiver and isinstance(f.message, Answer)]
    return scene.one_of([f for f in frames if (f.sender, getattr(f.message, "round", 0)) in kept])


@broker("late_refusal", only="sealed")
def a_refusal_of_a_closed_round_again(scene: ExchangeScenario) -> Forgery | None:
    return scene.brought(scene.captured(Refusal, of_closed_round(scene)))


@neighbour("late_refusal")
def a_refusal_of_another_query(scene: ExchangeScenario) -> Forgery | None:
    """Of a query that is not open, for every reason that there is."""
    answer = scene.pending.message
    if not isinstance(answer, Answer):
        return None
    return scene.signed(refusal_of(scene, answer, scene.chance.randbytes(DIGEST_BYTES)))


@neighbour("late_refusal")
def a_refusal_for_the_sake_of_the_epoch(scene: ExchangeScenario) -> Forgery | None:
    """The receiver has been answered in its present epoch, so it does not take a greater one."""
    answer = scene.pending.message
    if not isinstance(answer, Answer):
        return None
    epoch = scene.agent.state.epoch + scene.chance.choice([-1, 0, 1, 1000, 2**41])
    refusal = refusal_of(scene, answer, answer.query)
    return scene.signed(msgspec.structs.replace(refusal, reason="stale_epoch", theirs=epoch))


def refusal_of(scene: ExchangeScenario, answer: Answer, digest: bytes) -> Refusal:
    """What the sender of *answer* may say instead, of a query with this *digest*."""
    reason = scene.chance.choice(REFUSALS)
    head = FLEET, answer.sender, answer.epoch, answer.receiver, answer.round, 0
    return Refusal(*head, digest, reason, answer.round)


@broker("old_query")
def a_query_of_a_round_long_closed(scene: ExchangeScenario) -> Forgery | None:
    oldest = scene.agent.state.records[0].number
    frame = scene.captured(Query, lambda f: getattr(f.message, "round", oldest) < oldest)
    return scene.brought(frame)


@broker("stale_epoch")
def a_message_of_an_earlier_start(scene: ExchangeScenario) -> Forgery | None:
    frame = scene.captured(log=past(scene.fleet.exchange))
    return scene.brought(frame)


@broker("stale_epoch")
def a_last_will_of_an_earlier_start(scene: ExchangeScenario) -> Forgery:
    return scene.signed(Presence(FLEET, scene.pending.sender, 1, "lost"))


# -- neighbours that deviate ----------------------------------------------------------------------


@neighbour("stale_epoch")
def an_epoch_below_the_known_one(scene: ExchangeScenario) -> Forgery:
    message = scene.any_frame().message
    return scene.signed(msgspec.structs.replace(message, epoch=scene.chance.choice([0, 1])))


@neighbour("parameters")
def other_parameters(scene: ExchangeScenario) -> Forgery | None:
    return altered_query(scene, parameters=scene.chance.randbytes(8))


@neighbour("other_key")
def another_key_tag(scene: ExchangeScenario) -> Forgery | None:
    """A stranger's, another neighbour's, or the receiver's own."""
    names = [name for name in NODES if name != scene.pending.sender]
    tag = scene.fleet.keys[scene.chance.choice(names)].public.fingerprint[:8]
    return altered_query(scene, key=scene.chance.choice([tag, scene.chance.randbytes(8)]))


@neighbour("generation")
def a_note_on_generations(scene: ExchangeScenario) -> Forgery | None:
    """With all bits set, with ciphertexts to average, or with nothing in it, in a fleet without."""
    query = scene.pending.message
    if not isinstance(query, Query):
        return None
    name = scene.chance.randbytes(16)
    everyone = GenerationVotes(name, b"\xff")
    notes = [
        (GenerationNote(0, b"", b"", b"", b"", None), []),
        (GenerationNote(2**30, name, b"\xff", b"\xff", b"", everyone), []),
        (GenerationNote(1, name, b"", b"", name, everyone), query.ciphertexts),
    ]
    note, averaged = scene.chance.choice(notes)
    return altered_query(scene, generation=note, averaged=averaged)


def altered_query(scene: ExchangeScenario, **changes: Any) -> Forgery | None:
    query = scene.pending.message
    if not isinstance(query, Query):
        return None
    return scene.signed(msgspec.structs.replace(query, **changes))


@neighbour("second_query")
def a_second_query_of_a_round(scene: ExchangeScenario) -> Forgery | None:
    """With ciphertexts of its own making, of another round, or of another node."""
    query = scene.answered_query()
    ciphertexts = query and other_ciphertexts(scene, query)
    if query is None or ciphertexts is None:
        return None
    return scene.signed(msgspec.structs.replace(query, ciphertexts=ciphertexts))


def other_ciphertexts(scene: ExchangeScenario, query: Query) -> list[bytes] | None:
    """Of a neighbour's own making, of another round, or of another node."""
    other = scene.captured(Query)
    if other is None:
        return None
    assert isinstance(other.message, Query)
    made = [scene.unit(scene.key_of(query))]
    ciphertexts = scene.chance.choice([made, other.message.ciphertexts, [b""]])
    return ciphertexts if ciphertexts != query.ciphertexts else None


@neighbour("old_query")
def a_new_query_of_a_round_long_closed(scene: ExchangeScenario) -> Forgery | None:
    oldest, query = scene.agent.state.records[0].number, scene.pending.message
    if oldest == 0 or not isinstance(query, Query):
        return None
    if scene.fleet.sealed and scene.receiver not in query.roster:
        return None
    return altered_query(scene, round=scene.chance.randrange(oldest))


@neighbour("late_answer")
def a_new_answer_to_a_closed_round(scene: ExchangeScenario) -> Forgery | None:
    answer, now = scene.pending.message, scene.agent.state.round
    if not isinstance(answer, Answer):
        return None
    ciphertexts, number = [scene.unit(scene.key_of(answer))], scene.chance.randrange(now)
    if is_pending(scene.agent, number):
        return None
    return scene.signed(msgspec.structs.replace(answer, round=number, ciphertexts=ciphertexts))


@neighbour("early_answer")
def an_answer_to_a_round_to_come(scene: ExchangeScenario) -> Forgery | None:
    answer, now = scene.pending.message, scene.agent.state.round
    if not isinstance(answer, Answer):
        return None
    ahead = scene.chance.choice([1, 2, 1000, MAX_ROUND - now])
    return scene.signed(msgspec.structs.replace(answer, round=now + ahead))


@neighbour("other_query")
def an_answer_to_another_query(scene: ExchangeScenario) -> Forgery | None:
    """One of an earlier round, of another node, or one that never was."""
    if (answer := scene.live_answer()) is None:
        return None
    other = scene.captured(Answer, lambda f: getattr(f.message, "query", b"") != answer.query)
    digest = scene.chance.randbytes(DIGEST_BYTES)
    if other is not None and scene.chance.random() < 0.5:
        assert isinstance(other.message, Answer)
        digest = other.message.query
    return scene.signed(msgspec.structs.replace(answer, query=digest))


def with_ciphertexts(
    message: Query | Answer | None, scene: ExchangeScenario, *data: bytes
) -> Forgery | None:
    if message is None:
        return None
    return scene.signed(msgspec.structs.replace(message, ciphertexts=list(data)))


def live(scene: ExchangeScenario) -> Query | Answer | None:
    """What is about to come, if the receiver will take it in."""
    return scene.live_query() or scene.live_answer()


def number(value: mpz | int) -> bytes:
    return int(value).to_bytes(128, "big")


@neighbour("ciphertext_range")
def a_ciphertext_of_zero(scene: ExchangeScenario) -> Forgery | None:
    return with_ciphertexts(live(scene), scene, bytes(128))


@neighbour("ciphertext_not_unit")
def a_ciphertext_of_n(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    return with_ciphertexts(message, scene, number(scene.key_of(message).public.n))


@neighbour("ciphertext_range")
def a_ciphertext_of_n_squared(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    return with_ciphertexts(message, scene, number(scene.key_of(message).public.n_squared))


@neighbour("ciphertext_range")
def a_ciphertext_above_n_squared(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    least = int(scene.key_of(message).public.n_squared)
    return with_ciphertexts(message, scene, number(scene.chance.randrange(least, 1 << 1024)))


@neighbour("ciphertext_not_unit")
def a_multiple_of_a_prime_factor(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    key = scene.key_of(message)
    factor = int(scene.chance.choice([key.p, key.q, key.p * key.p, key.public.n]))
    times = scene.chance.randrange(1, int(key.public.n_squared) // factor)
    return with_ciphertexts(message, scene, number(factor * times))


@neighbour("ciphertext_count")
def another_number_of_ciphertexts(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    count = scene.chance.choice([0, 2, 3, 100, 4096 // 8])
    return with_ciphertexts(message, scene, *message.ciphertexts * count)


@neighbour("ciphertext_length")
def a_ciphertext_of_another_length(scene: ExchangeScenario) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    (c,) = message.ciphertexts
    wrong = scene.chance.choice([b"", c[1:], c[:-1], b"\0" + c, c * 2, c * 100])
    return with_ciphertexts(message, scene, wrong)


# -- rosters --------------------------------------------------------------------------------------


def asks(query: Query, receiver: str, rosters: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of *rosters* those that ask *receiver* and are not the *query*'s own."""
    return [list(r) for r in rosters if receiver in r and list(r) != query.roster]


def possible_rosters(scene: ExchangeScenario, asker: str) -> list[list[str]]:
    """All that *asker* may name."""
    around = sorted(scene.fleet.neighbours[asker])
    return [list(r) for n in range(2, len(around) + 1) for r in combinations(around, n)]


def with_roster(scene: ExchangeScenario, make: Callable[[Query], list[str]]) -> Forgery | None:
    """The query about to come, signed with the roster that *make* gives."""
    query = scene.pending.message
    return altered_query(scene, roster=make(query)) if isinstance(query, Query) else None


@broker("signature")
def a_roster_altered(scene: ExchangeScenario) -> Forgery | None:
    """Fewer, more, others, in another order or none, under the old signature."""
    query = scene.pending.message
    if not isinstance(query, Query):
        return None
    roster = query.roster
    rosters = [roster[1:], roster[:-1], roster[::-1], [*roster, "n99"], [], list(NODES), ["n99"]]
    roster = scene.chance.choice([r for r in rosters if r != roster])
    return scene.forged(with_fields(scene.pending, roster=roster), scene.pending.topic)


@neighbour("malformed")
def a_roster_too_long(scene: ExchangeScenario) -> Forgery | None:
    """In the number of its names, or the length of one."""
    query = scene.pending.message
    if not isinstance(query, Query):
        return None
    many = scene.chance.choice([MAX_DEGREE + 1, 100, 4000])
    names = [*query.roster, *(f"n{number:02}" for number in range(many))]
    long = [*query.roster, "n" * scene.chance.choice([64, 100, 60_000])]
    roster = scene.chance.choice([names, [scene.receiver] * many, long, [*query.roster, ""]])
    return altered_query(scene, roster=roster)


@neighbour("roster", only="pairwise")
def a_roster_in_a_pairwise_fleet(scene: ExchangeScenario) -> Forgery | None:
    rosters = possible_rosters(scene, scene.pending.sender)
    return with_roster(scene, lambda _: scene.chance.choice([*rosters, [scene.receiver], ["n99"]]))


@neighbour("roster", only="sealed")
def a_roster_of_one(scene: ExchangeScenario) -> Forgery | None:
    """Its answer would open by itself."""
    around = scene.fleet.neighbours[scene.pending.sender]
    return with_roster(scene, lambda _: [scene.chance.choice([scene.receiver, *around])])


@neighbour("roster", only="sealed")
def a_roster_out_of_order(scene: ExchangeScenario) -> Forgery | None:
    around = sorted(scene.fleet.neighbours[scene.pending.sender])
    rosters = [list(r) for r in permutations(around) if list(r) != around]
    return with_roster(scene, lambda _: scene.chance.choice(rosters))


@neighbour("roster", only="sealed")
def a_name_repeated_in_a_roster(scene: ExchangeScenario) -> Forgery | None:
    """The receiver with itself, or one of a fair roster twice."""
    fair = scene.chance.choice(possible_rosters(scene, scene.pending.sender))
    twice = sorted([*fair, scene.chance.choice(fair)])
    return with_roster(scene, lambda _: scene.chance.choice([twice, [scene.receiver] * 2]))


@neighbour("roster", "malformed", only="sealed")
def a_stranger_in_a_roster(scene: ExchangeScenario) -> Forgery | None:
    """Who is no neighbour of the asker has no mask that would cancel the receiver's."""
    asker = scene.pending.sender
    strangers = sorted(set(NODES) - {asker, *scene.fleet.neighbours[asker]})
    name = scene.chance.choice([*strangers, "n99", f"{scene.receiver}\0", "n0\u0660", "#"])
    fair = scene.chance.choice([[scene.receiver], *possible_rosters(scene, asker)])
    return with_roster(scene, lambda _: sorted([*fair, name]))


@neighbour("roster", only="sealed")
def the_asker_in_its_own_roster(scene: ExchangeScenario) -> Forgery | None:
    asker = scene.pending.sender
    fair = scene.chance.choice([[scene.receiver], *possible_rosters(scene, asker)])
    return with_roster(scene, lambda _: sorted([*fair, asker]))


@neighbour("roster", only="sealed")
def sixty_three_names(scene: ExchangeScenario) -> Forgery | None:
    """As many as any node may have neighbours, but not the asker's."""
    return with_roster(scene, lambda _: [f"n{number:02}" for number in range(MAX_DEGREE)])


# -- answered queries and rosters -----------------------------------------------------------------


@neighbour("second_query", only="sealed")
def an_answered_query_with_another_roster(scene: ExchangeScenario) -> Forgery | None:
    """Fewer, more or others than in the query that was answered."""
    if (query := scene.answered_query()) is None:
        return None
    rosters = asks(query, scene.receiver, possible_rosters(scene, query.sender))
    if not rosters:
        return None
    return scene.signed(msgspec.structs.replace(query, roster=scene.chance.choice(rosters)))


@neighbour("second_query", only="sealed")
def a_narrower_roster_with_other_ciphertexts(scene: ExchangeScenario) -> Forgery | None:
    query = scene.answered_query()
    ciphertexts = query and other_ciphertexts(scene, query)
    if query is None or ciphertexts is None or len(query.roster) < 3:
        return None
    others = [name for name in query.roster if name != scene.receiver]
    others.remove(scene.chance.choice(others))
    roster = sorted([*others, scene.receiver])
    return scene.signed(msgspec.structs.replace(query, roster=roster, ciphertexts=ciphertexts))


@neighbour("not_asked", only="sealed")
def an_answer_from_outside_the_roster(scene: ExchangeScenario) -> Forgery | None:
    """To the very query that is open, which asks others."""
    query = scene.own_query()
    if query is None:
        return None
    agent = scene.agent
    outside = agent.neighbours.present - set(query.roster)
    if not outside:
        return None
    name = scene.chance.choice(sorted(outside))
    return scene.signed(answer_to(scene, name, query))


def answer_to(scene: ExchangeScenario, sender: str, query: Query, **changes: Any) -> Answer:
    """What *sender* might say to *query* of the receiver; the ciphertext is its own invention."""
    answer = Answer(
        FLEET,
        sender,
        scene.fleet.seats[sender].epoch,
        query.sender,
        query.round,
        0,
        query.digest,
        [scene.unit(scene.fleet.keys[query.sender])],
    )
    return msgspec.structs.replace(answer, **changes)


@neighbour("other_query")
def an_answer_made_for_another_roster_or_round(scene: ExchangeScenario) -> Forgery | None:
    """Its masks would not cancel."""
    if (answer := scene.live_answer()) is None or (query := scene.own_query()) is None:
        return None
    rosters = [r for r in [*possible_rosters(scene, query.sender), []] if r != query.roster]
    changes: list[dict[str, Any]] = [
        {"roster": scene.chance.choice(rosters)},
        {"round": query.round + 1},
        {"ciphertexts": [scene.unit(scene.key_of(query))]},
    ]
    other = msgspec.structs.replace(query, **scene.chance.choice(changes))
    return scene.signed(msgspec.structs.replace(answer, query=other.digest))


# -- the bombardment ------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of all forgeries of one kind."""

    kind: Kind
    exchange: ExchangeName
    reasons: Counter[str] = field(default_factory=Counter)
    accepted: int = 0  # refused by nobody, or moved something
    verified: int = 0  # the most signatures that one cost
    powers: int = 0  # the most modular powers that one cost
    changed: int = 0  # fleets that ended with another result than when left in peace
    fleets: int = 0

    def add(self, outcome: Outcome) -> None:
        self.reasons[outcome.reason] += 1
        # Who signs may say which round it is in; no forger may say it for another.
        claimed = outcome.claimed and self.kind.by == "broker"
        self.accepted += outcome.moved or claimed or not outcome.reason
        self.verified = max(self.verified, outcome.verified)
        self.powers = max(self.powers, outcome.powers)

    @property
    def count(self) -> int:
        return self.reasons.total()

    @property
    def miscounted(self) -> int:
        return sum(n for reason, n in self.reasons.items() if reason not in self.kind.reasons)

    @property
    def good(self) -> bool:
        """None accepted, each under its reason, no work done, the result untouched."""
        dear = self.powers > 0 or self.verified > self.kind.most_verified
        return not (self.accepted or self.miscounted or self.changed or dear)


def bombard(kind: Kind, count: int, exchange: ExchangeName) -> Tally:
    """Fleets under *count* forgeries of *kind* in all."""
    (tally,) = bombard_with_all([kind], count, exchange)
    assert tally.count == count, f"{kind.name}: {tally.count} moments were found, not {count}"
    return tally


def bombard_with_all(kinds: Sequence[Kind], count: int, exchange: ExchangeName) -> list[Tally]:
    """Fleets under up to *count* forgeries of each of *kinds*, fewer where no moment suits.

    A changed result counts for every kind that the fleet has got.
    """
    tallies = [Tally(kind, exchange) for kind in kinds]
    batch = -(-count // MOMENTS)
    with recorded_powers() as powers:
        for seed in range(40):
            wanting = [tally for tally in tallies if tally.count < count]
            if not wanting:
                break
            chances = {
                each.kind.name: random.Random(f"{each.kind.name} {seed}") for each in wanting
            }

            def attack(
                fleet: WireFleet,
                pending: Frame,
                chances: dict[str, random.Random] = chances,
                wanting: list[Tally] = wanting,
            ) -> None:
                if not running(fleet, pending.receiver):
                    return
                for tally in wanting:
                    if tally.count < count:
                        scene = ExchangeScenario(fleet, pending, chances[tally.kind.name])
                        strike(scene, tally, min(batch, count - tally.count))

            fleet = make_fleet(seed, attack, exchange=exchange)
            fleet.powers = powers
            for name in fleet.seats:
                fleet.start(name)
            fleet.advance(LONGEST_S)  # a fleet that has taken a forgery in may never end
            is_changed = ending(fleet) != undisturbed(seed, exchange)
            for tally in wanting:
                tally.fleets += 1
                tally.changed += is_changed
    return tallies


def running(fleet: WireFleet, name: str) -> bool:
    """Whether *name* is in the midst of its rounds, and awaits all of its neighbours.

    Who has fallen silent is brought back by any message of its latest start, however old: to those
    who hear it, one that is kept and brought again is one that was on its way for long.
    """
    agent, everybody = agent_of(fleet, name), set(fleet.neighbours[name])
    going = agent.phase in (Phase.READING, Phase.COLLECTING) and agent.round_number >= 1
    around = agent.neighbours
    return going and around._live >= everybody and around.present >= everybody


def strike(scene: ExchangeScenario, tally: Tally, batch: int) -> None:
    """Up to *batch* forgeries at one moment; none where the moment does not suit the kind."""
    for _ in range(batch):
        forgery = tally.kind.make(scene)
        if forgery is None:
            return
        tally.add(scene.fleet.offer(forgery))


# -- answers under another key --------------------------------------------------------------------


@dataclass
class Lies:
    """Whole fleets in which every node lies to one of its neighbours in every other round."""

    sent: int = 0
    counted: int = 0  # as out of range, in all
    # Pairwise: those that an open round waited for; a neighbour that lies is asked less often.
    # Of a sealed roster nobody can tell who lied: all of it are counted.
    expected: int = 0
    others: int = 0  # counted under any other reason
    changed: int = 0

    @property
    def good(self) -> bool:
        """Each left out and counted, nothing else touched."""
        return self.counted == self.expected and not (self.others or self.changed)


def nonsense(fleet: WireFleet, answer: Answer) -> Answer:
    """*answer* with a ciphertext of something far out of range, under the right key."""
    key = fleet.keys[answer.receiver]
    c = paillier.encrypt(key.public, mpz(3) ** 300, key.obfuscator(mpz(7), mpz(9)))
    return msgspec.structs.replace(answer, ciphertexts=[number(c)])


def under_another_key(fleet: WireFleet, answer: Answer) -> Answer:
    """*answer* with a ciphertext under a key that is not its receiver's."""
    other, own = toy_key(99).public, fleet.keys[answer.receiver].public
    c = mpz(int.from_bytes(hashlib.sha512(answer.query).digest() * 2, "big"))
    c = paillier.encrypt(other, c, gmpy2.powmod(c, other.n, other.n_squared)) % own.n_squared
    return msgspec.structs.replace(answer, ciphertexts=[number(c)])


def lie_under_other_keys(rounds: int, exchange: ExchangeName, seed: int = 0) -> Lies:
    """In even rounds each node's answers to the next in the ring lie under another node's key.

    Such a number is a fair ciphertext to look at; that it opens to nothing shows when the round
    closes. The fleet must end as if plain nonsense had come under the right key, which is left out
    (test_a_neighbour_whose_answer_is_out_of_range_is_left_out_and_counted).
    """
    following = dict(zip(NODES, NODES[1:] + NODES[:1], strict=True))
    lies, lied, in_time = Lies(), set[tuple[str, str, int]](), set[tuple[str, str, int]]()

    def note(fleet: WireFleet, frame: Frame) -> None:
        answer = frame.message
        if not isinstance(answer, Answer):
            return
        lie = answer.sender, answer.receiver, answer.round
        collector = agent_of(fleet, answer.receiver).collector
        if lie in lied and collector.is_for_open_round(answer.query):
            current = collector.current
            if current is not None and answer.sender in current.roster - current.excluded:
                in_time.add(lie)

    def run(make: Callable[[WireFleet, Answer], Answer]) -> WireFleet:
        def lie(sender: str, receiver: str, message: Message) -> Message:
            if not isinstance(message, Answer) or following[sender] != receiver:
                return message
            if message.round % 2:
                return message
            lied.add((sender, receiver, message.round))
            return make(fleet, message)

        fleet = make_fleet(seed, note, rounds=rounds, exchange=exchange, lossy=False)
        fleet.tap = lie
        fleet.run(until_s=1e9)
        return fleet

    fleet, reference = run(under_another_key), run(nonsense)
    reasons = fleet.rejected()
    lies.sent = len(lied)
    degrees = sum(len(fleet.neighbours[receiver]) for _, receiver, _ in lied)
    lies.expected = degrees if exchange == "sealed" else len(in_time)
    lies.counted = reasons["out_of_range"]
    lies.others = reasons.total() - lies.counted
    lies.changed = int(fleet.estimates().tobytes() != reference.estimates().tobytes())
    return lies


# -- the command ----------------------------------------------------------------------------------


def describe(tally: Tally) -> str:
    reasons = ", ".join(f"{reason} {n}" for reason, n in tally.reasons.most_common())
    return (
        f"{tally.exchange:8} {tally.kind.by:9} {tally.kind.name:48} {tally.count:6} "
        f"{tally.accepted:8} {tally.miscounted:10} {tally.changed:7} {tally.verified:5} "
        f"{tally.powers:6}  {reasons}"
    )


def cases(exchanges: Sequence[ExchangeName] = EXCHANGES) -> list[tuple[ExchangeName, Kind]]:
    """Every class in each exchange in which it can be made."""
    return [(e, kind) for e in exchanges for kind in KINDS.values() if e in kind.exchanges]


def run_lies(count: int, exchange: ExchangeName) -> bool:
    lies = lie_under_other_keys(-(-2 * count // len(NODES)), exchange)
    print(
        f"{exchange:8} neighbour answers under another key: {lies.sent} sent, {lies.counted} of "
        f"{lies.expected} counted as out_of_range, {lies.others} otherwise; the result "
        f"{'is as without them' if not lies.changed else 'CHANGED'}",
        flush=True,
    )
    return lies.good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=10_000, help="forgeries of each class")
    parser.add_argument("--only", default="", help="classes whose name contains this")
    parser.add_argument("--exchange", choices=[*EXCHANGES, "both"], default="both")
    options = parser.parse_args(arguments)
    exchanges = EXCHANGES if options.exchange == "both" else (options.exchange,)
    print(
        f"{'exchange':8} {'by':9} {'class':48} {'count':>6} {'accepted':>8} {'miscounted':>10} "
        f"{'changed':>7} {'sigs':>5} {'powers':>6}  counted under"
    )
    good = True
    for exchange, kind in cases(exchanges):
        if options.only in kind.name:
            tally = bombard(kind, options.count, exchange)
            print(describe(tally), flush=True)
            good = good and tally.good
    if options.only in "answers under another key":
        good = all([good, *(run_lies(options.count, exchange) for exchange in exchanges)])
    print("all refused, each under its reason" if good else "SOME WERE ACCEPTED OR MISCOUNTED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
