"""Messages as attackers make them, and whole fleets that have to refuse every one.

    python tests/forgeries.py --count 10000

makes that many forgeries of each class, hands them to the nodes of a running fleet as their daemons
would (bytes on a topic), and prints a table. Exit code 1 if any was accepted, counted under another
reason than its class has, or moved the fleet's result by one bit.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gmpy2
import msgspec
from gmpy2 import mpz

from cipherfleet_node import paillier, topics
from cipherfleet_node.agent import Agent
from cipherfleet_node.messages import Answer, Message, Presence, Query
from cipherfleet_node.round import Phase
from cipherfleet_node.wire import MAX_COUNTER, MAX_MESSAGE_BYTES, encode, topic_of
from memory_fleet import toy_key
from wire_fleet import (
    FLEET,
    NODES,
    Forgery,
    Frame,
    Outcome,
    WireFleet,
    agent_of,
    identity_of,
    make_fleet,
    past,
    recorded_powers,
    undisturbed,
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group
MOMENTS = 40  # of one run in which an attacker is at work, at least

# -- the attackers' tools -------------------------------------------------------------------------


@dataclass
class Scene:
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
        """One message of *kind* that came to the receiver, by chance."""
        log = self.fleet.log if log is None else log
        for _ in range(200):
            frame = self.chance.choice(log)
            if frame.receiver == self.receiver and isinstance(frame.message, kind) and where(frame):
                return frame
        return None

    def overheard(self, where: Callable[[Frame], bool]) -> Frame | None:
        """One message between any two nodes, by chance."""
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

    def live_query(self) -> Query | None:
        """The query about to come, if it is the first of a round that the receiver has opened."""
        query = self.pending.message
        if not isinstance(query, Query) or self.agent.phase is Phase.STARTING:
            return None
        opened = any(record.number == query.round for record in self.agent.state.records)
        answered = (query.sender, query.round) in self.agent._sent
        return query if opened and not answered else None

    def live_answer(self) -> Answer | None:
        """The answer about to come, if the receiver waits for it."""
        answer, current = self.pending.message, self.agent._round
        if not isinstance(answer, Answer) or current is None or current.number != answer.round:
            return None
        return answer if answer.sender not in current.answered else None

    def key_of(self, message: Query | Answer) -> paillier.PrivateKey:
        """The key under which *message*'s ciphertexts are."""
        return self.fleet.keys[message.sender if isinstance(message, Query) else message.receiver]

    def unit(self, key: paillier.PrivateKey) -> bytes:
        """Some ciphertext under *key*."""
        c = gmpy2.mpz(self.chance.randrange(1, int(key.public.n_squared)))
        return int(c).to_bytes(128, "big")


Make = Callable[[Scene], Forgery | None]


@dataclass(frozen=True)
class Kind:
    """A class of forgeries: who can make it, and under which reasons it must be counted."""

    name: str
    by: Literal["broker", "neighbour"]
    reasons: frozenset[str]
    make: Make

    @property
    def most_verified(self) -> int:
        """How many signatures one forgery may cost its receiver."""
        return 0 if self.reasons <= BEFORE_SIGNATURE else 1


# What is refused before any signature is looked at.
BEFORE_SIGNATURE = frozenset(
    {"too_long", "malformed", "version", "kind", "fleet", "unknown_sender"}
    | {"topic", "range", "length"}
)
KINDS: dict[str, Kind] = {}


def broker(*reasons: str) -> Callable[[Make], Make]:
    """Enter what a broker can make, without any key, that must be counted under *reasons*."""
    return _entering("broker", reasons)


def neighbour(*reasons: str) -> Callable[[Make], Make]:
    """Enter what takes a neighbour's own signing key."""
    return _entering("neighbour", reasons)


def _entering(by: Literal["broker", "neighbour"], reasons: Sequence[str]) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        name = make.__name__.replace("_", " ")
        KINDS[name] = Kind(name, by, frozenset(reasons), make)
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

ENVELOPE_REASONS = ("malformed", "version", "kind")
FIELD_REASONS = ("malformed", "fleet", "unknown_sender", "topic", "range", "length", "signature")


@broker(*{*ENVELOPE_REASONS, *FIELD_REASONS})
def a_bit_flipped_anywhere(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(flipped(frame.payload, scene.chance, 0, len(frame.payload)), frame.topic)


@broker("signature")
def a_bit_of_the_signature_flipped(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    end = len(frame.payload)
    return scene.forged(flipped(frame.payload, scene.chance, end - 64, end), frame.topic)


@broker("signature")
def a_bit_of_a_ciphertext_flipped(scene: Scene) -> Forgery | None:
    frame = scene.any_frame()
    if (place := ciphertexts_in(frame)) is None:
        return None
    return scene.forged(flipped(frame.payload, scene.chance, *place), frame.topic)


@broker(*FIELD_REASONS)
def a_bit_of_the_other_fields_flipped(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2]
    place = ciphertexts_in(frame)
    end = body.index(frame.payload[slice(*place)]) if place else len(body)
    body = flipped(body, scene.chance, 0, end)
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker(*ENVELOPE_REASONS)
def a_bit_of_the_envelope_flipped(scene: Scene) -> Forgery:
    """Its header, version and kind."""
    frame = scene.any_frame()
    end = 3 + len(frame.message.KIND)
    return scene.forged(flipped(frame.payload, scene.chance, 0, end), frame.topic)


@broker("malformed")
def truncated(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(frame.payload[: scene.chance.randrange(len(frame.payload))], frame.topic)


@broker("malformed")
def truncated_inside(scene: Scene) -> Forgery:
    """The body is cut, the envelope fits it."""
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2]
    body = body[: scene.chance.randrange(len(body))]
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker("malformed")
def extended(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    more = scene.chance.randbytes(scene.chance.randint(1, 200))
    return scene.forged(frame.payload + more, frame.topic)


@broker("malformed")
def extended_inside(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    body = open_envelope(frame.payload)[2] + scene.chance.randbytes(scene.chance.randint(1, 200))
    return scene.forged(with_part(frame.payload, 2, body), frame.topic)


@broker("too_long")
def too_long(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(frame.payload.ljust(MAX_MESSAGE_BYTES + 1, b"\0"), frame.topic)


@broker("malformed")
def a_list_too_long(scene: Scene) -> Forgery:
    """Small bytes that claim, or have, entries without number."""
    frame = scene.captured(Query) or scene.pending
    body = msgspec.msgpack.decode(open_envelope(frame.payload)[2])
    body[-1] = [b""] * scene.chance.randint(4097, 20_000)
    return scene.forged(with_part(frame.payload, 2, msgspec.msgpack.encode(body)), frame.topic)


@broker("malformed")
def random_bytes(scene: Scene) -> Forgery:
    return scene.forged(scene.chance.randbytes(scene.chance.randrange(200)))


@broker("malformed")
def values_of_wrong_types(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    return scene.forged(with_part(frame.payload, 2, wrong_types(frame, scene.chance)), frame.topic)


@neighbour("malformed")
def values_of_wrong_types_signed(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    body, kind = wrong_types(frame, scene.chance), frame.message.KIND
    signature = scene.fleet.identities[frame.sender].sign(signed_bytes(kind, body))
    return scene.forged(close_envelope([1, kind, body, signature]), frame.topic)


def wrong_types(frame: Frame, chance: random.Random) -> bytes:
    """The message's body with one field of a type that no field has."""
    fields: list[Any] = msgspec.msgpack.decode(open_envelope(frame.payload)[2])
    fields[chance.randrange(len(fields))] = chance.choice([None, True, 1.5, {}, [1], [None], 2**63])
    fields[chance.randrange(len(fields))] = chance.choice([None, True, 0.5, {"a": 1}, [[]]])
    return msgspec.msgpack.encode(fields)


def signed_bytes(kind: str, body: bytes) -> bytes:
    return b"cipherfleet/v1/" + kind.encode() + b"\0" + body


@broker("version")
def another_wire_version(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    version = scene.chance.choice([-1, 0, 2, 3, 127, 255, 2**32, 2**64 - 1, -(2**63)])
    return scene.forged(with_part(frame.payload, 0, version), frame.topic)


@broker("kind")
def an_unknown_kind(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    kind = scene.chance.choice(["", "health", "Query", "answer\0", "pre" * 30, "querÿ"])
    return scene.forged(with_part(frame.payload, 1, kind), frame.topic)


@broker("malformed")
def another_kind(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    kind = scene.chance.choice(sorted({"query", "answer", "presence"} - {frame.message.KIND}))
    return scene.forged(with_part(frame.payload, 1, kind), frame.topic)


@broker("malformed")
def a_state_that_is_none(scene: Scene) -> Forgery | None:
    frame = scene.captured(Presence)
    state = scene.chance.choice(["", "Ready", "root", "lost\0"])
    return scene.forged(with_fields(frame, state=state), frame.topic) if frame else None


# -- signatures -----------------------------------------------------------------------------------


@broker("signature")
def a_signature_of_another_length(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    signature = open_envelope(frame.payload)[3]
    wrong = scene.chance.choice(
        [b"", signature[:-1], signature + b"\0", signature * 2, bytes(64), signature[32:]]
    )
    return scene.forged(with_part(frame.payload, 3, wrong), frame.topic)


@broker("signature")
def a_signature_plus_the_groups_order(scene: Scene) -> Forgery:
    """Ed25519 signatures are malleable where s is not checked to be below the order."""
    frame = scene.any_frame()
    signature = open_envelope(frame.payload)[3]
    s = int.from_bytes(signature[32:], "little") + ORDER
    return scene.forged(
        with_part(frame.payload, 3, signature[:32] + s.to_bytes(32, "little")), frame.topic
    )


@broker("signature")
def body_of_one_round_signature_of_another(scene: Scene) -> Forgery | None:
    frame = scene.any_frame()
    other = scene.captured(
        type(frame.message), lambda f: f.sender == frame.sender and f.payload != frame.payload
    )
    if other is None or isinstance(frame.message, Presence):
        return None
    signature = open_envelope(other.payload)[3]
    return scene.forged(with_part(frame.payload, 3, signature), frame.topic)


@broker("signature")
def ciphertexts_of_another_message(scene: Scene) -> Forgery | None:
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
def a_signature_of_another_node(scene: Scene) -> Forgery:
    """A neighbour names another neighbour as the sender."""
    frame = scene.any_frame()
    others = [name for name in NODES if name != frame.sender]
    signer = scene.fleet.identities[scene.chance.choice(others)]
    return scene.forged(encode(frame.message, signer), frame.topic)


@broker("signature")
def a_signature_of_a_strangers_key(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    signer = identity_of(f"stranger {scene.chance.random()}")
    return scene.forged(encode(frame.message, signer), frame.topic)


@broker("signature")
def other_numbers(scene: Scene) -> Forgery | None:
    """Stale, future and huge rounds, attempts and epochs, under the old signature."""
    frame = scene.any_frame()
    names = {"epoch", "round", "attempt"} & set(frame.message.__struct_fields__)
    name = scene.chance.choice(sorted(names))
    old = getattr(frame.message, name)
    number = scene.chance.choice([0, old - 1, old + 1, old + 2, old + 1000, 2**32, MAX_COUNTER])
    if number == old or number < 0:
        return None
    return scene.forged(with_fields(frame, **{name: number}), frame.topic)


# -- the wrong place ------------------------------------------------------------------------------


@broker("topic")
def another_topic(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    sender, receiver = frame.sender, scene.receiver
    wrong = {
        "",
        "/",
        "#",
        "cf/v1/toy/q/+",
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


@broker("topic")
def a_query_under_another_nodes_topic(scene: Scene) -> Forgery | None:
    frame = scene.captured(Query)
    if frame is None:
        return None
    other = scene.chance.choice([name for name in NODES if name != frame.sender])
    return scene.forged(frame.payload, topics.query_topic(FLEET, other))


@broker("topic")
def an_answer_to_another_node_readdressed(scene: Scene) -> Forgery | None:
    frame = answer_for_another(scene)
    if frame is None:
        return None
    return scene.forged(frame.payload, topics.answer_topic(FLEET, scene.receiver, frame.sender))


@broker("other_receiver")
def an_answer_to_another_node_on_its_own_topic(scene: Scene) -> Forgery | None:
    """Nobody here subscribed to it; the broker brings it all the same."""
    frame = answer_for_another(scene)
    return scene.brought(frame)


def answer_for_another(scene: Scene) -> Frame | None:
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
def a_message_of_no_neighbour(scene: Scene) -> Forgery | None:
    """Genuine, of the same fleet, but from a node with which there is no edge."""
    strangers = set(NODES) - {scene.receiver, *scene.fleet.neighbours[scene.receiver]}
    return scene.brought(scene.overheard(lambda frame: frame.sender in strangers))


@broker("unknown_sender")
def the_nodes_own_message_back(scene: Scene) -> Forgery | None:
    return scene.brought(scene.overheard(lambda frame: frame.sender == scene.receiver))


@broker("unknown_sender")
def a_message_of_somebody_made_up(scene: Scene) -> Forgery:
    name = scene.chance.choice(["", "n99", "N00", "n00 ", "n0\u0660", "_operator", "x" * 5000])
    frame = scene.any_frame()
    message = msgspec.structs.replace(frame.message, sender=name)
    return scene.forged(encode(message, identity_of(name)), topic_of(message))


@broker("fleet")
def a_message_of_another_fleet(scene: Scene) -> Forgery:
    """The same node, with the same keys, in a fleet of another name."""
    frame = scene.any_frame()
    name = scene.chance.choice(["other", "", "toy ", "Toy", "toy2"])
    message = msgspec.structs.replace(frame.message, fleet=name)
    topic = scene.chance.choice([frame.topic, topic_of(message)])
    return scene.forged(encode(message, scene.fleet.identities[frame.sender]), topic)


@broker("range")
def numbers_out_of_range(scene: Scene) -> Forgery:
    frame = scene.any_frame()
    names = {"epoch", "round", "attempt"} & set(frame.message.__struct_fields__)
    number = scene.chance.choice([-1, -(2**63), MAX_COUNTER + 1, 2**64 - 1])
    name = scene.chance.choice(sorted(names))
    return scene.forged(with_fields(frame, **{name: number}), frame.topic)


@broker("length")
def tags_of_another_length(scene: Scene) -> Forgery | None:
    frame = scene.any_frame()
    names = {"parameters", "key", "query"} & set(frame.message.__struct_fields__)
    if not names:
        return None
    name = scene.chance.choice(sorted(names))
    wrong = scene.chance.randbytes(scene.chance.choice([0, 1, 7, 9, 15, 17, 64]))
    return scene.forged(with_fields(frame, **{name: wrong}), frame.topic)


# -- the wrong time -------------------------------------------------------------------------------


def of_closed_round(scene: Scene) -> Callable[[Frame], bool]:
    now = scene.agent.state.round
    return lambda frame: isinstance(frame.message, Query | Answer) and frame.message.round < now


@broker("late_answer")
def an_answer_of_a_closed_round_again(scene: Scene) -> Forgery | None:
    frame = scene.captured(Answer, of_closed_round(scene))
    return scene.brought(frame)


@broker("late_answer")
def an_answer_of_the_round_before(scene: Scene) -> Forgery | None:
    """Delivered only when the next round is open."""
    before = scene.agent.state.round - 1
    frame = scene.captured(Answer, lambda f: getattr(f.message, "round", None) == before)
    return scene.brought(frame)


@broker("late_answer")
def an_answer_of_a_closed_round_in_other_bytes(scene: Scene) -> Forgery | None:
    """The envelope's form is not signed: lengths and numbers may be written longer."""
    frame = scene.captured(Answer, of_closed_round(scene))
    if frame is None:
        return None
    _, kind, body, signature = open_envelope(frame.payload)
    longer = b"\x94\xcc\x01" + msgspec.msgpack.encode(kind)
    for part in (body, signature):
        longer += b"\xc6" + len(part).to_bytes(4, "big") + part
    return scene.forged(longer, frame.topic)


@broker("repeated_answer")
def an_answer_of_the_open_round_again(scene: Scene) -> Forgery | None:
    current = scene.agent._round
    if current is None or not current.answered:
        return None
    frame = scene.captured(
        Answer,
        lambda f: (
            getattr(f.message, "round", None) == current.number and f.sender in current.answered
        ),
    )
    return scene.brought(frame)


@broker("repeated_query")
def a_query_again(scene: Scene) -> Forgery | None:
    """Of the open round or a closed one: it gets the very answer it got before."""
    sent = scene.agent._sent
    frame = scene.captured(Query, lambda f: (f.sender, getattr(f.message, "round", -1)) in sent)
    return scene.brought(frame)


@broker("stale_round")
def a_query_of_a_round_long_closed(scene: Scene) -> Forgery | None:
    oldest = scene.agent.state.records[0].number
    frame = scene.captured(Query, lambda f: getattr(f.message, "round", oldest) < oldest)
    return scene.brought(frame)


@broker("stale_epoch")
def a_message_of_an_earlier_start(scene: Scene) -> Forgery | None:
    frame = scene.captured(log=past())
    return scene.brought(frame)


@broker("stale_epoch")
def a_last_will_of_an_earlier_start(scene: Scene) -> Forgery:
    return scene.signed(Presence(FLEET, scene.pending.sender, 1, "lost"))


# -- neighbours that deviate ----------------------------------------------------------------------


@neighbour("stale_epoch")
def an_epoch_below_the_known_one(scene: Scene) -> Forgery:
    message = scene.any_frame().message
    return scene.signed(msgspec.structs.replace(message, epoch=scene.chance.choice([0, 1])))


@neighbour("parameters")
def other_parameters(scene: Scene) -> Forgery | None:
    return altered_query(scene, parameters=scene.chance.randbytes(8))


@neighbour("other_key")
def another_key_tag(scene: Scene) -> Forgery | None:
    """A stranger's, another neighbour's, or the receiver's own."""
    names = [name for name in NODES if name != scene.pending.sender]
    tag = scene.fleet.keys[scene.chance.choice(names)].public.fingerprint[:8]
    return altered_query(scene, key=scene.chance.choice([tag, scene.chance.randbytes(8)]))


def altered_query(scene: Scene, **changes: Any) -> Forgery | None:
    query = scene.pending.message
    if not isinstance(query, Query):
        return None
    return scene.signed(msgspec.structs.replace(query, **changes))


@neighbour("second_query")
def a_second_query_of_a_round(scene: Scene) -> Forgery | None:
    """With ciphertexts of its own making, of another round, or of another node."""
    sent = scene.agent._sent
    frame = scene.captured(Query, lambda f: (f.sender, getattr(f.message, "round", -1)) in sent)
    other = scene.captured(Query)
    if frame is None or other is None:
        return None
    assert isinstance(frame.message, Query)
    assert isinstance(other.message, Query)
    made = [scene.unit(scene.key_of(frame.message))]
    ciphertexts = scene.chance.choice([made, other.message.ciphertexts, [], [b""] * 2])
    if ciphertexts == frame.message.ciphertexts:
        return None
    return scene.signed(msgspec.structs.replace(frame.message, ciphertexts=ciphertexts))


@neighbour("stale_round")
def a_new_query_of_a_round_long_closed(scene: Scene) -> Forgery | None:
    oldest = scene.agent.state.records[0].number
    if oldest == 0:
        return None
    return altered_query(scene, round=scene.chance.randrange(oldest))


@neighbour("late_answer")
def a_new_answer_to_a_closed_round(scene: Scene) -> Forgery | None:
    answer, now = scene.pending.message, scene.agent.state.round
    if not isinstance(answer, Answer):
        return None
    ciphertexts = [scene.unit(scene.key_of(answer))]
    return scene.signed(
        msgspec.structs.replace(answer, round=scene.chance.randrange(now), ciphertexts=ciphertexts)
    )


@neighbour("early_answer")
def an_answer_to_a_round_to_come(scene: Scene) -> Forgery | None:
    answer, now = scene.pending.message, scene.agent.state.round
    if not isinstance(answer, Answer):
        return None
    ahead = scene.chance.choice([1, 2, 1000, MAX_COUNTER - now])
    return scene.signed(msgspec.structs.replace(answer, round=now + ahead))


@neighbour("other_query")
def an_answer_to_another_query(scene: Scene) -> Forgery | None:
    """One of an earlier round, of another node, or one that never was."""
    if (answer := scene.live_answer()) is None:
        return None
    other = scene.captured(Answer, lambda f: getattr(f.message, "query", b"") != answer.query)
    digest = scene.chance.randbytes(16)
    if other is not None and scene.chance.random() < 0.5:
        assert isinstance(other.message, Answer)
        digest = other.message.query
    return scene.signed(msgspec.structs.replace(answer, query=digest))


def with_ciphertexts(message: Query | Answer | None, scene: Scene, *data: bytes) -> Forgery | None:
    if message is None:
        return None
    return scene.signed(msgspec.structs.replace(message, ciphertexts=list(data)))


def live(scene: Scene) -> Query | Answer | None:
    """What is about to come, if the receiver will take it in."""
    return scene.live_query() or scene.live_answer()


def number(value: mpz | int) -> bytes:
    return int(value).to_bytes(128, "big")


@neighbour("ciphertext_range")
def a_ciphertext_of_zero(scene: Scene) -> Forgery | None:
    return with_ciphertexts(live(scene), scene, bytes(128))


@neighbour("ciphertext_not_unit")
def a_ciphertext_of_n(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    return with_ciphertexts(message, scene, number(scene.key_of(message).public.n))


@neighbour("ciphertext_range")
def a_ciphertext_of_n_squared(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    return with_ciphertexts(message, scene, number(scene.key_of(message).public.n_squared))


@neighbour("ciphertext_range")
def a_ciphertext_above_n_squared(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    least = int(scene.key_of(message).public.n_squared)
    return with_ciphertexts(message, scene, number(scene.chance.randrange(least, 1 << 1024)))


@neighbour("ciphertext_not_unit")
def a_multiple_of_a_prime_factor(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    key = scene.key_of(message)
    factor = int(scene.chance.choice([key.p, key.q, key.p * key.p, key.public.n]))
    times = scene.chance.randrange(1, int(key.public.n_squared) // factor)
    return with_ciphertexts(message, scene, number(factor * times))


@neighbour("ciphertext_count")
def another_number_of_ciphertexts(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    count = scene.chance.choice([0, 2, 3, 100, 4096 // 8])
    return with_ciphertexts(message, scene, *message.ciphertexts * count)


@neighbour("ciphertext_length")
def a_ciphertext_of_another_length(scene: Scene) -> Forgery | None:
    message = live(scene)
    if message is None:
        return None
    (c,) = message.ciphertexts
    wrong = scene.chance.choice([b"", c[1:], c[:-1], b"\0" + c, c * 2, c * 100])
    return with_ciphertexts(message, scene, wrong)


# -- the bombardment ------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of all forgeries of one kind."""

    kind: Kind
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


def bombard(kind: Kind, count: int) -> Tally:
    """Fleets under *count* forgeries of *kind* in all."""
    tally = Tally(kind)
    batch = -(-count // MOMENTS)
    with recorded_powers() as powers:
        for seed in range(20):
            if tally.count >= count:
                break
            chance = random.Random(f"{kind.name} {seed}")

            def attack(fleet: WireFleet, pending: Frame, chance: random.Random = chance) -> None:
                if tally.count < count and running(fleet, pending.receiver):
                    strike(Scene(fleet, pending, chance), tally, min(batch, count - tally.count))

            fleet = make_fleet(seed, attack)
            fleet.powers = powers
            for seat in fleet.seats.values():
                seat.epoch = 1  # its former start is the past's
            fleet.run()
            tally.fleets += 1
            same = fleet.estimates().tobytes() == undisturbed(seed).tobytes()
            tally.changed += not same or bool(fleet.silent()) or bool(fleet.rejected())
    assert tally.count == count, f"{kind.name}: {tally.count} moments were found, not {count}"
    return tally


def running(fleet: WireFleet, name: str) -> bool:
    """Whether *name* is in the midst of its rounds, and knows its neighbours."""
    agent = agent_of(fleet, name)
    going = agent.phase in (Phase.READING, Phase.COLLECTING) and agent.round_number >= 1
    return going and agent._neighbours._live >= set(fleet.neighbours[name])


def strike(scene: Scene, tally: Tally, batch: int) -> None:
    """Up to *batch* forgeries at one moment; none where the moment does not suit the kind."""
    for _ in range(batch):
        forgery = tally.kind.make(scene)
        if forgery is None:
            return
        tally.add(scene.fleet.offer(forgery))


# -- answers under another key --------------------------------------------------------------------


@dataclass
class Lies:
    """Whole fleets in which every node lies to one of its neighbours in every round."""

    told: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    changed: int = 0


def nonsense(fleet: WireFleet, answer: Answer) -> Answer:
    """*answer* with a ciphertext of something far out of range, under the right key."""
    key = fleet.keys[answer.receiver]
    c = paillier.encrypt(key.public, mpz(3) ** 300, key.obfuscator(mpz(7), mpz(9)))
    return msgspec.structs.replace(answer, ciphertexts=[number(c)])


def lie_under_other_keys(rounds: int, seed: int = 0) -> Lies:
    """Each node's answers to the next in the ring lie under another node's key.

    Such a number is a fair ciphertext to look at; that it opens to nothing shows when the round
    closes. The fleet must end as if plain nonsense had come under the right key, which is left out
    (test_a_neighbour_whose_answer_is_out_of_range_is_left_out_and_counted).
    """
    following = dict(zip(NODES, NODES[1:] + NODES[:1], strict=True))
    lies = Lies()

    def lie(sender: str, receiver: str, message: Message) -> Message | None:
        if not isinstance(message, Answer) or following[sender] != receiver:
            return message
        lies.told += 1
        other = toy_key(99).public
        own = fleet.keys[receiver].public
        c = mpz(int.from_bytes(hashlib.sha512(message.query).digest() * 2, "big"))
        c = paillier.encrypt(other, c, gmpy2.powmod(c, other.n, other.n_squared)) % own.n_squared
        return msgspec.structs.replace(message, ciphertexts=[number(c)])

    def babble(sender: str, receiver: str, message: Message) -> Message | None:
        if not isinstance(message, Answer) or following[sender] != receiver:
            return message
        return nonsense(fleet, message)

    fleet = make_fleet(seed, rounds=rounds)
    fleet.tap = lie
    fleet.run(until_s=1e9)
    reference = make_fleet(seed, rounds=rounds)
    reference.tap = babble
    reference.run(until_s=1e9)
    lies.reasons = fleet.rejected()
    lies.changed = int(fleet.estimates().tobytes() != reference.estimates().tobytes())
    return lies


# -- the command ----------------------------------------------------------------------------------


def describe(tally: Tally) -> str:
    reasons = ", ".join(f"{reason} {n}" for reason, n in tally.reasons.most_common())
    return (
        f"{tally.kind.by:9} {tally.kind.name:44} {tally.count:6} {tally.accepted:8} "
        f"{tally.miscounted:10} {tally.changed:7} {tally.verified:5} {tally.powers:6}  {reasons}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=10_000, help="forgeries of each class")
    parser.add_argument("--only", default="", help="classes whose name contains this")
    options = parser.parse_args(arguments)
    print(
        f"{'by':9} {'class':44} {'count':>6} {'accepted':>8} {'miscounted':>10} {'changed':>7} "
        f"{'sigs':>5} {'powers':>6}  counted under"
    )
    good = True
    for name, kind in KINDS.items():
        if options.only in name:
            tally = bombard(kind, options.count)
            print(describe(tally), flush=True)
            good = good and tally.good
    if options.only in "answers under another key":
        lies = lie_under_other_keys(-(-options.count // len(NODES)))
        fine = lies.reasons == {"out_of_range": lies.told} and not lies.changed
        reasons = ", ".join(f"{reason} {n}" for reason, n in lies.reasons.most_common())
        print(
            f"neighbour answers under another key: {lies.told} told, counted under {reasons}; "
            f"the result {'is as without them' if not lies.changed else 'CHANGED'}"
        )
        good = good and fine
    print("all refused, each under its reason" if good else "SOME WERE ACCEPTED OR MISCOUNTED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
