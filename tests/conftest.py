"""Fixtures and settings of all tests: hypothesis profiles, toy keys, the container engine."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cipherfleet_deploy.containers.engine import ContainerEngine
from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.paillier import PrivateKey
from tests.support.docker_engine import built_image, running_engine
from tests.support.groups import group_of, is_separate, rank_of
from tests.support.late_grammars import compile_grammars_late

# A busy machine must not fail a property: no deadlines. In CI the same examples every time.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
# scipy's many small products are not worth threads, which a busy machine makes wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
settings.load_profile("ci" if os.environ.get("CI") else "here")
compile_grammars_late()
# A shell ignores Ctrl-C for commands in its background, and so would those that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Run three workers more than there are cores, since real fleets mostly wait."""
    return len(os.sched_getaffinity(0)) + 3


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile: six thousand tests and their modules stay until the end.

    Later collections do not look at them either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests their groups, and put those first that take longest."""
    for item in items:
        if not is_separate(item):
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=rank_of)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Put the umask back: a command changes it for its process, which may be that of the test."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


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
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of temporary files that all processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def image(engine: ContainerEngine, shared_folder: Path) -> str:
    """The image of this very source."""
    return built_image(engine, shared_folder)
