"""Whole fleets with real daemons, a real broker and real files."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import psutil
import pytest
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from cipherfleet_analysis.centralised import centralised_answer, recorded_objectives
from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.cli import run as run_commands
from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.results import (
    FloatArray,
    Trajectory,
    disagreement,
    relative_error,
)
from cipherfleet_deploy.local.run import RunOptions, run_fleet
from cipherfleet_lab.reference import iterate
from cipherfleet_node.core.randomness import simulated_seed
from cipherfleet_node.keys.key_files import read_keys
from cipherfleet_node.runtime.run_node import node_summary
from cipherfleet_node.settings.sections import Broker, Simulation, resolution_of
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.launcher import shared_launcher
from tests.support.paths import ROOT
from tests.support.wiretap import Wiretap, forms_of, query_in

pytestmark = pytest.mark.fleet

WEAK = "crypto: {key_bits: 512, allow_weak_keys: true}"
EXAMPLES = ROOT / "examples"


def average_file(
    folder: Path,
    readings: Sequence[float],
    rounds: int,
    topology: str = "{kind: ring}",
    more: str = "",
) -> Path:
    """A fleet.yaml for plain averaging with toy keys."""
    rows = "".join(f"{n},{value!r}\n" for n, value in enumerate(readings, 1))
    (folder / "readings.csv").write_text("room,celsius\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: trial
{WEAK}
algorithm: {{rounds: {rounds}, answer_timeout_s: 4{more}}}
objective: {{kind: average, values: [{{field: celsius}}]}}
topology: {topology}
nodes:
  - {{each: {len(readings)}, id: "n{{n}}",
     sensor: {{kind: csv, path: readings.csv, where: {{room: "{{n}}"}}}}}}
"""
    )
    return file


@contextmanager
def running(
    file: Path,
    folder: Path,
    broker: RunningBroker,
    port: int | None = None,
    seed: int | None = None,
    *,
    forked: bool = True,
) -> Iterator[tuple[Fleet, LocalFleet]]:
    """The daemons of *file*, started, on *broker* (through *port* where given).

    If not *forked*, each is a program of its own, which shares no memory with another.
    """
    fleet = load_fleet(file)
    bundles = write_bundles(
        fleet,
        folder / "nodes",
        Broker(host=broker.host, port=port or broker.port),
        Simulation(seed=seed, trace_estimates=True),
    )
    launcher = shared_launcher() if forked else None
    with LocalFleet(bundles, 120.0, launcher=launcher) as nodes:
        nodes.start()
        yield fleet, nodes


def wait_until(condition: Callable[[], bool], nodes: LocalFleet, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        assert not nodes.poll(), "the fleet finished before the test was done with it"
        time.sleep(0.05)


@contextmanager
def queries_seen(broker: RunningBroker) -> Iterator[dict[tuple[str, int], set[bytes]]]:
    """The ciphertexts of all queries on the broker, by sender and round."""
    seen: dict[tuple[str, int], set[bytes]] = defaultdict(set)

    def note(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        query = query_in(bytes(message.payload))
        seen[query.sender, query.round].add(b"".join(query.ciphertexts))

    client = paho.Client(CallbackAPIVersion.VERSION2, "onlooker")
    client.on_message = note
    client.connect(broker.host, broker.port)
    client.subscribe("cf/v2/+/q/+", 1)
    client.loop_start()
    try:
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()


def plain_estimates(fleet: Fleet, seed: int, rounds: int) -> FloatArray:
    """What the plain reference iteration ends with under the draws of a seeded run."""
    objectives = recorded_objectives(fleet)
    assert objectives is not None
    estimates: FloatArray = iterate(
        fleet.graph.edges,
        {member.id: objective for member, objective in zip(fleet.members, objectives, strict=True)},
        fleet.file.algorithm,
        resolution_of(fleet.file.algorithm),
        lambda node, k: simulated_seed(seed, fleet.file.fleet, node, k),
        rounds,
    )[-1]
    return estimates


def test_a_file_of_another_author_comes_as_close_as_the_plain_iteration(
    tmp_path: Path,
) -> None:
    """40 features, so two ciphertexts per vector at 2048 bits; same draws, hence the same error."""
    chance = np.random.default_rng(77)
    columns = [f"f{index}" for index in range(39)]
    theta = chance.normal(size=40)
    lines = ["site,target," + ",".join(columns)]
    for site in range(1, 6):
        for _ in range(60):
            phi = chance.normal(loc=0.1 * site, size=39)
            target = theta @ [1.0, *phi] + 0.1 * chance.normal()
            lines.append(f"s{site},{target:.6f}," + ",".join(f"{entry:.6f}" for entry in phi))
    (tmp_path / "field.csv").write_text("\n".join(lines) + "\n")
    features = "".join(f"\n    - {{field: {name}}}" for name in columns)
    file = tmp_path / "unseen.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: unseen
algorithm:
  rounds: 12
  method: article
  stepsize: {{initial: 0.2, decay: 0.02, spread: 0.8}}
  attenuation: {{scale: 0.02, exponent: 0.6}}
objective:
  kind: ridge
  penalty: 0.01
  target: {{field: target, scale: 2}}
  features:
    - {{constant: 1}}{features}
topology: {{edges: [[a1, a2], [a2, a3], [a3, a4], [a4, a5], [a5, a2]]}}
nodes:
  - {{each: 5, id: "a{{n}}", sensor: {{kind: csv, path: field.csv, where: {{site: "s{{n}}"}}}}}}
"""
    )
    result = run_fleet(
        file, RunOptions(seed=5, out=tmp_path / "out"), Console(stderr=True, quiet=True)
    )
    fleet = load_fleet(file)
    optimum = centralised_answer(fleet)
    assert optimum is not None
    assert result.dimension == 40
    assert result.silent == result.rejected == 0
    plain = plain_estimates(fleet, seed=5, rounds=12)
    # Dither, which the plain iteration lacks, moves an estimate by less than a resolution a round.
    assert result.relative_error == pytest.approx(relative_error(plain, optimum), abs=1e-5)
    assert result.disagreement == pytest.approx(disagreement(plain), abs=1e-5)
    assert (tmp_path / "out" / "plot.png").stat().st_size > 10_000


def test_a_killed_node_holds_up_no_other_and_rejoins_from_its_saved_state(tmp_path: Path) -> None:
    grid, algorithm = "{kind: grid}", ", period_s: 0.1"
    file = average_file(tmp_path, [20 + 0.5 * n for n in range(6)], 100_000, grid, algorithm)
    with (
        start_broker("embedded") as broker,
        queries_seen(broker) as seen,
        running(file, tmp_path, broker) as (_, nodes),
    ):
        victim = nodes.nodes["n5"]
        wait_until(lambda: victim.round >= 10, nodes)
        nodes.kill("n5")
        others = [node for node in nodes.nodes.values() if node is not victim]
        at_death = max(node.round for node in others)
        wait_until(lambda: min(node.round for node in others) > at_death + 5, nodes)
        wait_until(lambda: len([k for k in victim.estimates if k > at_death]) > 20, nodes)
        seen_last = victim.round
        wait_until(lambda: min(node.round for node in others) > seen_last, nodes)
    assert victim.restarts == 1
    twice = {place: len(digests) for place, digests in seen.items() if len(digests) > 1}
    assert not twice, "a second state was sent under one round number"


def test_the_fleet_resumes_by_itself_when_its_broker_was_killed(tmp_path: Path) -> None:
    file = average_file(tmp_path, [18.0, 21.5, 19.25, 24.0, 20.0], 120)
    with (
        start_broker("embedded") as broker,
        running(file, tmp_path, broker) as (_, nodes),
    ):
        wait_until(lambda: min(node.round for node in nodes.nodes.values()) >= 10, nodes)
        broker.kill()
        time.sleep(2.0)
        assert not nodes.poll()
        stopped_at = [node.round for node in nodes.nodes.values()]
        assert max(stopped_at) < 120, "the fleet was done before its broker was killed"
        broker.restart()
        nodes.wait()
    assert [node.restarts for node in nodes.nodes.values()] == [0] * 5
    last = Trajectory.of(nodes, 1).last
    assert disagreement(last) < 1e-6


def test_captured_traffic_holds_no_reading_no_state_and_no_key(tmp_path: Path) -> None:
    readings = [21.8437, 19.4521, 23.9173, 20.2789]
    file = average_file(tmp_path, readings, 12)
    with (
        start_broker("embedded") as broker,
        Wiretap(broker.host, broker.port) as tap,
        running(file, tmp_path, broker, port=tap.port) as (fleet, nodes),
    ):
        nodes.wait()
        traffic = b"\n".join(tap.captured)
    assert len(traffic) > 50_000
    assert b"cf/v2/trial/q/n1" in traffic, "the tap is not on the line"
    states = [
        entry for node in nodes.nodes.values() for x in node.estimates.values() for entry in x
    ]
    canaries = [form for value in (*readings, *states) for form in forms_of(value)]
    for node in nodes.nodes.values():
        keys = read_keys(node.folder, fleet.file.crypto)
        for prime in (keys.paillier.p, keys.paillier.q):
            plain = int(prime).to_bytes(32, "big")
            canaries += [plain, plain[::-1], str(prime).encode(), plain.hex().encode()]
            canaries.append(base64.urlsafe_b64encode(plain).rstrip(b"="))
        raw = keys.identity.private_bytes_raw()
        canaries += [raw, raw.hex().encode(), base64.b64encode(raw)]
    # Four bytes of a float may occur in half a megabyte of ciphertext at random; eight may not.
    found = [canary for canary in set(canaries) if len(canary) >= 5 and canary in traffic]
    assert not found
    logs = b"".join(node.log.read_bytes() for node in nodes.nodes.values())
    assert not [canary for canary in set(canaries) if len(canary) >= 5 and canary in logs]


def test_a_node_that_waits_idles_quietly_and_stays_small(tmp_path: Path) -> None:
    """One that does not sleep uses seconds; benchmarks/idle.py has the figures and the start."""
    file = average_file(tmp_path, [20.0, 21.0, 22.0], 5, more=", period_s: 3600")
    file.write_text(file.read_text().replace(WEAK, "crypto: {key_bits: 2048}"))
    with (
        start_broker("embedded") as broker,
        running(file, tmp_path, broker, forked=False) as (_, nodes),
    ):
        wait_until(lambda: all(node.rounds for node in nodes.nodes.values()), nodes)
        processes = [psutil.Process(n.process.pid) for n in nodes.nodes.values() if n.process]

        def is_idle() -> bool:
            """The first seconds are of the pools, which fill."""
            before = [sum(process.cpu_times()[:2]) for process in processes]
            time.sleep(3.0)
            after = [sum(process.cpu_times()[:2]) for process in processes]
            return all(b - a < 0.03 for a, b in zip(before, after, strict=True))

        wait_until(is_idle, nodes)
        resident = [process.memory_info().rss / 2**20 for process in processes]
    assert max(resident) < 60.0


def test_mosquitto_serves_as_well_as_the_embedded_broker(tmp_path: Path) -> None:
    from cipherfleet_broker.mosquitto import find_mosquitto
    from cipherfleet_node.errors import ConfigError

    try:
        find_mosquitto()
    except ConfigError as error:
        pytest.skip(f"MOSQUITTO IS NOT INSTALLED, NOT TESTED: {error}")
    file = average_file(tmp_path, [20.0, 21.0, 22.5, 19.0], 40)
    result = run_fleet(
        file, RunOptions(broker="mosquitto", out=tmp_path / "out"), Console(stderr=True, quiet=True)
    )
    assert str(result.broker).startswith("mosquitto")
    assert result.silent == result.rejected == 0
    assert result.estimate == pytest.approx([20.625], abs=1e-4)


def test_the_intel_lab_example_learns_in_a_few_rounds(tmp_path: Path) -> None:
    """The demo itself, shortened: 2048-bit keys, real readings."""
    options = RunOptions(Overrides(nodes=3, rounds=30), out=tmp_path / "out")
    file = EXAMPLES / "intel_lab" / "fleet.yaml"
    result = run_fleet(file, options, Console(stderr=True, quiet=True))
    assert result.key_bits == 2048
    assert result.silent == result.rejected == 0
    assert result.relative_error is not None
    assert result.relative_error < 0.4
    assert result.disagreement is not None
    assert result.disagreement < 0.1


def test_the_demo_with_statistics_is_right_to_1e_6_within_fifty_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo with ten daemons and real readings. The size of keys does not change its figures."""
    example = Path(shutil.copytree(EXAMPLES / "intel_lab", tmp_path / "intel_lab"))
    file = example / "fleet.yaml"
    strong = "key_bits: 2048\n"
    assert strong in file.read_text()
    file.write_text(file.read_text().replace(strong, "key_bits: 512\n  allow_weak_keys: true\n"))
    monkeypatch.setattr(run_commands, "example_folder", lambda _name: example)
    arguments = ["demo", "--method", "statistics", "--seed", "1", "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(cli, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert (result["rounds"], result["dimension"]) == (50, 4)
    assert result["silent"] == result["rejected"] == 0
    assert result["relative_error"] <= 1e-6
    assert result["disagreement"] <= 1e-6
    assert result["rounds_to"]["1e-4"] <= 32
    assert result["rounds_to"]["1e-6"] <= 50
    (node, *_) = sorted((tmp_path / "out" / "nodes").iterdir())
    summary = node_summary(node, with_estimate=True)
    assert isinstance(summary["estimate"], list)
    assert len(summary["estimate"]) == 14
    assert summary["solution"] == pytest.approx(result["optimum"], rel=1e-4)
    assert "solution" not in node_summary(node, with_estimate=False)
