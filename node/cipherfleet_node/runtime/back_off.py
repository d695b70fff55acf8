"""The delay before the next connection to the broker: exponential, with jitter, without an end.

A delay is at most a second longer than the time since the first failure, so a connection comes
back soon after a short outage. Its limit depends on the failure. A broker that accepts connections
and loses them may be well at the next moment: at most DROPPED_LIMIT_S. A broker that cannot be
reached may be away for days: at most REFUSED_LIMIT_S. Jitter keeps the nodes of a fleet from
returning all at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S = 1.0
GROWTH = 1.5
DROPPED_LIMIT_S = 20.0
REFUSED_LIMIT_S = 120.0
SETTLED_S = 30.0  # a connection that has lasted so long ends the series of failures


class BackOff:
    """Count the failures in a row. *jitter* returns a number from 0 to 1."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._dropped = self._refused = 0

    def accepted(self) -> None:
        """Record that the broker has accepted the connection."""
        self._refused = 0

    def dropped(self, lasted_s: float) -> float:
        """Return the delay in seconds after the end of a connection that lasted *lasted_s*."""
        self._dropped = 1 if lasted_s >= SETTLED_S else self._dropped + 1
        return self._delay_s(self._dropped, DROPPED_LIMIT_S)

    def refused(self) -> float:
        """Return the delay in seconds after the broker was not reached, or refused this node."""
        self._refused += 1
        return self._delay_s(self._refused, REFUSED_LIMIT_S)

    def _delay_s(self, failures: int, limit_s: float) -> float:
        exponent = min(failures - 1, 64)  # beyond any limit, and within a float
        return min(limit_s, FIRST_S * GROWTH**exponent) * (1.0 + self._jitter()) / 2.0
