"""The longest valid message of each kind, in bytes, for the settings of one node.

A receiver knows the dimension and the key size of its fleet. So it knows how long a message on each
of its topics can be, before it reads a byte of the message. The time that a signature of a hostile
neighbour takes grows with the length of the message: without these limits every neighbour could
make a node hash MAX_MESSAGE_BYTES for a presence of 150 bytes.

The limits are the lengths of messages in which every name, number and list is as long as it may be.
The number of neighbours does not count: a membership may change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cipherfleet_node.settings.sections import MAX_PARTICIPANTS

from .messages import (
    DIGEST_BYTES,
    LARGEST_POWER,
    MAX_LEVEL,
    MAX_REASONS,
    MAX_UNCOUNTED,
    NAME_BYTES,
    TAG_BYTES,
    Answer,
    Claim,
    GenerationNote,
    GenerationVotes,
    Health,
    Message,
    Presence,
    Query,
    Refusal,
    Uncounted,
)
from .packing import MAX_DEGREE, Layout
from .topics import kind_of_level
from .wire import LONGEST_NAME, MAX_COUNTER, MAX_MESSAGE_BYTES, MAX_ROUND, encode

SIGNATURE_BYTES = 64
KEY_BYTES = 32  # of an Ed25519 or X25519 public key
MAX_REQUEST_BYTES = 4096  # of a certificate request


class _Blank:
    """A signer whose signatures have the right length, and no other use."""

    def sign(self, data: bytes, /) -> bytes:
        del data
        return bytes(SIGNATURE_BYTES)


def size_limits(layout: Layout, *, has_generations: bool = False) -> Mapping[str, int]:
    """Return the length in bytes of the longest valid message, by the kind that its topic tells.

    All keys of a fleet have the size of *layout*. A refusal counts as an answer: it comes on the
    same topic. Memberships are missing: only MAX_MESSAGE_BYTES limits them.
    Checked by test_limits_are_the_lengths_of_the_longest_messages.
    """
    limits: dict[str, int] = {}
    for message in _longest(layout, has_generations=has_generations):
        kind, length = kind_of_level(message.KIND), len(encode(message, _Blank()))
        limits[kind] = min(max(length, limits.get(kind, 0)), MAX_MESSAGE_BYTES)
    return limits


def _longest(layout: Layout, *, has_generations: bool = False) -> Iterator[Message]:
    """Yield a message of every kind that is as long as a valid one can be."""
    name, names = LONGEST_NAME, [LONGEST_NAME] * MAX_DEGREE
    last, number = MAX_ROUND, MAX_COUNTER
    ciphertexts = [bytes(layout.ciphertext_bytes)] * layout.ciphertexts
    note, averaged = None, list[bytes]()
    if has_generations:
        votes = GenerationVotes(bytes(NAME_BYTES), bytes(MAX_PARTICIPANTS // 8))
        bits = votes.votes
        note = GenerationNote(last, votes.name, bits, bits, votes.name, votes)
        averaged = ciphertexts
    tag, digest, key = bytes(TAG_BYTES), bytes(DIGEST_BYTES), bytes(KEY_BYTES)
    yield Query(
        fleet=name,
        sender=name,
        epoch=last,
        round=last,
        roster=names,
        uncounted=[Uncounted(last, names)] * MAX_UNCOUNTED,
        unbalanced=True,
        scale=LARGEST_POWER,
        settled=MAX_LEVEL,
        parameters=tag,
        key=tag,
        ciphertexts=ciphertexts,
        averaged=averaged,
        generation=note,
    )
    yield Answer(name, name, last, name, last, number, digest, ciphertexts, averaged)
    yield Refusal(name, name, last, name, last, number, digest, "stale_epoch", last)
    yield Presence(name, name, last, "disconnected")
    yield _longest_health(names)
    proof, modulus = bytes(SIGNATURE_BYTES), bytes(layout.key_bits // 8)
    yield Claim(name, name, last, modulus, key, key, bytes(MAX_REQUEST_BYTES), proof)


def _longest_health(names: list[str]) -> Health:
    number = MAX_COUNTER
    reasons = [f"{'a' * 30}{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MAX_REASONS)]
    counts = dict.fromkeys(reasons, number)
    return Health(
        fleet=names[0],
        sender=names[0],
        epoch=MAX_ROUND,
        number=number,
        phase="collecting",
        round=MAX_ROUND,
        round_us=number,
        silent=number,
        missed=number,
        rejected=counts,
        surplus=counts,
        pool=number,
        pool_size=number,
        inline=number,
        left_out=names,
        unanswered_s=number,
        settled=False,
        temperature=-273,
        generation=MAX_ROUND,
    )
