"""A fleet on this machine: one daemon process per node, started, watched and stopped together."""

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

from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_node.errors import (
    BrokerUnreachable,
    ConfigError,
    IdentityClash,
    NothingExchanged,
)

from .launched import DaemonProcess, Launcher
from .record import FleetFailed, NodeRecord, StallDetector

NODE_COMMAND = (sys.executable, "-m", "cipherfleet_node", "run")
STOP_WITHIN_S = 10.0
RESTART_AFTER_S = 1.0
MAX_RESTARTS = 5  # of one node
# A node that ended with one of these codes would end with it again: it is not restarted.
FINAL_EXITS = frozenset(
    {ConfigError.exit_code, BrokerUnreachable.exit_code, NothingExchanged.exit_code, 2}
)
# Another device has the identity of the node. The rest of the fleet goes on without it.
RESTART_AFTER_CLASH_S = 600.0


@dataclass
class NodeProcess(NodeRecord):
    """The daemon process of one node, its folder, and the records that it has written so far."""

    command: Sequence[str]  # without the node's folder, which is appended
    launcher: Launcher | None = None  # starts the daemon instead of the command
    process: DaemonProcess | None = None
    restart_at: float | None = None
    has_clashed: bool = False  # ended since another device has its identity; restarted later

    def start(self) -> None:
        """Start the daemon. The kernel kills it when this process ends, however it ends."""
        self.log.parent.mkdir(exist_ok=True)
        self.log.touch()  # a forked daemon opens it a little later
        if self.launcher is not None:
            self.process = self.launcher.start(self.folder, self.log)
            return
        with self.log.open("ab") as log:
            self.process = _spawn(die_with_parent([*self.command, str(self.folder)]), log)


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # In a session of its own, the daemon does not receive Ctrl-C from the terminal. This process
    # receives it and stops the nodes in order.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


class LocalFleet:
    """The daemons of the node folders *bundles*. As a context manager it stops all of them.

    Each daemon runs *command* with its folder, unless a *launcher* forks it. The fleet has failed
    if no node closes a round for *stalled_after_s* seconds.
    """

    def __init__(
        self,
        bundles: Mapping[str, Path],
        stalled_after_s: float,
        command: Sequence[str] = NODE_COMMAND,
        launcher: Launcher | None = None,
    ) -> None:
        self.nodes = {
            name: NodeProcess(name, folder, command, launcher) for name, folder in bundles.items()
        }
        self._stall_detector = StallDetector(stalled_after_s)

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
        for node in self.nodes.values():
            node.start()

    def kill(self, name: str) -> None:
        """Kill one node with SIGKILL, like a power failure; `poll` restarts it a second later."""
        process = self.nodes[name].process
        if process is not None:
            process.kill()
            process.wait()

    def poll(self) -> bool:
        """Read new records and restart crashed nodes. Return True once all nodes have finished.

        Raises FleetFailed if a node cannot run, or if the fleet has stalled.
        """
        for node in self.nodes.values():
            node.read()
            if not node.finished:
                self._check_process(node)
        self._stall_detector.check(self.nodes.values())
        running = [node for node in self.nodes.values() if not node.finished]
        if running and all(node.has_clashed for node in running):
            raise FleetFailed(_exit_report(running[0], IdentityClash.exit_code))
        return not running

    def wait(self, on_poll: Callable[[], None] = lambda: None, every_s: float = 0.25) -> None:
        """Poll until all nodes have finished. Calls *on_poll* after each poll."""
        while not self.poll():
            on_poll()
            time.sleep(every_s)
        on_poll()

    def stop(self) -> None:
        """Send SIGTERM to all nodes, and SIGKILL to those still running after STOP_WITHIN_S."""
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

    def _check_process(self, node: NodeProcess) -> None:
        if node.process is None or (code := node.process.poll()) is None:
            return
        is_clash = code == IdentityClash.exit_code
        if code == 0:
            node.read()
            node.finished = True
        elif code in FINAL_EXITS or (node.restarts >= MAX_RESTARTS and not is_clash):
            raise FleetFailed(_exit_report(node, code))
        elif node.restart_at is None:
            pause_s = RESTART_AFTER_CLASH_S if is_clash else RESTART_AFTER_S
            node.has_clashed, node.restart_at = is_clash, time.monotonic() + pause_s
        elif time.monotonic() >= node.restart_at:
            node.restarts, node.restart_at, node.has_clashed = node.restarts + 1, None, False
            node.start()


def _exit_report(node: NodeProcess, code: int) -> str:
    last = node.last_log_line()
    return f"node {node.id!r} ended with exit code {code}, its last log line: {last}"
