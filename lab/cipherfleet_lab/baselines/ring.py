"""Paillier aggregation along a ring: a token goes round, and a key holder opens the sum.

    token <- token * E(Q(x_i))  at every node in turn    the holder decrypts sum_i Q(x_i)
    x_i <- (1/n) sum_j Q(x_j) - lambda_k g_i             the mean comes back in clear
Nobody on the ring learns anything from a token; the holder learns the sum of every round, and with
it the fleet's whole course, and nothing works without the holder. Real ciphertexts, by keys that
are far too small and drawn from the seed: for the lab alone.
Source: ALGORITHM section 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import gmpy2
import numpy as np
from gmpy2 import mpz, powmod

from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.paillier import PrivateKey, PublicKey, encrypt
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams

TOY_BITS = 256  # of the modulus; unsafe


@dataclass(frozen=True)
class PaillierRing:
    """The ring runs through the nodes in their order, whatever the problem's graph."""

    stepsize: Stepsize
    resolution: float = 2.0**-24
    key_bits: int = TOY_BITS
    name: str = "Paillier ring"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """*rounds* rounds from problem.start; served holds the sums."""
        chance, own = streams(seed)
        steps, key = mean_stepsizes(self.stepsize, rounds), toy_key(self.key_bits, own)
        trail, x = Trail(problem, rounds), problem.start
        served = np.empty((rounds, problem.dimension))
        for k, step in enumerate(steps):
            gradients = problem.all_gradients(x, chance)
            trail.keep(x, gradients)
            quantised = np.floor(x / self.resolution + own.random(x.shape))
            served[k] = self.resolution * np.array(summed_along_ring(key, quantised, own))
            x = served[k] / problem.nodes - step * gradients
        return trail.log(
            self.name,
            x,
            served=served,
            stepsizes=steps,
            resolution=self.resolution,
            figures={"key_bits": float(self.key_bits)},
        )


def summed_along_ring(key: PrivateKey, values: Array, chance: np.random.Generator) -> list[int]:
    """The sum over nodes of the whole numbers *values*, shape (n, d), as the key holder sees it."""
    public = key.public
    tokens = [mpz(1)] * values.shape[1]
    for row in values:
        tokens = [
            token * encrypt(public, mpz(int(value)), _obfuscator(public, chance)) % public.n_squared
            for token, value in zip(tokens, row, strict=True)
        ]
    return [int(_signed(key.decrypt(token), public.n)) for token in tokens]


def toy_key(bits: int, chance: np.random.Generator) -> PrivateKey:
    """A key of *bits* bits from a seed: anybody can draw it again."""
    while True:
        p, q = (gmpy2.next_prime(_below(mpz(1) << bits // 2, chance)) for _ in range(2))
        if p != q and gmpy2.bit_length(p * q) == bits:
            return PrivateKey(p, q)


def _obfuscator(key: PublicKey, chance: np.random.Generator) -> mpz:
    return powmod(1 + _below(key.n - 1, chance), key.n, key.n_squared)


def _below(limit: mpz, chance: np.random.Generator) -> mpz:
    """A number in 0 .. limit-1; eight bytes more than needed make its bias negligible."""
    size = gmpy2.bit_length(limit) // 8 + 9
    return mpz(int.from_bytes(chance.bytes(size), "big")) % limit


def _signed(plaintext: mpz, n: mpz) -> mpz:
    return plaintext - n if plaintext > n // 2 else plaintext
