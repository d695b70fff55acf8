"""The epoch of a start: a number that every message of this start carries.

The epochs of a node rise with its starts, and neighbours refuse a lower one. Two sources make them
rise: the saved state, and the clock for a node that has lost its state. A clock outside
PLAUSIBLE_CLOCK is not used, so a state that was written under a wrong clock locks no node out.

The lowest RANDOM_BITS bits are random. Two devices that start from copies of one card within the
same second then have different epochs, except with probability 2^-20.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from cipherfleet_node import RELEASED

RANDOM_BITS = 20
EARLIEST = datetime.fromisoformat(RELEASED).replace(tzinfo=UTC)
# A program that is older than this is not in use any more; the clock is wrong.
LATEST = EARLIEST + timedelta(days=20 * 365)


def is_plausible(clock_s: float) -> bool:
    """True if *clock_s*, seconds since 1970, can be the present time of this version."""
    return EARLIEST.timestamp() <= clock_s <= LATEST.timestamp()


def new_epoch(latest: int, clock_s: float) -> int:
    """Return an epoch that is at least *latest* + 2, random in its lowest bits.

    *latest* is the highest known epoch of this node, 0 if none is known. The result is never
    *latest* + 1: only an answer to a later start has that epoch (`own_presence.py`).
    """
    clock = int(clock_s) << RANDOM_BITS if is_plausible(clock_s) else 0
    return max(latest, clock) + 2 + secrets.randbelow(2**RANDOM_BITS)
