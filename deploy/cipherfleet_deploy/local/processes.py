"""A fleet on this machine: one real daemon per node, started, watched and stopped together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cipherfleet_broker.die_with_parent import leashed
from cipherfleet_node.errors import BrokerUnreachable, ConfigError, IdentityClash

from .record import FleetFailed, NodeRecord, Standstill

NODE_COMMAND = (sys.executable, "-m", "cipherfleet_node", "run")
STOP_WITHIN_S = 10.0
RESTART_AFTER_S = 1.0
MAX_RESTARTS = 5  # of one node
# These exits repeat themselves: starting the node again would not help.
FINAL_EXITS = frozenset(
    {ConfigError.exit_code, BrokerUnreachable.exit_code, IdentityClash.exit_code, 2}
)


@dataclass
class NodeProcess(NodeRecord):
    """One daemon, its folder, and what it has written so far."""

    command: Sequence[str]  # the folder is appended
    process: subprocess.Popen[bytes] | None = None
    restart_at: float | None = None

    def start(self) -> None:
        """Start the daemon; it dies with us, however we end."""
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = _spawn(leashed([*self.command, str(self.folder)]), log)


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C at the terminal is for us, we stop the nodes in order.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


class LocalFleet:
    """The daemons of the node folders *bundles*; a context manager that leaves none behind.

    *stalled_after_s* without any round closed anywhere counts as a failure.
    """

    def __init__(
        self,
        bundles: Mapping[str, Path],
        stalled_after_s: float,
        command: Sequence[str] = NODE_COMMAND,
    ) -> None:
        self.nodes = {name: NodeProcess(name, folder, command) for name, folder in bundles.items()}
        self._standstill = Standstill(stalled_after_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes.values():
            node.start()

    def kill(self, name: str) -> None:
        """SIGKILL one node, as a loss of power would; `poll` starts it again after a moment."""
        process = self.nodes[name].process
        if process is not None:
            process.kill()
            process.wait()

    def poll(self) -> bool:
        """Read what is new, restart who crashed; True once all nodes have finished.

        Raises FleetFailed for a node that cannot run, or when nothing moves any more.
        """
        for node in self.nodes.values():
            node.read()
            if not node.finished:
                self._look_after(node)
        self._standstill.check(self.nodes.values())
        return all(node.finished for node in self.nodes.values())

    def wait(self, on_poll: Callable[[], None] = lambda: None, every_s: float = 0.25) -> None:
        """Poll until all nodes have finished; *on_poll* is called each time."""
        while not self.poll():
            on_poll()
            time.sleep(every_s)
        on_poll()

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those who do not go."""
        running = [n.process for n in self.nodes.values() if n.process and n.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _look_after(self, node: NodeProcess) -> None:
        if node.process is None or node.process.poll() is None:
            return
        code = node.process.returncode
        if code == 0:
            node.read()
            node.finished = True
        elif code in FINAL_EXITS or node.restarts >= MAX_RESTARTS:
            raise FleetFailed(f"node {node.id!r} ended with exit code {code}: {node.last_words()}")
        elif node.restart_at is None:
            node.restart_at = time.monotonic() + RESTART_AFTER_S
        elif time.monotonic() >= node.restart_at:
            node.restarts, node.restart_at = node.restarts + 1, None
            node.start()
