"""A container as a target: the effect of its quota, and complete removal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import pytest

from cipherfleet_deploy.containers.engine import FLEET_LABEL, ContainerEngine
from cipherfleet_deploy.containers.limits import read_profile
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_hil.measurement.document import read_measurement, write_measurement
from cipherfleet_hil.measuring.crypto import CryptoPlan, make_worker_host, measure_crypto
from cipherfleet_hil.measuring.exchange_scene import PHE
from cipherfleet_hil.measuring.rounds import RoundsPlan, measure_rounds
from cipherfleet_hil.measuring.sampling import Effort
from cipherfleet_hil.targets.bench_file import Bench, BrokerSpec, DockerSpec
from cipherfleet_hil.targets.docker import DockerTarget
from cipherfleet_hil.targets.target import LeasedTarget

Test = TypeVar("Test", bound=Callable[..., None])

QUOTA = 0.5
HALF = f"cpu={QUOTA},memory=512m"
TOLERANCE = 0.25
QUIET_SHARE = 0.9  # of a CPU, which an unlimited thread gets on a machine that is otherwise idle


def in_containers(test: Test) -> Test:
    """Marks a test that needs an engine; the first one may have to make the image."""
    marked: Test = pytest.mark.docker(pytest.mark.timeout(900)(test))
    return marked


def left(engine: ContainerEngine) -> list[Any]:
    """Containers of measurements."""
    labelled = {"label": FLEET_LABEL}
    return [
        each
        for each in engine.client.api.containers(all=True, filters=labelled)
        if each["Labels"][FLEET_LABEL].startswith("bench-")
    ]


def one_long_run(target: LeasedTarget) -> tuple[float, float]:
    """Seconds of the clock for about a second of one thread's work, and the part with a CPU."""
    code = (
        "import json, time; began = time.perf_counter(), time.process_time();"
        "sum(range(4 * 10**7));"
        "print(json.dumps([time.perf_counter() - began[0], time.process_time() - began[1]]))"
    )
    wall, cpu = json.loads(target.run(["python", "-c", code], 120.0))
    return wall, cpu / wall


@in_containers
def test_a_quota_of_half_a_cpu_makes_one_thread_take_about_twice_as_long_or_more(
    engine: ContainerEngine, image: str
) -> None:
    """A thread computes for 50 of every 100 ms. What is shorter than that may not notice.

    A busy machine stops the limited thread as well, so there is no upper bound.
    """
    with (
        DockerTarget("half", read_profile(HALF), image) as half,
        DockerTarget("whole", None, image) as whole,
    ):
        assert (half.kind, whole.kind) == ("emulated", "host")
        pairs = [(one_long_run(half), one_long_run(whole)) for _ in range(3)]
        share = median(limited[1] for limited, _ in pairs)
        assert share < QUOTA * (1 + TOLERANCE), "the quota holds, however busy the machine"
        if min(free[1] for _, free in pairs) <= QUIET_SHARE:
            pytest.skip("THE MACHINE IS TOO BUSY: WHAT A QUOTA COSTS WAS NOT TESTED")
        # Of the parts with a CPU, not of the times: the machine's own speed changes by itself.
        assert median(free[1] / limited[1] for limited, free in pairs) > (1 - TOLERANCE) / QUOTA
    assert left(engine) == []


@in_containers
def test_crypto_in_a_limited_container_gets_its_quota_and_says_that_it_is_emulated(
    image: str, tmp_path: Path
) -> None:
    """The naive exchange of 32 values takes a second of one thread; its document is read back."""
    plan = CryptoPlan((2048,), (32,), (1,), 1, Effort(0.0, 1), cases=(PHE,))
    shares = []
    with (
        DockerTarget("half", read_profile(HALF), image) as half,
        DockerTarget("whole", None, image) as whole,
    ):
        for target, kind in ((half, "emulated"), (whole, "host"), (half, "emulated")):
            document = measure_crypto(plan, make_worker_host(target), "test")
            write_measurement(tmp_path / f"{kind}.json", document)
            assert read_measurement(tmp_path / f"{kind}.json").cipherfleet.kind == kind
            if kind == "emulated":
                run = document.benchmarks[0].runs[0].metadata
                shares.append(float(run["cpu_share"]))
    assert min(shares) < QUOTA * (1 + TOLERANCE), "the quota holds, however busy the machine"


@in_containers
def test_rounds_between_containers_are_measured_and_nothing_stays(
    engine: ContainerEngine, image: str
) -> None:
    specs = tuple(DockerSpec(name=name, profile=HALF, image=image) for name in ("a", "b", "c"))
    file = example_folder("intel_lab") / "fleet.yaml"
    plan = RoundsPlan(file, Bench(specs, BrokerSpec()), 10, 3, 3)
    result = measure_rounds(plan, "test", lambda _text: None).cipherfleet
    assert result.kind == "emulated"
    assert sorted(node.target for node in result.nodes) == ["a", "b", "c"]
    # A quota or a busy machine stops a node between two phases too.
    assert all(abs(node.counts["unaccounted"]) < 0.5 for node in result.nodes)
    assert left(engine) == []
