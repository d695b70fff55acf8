"""Attack on the randomness of an answer: r of c = (1 + n m) r^n, which the key's owner can extract.

An answer that is not re-randomised has r_answer = r_query^H. The adversary tries the 1,024 half
weights.
"""

from __future__ import annotations

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PrivateKey

from .common_factor import attack_answers
from .one_exchange import HALF_WEIGHTS, AskerView
from .result import AttackResult
from .subjects import AttackCase


def randomness(key: PrivateKey, ciphertext: mpz) -> mpz:
    """Return r, the n-th root of the ciphertext modulo n."""
    n = key.public.n
    exponent = gmpy2.invert(n, (key.p - 1) * (key.q - 1))
    return gmpy2.powmod(ciphertext % n, exponent, n)


def weight_by_randomness(seen: AskerView, neighbour: str) -> int | None:
    """Return the half weight with which *neighbour* raised the query; None if none fits."""
    n = seen.key.public.n
    root = randomness(seen.key, seen.query[0])
    target = randomness(seen.key, seen.answers[neighbour][0])
    root = gmpy2.powmod(root, seen.metropolis if seen.sealed else 1, n)
    power, square = gmpy2.powmod(root, HALF_WEIGHTS[0], n), root * root % n
    for candidate in HALF_WEIGHTS:
        if power == target:
            return candidate
        power = power * square % n
    return None


def randomness_of_answers(case: AttackCase) -> AttackResult | None:
    """The neighbour's estimate from the randomness of its answer."""
    return attack_answers(
        case, "randomness", "one answer and the query it belongs to", "both primes of the key",
        weight_by_randomness,
    )  # fmt: skip
