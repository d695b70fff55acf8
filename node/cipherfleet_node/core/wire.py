"""Conversion of messages to bytes and back: array-encoded MessagePack, signed, of limited size.

    envelope  = [version, kind, body, signature]
    body      = the message's fields in order, MessagePack array
    signature = Ed25519 over "cipherfleet/v2/" kind NUL body

The topic tells the kind and the sender, so the signature is verified before the body is parsed:
only bytes that a neighbour or the operator has signed reach the decoders of the bodies. An attacker
can make a node verify a signature in any case, with one changed bit in a genuine message. The time
of that grows with the length, so a message that is longer than any valid one on its topic is
refused unread (`limits.py`).

Every message has one encoding: envelope and body are encoded again and compared, so a longer form
of a number, or a key that is twice in a map, is refused.

node/PROTOCOL.md specifies the layout, the limits, the version, and the reasons in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature

from cipherfleet_node.errors import WireError
from cipherfleet_node.settings.sections import MAX_ID

from .messages import (
    DEGREES,
    DIGEST_BYTES,
    NAME_BYTES,
    OPERATOR,
    TAG_BYTES,
    Answer,
    Claim,
    GenerationNote,
    Health,
    Membership,
    Message,
    Presence,
    Query,
    Refusal,
    Reply,
)
from .topics import (
    LEVELS,
    answer_topic,
    claim_topic,
    health_topic,
    membership_topic,
    presence_topic,
    query_topic,
    read_topic,
)

WIRE_VERSION = 2
MAX_MESSAGE_BYTES = 256 * 1024  # d = 4,000 at 2048 bits is 64 KiB; brokers are configured the same
MAX_COUNTER = 2**63 - 1  # of all counts
LONGEST_NAME = "n" * MAX_ID
# Of rounds, epochs and versions. A node that follows a neighbour's highest number, or counts on
# from it, still has numbers that its neighbours accept.
MAX_ROUND = MAX_COUNTER - 1000
# The broker keeps a retained message and delivers it to later subscribers. An old query or answer
# that is delivered in this way would be taken for a new one.
RETAINED_KINDS = frozenset({Presence.KIND, Membership.KIND, Claim.KIND})
NO_LIMITS: Mapping[str, int] = {}  # for receivers that do not know the settings of the fleet


class Signer(Protocol):
    """An Ed25519 private key, which signs messages."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the 64-byte signature of *data*."""


class Verifier(Protocol):
    """An Ed25519 public key, which verifies messages."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature unless *signature* is this key's on *data*."""


class Either:
    """Several public keys of one node, used while its identity changes from one to another."""

    def __init__(self, *verifiers: Verifier) -> None:
        self._verifiers = verifiers

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature unless *signature* is that of one of the keys on *data*."""
        for verifier in self._verifiers[:-1]:
            with suppress(InvalidSignature):
                verifier.verify(signature, data)
                return
        self._verifiers[-1].verify(signature, data)


class _Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: int
    kind: str
    body: bytes
    signature: bytes


_KINDS: Mapping[str, type[Message]] = {
    kind.KIND: kind for kind in (Query, Answer, Refusal, Presence, Membership, Claim, Health)
}
_encoder = msgspec.msgpack.Encoder()
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_body_decoders: Mapping[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in _KINDS.items()
}


def encode(message: Message, signer: Signer) -> bytes:
    """Return the signed bytes of *message*."""
    body = _encoder.encode(message)
    signature = signer.sign(_signed(message.KIND, body))
    return _encoder.encode(_Envelope(WIRE_VERSION, message.KIND, body, signature))


def decode(
    data: bytes,
    topic: str,
    fleet: str,
    verifiers: Mapping[str, Verifier],
    *,
    retained: bool = False,
    limits: Mapping[str, int] = NO_LIMITS,
) -> Message:
    """Return the message in *data*, received on *topic*; raises WireError for an invalid one.

    *verifiers* are the public keys of the accepted senders. *retained* says that the broker had
    stored the message before this subscription. *limits* are those of `size_limits`, in bytes by
    kind; a kind that is missing may have MAX_MESSAGE_BYTES. The error has the reason under which
    the message is counted.
    """
    _check_length(data, MAX_MESSAGE_BYTES)
    parts = read_topic(topic, fleet)
    if parts is None or parts.node == OPERATOR:  # the operator is not among the nodes
        raise WireError("topic", "a message came on a topic that this protocol does not have")
    _check_length(data, limits.get(parts.kind, MAX_MESSAGE_BYTES))
    sender = OPERATOR if parts.kind == Membership.KIND else parts.node
    verifier = verifiers.get(sender)
    if verifier is None:
        raise WireError("unknown_sender", "the sender of a message is not a neighbour")
    if retained and parts.kind not in RETAINED_KINDS:
        raise WireError("retained", f"the broker had stored a message of kind {parts.kind}")
    envelope = _open_envelope(data, parts.kind)
    try:
        verifier.verify(envelope.signature, _signed(envelope.kind, envelope.body))
    except InvalidSignature:
        raise WireError("signature", f"{sender!r} did not sign this message") from None
    message = _open_body(envelope)
    if message.fleet != fleet:
        raise WireError("fleet", f"a message of {sender!r} belongs to another fleet")
    if message.sender != sender or topic_of(message) != topic:
        raise WireError("topic", f"a message of {sender!r} names another sender or receiver")
    _check_ranges(message)
    return message


def _check_length(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise WireError("too_long", f"a message has {len(data)} bytes, limit {limit}")


def _open_envelope(data: bytes, kind: str) -> _Envelope:
    envelope: _Envelope = _parse(_envelope_decoder, data, "an envelope")
    if envelope.version != WIRE_VERSION:
        raise WireError(
            "version", f"a message has wire version {envelope.version}, not {WIRE_VERSION}"
        )
    if envelope.kind not in _body_decoders:
        raise WireError("kind", "a message is of an unknown kind")
    if LEVELS[envelope.kind] != LEVELS[kind]:
        raise WireError("topic", f"a {envelope.kind} came on the topic of a {kind}")
    _check_encoding(envelope, data, "an envelope")
    return envelope


def _open_body(envelope: _Envelope) -> Message:
    what = f"a {envelope.kind}"
    message: Message = _parse(_body_decoders[envelope.kind], envelope.body, what)
    if isinstance(message, Membership) and not message.has_valid_names:
        raise WireError("malformed", f"a name in {what} is no id of a node")
    _check_encoding(message, envelope.body, what)
    return message


def _check_encoding(value: msgspec.Struct, data: bytes, what: str) -> None:
    if _encoder.encode(value) != data:
        raise WireError("encoding", f"{what} is not in the shortest MessagePack form")


def topic_of(message: Message) -> str:
    """Return the only topic on which *message* may be published."""
    match message:
        case Query(fleet=fleet, sender=sender):
            return query_topic(fleet, sender)
        case Reply(fleet=fleet, sender=sender, receiver=receiver):
            return answer_topic(fleet, receiver, sender)
        case Presence(fleet=fleet, sender=sender):
            return presence_topic(fleet, sender)
        case Membership(fleet=fleet, receiver=receiver):
            return membership_topic(fleet, receiver)
        case Claim(fleet=fleet, sender=sender):
            return claim_topic(fleet, sender)
        case Health(fleet=fleet, sender=sender):
            return health_topic(fleet, sender)
        case _:
            raise TypeError(f"{type(message).__name__} has no topic")


def _check_temperature(health: Health) -> None:
    if health.temperature is not None and health.temperature not in DEGREES:
        raise WireError("range", f"a temperature of {health.sender!r} is out of range")


def _signed(kind: str, body: bytes) -> bytes:
    return b"cipherfleet/v2/" + kind.encode() + b"\0" + body


def _parse(decoder: msgspec.msgpack.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WireError("malformed", f"bytes do not parse as {what}") from None


def _check_ranges(message: Message) -> None:
    rounds, counters = [message.epoch], list[int]()
    tags: list[tuple[bytes, int]] = []
    match message:
        case Query():
            rounds += [message.round, *(each.round for each in message.uncounted)]
            tags += [(message.parameters, TAG_BYTES), (message.key, TAG_BYTES)]
            if message.generation is not None:
                rounds.append(message.generation.number)
                _check_generation(message, message.generation)
        case Reply():
            rounds.append(message.round)
            counters.append(message.waited_ms)
            tags += [(message.query, DIGEST_BYTES)]
            if isinstance(message, Refusal):
                rounds.append(message.theirs)
        case Membership():
            rounds.append(message.from_round)
        case Health():
            rounds.append(message.round)
            counters += _counters_of(message)
            _check_temperature(message)
    if not (_are_within(MAX_ROUND, rounds) and _are_within(MAX_COUNTER, counters)):
        raise WireError("range", f"a number in a message of {message.sender!r} is out of range")
    if not all(len(tag) == length for tag, length in tags):
        raise WireError("length", f"a tag in a message of {message.sender!r} has a wrong length")


def _check_generation(query: Query, note: GenerationNote) -> None:
    names, bits = [note.name, note.averaging], [note.listed, note.fresh]
    if note.votes is not None:
        names.append(note.votes.name)
        bits.append(note.votes.votes)
    if any(len(name) not in (0, NAME_BYTES) for name in names):
        raise WireError("length", f"a name in a message of {query.sender!r} has a wrong length")
    if any(each.endswith(b"\0") for each in bits) or bool(note.averaging) != bool(query.averaged):
        raise WireError("range", f"a note of {query.sender!r} on generations is not valid")


def _are_within(limit: int, counters: list[int]) -> bool:
    return all(0 <= counter <= limit for counter in counters)


def _counters_of(health: Health) -> list[int]:
    own = [health.number, health.round_us, health.silent, health.missed, health.unanswered_s]
    more = [health.pool, health.pool_size, health.inline, health.generation or 0]
    return [*own, *more, *health.rejected.values(), *health.surplus.values()]
