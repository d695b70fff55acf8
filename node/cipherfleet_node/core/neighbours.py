"""The liveness of each neighbour, as far as this node knows.

The table distinguishes these properties of a neighbour. They are facts or reports, not phases:

* *present*: it can be asked. Any message of its own makes it present. Its departure or its restart
  ends this. A neighbour that does not answer stays present; `roster.py` asks it less often.
* *departed*: its presence is `disconnected`, or the broker has published its last will (`lost`).
  Queries and replies do not revoke this, since the broker may deliver them late. Another presence
  message or a new epoch does.
* *done*: its presence has said that it has run all its rounds. A done neighbour still takes part.
* *finished*: its presence has said that it runs no more rounds. It is not asked any more.
* *waiting*: it has started without a state and has not learned its round yet.
* *live*: it has sent a message on the current connection that was not a retained one.

A *sign of life* is a message that the broker had not retained. A node answers the first sign of
life of a neighbour on a connection with one of its own: its latest query, or its presence if it has
none. Two nodes that start at the same time learn of each other in this way.
"""

from __future__ import annotations

from collections.abc import Iterable


class NeighbourTable:
    """The liveness of every neighbour; the properties are explained at the head of this module."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.present: set[str] = set()
        self.waiting: set[str] = set()
        self._departed: set[str] = set()
        self._done: set[str] = set()
        self._finished: set[str] = set()
        self._live: set[str] = set()

    # -- recording ------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Forget who was live: this node has a new connection to the broker."""
        self._live.clear()

    def mark_live(self, name: str) -> bool:
        """Record a message that the broker had not retained; True for the first sign of life."""
        is_first = name not in self._live
        self._live.add(name)
        return is_first

    def begin_epoch(self, name: str) -> None:
        """Forget all of *name*: it has restarted."""
        for group in (
            self.present,
            self.waiting,
            self._departed,
            self._done,
            self._finished,
            self._live,
        ):
            group.discard(name)

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

    def arrive(self, name: str, state: str) -> None:
        """Record a presence message of *name* that says it is connected."""
        self._departed.discard(name)
        for group, is_member in (
            (self._done, state in ("done", "finished")),
            (self._finished, state == "finished"),
            (self.waiting, state == "waiting"),
        ):
            group.add(name) if is_member else group.discard(name)

    def show_round(self, name: str) -> None:
        """Record that *name* has opened a round: it does not wait any more."""
        self.waiting.discard(name)

    # -- queries --------------------------------------------------------------------------------

    @property
    def askable(self) -> set[str]:
        """The neighbours that can be asked: present, and not finished."""
        return self.present - self._finished

    @property
    def are_all_present(self) -> bool:
        """True if every neighbour is present or has finished."""
        return self.present | self._finished >= self.names

    @property
    def are_present_live(self) -> bool:
        """True if every present neighbour is live."""
        return self.present <= self._live

    @property
    def are_present_done(self) -> bool:
        """True if every neighbour that is present has run all its rounds."""
        return self.present <= self._done

    @property
    def are_all_waiting(self) -> bool:
        """True if there are neighbours, and all of them have lost their round as well."""
        return bool(self.names) and self.waiting >= self.names

    @property
    def have_all_left(self) -> bool:
        """True if every neighbour has finished or departed, so that no query will come."""
        return self._finished | self._departed >= self.names
