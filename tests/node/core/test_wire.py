"""Bytes to messages: every fault is refused under its own reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core import topics
from cipherfleet_node.core.messages import (
    LARGEST_POWER,
    MAX_LEVEL,
    MAX_REASONS,
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
from cipherfleet_node.core.round import Phase
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
from tests.support.paths import ROOT
from tests.support.queries import query_of
from tests.tools.make_vectors import wire_vectors

VECTORS = json.loads((ROOT / "node/vectors/wire.json").read_text())
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["identity_seed"]))
VERIFIERS = dict.fromkeys(VECTORS["senders"], SIGNER.public_key())
FLEET = VECTORS["fleet"]

names = st.sampled_from(["a", "b"])
rounds = st.one_of(st.integers(0, MAX_ROUND), st.sampled_from([0, MAX_ROUND]))
counters = st.one_of(st.integers(0, MAX_COUNTER), st.sampled_from([0, MAX_COUNTER]))
refusals = st.sampled_from(get_args(RefusalReason))
parts = st.lists(st.binary(max_size=40), max_size=4)
tags = st.binary(min_size=8, max_size=8)
digests = st.binary(min_size=32, max_size=32)
rosters = st.lists(names, max_size=4)
uncounted = st.lists(st.builds(Uncounted, rounds, rosters), max_size=4)
states = st.sampled_from(get_args(PresenceState))
phases = st.sampled_from([phase.value for phase in Phase])
reasons = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=32)
counts = st.dictionaries(reasons, counters, max_size=3)
degrees = st.none() | st.integers(-273, 999)
fleet, operator = st.just(FLEET), st.just(OPERATOR)
texts = st.text(max_size=64)
keys = [st.binary(max_size=40)] * 3
powers = st.none() | st.integers(-LARGEST_POWER, LARGEST_POWER)
levels = st.integers(0, MAX_LEVEL)
members = st.lists(st.builds(MembershipEntry, names, rosters, *keys), max_size=3)
seals = st.lists(st.tuples(names, st.binary(max_size=32)), max_size=3)
changes = st.binary(max_size=40), st.booleans()
messages = st.one_of(
    st.builds(
        Query,
        *[fleet, names, rounds, rounds, rosters, uncounted, st.booleans()],
        *[powers, levels, tags, tags, parts],
    ),
    st.builds(Answer, fleet, names, rounds, names, rounds, counters, digests, parts),
    st.builds(Refusal, fleet, names, rounds, names, rounds, counters, digests, refusals, rounds),
    st.builds(Presence, fleet, names, rounds, states),
    st.builds(Membership, fleet, operator, rounds, names, rounds, texts, members, seals, *changes),
    st.builds(Claim, fleet, names, rounds, *[st.binary(max_size=40)] * 5),
    st.builds(
        Health,
        fleet,
        names,
        rounds,
        counters,
        phases,
        rounds,
        *[counters] * 3,
        counts,
        counts,
        *[counters] * 3,
        rosters,
        counters,
        st.none() | st.booleans(),
        degrees,
        st.none() | counters,
    ),
)


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    assert decode(encode(message, SIGNER), topic_of(message), FLEET, VERIFIERS) == message


@pytest.mark.parametrize(
    ("roster", "ciphertexts"),
    [
        (["a", "b"], [b"1", b"23"]),
        (["a", "b"], [b"123"]),
        (["a", "b"], [b"123", b""]),
        (["a", "b"], []),
        (["b", "a"], [b"12", b"3"]),
        (["ab"], [b"12", b"3"]),
        (["a\0b"], [b"12", b"3"]),
        (["a", "b", ""], [b"12", b"3"]),
        (["a"], [b"b", b"12", b"3"]),
        ([], [b"a", b"b", b"12", b"3"]),
    ],
)
def test_the_digest_tells_where_every_name_and_ciphertext_ends(
    roster: list[str], ciphertexts: list[bytes]
) -> None:
    query = query_of(FLEET, "a", 1, 3, ["a", "b"], [b"12", b"3"])
    other = msgspec.structs.replace(query, roster=roster, ciphertexts=ciphertexts)
    assert other.digest != query.digest


@given(counters, rosters, parts)
def test_the_digest_is_that_of_the_protocol(
    k: int, roster: list[str], ciphertexts: list[bytes]
) -> None:
    def eight(number: int) -> bytes:
        return number.to_bytes(8, "big")

    data = b"cipherfleet/v2/query-digest\0" + eight(k) + eight(len(roster))
    data += b"".join(eight(len(name)) + name.encode() for name in roster)
    data += eight(len(ciphertexts))
    data += b"".join(eight(len(ciphertext)) + ciphertext for ciphertext in ciphertexts)
    query = query_of(FLEET, "a", 1, k, roster, ciphertexts)
    assert query.digest == hashlib.sha256(data).digest()


@settings(max_examples=300)
@given(messages, st.data())
def test_mutated_bytes_raise_nothing_but_wire_errors(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(message, SIGNER))
    original = bytes(encoded)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        match data.draw(st.sampled_from(["set", "delete", "insert", "cut"])):
            case "set":
                encoded[place] = data.draw(st.integers(0, 255))
            case "delete":
                del encoded[place]
            case "insert":
                encoded.insert(place, data.draw(st.integers(0, 255)))
            case _:
                del encoded[place:]
        if not encoded:
            break
    if bytes(encoded) == original:
        return
    with suppress(WireError):
        decode(bytes(encoded), topic_of(message), FLEET, VERIFIERS)
        pytest.fail("other bytes than those that were signed were accepted")


@settings(max_examples=200)
@given(messages, st.integers(0), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(message: Message, place: int, bit: int) -> None:
    encoded = bytearray(encode(message, SIGNER))
    encoded[place % len(encoded)] ^= 1 << bit
    with pytest.raises(WireError):
        decode(bytes(encoded), topic_of(message), FLEET, VERIFIERS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, topics.query_topic(FLEET, "a"), FLEET, VERIFIERS)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats())
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.sampled_from(["query", "answer", "presence", "health"]), st.lists(anything, max_size=14))
def test_signed_nonsense_is_refused_too(kind: str, fields: list[Any]) -> None:
    """A neighbour may sign what it likes."""
    body = msgspec.msgpack.encode(fields)
    signature = SIGNER.sign(b"cipherfleet/v2/" + kind.encode() + b"\0" + body)
    data = msgspec.msgpack.encode([WIRE_VERSION, kind, body, signature])
    with pytest.raises(WireError):
        decode(data, topics.query_topic(FLEET, "a"), FLEET, VERIFIERS)


def test_deep_nesting_is_refused() -> None:
    for data in (b"\x91" * 100_000, b"\x94\x01" + b"\x91" * 100_000):
        with pytest.raises(WireError, match="do not parse as an envelope"):
            decode(data, topics.query_topic(FLEET, "a"), FLEET, VERIFIERS)


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    query = query_of(FLEET, "a", 1, 1, [], [bytes(MAX_MESSAGE_BYTES)])
    with pytest.raises(WireError, match=f"limit {MAX_MESSAGE_BYTES}") as refused:
        decode(encode(query, SIGNER), topic_of(query), FLEET, VERIFIERS)
    assert refused.value.reason == "too_long"
    largest = 4000 // 32 * 512  # d = 4000 at 2048 bits
    assert largest < MAX_MESSAGE_BYTES / 2


def test_a_message_just_within_the_limit_is_read() -> None:
    query = query_of(FLEET, "a", 1, 1, [], [bytes(MAX_MESSAGE_BYTES - 200)])
    assert decode(encode(query, SIGNER), topic_of(query), FLEET, VERIFIERS) == query


@pytest.mark.parametrize("field", ["round", "epoch", "uncounted"])
@pytest.mark.parametrize("value", [-2, -(2**63), MAX_ROUND + 1, MAX_COUNTER, 2**64 - 1])
def test_counters_out_of_range_are_refused(field: str, value: int) -> None:
    good = query_of(FLEET, "a", 1, 1)
    changed = [Uncounted(value, [])] if field == "uncounted" else value
    message = msgspec.structs.replace(good, **{field: changed})
    with pytest.raises(WireError) as refused:
        decode(encode(message, SIGNER), topic_of(message), FLEET, VERIFIERS)
    assert refused.value.reason == "range"


def test_a_signature_does_not_move_to_another_kind() -> None:
    """Answers and refusals begin with the same fields; the domain tag keeps them apart."""
    fields = (FLEET, "a", 1, "b", 1, 0, bytes(32))
    answer, refusal = Answer(*fields, []), Refusal(*fields, "old", 2)
    for genuine, kind in ((answer, "refusal"), (refusal, "answer"), (answer, "query")):
        version, _, body, signature = msgspec.msgpack.decode(encode(genuine, SIGNER))
        moved = msgspec.msgpack.encode([version, kind, body, signature])
        with pytest.raises(WireError):
            decode(moved, topic_of(genuine), FLEET, VERIFIERS)


@given(messages)
def test_a_topic_tells_kind_and_sender(message: Message) -> None:
    parts = topics.read_topic(topic_of(message), FLEET)
    named = message.receiver if isinstance(message, Membership) else message.sender
    kind = "answer" if isinstance(message, Refusal) else message.KIND
    assert parts == (kind, named)


@given(st.text("/qastem +#", max_size=12) | st.just("/" * 60_000))
def test_other_topics_are_refused_before_anything_is_parsed(end: str) -> None:
    for topic in (end, f"cf/v2/{FLEET}/{end}"):
        with pytest.raises(WireError) as refused:
            decode(b"", topic, FLEET, VERIFIERS)
        assert refused.value.reason in ("topic", "unknown_sender")


# -- one encoding ---------------------------------------------------------------------------------


def wide_forms(data: bytes) -> Iterator[bytes]:
    """Every longer MessagePack form of the first value in *data*, which follows it unchanged."""
    first, rest = data[0], data[1:]
    match first:
        case _ if first < 0x80:
            yield from (b"\xcc" + data, b"\xcd\0" + data, b"\xce\0\0\0" + data, b"\xd0" + data)
        case _ if first >> 4 == 0x8:
            yield bytes([0xDE, 0, first & 15]) + rest
        case _ if first >> 4 == 0x9:
            yield from (
                bytes([0xDC, 0, first & 15]) + rest,
                bytes([0xDD, 0, 0, 0, first & 15]) + rest,
            )
        case _ if first >> 5 == 0b101:
            yield from (bytes([0xD9, first & 31]) + rest, bytes([0xDA, 0, first & 31]) + rest)
        case 0xC4:
            yield from (b"\xc5\0" + rest, b"\xc6\0\0\0" + rest)
        case 0xCC:
            yield from (b"\xcd\0" + rest, b"\xd1\0" + rest)
        case 0xCD | 0xCE:
            yield bytes([first + 1]) + bytes(2 if first == 0xCD else 4) + rest


def value_places(data: bytes) -> list[int]:
    """Where a value begins in *data*: each place from which some number of bytes is one value."""
    unpack = msgspec.msgpack.decode
    places, place = [], 0
    while place < len(data):
        places.append(place)
        if data[place] >> 4 in (0x8, 0x9):  # its entries follow
            place += 1
            continue
        end = place + 1
        while True:
            with suppress(msgspec.DecodeError):
                unpack(data[place:end])
                break
            end += 1
        place = end
    return places


@given(messages, st.data())
def test_a_longer_form_of_any_value_is_refused(message: Message, data: st.DataObject) -> None:
    """A sender that signs the longer form is refused as well, or one message had two encodings."""
    body = msgspec.msgpack.encode(message)
    place = data.draw(st.sampled_from(value_places(body)))
    forms = [body[:place] + form for form in wide_forms(body[place:])]
    for form in forms:
        signature = SIGNER.sign(b"cipherfleet/v2/" + message.KIND.encode() + b"\0" + form)
        payload = msgspec.msgpack.encode([WIRE_VERSION, message.KIND, form, signature])
        with pytest.raises(WireError) as refused:
            decode(payload, topic_of(message), FLEET, VERIFIERS)
        assert refused.value.reason == "encoding"


@given(messages, st.sampled_from([0, 1, 2]))
def test_a_longer_form_of_the_envelope_is_refused(message: Message, place: int) -> None:
    payload = encode(message, SIGNER)
    for form in wide_forms(payload[place:]):
        with pytest.raises(WireError) as refused:
            decode(payload[:place] + form, topic_of(message), FLEET, VERIFIERS)
        assert refused.value.reason == "encoding"


# -- the order of the checks ----------------------------------------------------------------------

# Each fault alone, in the order of the checks; a message with several is refused for the first.
FAULTS = {
    "too_long": "too_long",
    "foreign topic": "topic",
    "operator as node": "topic",
    "too long for its topic": "too_long",
    "stranger": "unknown_sender",
    "retained": "retained",
    "cut": "malformed",
    "version": "version",
    "kind": "kind",
    "kind of another topic": "topic",
    "long envelope": "encoding",
    "signature": "signature",
    "body": "malformed",
    "long body": "encoding",
    "fleet": "fleet",
    "operator as sender": "topic",
    "receiver": "topic",
    "round": "range",
    "tag": "length",
}

LIMITS = {"answer": 1000}


def faulty(faults: set[str]) -> tuple[bytes, str, bool]:
    """The bytes of an answer of a to b with all of *faults*, its topic, whether it is retained."""
    query = bytes(31 if "tag" in faults else 32)
    sender = OPERATOR if "operator as sender" in faults else "a"
    answer = Answer(FLEET, sender, 1, "b", 3, 0, query, [])
    changes: dict[str, Any] = {"fleet": "other"} if "fleet" in faults else {}
    changes |= {"receiver": "c"} if "receiver" in faults else {}
    changes |= {"round": MAX_ROUND + 1} if "round" in faults else {}
    body = msgspec.msgpack.encode(msgspec.structs.replace(answer, **changes))
    body = b"\xdc\0" + bytes([body[0] & 15]) + body[1:] if "long body" in faults else body
    body = body + b"\0" if "body" in faults else body
    kind = "presence" if "kind of another topic" in faults else "answer"
    kind = "quest" if "kind" in faults else kind
    signature = SIGNER.sign(b"cipherfleet/v2/" + kind.encode() + b"\0" + body)
    signature = bytes(64) if "signature" in faults else signature
    data = msgspec.msgpack.encode([1 if "version" in faults else 2, kind, body, signature])
    data = data[:1] + b"\xcc" + data[1:] if "long envelope" in faults else data
    data = data[:-1] if "cut" in faults else data
    data = data.ljust(LIMITS["answer"] + 1) if "too long for its topic" in faults else data
    data = data.ljust(MAX_MESSAGE_BYTES + 1) if "too_long" in faults else data
    names = "c" if "stranger" in faults else "a"
    names = OPERATOR if "operator as node" in faults else names
    topic = "x" if "foreign topic" in faults else topics.answer_topic(FLEET, "b", names)
    return data, topic, "retained" in faults


def refusal(faults: set[str]) -> str:
    data, topic, retained = faulty(faults)
    with pytest.raises(WireError) as refused:
        decode(data, topic, FLEET, VERIFIERS, retained=retained, limits=LIMITS)
    return refused.value.reason


def test_each_fault_alone_is_refused_for_its_reason() -> None:
    decode(*faulty(set())[:2], FLEET, VERIFIERS)
    assert {fault: refusal({fault}) for fault in FAULTS} == FAULTS


def test_the_checks_come_in_their_order() -> None:
    names = list(FAULTS)
    assert [refusal(set(names[n:])) for n in range(len(names))] == list(FAULTS.values())


def test_only_presence_membership_and_claim_may_be_retained() -> None:
    for case in VECTORS["retained"]:
        data = bytes.fromhex(case["bytes"])
        decode(data, case["topic"], FLEET, VERIFIERS)
        if not case["fails"]:
            decode(data, case["topic"], FLEET, VERIFIERS, retained=True)
            continue
        with pytest.raises(WireError) as refused:
            decode(data, case["topic"], FLEET, VERIFIERS, retained=True)
        assert refused.value.reason == case["fails"] == "retained"
    assert len({case["fails"] for case in VECTORS["retained"]}) == 2


# -- lengths and ranges ---------------------------------------------------------------------------


def test_only_messages_have_topics() -> None:
    with pytest.raises(TypeError, match="has no topic"):
        topic_of(Message(FLEET, "a", 1))


def test_an_answer_travels_between_its_two_nodes_only() -> None:
    answer = Answer(FLEET, "a", 1, "b", 1, 0, bytes(16), [])
    assert topic_of(answer) == f"cf/v2/{FLEET}/a/b/a"
    with pytest.raises(WireError) as refused:
        decode(encode(answer, SIGNER), topics.answer_topic(FLEET, "c", "a"), FLEET, VERIFIERS)
    assert refused.value.reason == "topic"


def test_a_node_subscribes_to_exactly_what_concerns_it() -> None:
    wanted = topics.subscriptions("f", "me", ["a", "b"])
    assert wanted == [
        "cf/v2/f/q/a",
        "cf/v2/f/q/b",
        "cf/v2/f/state/a",
        "cf/v2/f/state/b",
        "cf/v2/f/a/me/+",
        "cf/v2/f/state/me",
        "cf/v2/f/members/me",
    ]
    for topic in ("cf/v2/f/q/a", "cf/v2/f/state/a", "cf/v2/f/a/me/a", "cf/v2/f/health/a"):
        assert topics.sender_of(topic) == "a"
    assert topics.health_topic("f", "a") == "cf/v2/f/health/a"


def test_the_longest_health_is_short() -> None:
    """A node sends one every five seconds; it is bounded whatever its neighbours do."""
    many = {f"{n:c}" * 32: MAX_COUNTER for n in range(ord("a"), ord("z") + 1)}
    many |= {letter * 31: MAX_COUNTER for letter in "abcdefghijklmnopqrstuvwxyz"}
    most = dict(list((many | {letter * 30: 1 for letter in "abcdefghijkl"}).items())[:MAX_REASONS])
    assert len(most) == MAX_REASONS
    neighbours = [f"{n:063}" for n in range(MAX_DEGREE)]
    base = Health(
        "f" * 63,
        "a" * 63,
        MAX_COUNTER,
        0,
        "collecting",
        0,
        0,
        0,
        0,
        most,
        most,
        0,
        0,
        0,
        neighbours,
        0,
        False,
        99,
        MAX_COUNTER,
    )
    counters = ("number", "round", "round_us", "silent", "missed", "pool", "pool_size", "inline")
    health = msgspec.structs.replace(base, **dict.fromkeys(counters, MAX_COUNTER))
    assert len(encode(health, SIGNER)) < 10_000


def test_refusals_never_tell_the_content() -> None:
    secret = b"0123456789abcdef"
    query = msgspec.structs.replace(query_of(FLEET, "a", 1, 1, [], [secret]), parameters=secret)
    with pytest.raises(WireError) as refused:
        decode(encode(query, SIGNER), topic_of(query), FLEET, VERIFIERS)
    assert refused.value.reason == "length"
    assert "0123" not in str(refused.value)


def test_a_digest_tells_rounds_rosters_and_ciphertexts_apart() -> None:
    base = query_of(FLEET, "a", 1, 1, [], [b"x" * 8, b"y" * 8])
    replace = msgspec.structs.replace
    others = [
        replace(base, round=2),
        replace(base, roster=["a", "b"]),
        replace(base, roster=["ab"]),
        replace(base, ciphertexts=[b"y" * 8, b"x" * 8]),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 5
    # Sent again after a restart, or with other news of the round before, it is the same query.
    again = replace(base, epoch=2, uncounted=[Uncounted(0, ["b"])], unbalanced=True)
    assert again.digest == base.digest


# -- vectors --------------------------------------------------------------------------------------


def test_the_wire_vectors_are_up_to_date() -> None:
    assert wire_vectors() == VECTORS


@pytest.mark.parametrize("case", VECTORS["decode"], ids=lambda c: c["name"])
def test_decoding_vectors_hold(case: Any) -> None:
    data = bytes.fromhex(case["bytes"])
    message = decode(data, case["topic"], FLEET, VERIFIERS)
    assert case["kind"] == message.KIND
    assert msgspec.json.decode(msgspec.json.encode(message)) == case["fields"]
    assert encode(message, SIGNER) == data


def test_a_flaw_of_the_body_shows_only_if_the_message_is_well_signed() -> None:
    reasons = {case["fails"] for case in VECTORS["badly_signed"]}
    assert "signature" in reasons
    assert not reasons & {"range", "length", "fleet"}
    assert len(VECTORS["badly_signed"]) > len(VECTORS["refused"]) // 2


@pytest.mark.parametrize(
    "case", [*VECTORS["refused"], *VECTORS["badly_signed"]], ids=lambda c: c["name"]
)
def test_refusal_vectors_hold(case: Any) -> None:
    with pytest.raises(WireError) as refused:
        decode(bytes.fromhex(case["bytes"]), case["topic"], FLEET, VERIFIERS)
    assert refused.value.reason == case["fails"]
