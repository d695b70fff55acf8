"""Conversion of messages to bytes and back: array-encoded MessagePack, signed, of limited size.

    envelope  = [version, kind, body, signature]
    body      = the message's fields in order, MessagePack array
    signature = Ed25519 over "cipherfleet/v1/" kind NUL body

node/PROTOCOL.md specifies the layout, the limits and the version.
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
    OPERATOR,
    TAG_BYTES,
    Answer,
    Claim,
    Health,
    Membership,
    Message,
    Presence,
    Query,
)
from .packing import MAX_DEGREE
from .topics import (
    answer_topic,
    claim_topic,
    health_topic,
    membership_topic,
    presence_topic,
    query_topic,
)

WIRE_VERSION = 1
MAX_MESSAGE_BYTES = 256 * 1024  # d = 4,000 at 2048 bits is 64 KiB; brokers are configured the same
MAX_COUNTER = 2**63 - 1  # of rounds, epochs and all other counts


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
    kind.KIND: kind for kind in (Query, Answer, Presence, Membership, Claim, Health)
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


def decode(data: bytes, topic: str, fleet: str, verifiers: Mapping[str, Verifier]) -> Message:
    """Return the message in *data*, received on *topic*; raises WireError for an invalid one.

    *verifiers* are the public keys of the accepted senders. The cheap checks come first and the
    signature last, so that a flood of invalid messages costs little. The error has the reason under
    which the message is counted.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError("too_long", f"a message has {len(data)} bytes, limit {MAX_MESSAGE_BYTES}")
    envelope = _parse(_envelope_decoder, data, "an envelope")
    if envelope.version != WIRE_VERSION:
        raise WireError("version", f"a message has wire version {envelope.version}, not 1")
    decoder = _body_decoders.get(envelope.kind)
    if decoder is None:
        raise WireError("kind", "a message is of an unknown kind")
    message: Message = _parse(decoder, envelope.body, f"a {envelope.kind}")
    if message.fleet != fleet:
        raise WireError("fleet", "a message belongs to another fleet")
    if isinstance(message, Membership) != (message.sender == OPERATOR):
        raise WireError("role", "a message is of a kind that its sender may not send")
    verifier = verifiers.get(message.sender)
    if verifier is None:
        raise WireError("unknown_sender", "the sender of a message is not a neighbour")
    if topic != topic_of(message):
        raise WireError("topic", f"a message of {message.sender!r} came on another topic")
    _check_ranges(message)
    try:
        verifier.verify(envelope.signature, _signed(envelope.kind, envelope.body))
    except InvalidSignature:
        raise WireError("signature", f"{message.sender!r} did not sign this message") from None
    return message


def topic_of(message: Message) -> str:
    """Return the only topic on which *message* may be published."""
    match message:
        case Query(fleet=fleet, sender=sender):
            return query_topic(fleet, sender)
        case Answer(fleet=fleet, sender=sender, receiver=receiver):
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


def _check_roster(query: Query) -> None:
    roster = query.roster
    if len(roster) > MAX_DEGREE or not all(0 < len(name) <= MAX_ID for name in roster):
        raise WireError("roster", f"the roster of a query of {query.sender!r} is too long")


def _check_temperature(health: Health) -> None:
    if health.temperature is not None and health.temperature not in DEGREES:
        raise WireError("range", f"a temperature of {health.sender!r} is out of range")


def _signed(kind: str, body: bytes) -> bytes:
    return b"cipherfleet/v1/" + kind.encode() + b"\0" + body


def _parse(decoder: msgspec.msgpack.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WireError("malformed", f"bytes do not parse as {what}") from None


def _check_ranges(message: Message) -> None:
    counters = [message.epoch]
    tags: list[tuple[bytes, int]] = []
    match message:
        case Query():
            counters += [message.round, message.attempt]
            _check_roster(message)
            tags += [(message.parameters, TAG_BYTES), (message.key, TAG_BYTES)]
        case Answer():
            counters += [message.round, message.attempt]
            tags += [(message.query, DIGEST_BYTES)]
        case Membership():
            counters.append(message.from_round)
        case Health():
            counters += _counters_of(message)
            _check_temperature(message)
    if not all(0 <= counter <= MAX_COUNTER for counter in counters):
        raise WireError("range", f"a number in a message of {message.sender!r} is out of range")
    if not all(len(tag) == length for tag, length in tags):
        raise WireError("length", f"a tag in a message of {message.sender!r} has a wrong length")


def _counters_of(health: Health) -> list[int]:
    own = [health.number, health.round, health.round_us, health.silent, health.missed]
    own.append(health.unanswered_s)
    pools = [health.pool, health.pool_size, health.inline]
    return [*own, *pools, *health.rejected.values(), *health.surplus.values()]
