"""A target behind a real sshd on loopback, with a user of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_hil.measuring.crypto import CryptoPlan, make_worker_host, measure_crypto
from cipherfleet_hil.measuring.rounds import RoundsPlan, document, run_fleet
from cipherfleet_hil.measuring.sampling import Effort
from cipherfleet_hil.targets import lease_agent
from cipherfleet_hil.targets.bench_file import Bench
from cipherfleet_hil.targets.ssh import SshTarget
from cipherfleet_hil.targets.target import LeasedTarget, LocalLink, TargetHeld, TargetUnreachable
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.measured import most_unaccounted
from tests.support.ssh_server import SshServer, Wire, running_sshd

PYTHON = "/usr/bin/python3"  # for tests of the lease alone: it has nothing of ours


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    with running_sshd() as running:
        yield running


@pytest.fixture
def wire(server: SshServer) -> Iterator[Wire]:
    made = Wire(server.port)
    yield made
    made.close()


def nothing_left(server: SshServer, within_s: float = 120.0) -> list[str]:
    """What is left behind, at the latest after a while: processes take a moment to be gone."""
    deadline = time.monotonic() + within_s
    while (left := server.left_behind()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


# -- measuring -----------------------------------------------------------------------------------


@pytest.mark.fleet
def test_a_board_with_nothing_on_it_is_measured_and_left_as_it_was(
    server: SshServer, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs are copied; the connection is cut in the midst of rounds; nothing stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of this machine, which takes part as well
    assert server.left_behind() == []
    with SshTarget("pi", server.address(wire.port)) as target:
        assert target.kind == "host", "no board's firmware names it"
        assert target.machine.user != os.geteuid()
        measure_some_crypto(target)

        def cut_when_running(text: str) -> None:
            if "measured rounds" in text:
                wire.cut()
                wire.remedy()

        measure_some_rounds(target, cut_when_running)
        assert wire.connections >= 2, "it was lost, and opened again"
        assert server.left_behind() != []
    assert nothing_left(server) == []


def measure_some_crypto(target: LeasedTarget) -> None:
    plan = CryptoPlan((1024,), (1,), (1,), processes=1, effort=Effort(0.0, 1))
    measured = measure_crypto(plan, make_worker_host(target), "test")
    assert {each.metadata["target"] for b in measured.benchmarks for each in b.runs} == {"pi"}
    before = measured.cipherfleet.targets[0].environment.before
    assert before.versions["python"] == ".".join(map(str, target.machine.python))


def measure_some_rounds(target: LeasedTarget, tell: Callable[[str], None]) -> None:
    """Of a fleet between *target* and this machine, which are two machines to each other."""
    plan = RoundsPlan(example_folder("intel_lab") / "fleet.yaml", Bench(), 12, 3, 3)
    fleet = load_fleet(plan.file, plan.overrides, endless=False)
    with LeasedTarget("here", LocalLink()) as here:
        fleet_run = run_fleet(fleet, plan, [target, here], tell)
    result = document(plan, fleet, fleet_run, "test").cipherfleet
    assert sorted(node.target for node in result.nodes) == ["here", "pi", "pi"]
    for node in result.nodes:
        assert node.counts["rounds"] == 12
        assert abs(node.counts["unaccounted"]) < most_unaccounted()
        assert node.beside["network"].n > 0


def test_work_goes_on_while_the_connection_is_away(server: SshServer, wire: Wire) -> None:
    with SshTarget("pi", server.address(wire.port), PYTHON) as target:
        job = target.start(["/bin/sh", "-c", "sleep 1; echo done"])
        wire.cut()
        time.sleep(1.5)  # it ends meanwhile
        wire.remedy()
        assert target.wait([job], 30.0).codes == {job: 0}
        assert target.read(f"jobs/{job}/out") == b"done\n"
        assert wire.connections == 2
    assert nothing_left(server) == []


# -- the lease -----------------------------------------------------------------------------------


def test_a_second_holder_is_refused_over_ssh(server: SshServer) -> None:
    words = rf"held by .*process {os.getpid()} until"
    with SshTarget("pi", server.address(), PYTHON), pytest.raises(TargetHeld, match=words):
        SshTarget("pi", server.address(), PYTHON).__enter__()
    assert nothing_left(server) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (60.0, r"held by root@there until \d\d:\d\d:\d\d UTC"),
        (-1.0, r"root@there left .*remove it"),
    ],
)
def test_a_lease_of_another_user_is_respected_and_reported(
    server: SshServer, seconds: float, words: str
) -> None:
    file = server.tmp / lease_agent.LEASE_FILE
    lease = {"holder": "root@there", "nonce": "n", "until": lease_agent.boot_clock() + seconds}
    lease |= {"boot": lease_agent.boot_id(), "folder": "/nowhere", "pid": 0}
    file.write_text(json.dumps(lease))  # root owns it, other users may not write it
    with pytest.raises(TargetHeld, match=words):
        SshTarget("pi", server.address(), PYTHON).__enter__()
    file.unlink()
    assert nothing_left(server) == []


def test_a_harness_that_is_killed_leaves_nothing_once_its_lease_ends(
    server: SshServer, tmp_path: Path
) -> None:
    program = tmp_path / "harness.py"
    address = server.address()
    program.write_text(
        f"""\
import time
from pathlib import Path
from cipherfleet_hil.targets.ssh import Address, SshTarget
address = Address({address.host!r}, {address.port}, {address.user!r},
                  Path({str(address.identity)!r}), Path({str(address.known_hosts)!r}))
with SshTarget("pi", address, {PYTHON!r}, lease_s=4.0) as target:
    target.start(["/bin/sleep", "600"])
    print("ready", flush=True)
    time.sleep(600)
"""
    )
    harness = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE)
    try:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"ready\n"
        assert any("sleep 600" in line for line in server.left_behind())
    finally:
        orphans = psutil.Process(harness.pid).children(recursive=True)
        for process in (harness.pid, *(each.pid for each in orphans)):
            os.kill(process, signal.SIGKILL)
        harness.communicate()
    assert nothing_left(server) == []


def test_a_connection_that_does_not_come_back_ends_in_words_and_leaves_nothing(
    server: SshServer, wire: Wire
) -> None:
    with SshTarget("pi", server.address(wire.port), PYTHON, lease_s=4.0) as target:
        target.start(["/bin/sleep", "600"])
        wire.cut()
        with pytest.raises(TargetUnreachable, match="did not come back"):
            target.run(["/bin/true"], 30.0)
    assert nothing_left(server) == []


def test_a_lease_that_ended_while_the_link_was_down_is_reported(
    server: SshServer, wire: Wire
) -> None:
    with SshTarget("pi", server.address(wire.port), PYTHON, lease_s=4.0) as target:
        wire.cut()
        assert nothing_left(server) == []
        wire.remedy()
        with pytest.raises(
            TargetUnreachable, match="the lease has ended, and its jobs were killed"
        ):
            target.run(["/bin/true"], 30.0)


# -- what is refused -----------------------------------------------------------------------------


def test_a_host_whose_key_is_not_known_is_not_spoken_to(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    address = replace(server.address(), known_hosts=tmp_path / "none")
    with pytest.raises(TargetUnreachable, match=r"add its key to known_hosts") as refused:
        SshTarget("pi", address, PYTHON).__enter__()
    assert refused.value.exit_code == 4
    assert "\n" not in str(refused.value)


def test_a_refused_user_is_named_with_the_remedy(server: SshServer) -> None:
    address = replace(server.address(), user="nobody-of-that-name")
    with pytest.raises(TargetUnreachable, match=r"Permission denied.*authorized_keys"):
        SshTarget("pi", address, PYTHON).__enter__()


def test_a_port_without_a_listener_is_reported(server: SshServer) -> None:
    with pytest.raises(TargetUnreachable, match="start sshd on the target"):
        SshTarget("pi", server.address(1), PYTHON).__enter__()
