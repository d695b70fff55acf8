"""Sensors that read real drivers of the Linux kernel, in a guest that emulates the chips."""

from __future__ import annotations

from tests.support.guest_kernel import call_in_guest
from tests.support.in_guest import CHIP_MODULES, TEMPERATURES, read_lm75


def test_an_lm75_is_read_through_the_driver_of_the_kernel() -> None:
    result = call_in_guest(read_lm75, CHIP_MODULES)
    assert result["read"] == list(TEMPERATURES)  # halves of degrees are exact
    assert result["lost"] == "hwmon chip 'lm75': is not here, this machine has no chips"
