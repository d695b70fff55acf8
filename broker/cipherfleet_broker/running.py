"""Start a broker and keep it until it is stopped, or check an external broker."""

from __future__ import annotations

import secrets
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cipherfleet_node.errors import BrokerUnreachable, ConfigError

from .embedded import make_embedded
from .health import check_broker
from .interrupts import defer_interrupts
from .mosquitto import make_mosquitto
from .process import Process
from .program import LOOPBACK, Engine
from .security import Security

START_TIMEOUT_S = 15.0  # measured: 0.03 s; the rest is for a busy machine
TRY_TIMEOUT_S = 2.0  # of one health check; the process is checked between two of them
EXTERNAL_TIMEOUT_S = 5.0
# Below Linux's range of outgoing ports (from 32768): no client's connection can take a broker's
# port while the broker is down, so a restart on the same port works.
FREE_PORTS = range(20_000, 32_000)


class RunningBroker:
    """A healthy broker at *host*:*port*; *folder* and *pid* are None for an external one.

    As a context manager it stops at the end of the block. An external broker is never stopped.
    """

    def __init__(
        self,
        name: str,
        version: str,
        host: str,
        port: int,
        *,
        process: Process | None = None,
        context: ssl.SSLContext | None = None,
        make_engine: Callable[[Security], Engine] | None = None,
    ) -> None:
        self.name, self.version = name, version
        self.host, self.port = host, port
        self._process = process
        self._make_engine = make_engine  # configures the same program with other access rules
        self._context = context  # of the health check, where the broker uses TLS

    def __repr__(self) -> str:
        return f"<{self.name} {self.version} at {self.host}:{self.port}, pid {self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path | None:
        """The folder of configuration, log and stored messages; None for an external broker."""
        return self._process.folder if self._process else None

    @property
    def pid(self) -> int | None:
        """The broker's process id; None while it does not run and for an external broker."""
        return self._process.pid if self._process else None

    def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would; `restart` starts it again."""
        self._require_process("kill").end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the broker if it runs, start it with the same port and folder, and await health.

        nats-server keeps retained messages and sessions; mosquitto loses them.
        """
        self.launch()
        self.await_health()

    def launch(self) -> None:
        """Stop the process if it runs, and start it; it may not be healthy yet."""
        process = self._require_process("restart")
        process.end()
        process.start()

    def await_health(self) -> None:
        """Return once a launched broker is healthy; raises BrokerUnreachable."""
        _await_health(self, self._require_process("check"))

    def reload(self, security: Security) -> None:
        """Apply other access rules (SIGHUP); clients that old and new rules admit stay connected.

        nats-server closes the connections of clients that the new rules do not admit. mosquitto
        keeps these connections, and lets them neither read nor write. Raises BrokerUnreachable if
        the broker is not healthy afterwards.
        """
        process = self._require_process("reload")
        if self._make_engine is None:
            raise ConfigError(
                "a broker without TLS has no access rules to reload: start it with security"
            )
        self._make_engine(security).configure(process.folder, self.port)
        self._context = security.context()
        process.signal(signal.SIGHUP)
        _await_health(self, process)

    def check(self, timeout_s: float) -> None:
        """Run one health check (see `check_broker`). Raises BrokerUnreachable."""
        check_broker(self.host, self.port, timeout_s, self._context)

    def stop(self) -> None:
        """Stop the broker and remove its folder.

        Repeated calls and calls for an external broker have no effect.
        """
        if self._process:
            self._process.close()

    def _require_process(self, verb: str) -> Process:
        if self._process is None or not self._process.folder.exists():
            state = "stopped" if self._process else "external, started by another program"
            raise ConfigError(f"cannot {verb} the broker at {self.host}:{self.port}: it is {state}")
        return self._process


def start_broker(
    choice: str, port: int | None = None, security: Security | None = None
) -> RunningBroker:
    """Return a healthy broker: 'embedded' or 'mosquitto' on loopback, or the one at HOST:PORT.

    If *port* is None, a free port is chosen. *security* turns on TLS, client certificates and
    access rules; for a running broker it only serves the health check. Raises ConfigError (program
    not installed, port in use, *choice* not valid) and BrokerUnreachable (no answer, or stopped
    while starting).
    """
    match choice:
        case "embedded":
            return run_engine(make_embedded(security), port, security, make_embedded)
        case "mosquitto":
            return run_engine(make_mosquitto(security), port, security, make_mosquitto)
        case _:
            return _check_external(choice, port, security)


def run_engine(
    engine: Engine,
    port: int | None = None,
    security: Security | None = None,
    make: Callable[[Security], Engine] | None = None,
) -> RunningBroker:
    """Start *engine* in a new private folder; if it fails, no process and no folder remain.

    *make* configures the same program with other access rules; `reload` needs it.
    """
    port = free_port() if port is None else _check_port(port)
    broker = configure_broker(engine, port, security, make)
    try:
        broker.restart()
    except BaseException:
        broker.stop()
        raise
    return broker


def configure_broker(
    engine: Engine,
    port: int,
    security: Security | None = None,
    make: Callable[[Security], Engine] | None = None,
) -> RunningBroker:
    """Return a broker as `run_engine` does, with its folder and configuration, but not started."""
    context = security.context() if security else None
    with defer_interrupts():
        folder = Path(tempfile.mkdtemp(prefix="cipherfleet-broker-"))  # mode 0700
        process = Process(engine.configure(folder, port), folder)
    return RunningBroker(
        engine.name,
        engine.version,
        security.host if security else LOOPBACK,
        port,
        process=process,
        context=context,
        make_engine=make if security else None,
    )


def _await_health(broker: RunningBroker, process: Process) -> None:
    """Return once *broker* is healthy; raises BrokerUnreachable with its last log line."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        problem = _find_health_problem(broker, TRY_TIMEOUT_S)
        if process.pid is None:
            raise BrokerUnreachable(
                f"{broker.name} {broker.version} stopped while starting on port {broker.port} "
                f"(exit code {process.exit_code}), the last line of its log: "
                f"{process.last_log_line()}"
            )
        if problem is None:
            return
        if time.monotonic() > deadline:
            raise BrokerUnreachable(
                f"{problem}; the last line of its log: {process.last_log_line()}"
            )
        time.sleep(0.01)


def _find_health_problem(broker: RunningBroker, timeout_s: float) -> BrokerUnreachable | None:
    try:
        broker.check(timeout_s)
    except BrokerUnreachable as problem:
        return problem
    return None


def _check_external(address: str, port: int | None, security: Security | None) -> RunningBroker:
    host, found_port = parse_address(address)
    if port is not None:
        raise ConfigError(
            f"the broker {address} is running already and has its own port: the port {port} "
            "is for a broker started here",
            remedy="leave it out",
        )
    context = security.context() if security else None
    broker = RunningBroker("external", "unknown", host, found_port, context=context)
    broker.check(EXTERNAL_TIMEOUT_S)
    return broker


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of 'name:1883' or '[::1]:1883'. Raises ConfigError."""
    host, colon, digits = address.rpartition(":")
    if not (colon and host and digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise ConfigError(
            f"broker is {address!r}, must be embedded, mosquitto or HOST:PORT, "
            "for example 192.168.1.5:1883"
        )
    return host.removeprefix("[").removesuffix("]"), int(digits)


def free_port() -> int:
    """Return a port from FREE_PORTS that no program uses now. Raises ConfigError."""
    for _ in range(100):
        port = FREE_PORTS[secrets.randbelow(len(FREE_PORTS))]
        if _find_port_problem(port) is None:
            return port
    raise ConfigError(f"no free port among {FREE_PORTS[0]} to {FREE_PORTS[-1]}: name one")


def _check_port(port: int) -> int:
    """Return *port* if it is free; otherwise a health check could reach another broker there."""
    if (problem := _find_port_problem(port)) is not None:
        raise ConfigError(
            f"port {port} on {LOOPBACK} cannot be used: {problem}",
            remedy="name another, or none at all",
        )
    return port


def _find_port_problem(port: int) -> str | None:
    if not 0 < port < 65536:
        return "a port is a number from 1 to 65535"
    with socket.socket() as sock:
        # Brokers set it too: connections of the last run in TIME_WAIT do not block the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
