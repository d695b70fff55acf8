"""The liveness of each neighbour and its latest round, as far as this node knows.

The table distinguishes five properties of a neighbour. They are facts or reports, not phases:

* *present*: its answers are awaited. A message of its own makes it present. Its passed deadline
  (`fall_silent`), its departure or its restart ends this.
* *departed*: its presence is `disconnected`, or the broker has published its last will (`lost`).
  Queries and answers do not revoke this, since the broker may deliver them late. Another presence
  message or a new epoch does.
* *finished*: its presence has said that it has run all its rounds. This is never revoked.
* *live*: it has sent a message on the current connection that was not a retained one.
* its *round*: the highest round of its queries in its present epoch, or UNSEEN. The neighbour
  itself claims it; `round.jump_target` limits what one false claim can do.
"""

from __future__ import annotations

from collections.abc import Iterable

UNSEEN = -1  # the round of a neighbour that has sent no query in its present epoch


class NeighbourTable:
    """The state of every neighbour; the properties are explained at the head of this module."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.present: set[str] = set()
        self._departed: set[str] = set()
        self._finished: set[str] = set()
        self._live: set[str] = set()
        self._claims = dict.fromkeys(self.names, UNSEEN)

    # -- recording ------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Forget who was live: this node has a new connection to the broker."""
        self._live.clear()

    def mark_live(self, name: str) -> None:
        """Record that a message of *name* came that the broker had not retained."""
        self._live.add(name)

    def begin_epoch(self, name: str) -> None:
        """Forget round, presence and departure of *name*: it has restarted."""
        self._claims[name] = UNSEEN
        self.present.discard(name)
        self._departed.discard(name)

    def mark_present(self, name: str) -> bool:
        """Record a message of *name*; True if it was neither present nor departed before.

        A departed neighbour stays departed: the broker may deliver its earlier messages late.
        """
        if name in self.present or name in self._departed:
            return False
        self.present.add(name)
        return True

    def depart(self, name: str) -> None:
        """Record that *name* has departed, until a later presence message or a restart."""
        self._departed.add(name)
        self.present.discard(name)

    def arrive(self, name: str, *, finished: bool) -> None:
        """Record a presence message of *name* that says it is connected."""
        self._departed.discard(name)
        if finished:
            self._finished.add(name)

    def fall_silent(self, name: str) -> None:
        """Record that *name* let its deadline pass: it is not awaited until it is heard again."""
        self.present.discard(name)

    def record_round(self, name: str, round_number: int) -> None:
        """Record that *name* has opened *round_number*."""
        self._claims[name] = max(self._claims[name], round_number)

    # -- queries --------------------------------------------------------------------------------

    def round_of(self, name: str) -> int:
        """Return the latest round that *name* is known to have opened, or UNSEEN."""
        return self._claims[name]

    def beyond(self, round_number: int) -> set[str]:
        """Return the neighbours that are present in a round after *round_number*, or finished."""
        return self._finished | {n for n in self.present if self._claims[n] > round_number}

    def present_rounds(self) -> list[int]:
        """Return the latest round of each present neighbour."""
        return [self._claims[name] for name in self.present]

    @property
    def latest_round(self) -> int:
        """The latest round that any neighbour is known to have opened, or UNSEEN."""
        return max(self._claims.values(), default=UNSEEN)

    def is_live_neighbour_beyond(self, round_number: int) -> bool:
        """True if a live neighbour has opened a round after *round_number*."""
        return any(self._claims[name] > round_number for name in self._live)

    @property
    def are_all_present(self) -> bool:
        """True if every neighbour is present or has finished."""
        return self.present | self._finished >= self.names

    @property
    def are_present_live(self) -> bool:
        """True if every present neighbour is live."""
        return self.present <= self._live

    @property
    def have_all_finished(self) -> bool:
        """True if every neighbour has run all its rounds."""
        return self._finished >= self.names

    @property
    def have_all_left(self) -> bool:
        """True if every neighbour has finished or departed, so that no query will come."""
        return self._finished | self._departed >= self.names
