"""Packing: many small signed integers in one Paillier plaintext, each in a slot of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.errors import HeadroomExceeded, RemoteProtocolError
from cipherfleet_node.settings.sections import ExchangeName

from .quantiser import VALUE_BITS

# With these values a slot has 71 bits in the pairwise exchange and 59 in the sealed one. A
# plaintext then has 28 or 34 slots at 2048 bits, and 43 or 52 at 3072 bits.
HALF_WEIGHT_BITS = 12  # a half weight H is odd and has exactly this many bits
METROPOLIS_BITS = 6  # the Metropolis integer counts 1/64ths
MAX_DEGREE = (1 << METROPOLIS_BITS) - 1
# By exchange: how many half weights are applied under encryption.
HALF_WEIGHTS: Mapping[ExchangeName, int] = {"pairwise": 2, "sealed": 1}


@dataclass(frozen=True)
class Layout:
    """The slots of a vector of *dimension* entries in the plaintexts of a key of *key_bits* bits.

    A slot has bits for the sign, for the difference of two values, for the half weights that are
    applied under encryption (those of both ends in the pairwise exchange, that of the answerer in
    the sealed one), and for the Metropolis integers. The Metropolis factors of all neighbours sum
    to less than one, so the degree of the node needs no further bits. Source:
    docs/explanation/cryptography.md#packing; checked by test_the_largest_combination_fits_its_slot.
    """

    key_bits: int
    dimension: int
    half_weights: int = HALF_WEIGHTS["pairwise"]

    @classmethod
    def of(cls, exchange: ExchangeName, key_bits: int, dimension: int) -> Layout:
        """Return the layout of *exchange*."""
        return cls(key_bits, dimension, HALF_WEIGHTS[exchange])

    @property
    def slot_bits(self) -> int:
        """The width of one slot in bits."""
        return 1 + VALUE_BITS + self.half_weights * HALF_WEIGHT_BITS + METROPOLIS_BITS

    @property
    def slots(self) -> int:
        """The number of slots in one plaintext."""
        return (self.key_bits - 2) // self.slot_bits

    @property
    def ciphertexts(self) -> int:
        """The number of ciphertexts of one vector."""
        return -(-self.dimension // self.slots)

    @property
    def ciphertext_bytes(self) -> int:
        """The length in bytes of one ciphertext on the wire."""
        return self.key_bits // 4

    @cached_property
    def counts(self) -> list[int]:
        """The number of entries in each plaintext. All are full except the last one."""
        full, rest = divmod(self.dimension, self.slots)
        return [self.slots] * full + ([rest] if rest else [])

    def pack(self, values: Sequence[int]) -> list[mpz]:
        """Return the signed plaintexts sum_l v_l 2^(slot_bits l) of the entries v.

        Packing is linear: the sum of two packed vectors is the packed sum. Raises HeadroomExceeded
        for an entry that its slot cannot hold.
        """
        if len(values) != self.dimension:
            raise ValueError(f"{len(values)} entries for dimension {self.dimension}")
        half = 1 << (self.slot_bits - 1)
        shifted = [value + half for value in values]
        if min(shifted) < 0 or max(shifted) >= 2 * half:
            raise HeadroomExceeded(f"an entry needs more than {self.slot_bits - 1} bits")
        return [
            gmpy2.pack(shifted[start : start + count], self.slot_bits) - self._offsets[count]
            for start, count in self._cuts
        ]

    def unpack(self, plaintexts: Sequence[mpz], modulus: mpz, bound: int) -> list[int]:
        """Return the entries of *plaintexts*, which are numbers in 0 .. modulus-1.

        Each entry v must satisfy |v| <= *bound*, and the bits above the last slot must be empty.
        Raises RemoteProtocolError("out_of_range") otherwise: valid messages never give such a sum.
        """
        values: list[int] = []
        for plaintext, (_, count) in zip(plaintexts, self._cuts, strict=True):
            signed = plaintext - modulus if 2 * plaintext > modulus else plaintext
            shifted = signed + self._offsets[count]
            if shifted < 0 or gmpy2.bit_length(shifted) > count * self.slot_bits:
                raise RemoteProtocolError("out_of_range", "a plaintext exceeds its slots")
            values += self._slots_of(shifted, count)
        if any(abs(value) > bound for value in values):
            raise RemoteProtocolError("out_of_range", "a slot exceeds its bound")
        return values

    def _slots_of(self, shifted: mpz, count: int) -> Iterable[int]:
        half = 1 << (self.slot_bits - 1)
        slots = gmpy2.unpack(shifted, self.slot_bits) if shifted else []
        slots += [0] * (count - len(slots))  # gmpy2.unpack omits leading zeros
        return [int(slot) - half for slot in slots]

    @cached_property
    def _cuts(self) -> list[tuple[int, int]]:
        """The index of the first entry and the number of entries of each plaintext."""
        return [(index * self.slots, count) for index, count in enumerate(self.counts)]

    @cached_property
    def _offsets(self) -> dict[int, mpz]:
        """By number of entries, the number that makes every slot positive when added."""
        half = 1 << (self.slot_bits - 1)
        return {count: gmpy2.pack([half] * count, self.slot_bits) for count in set(self.counts)}
