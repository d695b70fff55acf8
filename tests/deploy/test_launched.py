"""Daemons that are forked from a launcher behave as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local import launched
from cipherfleet_deploy.local.launched import LaunchedProcess, Launcher
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.record import FleetFailed
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet

FLEET = """\
config_version: 1
fleet: launched
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 3}
objective: {kind: average, values: [{field: celsius}]}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: synthetic, fields: {celsius: {mean: 20}}}}
"""
PARENT = """
import sys
from pathlib import Path
from cipherfleet_deploy.local.launched import Launcher
launcher = Launcher()
print(launcher.start(Path(sys.argv[1]), Path(sys.argv[2])).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The folders of three nodes whose broker does not answer."""
    (tmp_path / "fleet.yaml").write_text(FLEET)
    fleet = load_fleet(tmp_path / "fleet.yaml")
    return write_bundles(fleet, tmp_path / "nodes", Broker(port=1), Simulation())


def wait_until(is_true: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(launcher: Launcher, folder: Path) -> LaunchedProcess:
    return launcher.start(folder, folder.parent / f"{folder.name}.log")


def test_a_forked_daemon_ends_with_its_own_exit_code_and_log(
    launcher: Launcher, tmp_path: Path
) -> None:
    process = start(launcher, tmp_path / "nothing")
    assert process.wait(60) == process.returncode == process.poll() == ConfigError.exit_code
    assert "node.yaml" in (tmp_path / "nothing.log").read_text()


def test_a_forked_daemon_has_a_session_and_a_name_and_ends_in_order(
    launcher: Launcher, folders: dict[str, Path]
) -> None:
    process = start(launcher, folders["n1"])
    log, seen = folders["n1"].parent / "n1.log", psutil.Process(process.pid)
    wait_until(lambda: log.exists() and "no broker at" in log.read_text())
    assert (os.getsid(process.pid), seen.name(), seen.ppid()) == (process.pid, "n1", launcher.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.kill()  # it has ended: no signal is sent


def test_a_killed_daemon_is_reported_as_killed(
    launcher: Launcher, folders: dict[str, Path]
) -> None:
    process = start(launcher, folders["n2"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.0)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def test_daemons_end_with_the_process_that_started_the_launcher(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT, str(folders["n3"]), str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        daemon = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([daemon], timeout=60)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_a_launcher_that_was_killed_is_one_clear_error(folders: dict[str, Path]) -> None:
    with Launcher() as launcher:
        process = start(launcher, folders["n1"])
        (helper,) = [p for p in psutil.Process().children() if p.pid == launcher.pid]
        helper.kill()
        assert process.wait(60) == -signal.SIGKILL
        with pytest.raises(FleetFailed, match="the process that starts the nodes has ended"):
            start(launcher, folders["n2"])


class PressedOnce:
    """The socket of a launcher; Ctrl-C comes once, between a request and its reply."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._is_pressed = control, False

    def recv(self, size: int) -> bytes:
        if not self._is_pressed:
            self._is_pressed = True
            signal.raise_signal(signal.SIGINT)
        return self._control.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def test_ctrl_c_during_a_request_does_not_shift_the_replies(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Launcher() as launcher:
        monkeypatch.setattr(launcher, "_control", PressedOnce(launcher._control))
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
        try:
            with pytest.raises(KeyboardInterrupt):
                start(launcher, folders["n2"])
        finally:
            signal.signal(signal.SIGINT, before)
        missing = start(launcher, folders["n1"].parent / "nothing")
        assert missing.wait(60) == ConfigError.exit_code


def test_a_launcher_that_does_not_reply_is_one_clear_error(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "REPLY_WITHIN_S", 0.2)
    with Launcher() as launcher:
        psutil.Process(launcher.pid).suspend()
        with pytest.raises(FleetFailed, match="the process that starts the nodes has ended"):
            start(launcher, folders["n1"])
        assert launcher.exit_code(1) == -signal.SIGKILL


@pytest.mark.fleet
def test_a_forked_fleet_runs_its_rounds_and_restarts_a_killed_node(
    tmp_path: Path,
) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("rounds: 3", "rounds: 40"))
    fleet = load_fleet(tmp_path / "fleet.yaml")
    with start_broker("embedded") as broker, Launcher() as launcher:
        address = Broker(host=broker.host, port=broker.port)
        bundles = write_bundles(
            fleet, tmp_path / "nodes", address, Simulation(trace_estimates=True), with_bases=True
        )
        with LocalFleet(bundles, 120.0, launcher=launcher) as nodes:
            nodes.start()
            while nodes.nodes["n1"].round < 3:
                nodes.poll()
            nodes.kill("n1")
            nodes.wait()
    assert nodes.nodes["n1"].restarts == 1
    assert all(node.round >= 40 for node in nodes.nodes.values())
