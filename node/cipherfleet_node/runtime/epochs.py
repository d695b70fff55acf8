"""The epoch of a start: a number that every message of this start carries.

The epochs of a node rise with its starts, and neighbours refuse a lower one. Two sources make them
rise: the saved state, and the clock for a node that has lost its state. A clock outside
PLAUSIBLE_CLOCK is not used, so a state that was written under a wrong clock locks no node out.

An epoch has a random part. Two devices that start from copies of one card within the same second
then have different epochs, except with probability 2^-20.

The ANSWERS epochs above one are reserved: only a device with the same identity that was there first
takes one of them (`own_presence.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cipherfleet_node import RELEASED

RANDOM_BITS = 20
ANSWERS = 2**16
EARLIEST = datetime.fromisoformat(RELEASED).replace(tzinfo=UTC)
# A program that is older than this is not in use any more; the clock is wrong.
LATEST = EARLIEST + timedelta(days=20 * 365)


def is_plausible(clock_s: float) -> bool:
    """True if *clock_s*, seconds since 1970, can be the present time of this version."""
    return EARLIEST.timestamp() <= clock_s <= LATEST.timestamp()


def time_off_s(saved_s: float, clock_s: float) -> float:
    """Return the seconds between two times of day, 0 if one of them is not plausible."""
    if is_plausible(saved_s) and is_plausible(clock_s):
        return max(clock_s - saved_s, 0.0)
    return 0.0


def new_epoch(
    latest: int, clock_s: float, random_below: Callable[[int], int] = secrets.randbelow
) -> int:
    """Return the epoch of a start. It is more than ANSWERS above *latest*.

    *latest* is the highest known epoch of this node, 0 if none is known.
    """
    clock = int(clock_s) << RANDOM_BITS if is_plausible(clock_s) else 0
    return max(latest, clock) + ANSWERS + 1 + random_below(2**RANDOM_BITS)


def answer_to(later: int, random_below: Callable[[int], int] = secrets.randbelow) -> int:
    """Return the epoch with which a device answers a later start of its identity."""
    return later + 1 + random_below(ANSWERS)


def is_answer(epoch: int, to: int) -> bool:
    """True if *epoch* answers the start with the epoch *to*."""
    return to < epoch <= to + ANSWERS
