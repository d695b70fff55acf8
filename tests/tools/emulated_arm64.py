"""Run nodes of emulated arm64 boards beside nodes of this machine, as root, with Docker.

`python -m tests.tools.emulated_arm64` builds both images without a registry, and runs a fleet of
which half the nodes are of either kind, to the answer. All times are those of an emulator: no board
has them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from cipherfleet_deploy.containers.engine import ContainerEngine
from cipherfleet_deploy.containers.image import ImageOptions, build_image
from cipherfleet_deploy.containers.plan import prepare_containers
from cipherfleet_deploy.containers.run import DockerFleet
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.docker_engine import IMAGE, running_engine

READINGS = (20.5, 21.0, 21.5, 22.0)
ARM_NODES = ("n2", "n4")
PATIENCE_S = 600.0


def main() -> int:
    """Run it; the exit code says how it went."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--key-bits", type=int, default=2048)
    given = options.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root, to make the bases of Debian's packages")
    with tempfile.TemporaryDirectory() as folder, running_engine() as engine:
        images = [built(engine, machine) for machine in (None, "arm64")]
        run(engine, images, load_fleet(fleet_file(Path(folder), given.rounds, given.key_bits)))
    return 0


def built(engine: ContainerEngine, machine: str | None) -> str:
    """The image of this source for *machine*; its time and size are printed."""
    began = time.monotonic()
    made = build_image(engine, ImageOptions(IMAGE, None, True, machine), lambda _text: None)
    took = time.monotonic() - began
    print(f"image {made.image}: {made.mib} MiB, {took:.0f} s, what was cached left out")
    return made.image


def fleet_file(folder: Path, rounds: int, key_bits: int) -> Path:
    """Four nodes that average their readings."""
    rows = "".join(f"{n},{value}\n" for n, value in enumerate(READINGS, 1))
    (folder / "t.csv").write_text("room,t\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: boards-{os.getpid()}
crypto: {{key_bits: {key_bits}, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}, answer_timeout_s: 30}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: complete}}
nodes:
  - {{each: 4, id: "n{{n}}", sensor: {{kind: csv, path: t.csv, where: {{room: "{{n}}"}}}}}}
"""
    )
    return file


def run(engine: ContainerEngine, images: list[str], fleet: Fleet) -> None:
    """Run *fleet* to its end and say what came of it; raises AssertionError where it is wrong."""
    out, name = fleet.folder / "out", fleet.file.fleet
    containers = prepare_containers(
        fleet, out, Simulation(trace_estimates=True), None, Console(stderr=True)
    )
    mixed = [
        replace(each, image=images[1] if each.name in ARM_NODES else None) for each in containers
    ]
    nodes = DockerFleet(engine, name, mixed, PATIENCE_S)
    try:
        nodes.start(out, images[0])
        machines = {n: engine.run(name, n, ["uname", "-m"])[1].strip() for n in nodes.nodes}
        nodes.wait()
    finally:
        nodes.stop()
    assert machines == {"n1": "x86_64", "n2": "aarch64", "n3": "x86_64", "n4": "aarch64"}
    last = [each.estimates[each.round - 1][0] for each in nodes.nodes.values()]
    assert np.allclose(last, np.mean(READINGS), atol=1e-4), last
    silent = sum(line["silent"] for each in nodes.nodes.values() for line in each.rounds)
    print(f"{fleet.file.algorithm.rounds} rounds, {silent} silent neighbours, all at the mean")
    for each in nodes.nodes.values():
        show(each, machines[each.id])


def show(node: NodeRecord, machine: str) -> None:
    """One line of figures."""
    rounds = [line["ms"] for line in node.rounds[1:]]
    note = ", EMULATED" if machine == "aarch64" else ""
    print(f"{node.id}: {machine}{note}, median round {np.median(rounds):.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
