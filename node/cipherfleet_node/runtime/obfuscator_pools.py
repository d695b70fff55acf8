"""Pools of obfuscators, which threads fill while the node waits. Each obfuscator is used once.

gmpy2 releases the interpreter lock during its operations if the context of the thread allows it.
The network thread is then delayed by 0.05 ms instead of 7 ms (measured, 2048 bits). The pools are
never written to disk.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.keys.obfuscators import Source

log = logging.getLogger(__name__)

OWN = ""  # the pool of the node's own key; no neighbour has this name
NICENESS = 10


@dataclass(frozen=True)
class PoolFigures:
    """Counts and rates of the pools. None of them is private."""

    levels: dict[str, int]  # obfuscators ready, by key ("" is the node's own)
    inline: dict[str, int]  # obfuscators made on demand because a pool was empty, by key
    refilled_per_s: float  # since the start
    cpu_s: float  # used by the threads that fill the pools


class Pools:
    """One bounded pool per source, filled by threads of low priority.

    If a pool is empty, the obfuscator is made on demand and counted. No ciphertext is sent without
    one.
    """

    def __init__(self, sources: Mapping[str, Source], capacity: int, threads: int) -> None:
        self._sources, self._capacity = sources, capacity
        self._pools: dict[str, deque[mpz]] = {name: deque() for name in sources}
        self._wanted = threading.Condition()
        self._closing = False
        self._began = time.monotonic()
        self._inline: Counter[str] = Counter()
        self._made_ahead = 0
        self._cpu_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"pool-{index}", daemon=True)
            for index in range(threads if capacity else 0)
        ]

    def start(self) -> None:
        """Start the threads that fill the pools."""
        release_interpreter_during_powers()
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads, and wait until they have ended."""
        with self._wanted:
            self._closing = True
            self._wanted.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def own(self) -> mpz:
        return self._take(OWN)

    def towards(self, neighbour: str) -> mpz:
        return self._take(neighbour)

    def figures(self) -> PoolFigures:
        """Return the present levels, refill rate and counts."""
        with self._wanted:
            levels = {name: len(pool) for name, pool in self._pools.items()}
            elapsed = max(time.monotonic() - self._began, 1e-9)
            rate = self._made_ahead / elapsed
            return PoolFigures(levels, dict(self._inline), rate, self._cpu_s)

    def _take(self, name: str) -> mpz:
        with self._wanted:
            pool = self._pools[name]
            if pool:
                self._wanted.notify()
                return pool.popleft()
            self._inline[name] += 1
            self._wanted.notify()
        return self._sources[name].make()

    # -- the threads ----------------------------------------------------------------------------

    def _work(self) -> None:
        release_interpreter_during_powers()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            while (name := self._emptiest()) is not None:
                self._refill(name)
        except Exception:
            log.exception("a pool thread ended; obfuscators are made on demand from now on")

    def _refill(self, name: str) -> None:
        began = time.thread_time()
        made = self._sources[name].make()
        with self._wanted:
            self._pools[name].append(made)
            self._made_ahead += 1
            self._cpu_s += time.thread_time() - began

    def _emptiest(self) -> str | None:
        """Return the emptiest pool; wait while all are full. None when the pools are closed."""
        with self._wanted:
            while not self._closing:
                name = min(self._pools, key=lambda name: len(self._pools[name]))
                if len(self._pools[name]) < self._capacity:
                    return name
                self._wanted.wait()
        return None


def release_interpreter_during_powers() -> None:
    """Let other threads run while this thread computes with large numbers."""
    gmpy2.get_context().allow_release_gil = True
