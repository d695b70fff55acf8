"""Sensors that read real drivers of the Linux kernel, in a guest that emulates the chips."""

from __future__ import annotations

import pytest

from tests.support.guest_kernel import call_in_guest
from tests.support.in_guest import CHIP_MODULES, TEMPERATURES, read_chips


def test_an_lm75_and_a_bmp280_are_read_through_the_drivers_of_the_kernel() -> None:
    result = call_in_guest(read_chips, CHIP_MODULES)
    assert result["lm75"] == list(TEMPERATURES)  # halves of degrees are exact
    # The answer of the data sheet's example: 25.08 degrees Celsius and 100653.27 Pa; the driver's
    # arithmetic has 1/256 Pa.
    expected = {"t": 25.08, "p": pytest.approx(100.65327, abs=2e-5)}
    assert result["bmp280"] == [expected, expected]
    assert result["lost"] == [
        "hwmon chip 'lm75': is not here, this machine has no chips",
        "iio chip 'bmp280': is not here, this machine has no iio chips",
    ]
