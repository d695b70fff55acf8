"""Make the keys of many nodes on all cores, and the bases that spare their neighbours full powers.

Processes generate the primes, except those of a few weak keys. The workstation that generates a key
also computes n-th residues under it, twenty times faster than a neighbour of its owner can. They
become the bases of the neighbour's table (cipherfleet_node.keys.bases_file).
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import NodeKeys, assemble_keys
from cipherfleet_provisioning.fleet.fleet import Fleet

from .prime_worker import MadePrimes, make_primes, read_line

PRIME_WORKER = (sys.executable, "-P", "-m", "cipherfleet_provisioning.prime_worker")
READ_BYTES = 1 << 20
# A process takes 0.4 s to begin, a key of 512 bits 10 ms, of 1024 bits 20 ms, of 2048 bits 0.1 s.
FEW_KEYS, WEAK_BITS = 50, 1024

Progress = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class MadeKeys:
    """The keys of the nodes of a fleet by id, and for each node bases by neighbour."""

    keys: dict[str, NodeKeys]
    bases: dict[str, dict[str, list[mpz]]]  # [node][neighbour]: under the neighbour's key


def make_keys(names: Sequence[str], bits: int, progress: Progress) -> dict[str, NodeKeys]:
    """Generate keys for every name, on all cores. *progress* is called for each completed one."""
    made = _make_primes(dict.fromkeys(names, 0), bits, progress)
    return {name: assemble_keys(*each.primes) for name, each in made.items()}


def make_keys_and_bases(fleet: Fleet, progress: Progress) -> MadeKeys:
    """Generate keys for every node of *fleet*, and the bases that `rerandomise: full` needs."""
    names, graph = [member.id for member in fleet.members], fleet.graph
    near = {name: list(graph.neighbours(name)) for name in names}
    if fleet.file.crypto.rerandomise != "full":
        return MadeKeys(make_keys(names, fleet.file.crypto.key_bits, progress), {})
    counts = {name: ROWS * len(others) for name, others in near.items()}
    made = _make_primes(counts, fleet.file.crypto.key_bits, progress)
    bases: dict[str, dict[str, list[mpz]]] = {name: {} for name in names}
    for owner, each in made.items():
        for place, neighbour in enumerate(near[owner]):
            bases[neighbour][owner] = each.obfuscators[place * ROWS : (place + 1) * ROWS]
    return MadeKeys({name: assemble_keys(*each.primes) for name, each in made.items()}, bases)


def _make_primes(counts: Mapping[str, int], bits: int, progress: Progress) -> dict[str, MadePrimes]:
    """Return primes for every name in *counts*, with so many obfuscators under their product."""
    made: dict[str, MadePrimes] = {}
    if len(counts) <= FEW_KEYS and bits <= WEAK_BITS:
        for name, count in counts.items():
            made[name] = make_primes(bits, count)
            progress(name)
        return made
    with _prime_workers(min(len(counts), len(os.sched_getaffinity(0))), bits) as workers:
        for name, each in _request_all(workers, counts):
            made[name] = each
            progress(name)
    return {name: made[name] for name in counts}


class _Worker:
    """A process that generates primes, and what it has written of its present line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.name = ""  # whose primes it generates; "": nobody's
        self._read = bytearray()

    def request(self, name: str = "", count: int = 0) -> None:
        """Request the primes of *name*, if one is left."""
        self.name, self._read = name, bytearray()
        if not name:
            return
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `read` notices that the worker has ended
            self.process.stdin.write(b"%d\n" % count)

    def read(self) -> bytes | None:
        """Return the line if it is complete; raises CipherfleetError if the worker has ended."""
        assert self.process.stdout is not None
        part = self.process.stdout.read(READ_BYTES)
        if not part:
            raise CipherfleetError("a process that made keys was killed", remedy="run it again")
        self._read += part
        return bytes(self._read) if part.endswith(b"\n") else None


@contextmanager
def _prime_workers(count: int, bits: int) -> Iterator[list[_Worker]]:
    """Start processes that generate primes; they end with the block, or with this process."""
    workers: list[_Worker] = []
    command = die_with_parent([*PRIME_WORKER, str(bits)])
    try:
        for _ in range(count):
            with defer_interrupts():
                # A new session: Ctrl-C must reach this process only. Without a buffer `select`
                # sees all unread output.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
                workers.append(_Worker(process))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.communicate()


def _request_all(
    workers: Sequence[_Worker], counts: Mapping[str, int]
) -> Iterator[tuple[str, MadePrimes]]:
    """Yield names and primes as *workers* generate them.

    Raises CipherfleetError when a worker has ended.
    """
    waiting = iter(counts.items())
    with selectors.DefaultSelector() as ready:
        for worker, (name, count) in zip(workers, waiting, strict=False):
            assert worker.process.stdout is not None
            ready.register(worker.process.stdout, selectors.EVENT_READ, worker)
            worker.request(name, count)
        while any(worker.name for worker in workers):
            for key, _ in ready.select():
                worker = key.data
                if (line := worker.read()) is not None:
                    name = worker.name
                    worker.request(*next(waiting, ()))
                    yield name, read_line(line)
