"""The same tests on every machine of a bench: `pytest hil_tests --bench FILE`.

A test that takes `target` runs on each, which it has for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this first of all
    from cipherfleet_hil.targets.bench_file import Bench, Spec
    from cipherfleet_hil.targets.target import KeptTarget


def pytest_addoption(parser: pytest.Parser) -> None:
    """Bring the option along."""
    parser.addoption(
        "--bench", type=Path, metavar="FILE", help="YAML file of the machines; without it, this one"
    )


def _bench(config: pytest.Config) -> Bench:
    from cipherfleet_hil.targets.bench_file import bench_of
    from cipherfleet_node.errors import ConfigError

    try:
        return bench_of(config.getoption("--bench"))
    except ConfigError as error:
        raise pytest.UsageError("\n".join(map(str, error.findings))) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each machine."""
    if "spec" in metafunc.fixturenames:
        specs = _bench(metafunc.config).targets
        ids = [each.name for each in specs]
        metafunc.parametrize("spec", specs, ids=ids, scope="session")


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """All machines."""
    return _bench(pytestconfig)


@pytest.fixture(scope="session")
def target(
    spec: Spec, bench: Bench, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeptTarget]:
    """One machine, ours alone for all tests on it."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--bench") is None:
            # Two runs of the suite on one machine disturb each other's figures, and may.
            patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("lease")))
        with bench.make(spec) as held:
            yield held
