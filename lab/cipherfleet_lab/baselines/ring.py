"""Paillier aggregation along a ring: a token collects the sum, and a key holder decrypts it.

    token <- token * E(Q(x_i))  at every node in turn    the holder decrypts sum_i Q(x_i)
    x_i <- (1/n) sum_j Q(x_j) - lambda_k g_i             the mean is returned in plaintext
No node on the ring learns anything from a token. The key holder learns the sum of every round, and
the fleet cannot work without it. The ciphertexts are real, but the keys are too small to be safe
and are generated from the seed: for the lab only.
Source: docs/explanation/algorithm.md#baselines.
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

KEY_BITS = 256  # of the modulus; unsafe


@dataclass(frozen=True)
class PaillierRing:
    """Paillier ring; the ring connects the nodes in their order, independent of the graph."""

    stepsize: Stepsize
    resolution: float = 2.0**-24
    key_bits: int = KEY_BITS
    name: str = "Paillier ring"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; `served` has the sums."""
        rng, own = streams(seed)
        steps, key = mean_stepsizes(self.stepsize, rounds), generate_small_key(self.key_bits, own)
        trail, x = Trail(problem, rounds), problem.start
        served = np.empty((rounds, problem.dimension))
        for k, step in enumerate(steps):
            gradients = problem.all_gradients(x, rng)
            trail.keep(x, gradients)
            quantised = np.floor(x / self.resolution + own.random(x.shape))
            served[k] = self.resolution * np.array(sum_along_ring(key, quantised, own))
            x = served[k] / problem.nodes - step * gradients
        return trail.log(
            self.name,
            x,
            served=served,
            stepsizes=steps,
            resolution=self.resolution,
            figures={"key_bits": float(self.key_bits)},
        )


def sum_along_ring(key: PrivateKey, values: Array, rng: np.random.Generator) -> list[int]:
    """Return the key holder's decrypted sum over nodes of the integers *values*, shape (n, d)."""
    public = key.public
    tokens = [mpz(1)] * values.shape[1]
    for row in values:
        tokens = [
            token * encrypt(public, mpz(int(value)), _obfuscator(public, rng)) % public.n_squared
            for token, value in zip(tokens, row, strict=True)
        ]
    return [int(_to_signed(key.decrypt(token), public.n)) for token in tokens]


def generate_small_key(bits: int, rng: np.random.Generator) -> PrivateKey:
    """Generate a reproducible key of *bits* bits."""
    while True:
        p, q = (gmpy2.next_prime(_below(mpz(1) << bits // 2, rng)) for _ in range(2))
        if p != q and gmpy2.bit_length(p * q) == bits:
            return PrivateKey(p, q)


def _obfuscator(key: PublicKey, rng: np.random.Generator) -> mpz:
    return powmod(1 + _below(key.n - 1, rng), key.n, key.n_squared)


def _below(limit: mpz, rng: np.random.Generator) -> mpz:
    """Return a random number in 0 .. limit-1; eight extra bytes make its bias negligible."""
    size = gmpy2.bit_length(limit) // 8 + 9
    return mpz(int.from_bytes(rng.bytes(size), "big")) % limit


def _to_signed(plaintext: mpz, n: mpz) -> mpz:
    return plaintext - n if plaintext > n // 2 else plaintext
