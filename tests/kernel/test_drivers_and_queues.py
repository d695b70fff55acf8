"""What this machine's kernel may lack: real drivers of chips, and a network with a delay.

A guest has them. Its boot takes longer than all that is measured in it, so there is one for both.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.guest_kernel import call_in_guest
from tests.support.in_guest import DELAY_MS, MODULES, TEMPERATURES, measure_all


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What the functions of `tests.support.in_guest` return in the guest, by their names."""
    found: dict[str, Any] = call_in_guest(measure_all, MODULES)
    return found


def test_an_lm75_and_a_bmp280_are_read_through_the_drivers_of_the_kernel(
    measured: dict[str, Any],
) -> None:
    result = measured["read_chips"]
    assert result["lm75"] == list(TEMPERATURES)  # halves of degrees are exact
    # The answer of the data sheet's example: 25.08 degrees Celsius and 100653.27 Pa; the driver's
    # arithmetic has 1/256 Pa.
    expected = {"t": 25.08, "p": pytest.approx(100.65327, abs=2e-5)}
    assert result["bmp280"] == [expected, expected]
    assert result["lost"] == [
        "hwmon chip 'lm75': is not here, this machine has no chips",
        "iio chip 'bmp280': is not here, this machine has no iio chips",
    ]


def test_a_message_to_the_broker_and_back_takes_the_delay_of_both_ways(
    measured: dict[str, Any],
) -> None:
    result = measured["measure_delay"]
    assert min(result["delayed"]) >= 2 * DELAY_MS
    assert min(result["before"]) < 2 * DELAY_MS  # the delay was not there before
