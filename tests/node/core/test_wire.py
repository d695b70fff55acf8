"""Bytes to messages: every fault is refused under its own reason."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core import topics
from cipherfleet_node.core.messages import (
    MAX_REASONS,
    Answer,
    Health,
    Message,
    Presence,
    PresenceState,
    Query,
    Refusal,
    RefusalReason,
)
from cipherfleet_node.core.round import Phase
from cipherfleet_node.core.wire import (
    MAX_COUNTER,
    MAX_MESSAGE_BYTES,
    WIRE_VERSION,
    decode,
    encode,
    topic_of,
)
from cipherfleet_node.errors import WireError
from tests.support.paths import ROOT
from tests.tools.make_vectors import query_of, wire_vectors

VECTORS = json.loads((ROOT / "node/vectors/wire.json").read_text())
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["identity_seed"]))
VERIFIERS = dict.fromkeys(VECTORS["senders"], SIGNER.public_key())
FLEET = VECTORS["fleet"]

names = st.sampled_from(VECTORS["senders"])
counters = st.one_of(st.integers(0, MAX_COUNTER), st.sampled_from([0, MAX_COUNTER]))
rounds = st.one_of(st.just(-1), counters.filter(lambda n: n < MAX_COUNTER))
refusals = st.sampled_from(get_args(RefusalReason))
parts = st.lists(st.binary(max_size=40), max_size=4)
tags = st.binary(min_size=8, max_size=8)
digests = st.binary(min_size=32, max_size=32)
rosters = st.lists(names, max_size=4)
states = st.sampled_from(get_args(PresenceState))
phases = st.sampled_from([phase.value for phase in Phase])
reasons = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=32)
counts = st.dictionaries(reasons, counters, max_size=3)
degrees = st.none() | st.integers(-273, 999)
fleet = st.just(FLEET)
messages = st.one_of(
    st.builds(
        Query,
        *[fleet, names, counters, counters, rosters, rounds, rosters, st.booleans(), tags, tags],
        parts,
    ),
    st.builds(Answer, fleet, names, counters, names, counters, counters, digests, parts),
    st.builds(
        Refusal, fleet, names, counters, names, counters, counters, digests, refusals, counters
    ),
    st.builds(Presence, fleet, names, counters, states),
    st.builds(
        Health,
        fleet,
        names,
        counters,
        counters,
        phases,
        *[counters] * 4,
        counts,
        counts,
        *[counters] * 3,
        degrees,
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
        decoded = decode(bytes(encoded), topic_of(message), FLEET, VERIFIERS)
        assert decoded == message, "only the envelope's form, which is not signed, may differ"


def test_an_envelope_in_longer_form_carries_the_same_message() -> None:
    message = Presence(FLEET, "a", 1, "ready")
    encoded = encode(message, SIGNER)
    longer = encoded[:1] + b"\xcc" + encoded[1:]  # the version in two bytes instead of one
    assert decode(longer, topic_of(message), FLEET, VERIFIERS) == message


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


@pytest.mark.parametrize("field", ["round", "epoch", "previous"])
@pytest.mark.parametrize("value", [-2, -(2**63), MAX_COUNTER + 1, 2**64 - 1])
def test_counters_out_of_range_are_refused(field: str, value: int) -> None:
    good = query_of(FLEET, "a", 1, 1)
    message = msgspec.structs.replace(good, **{field: value})
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
    base = Health(
        "f" * 63, "a" * 63, MAX_COUNTER, 0, "collecting", 0, 0, 0, 0, most, most, 0, 0, 0, 99
    )
    counters = ("number", "round", "round_us", "silent", "missed", "pool", "pool_size", "inline")
    health = msgspec.structs.replace(base, **dict.fromkeys(counters, MAX_COUNTER))
    assert len(encode(health, SIGNER)) < 6000


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
    again = replace(base, epoch=2, previous=0, counted=["b"], unbalanced=True)
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


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda c: c["name"])
def test_refusal_vectors_hold(case: Any) -> None:
    with pytest.raises(WireError) as refused:
        decode(bytes.fromhex(case["bytes"]), case["topic"], FLEET, VERIFIERS)
    assert refused.value.reason == case["fails"]
