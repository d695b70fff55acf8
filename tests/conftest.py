"""Fixtures and settings of all tests: hypothesis profiles, toy keys, the container engine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from cipherfleet_deploy.containers.engine import ContainerEngine
from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.paillier import PrivateKey
from tests.support.docker_engine import built_image, running_engine

# A busy machine must not fail a property: no deadlines. In CI the same examples every time.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
# scipy's many small products are not worth threads, which a busy machine makes wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_xdist_auto_num_workers() -> int:
    """Run one worker more than there are cores, since real fleets mostly wait for each other."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_itemcollected(item: pytest.Item) -> None:
    """Group the tests for pytest-xdist: fleets one after another, all else by file.

    A real fleet uses every core for moments and waits for most of its time. So the fleets of
    tests/deploy, those of tests/node and all others are three groups, which run side by side. Those
    in containers are a group of their own, which needs the engine and the image.
    """
    item.add_marker(pytest.mark.xdist_group(_slow_group(item) or item.nodeid.split("::")[0]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest groups first."""
    items.sort(key=lambda item: (_slow_group(item) is None, _slow_group(item) or ""))


def _slow_group(item: pytest.Item) -> str | None:
    if item.get_closest_marker("docker"):
        return "docker"
    if item.get_closest_marker("fleet"):
        folder = item.nodeid.split("/")[1]
        return f"fleet of {folder}" if folder in ("deploy", "node") else "fleet"
    return None


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    """A toy key of 512 bits, always the same."""
    return toy_key(0)


@pytest.fixture(scope="session")
def other_key() -> PrivateKey:
    """Another toy key."""
    return toy_key(1)


@pytest.fixture(scope="session")
def engine() -> Iterator[ContainerEngine]:
    """A container engine; tests that want it skip where none can be had."""
    with running_engine() as found:
        yield found


@pytest.fixture(scope="session")
def image(engine: ContainerEngine) -> str:
    """The image of this very source."""
    return built_image(engine)
