"""pytest plugin: `pytest hil_tests --bench FILE` runs the tests on every target of a bench.

A test with the fixture `target` runs once per target and holds its lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this module before all others
    from cipherfleet_hil.targets.bench_file import Bench, Spec
    from cipherfleet_hil.targets.target import LeasedTarget


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench",
        type=Path,
        metavar="FILE",
        help="bench file (YAML) of the targets (default: this machine)",
    )


def _bench(config: pytest.Config) -> Bench:
    from cipherfleet_hil.targets.bench_file import load_bench
    from cipherfleet_node.errors import ConfigError

    try:
        return load_bench(config.getoption("--bench"))
    except ConfigError as error:
        raise pytest.UsageError("\n".join(map(str, error.findings))) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "spec" in metafunc.fixturenames:
        specs = _bench(metafunc.config).targets
        ids = [each.name for each in specs]
        metafunc.parametrize("spec", specs, ids=ids, scope="session")


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    return _bench(pytestconfig)


@pytest.fixture(scope="session")
def target(
    spec: Spec, bench: Bench, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LeasedTarget]:
    """One target, leased for all tests of the session that run on it."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--bench") is None:
            # Two runs of the suite may share one machine, although they disturb each other's
            # figures.
            patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("lease")))
        with bench.open_target(spec) as held:
            yield held
