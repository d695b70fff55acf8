"""The encrypted exchange along one edge: query, answer, and the opening of all answers at once.

    query    i -> all:  Enc_i(-q_i)
    answer   j -> i:    Enc_i(H_ji (q_j - q_i) + e_ji), re-randomised
    opening  i:         sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji), one decryption

H_ij, H_ji are the private half weights (odd, HALF_WEIGHT_BITS bits), M_ij the public Metropolis
integer, e_ji the dither. The coupling weight is a_ij = H_ij H_ji M_ij * UNIT, the same both ways.
Source: ALGORITHM section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from .draws import Draws
from .errors import RemoteProtocolError
from .packing import HALF_WEIGHT_BITS, METROPOLIS_BITS, Layout
from .paillier import PrivateKey, PublicKey, check_ciphertext, encrypt, scale_and_shift
from .quantiser import VALUE_BITS

# What one unit of an opened slot weighs, in resolutions: h = H / 2^12, m = M / 2^6.
UNIT = 2.0 ** -(2 * HALF_WEIGHT_BITS + METROPOLIS_BITS)

TakeObfuscator = Callable[[], mpz]


@dataclass(frozen=True, repr=False)
class Opening:
    """One answer as its receiver holds it: whose, under which exponent H_ij M_ij it counts."""

    exponent: int
    ciphertexts: Sequence[mpz]


def metropolis(degree: int, other_degree: int) -> int:
    """floor(2^6 / (1 + max degree)): rounding down keeps the sum over neighbours below 2^6."""
    return (1 << METROPOLIS_BITS) // (1 + max(degree, other_degree))


def half_weight(draws: Draws, neighbour: str) -> int:
    """H towards *neighbour*, uniform on the odd numbers of exactly HALF_WEIGHT_BITS bits.

    Odd, so that dither hides it; of fixed length, so that the time of a power does not tell it.
    """
    (choice,) = draws.below(1 << (HALF_WEIGHT_BITS - 2), f"half-weight/{neighbour}", 1)
    return (1 << (HALF_WEIGHT_BITS - 1)) + 2 * choice + 1


def dither(draws: Draws, neighbour: str, digest: bytes, weight: int, count: int) -> list[int]:
    """*count* numbers uniform on the *weight* integers -(H-1)/2 .. (H-1)/2.

    Bound to the query's digest: another query would get other dither.
    Source: ALGORITHM section 4; checked by test_every_odd_half_weight_explains_an_answer.
    """
    label = f"dither/{neighbour}/{digest.hex()}"
    return [entry - (weight - 1) // 2 for entry in draws.below(weight, label, count)]


def make_query(
    key: PublicKey, layout: Layout, quantised: Sequence[int], take: TakeObfuscator
) -> list[bytes]:
    """The ciphertexts of -q under one's own *key*."""
    plaintexts = layout.pack([-entry for entry in quantised])
    return [_to_bytes(encrypt(key, plaintext, take()), layout) for plaintext in plaintexts]


def make_answer(
    theirs: PublicKey,
    layout: Layout,
    query: Sequence[mpz],
    own: Sequence[int],
    weight: int,
    noise: Sequence[int],
    take: TakeObfuscator,
) -> list[bytes]:
    """The ciphertexts of H (own - asked) + e under the asker's key, freshly blinded.

    *query* has been checked by read_ciphertexts; *noise* is the dither e, shape (d,).
    """
    shifts = layout.pack([weight * entry + e for entry, e in zip(own, noise, strict=True)])
    return [
        _to_bytes(scale_and_shift(theirs, c, weight, shift, take()), layout)
        for c, shift in zip(query, shifts, strict=True)
    ]


def read_ciphertexts(key: PublicKey, layout: Layout, data: Sequence[bytes]) -> list[mpz]:
    """The ciphertexts under *key* in *data*, each checked; raises RemoteProtocolError."""
    if len(data) != layout.ciphertexts:
        raise RemoteProtocolError(
            "ciphertext_count", f"{len(data)} ciphertexts came, expected {layout.ciphertexts}"
        )
    if any(len(item) != layout.ciphertext_bytes for item in data):
        raise RemoteProtocolError(
            "ciphertext_length", f"a ciphertext has not the {layout.ciphertext_bytes} bytes it must"
        )
    ciphertexts = [mpz(int.from_bytes(item, "big")) for item in data]
    for ciphertext in ciphertexts:
        check_ciphertext(key, ciphertext)
    return ciphertexts


def open_answers(key: PrivateKey, layout: Layout, answers: Mapping[str, Opening]) -> list[int]:
    """The combined coupling term of all *answers*, shape (d,), in units of UNIT resolutions.

    Raises RemoteProtocolError("out_of_range") when a slot exceeds what the protocol can produce.
    """
    openings = list(answers.values())
    exponents = [opening.exponent for opening in openings]
    plaintexts = [
        key.decrypt_combined(column, exponents)
        for column in zip(*(opening.ciphertexts for opening in openings), strict=True)
    ]
    bound = sum(exponents) << (HALF_WEIGHT_BITS + VALUE_BITS)
    return layout.unpack(plaintexts, key.public.n, bound)


def _to_bytes(ciphertext: mpz, layout: Layout) -> bytes:
    return int(ciphertext).to_bytes(layout.ciphertext_bytes, "big")
