"""Many small signed integers in one Paillier plaintext, each in a slot of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.errors import HeadroomExceeded, RemoteProtocolError

from .quantiser import VALUE_BITS

# With these a slot has 63 bits, or 51 in the sealed exchange: 32 or 40 entries in one 2048-bit
# plaintext, 48 or 60 in one of 3072 bits.
HALF_WEIGHT_BITS = 12  # a half weight H is odd and has exactly this many bits
METROPOLIS_BITS = 6  # the Metropolis factor counts 1/64ths
MAX_DEGREE = (1 << METROPOLIS_BITS) - 1


@dataclass(frozen=True)
class Layout:
    """How a vector of *dimension* entries lies in the plaintexts of a *key_bits* key.

    Slot width: sign + |difference of two values| + the half weights applied under encryption (both
    ends' in the pairwise exchange, the answerer's in the sealed one) + the Metropolis factors of
    all neighbours, which sum to less than one (so the degree needs no bits of its own).
    Source: ALGORITHM section 5; checked by test_the_largest_combination_fits_its_slot.
    """

    key_bits: int
    dimension: int
    half_weights: int = 2

    @property
    def slot_bits(self) -> int:
        """Bits of one slot."""
        return 1 + VALUE_BITS + self.half_weights * HALF_WEIGHT_BITS + METROPOLIS_BITS

    @property
    def slots(self) -> int:
        """Slots of one plaintext."""
        return (self.key_bits - 2) // self.slot_bits

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of one vector."""
        return -(-self.dimension // self.slots)

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext on the wire."""
        return self.key_bits // 4

    @cached_property
    def counts(self) -> list[int]:
        """Entries in each plaintext: all slots, and the rest in the last one."""
        full, rest = divmod(self.dimension, self.slots)
        return [self.slots] * full + ([rest] if rest else [])

    def pack(self, values: Sequence[int]) -> list[mpz]:
        """Signed plaintexts sum_l v_l 2^(slot_bits l): linear, so sums of packs are packs of sums.

        Raises HeadroomExceeded for an entry that its slot cannot hold.
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
        """The entries of *plaintexts* in 0 .. modulus-1, each of which must hold |v| <= bound.

        Raises RemoteProtocolError when a slot, or what lies above the last one, is out of range:
        the sum under the ciphertext was not made by the protocol.
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
        slots += [0] * (count - len(slots))  # unpack drops leading zeros
        return [int(slot) - half for slot in slots]

    @cached_property
    def _cuts(self) -> list[tuple[int, int]]:
        """First entry and number of entries of each plaintext."""
        return [(index * self.slots, count) for index, count in enumerate(self.counts)]

    @cached_property
    def _offsets(self) -> dict[int, mpz]:
        """What makes every slot of a plaintext positive, by the number of its entries."""
        half = 1 << (self.slot_bits - 1)
        return {count: gmpy2.pack([half] * count, self.slot_bits) for count in set(self.counts)}
