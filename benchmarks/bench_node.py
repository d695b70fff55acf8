"""A node for measurements: the daemon with its pools filled first, or without encryption.

`python benchmarks/bench_node.py [--plain] [--fill-first] FOLDER`. Only this file has the plaintext
exchange: no configuration of a daemon selects it.
"""

from __future__ import annotations

import signal
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gmpy2 import mpz

from cipherfleet_node.core.exchange import (
    Exchange,
    Timed,
    dither,
    half_weight,
    metropolis,
    untimed,
)
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.daemon import Daemon


class PlaintextExchange:
    """The exchange in plaintext: the same integers and messages without ciphertexts."""

    sealed = False

    def __init__(self, factors: Mapping[str, int]) -> None:
        self._factors = factors

    def roster(self, there: Iterable[str]) -> list[str]:
        """Return an empty roster: the exchange is pairwise."""
        del there
        return []

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        return [struct.pack(f">{len(quantised)}q", *quantised)]

    def check(self, query: Query) -> None:
        del query

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        """Return H q + e."""
        weight = half_weight(randomness, neighbour)
        noise = dither(randomness, neighbour, weight, len(quantised))
        return [mpz(weight * entry + e) for entry, e in zip(quantised, noise, strict=True)]

    def is_addressed(self, query: Query) -> bool:
        """Return True: every query is for this node."""
        del query
        return True

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        """Return H (own - asked) + e, serialised."""
        weight, asked = half_weight(randomness, query.sender), _integers(query.ciphertexts[0])
        values = [int(p) - weight * a for p, a in zip(prepared, asked, strict=True)]
        return [struct.pack(f">{len(values)}q", *values)]

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        return [mpz(value) for value in _integers(answer[0])]

    def open(
        self,
        answers: Mapping[str, Sequence[mpz]],
        randomness: RoundRandomness,
        timed: Timed = untimed,
    ) -> list[int]:
        """Return the weighted sum of the answers."""
        del timed
        terms = []
        for name, values in answers.items():
            exponent = half_weight(randomness, name) * self._factors[name]
            terms.append([int(exponent * value) for value in values])
        return [sum(column) for column in zip(*terms, strict=True)]


def _integers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 8}q", data)


class PlaintextDaemon(Daemon):
    """The daemon without encryption and without pools."""

    def run(self) -> None:
        """Run without filling the unused pools."""
        self._pools.start = lambda: None  # type: ignore[method-assign]
        super().run()

    def _make_exchange(self) -> Exchange:
        config = self._config
        own = len(config.neighbours)
        return PlaintextExchange({n.id: metropolis(own, n.degree) for n in config.neighbours})


class FilledDaemon(Daemon):
    """The daemon with pools that are filled before it starts and never refilled."""

    def run(self) -> None:
        """Fill the pools, stop filling, and run."""
        capacity = self._config.crypto.pool
        self._pools.start()
        while min(self._pools.figures().levels.values()) < capacity:
            time.sleep(0.02)
        self._pools.close()
        self._pools.start = lambda: None  # type: ignore[method-assign]
        super().run()


def main() -> None:
    """Run the node of the folder named last."""
    kinds: dict[str, type[Daemon]] = {"--plain": PlaintextDaemon, "--fill-first": FilledDaemon}
    kind = kinds[sys.argv[1]] if len(sys.argv) > 2 else Daemon
    daemon = kind(read_bundle(Path(sys.argv[-1])))
    signal.signal(signal.SIGTERM, lambda *_: daemon.stop())
    daemon.run()


if __name__ == "__main__":
    main()
