"""A node for measurements: the daemon with its pools filled first, or without encryption.

`python benchmarks/bench_node.py [--plain] [--fill-first] FOLDER`. No configuration of a daemon
selects the plaintext exchange.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from cipherfleet_lab.simulation.plaintext_exchange import PlaintextExchange
from cipherfleet_node.core.exchange import Exchange, metropolis
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.daemon import Daemon


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
