"""The randomness of an answer: r of c = (1 + n m) r^n, which the owner of the key can extract.

An answer that is not re-randomised has r_answer = r_query^H: one of 1,024 half weights fits.
"""

from __future__ import annotations

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PrivateKey

from .common_factor import on_answers
from .one_exchange import HALF_WEIGHTS, Seen
from .result import Finding
from .subjects import Case


def randomness(key: PrivateKey, ciphertext: mpz) -> mpz:
    """r, by the n-th root modulo n."""
    n = key.public.n
    exponent = gmpy2.invert(n, (key.p - 1) * (key.q - 1))
    return gmpy2.powmod(ciphertext % n, exponent, n)


def weight_by_randomness(seen: Seen, neighbour: str) -> int | None:
    """The half weight with which *neighbour* raised the query, if its answer shows it."""
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


def randomness_of_answers(case: Case) -> Finding | None:
    """The neighbour's estimate from the randomness of its answer."""
    return on_answers(
        case, "randomness", "one answer and the query it belongs to", "both primes of the key",
        weight_by_randomness,
    )  # fmt: skip
