"""A neighbour that floods a real daemon through a real mosquitto takes little of its memory.

For one minute instead of seconds: python -m tests.tools.flood --seconds 60
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_node.errors import ConfigError
from tests.tools.flood import LIMIT_MIB, run

pytestmark = pytest.mark.fleet


@pytest.fixture(autouse=True)
def mosquitto() -> None:
    try:
        find_mosquitto()
    except ConfigError as error:
        pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")


def test_a_flooded_node_stays_within_its_memory(tmp_path: Path) -> None:
    assert run(tmp_path, 3.0, by_count=False) < LIMIT_MIB


def test_with_a_queue_bounded_by_count_a_flood_fills_the_memory(tmp_path: Path) -> None:
    assert run(tmp_path, 3.0, by_count=True) > LIMIT_MIB
