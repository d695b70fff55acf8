"""Attack by an eavesdropper without any key, for example the broker, on ciphertexts.

An answer that is not re-randomised is the query's ciphertext raised to the half weight, times 1 + n
(H q + e). Modulo n the last factor is one, so that one of the 1,024 half weights fits; the rest is
the answerer's own term. Re-randomisation thus hides estimates from eavesdroppers, and not only from
the asker.
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, Layout
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.errors import RemoteProtocolError

from .common_factor import DIMENSION
from .one_exchange import HALF_WEIGHTS, NEIGHBOURS, run_exchange
from .result import AttackResult
from .subjects import AttackCase


def wiretap(case: AttackCase) -> AttackResult | None:
    """A node's estimate from its answer and the query, without any key."""
    kind = case.subject.kind
    if kind is None:
        return None
    found = 0
    for trial in range(case.trials):
        seen = run_exchange(kind, case.off, DIMENSION, f"{case.seed} {trial}", case.bits)
        for name in NEIGHBOURS:
            factor = seen.metropolis if seen.sealed else 1
            state = own_term(seen.key.public, seen.layout, factor, seen.query, seen.answers[name])
            found += state == seen.truth[name]
    return AttackResult(
        attack="wiretap",
        system=case.name,
        sought="a node's estimate",
        saw="queries and answers, encrypted",
        knew="the public keys, the range of half weights",
        measure="fraction",
        value=found / case.trials / len(NEIGHBOURS),
        chance=0.0,
        guess="an estimate at random: never",
        trials=case.trials,
        note=f"{case.bits}-bit keys, d = {DIMENSION}",
    )


def own_term(
    key: PublicKey, layout: Layout, factor: int, query: Sequence[mpz], answer: Sequence[mpz]
) -> list[int] | None:
    """Return the answerer's q if its answer has the query's randomness; *factor* is public, M or 1.

    Checked by test_without_rerandomising_whoever_listens_reads_the_estimate.
    """
    root, target = gmpy2.powmod(query[0], factor, key.n), answer[0] % key.n
    weight = next((h for h in HALF_WEIGHTS if gmpy2.powmod(root, h, key.n) == target), None)
    if weight is None:
        return None
    left = [
        a * gmpy2.powmod(c, -factor * weight, key.n_squared) % key.n_squared
        for c, a in zip(query, answer, strict=True)
    ]
    plain = [(rest - 1) // key.n for rest in left]
    try:
        slots = layout.unpack(plain, key.n, factor << (HALF_WEIGHT_BITS + VALUE_BITS))
    except RemoteProtocolError:
        return None
    half = (weight - 1) // 2
    return [(slot // factor + half) // weight for slot in slots]
