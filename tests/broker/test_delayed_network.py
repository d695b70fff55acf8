"""Messages over a network with a delay, which the kernel of a guest makes (netem)."""

from __future__ import annotations

from tests.support.guest_kernel import call_in_guest
from tests.support.in_guest import DELAY_MODULES, DELAY_MS, measure_delay


def test_a_message_to_the_broker_and_back_takes_the_delay_of_both_ways() -> None:
    result = call_in_guest(measure_delay, DELAY_MODULES)
    assert min(result["delayed"]) >= 2 * DELAY_MS
    assert min(result["before"]) < 2 * DELAY_MS  # the delay was not there before
