"""The longest valid message of each kind: at the limit it is read, a byte above it is not."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from cipherfleet_node.core import limits, topics, wire
from cipherfleet_node.core.messages import (
    Answer,
    Health,
    Message,
    PresenceState,
    Query,
    Refusal,
    RefusalReason,
    are_node_ids,
)
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.errors import WireError
from cipherfleet_node.settings.sections import MAX_ID, NodeId
from tests.support.paths import ROOT

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
VERIFIERS = {wire.LONGEST_NAME: SIGNER.public_key()}
LAYOUT = Layout(2048, 4000)
LONGEST = list(limits._longest(LAYOUT))
LIMITS = limits.size_limits(LAYOUT)


def decode(message: Message) -> Message:
    """*message*, signed, as a node with the settings of LAYOUT reads it."""
    data, topic = wire.encode(message, SIGNER), wire.topic_of(message)
    return wire.decode(data, topic, message.fleet, VERIFIERS, limits=LIMITS)


@pytest.mark.parametrize("message", LONGEST, ids=lambda message: message.KIND)
def test_limits_are_the_lengths_of_the_longest_messages(message: Message) -> None:
    assert decode(message) == message
    length = len(wire.encode(message, SIGNER))
    kind = topics.kind_of_level(message.KIND)
    assert length == LIMITS[kind] or isinstance(message, Refusal)


@pytest.mark.parametrize("message", LONGEST, ids=lambda message: message.KIND)
def test_a_longer_message_is_refused_before_its_signature_is_verified(message: Message) -> None:
    kind = topics.kind_of_level(message.KIND)
    data = bytes(LIMITS[kind] + 1)
    with pytest.raises(WireError, match=f"limit {LIMITS[kind]}") as refused:
        wire.decode(data, wire.topic_of(message), message.fleet, {}, limits=LIMITS)
    assert refused.value.reason == "too_long"


def test_without_the_limits_a_long_presence_is_read_up_to_its_signature() -> None:
    presence = next(message for message in LONGEST if message.KIND == "presence")
    data = wire.encode(msgspec.structs.replace(presence, epoch=1), SIGNER)
    longer = msgspec.msgpack.encode([2, "presence", bytes(250_000), data[-64:]])
    with pytest.raises(WireError) as refused:
        wire.decode(longer, wire.topic_of(presence), presence.fleet, VERIFIERS)
    assert refused.value.reason == "signature"


def test_one_ciphertext_more_than_the_vector_has_is_within_no_limit_of_answers() -> None:
    answer = next(message for message in LONGEST if isinstance(message, Answer))
    more = [*answer.ciphertexts, bytes(LAYOUT.ciphertext_bytes)]
    with pytest.raises(WireError) as refused:
        decode(msgspec.structs.replace(answer, ciphertexts=more))
    assert refused.value.reason == "too_long"


def test_the_longest_words_of_a_message_are_used() -> None:
    by_kind = {message.KIND: message for message in LONGEST}
    presence, refusal = by_kind["presence"], by_kind["refusal"]
    assert len(getattr(presence, "state")) == max(map(len, get_args(PresenceState)))  # noqa: B009
    assert len(getattr(refusal, "reason")) == max(map(len, get_args(RefusalReason)))  # noqa: B009
    health = by_kind["health"]
    assert isinstance(health, Health)
    assert {len(reason) for reason in health.rejected} == {32}


def test_the_limits_of_the_text_are_these() -> None:
    text = " ".join((ROOT / "node" / "PROTOCOL.md").read_text().split())
    names = {
        "query": "a pairwise query is limited to {:,} bytes",
        "answer": "an answer or refusal to {:,}",
        "presence": "a presence to {:,}",
        "health": "a health report to {:,}",
    }
    for kind, words in names.items():
        assert words.format(LIMITS[kind]) in text


def test_no_limit_is_above_that_of_all_messages() -> None:
    wide = limits.size_limits(Layout(8192, 100_000))
    assert wide["query"] == wide["answer"] == wire.MAX_MESSAGE_BYTES
    assert all(isinstance(message, Message) for message in limits._longest(Layout(256, 1)))
    (query,) = (m for m in limits._longest(Layout(256, 1)) if isinstance(m, Query))
    assert len(query.ciphertexts) == 1


# -- the names of a membership --------------------------------------------------------------------

PATTERN = next(each.pattern for each in get_args(NodeId)[1:])
letters = st.sampled_from("aZ09-_\n .é/+#\0")
texts = st.text(letters, min_size=1, max_size=6) | st.text(min_size=1, max_size=MAX_ID)


@given(st.lists(texts, max_size=6))
@example(["a", "-b"])
@example(["_", "a"])
@example(["a\nb"])
@example(["a\n", "b"])
@example(["\n"])
@example(["a" * MAX_ID, "0-_"])
@example([])
def test_names_are_checked_together_as_their_pattern_would(names: list[str]) -> None:
    assert are_node_ids(names) == all(re.search(PATTERN, name) is not None for name in names)
