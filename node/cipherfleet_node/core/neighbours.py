"""How a node's neighbours fare, as far as it can tell: who is there, and in which round."""

from __future__ import annotations

from collections.abc import Iterable

UNSEEN = -1  # the claim of a neighbour that was not heard in its present epoch


class Neighbourhood:
    """The neighbours' names, and what their messages and the broker have told of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.present: set[str] = set()  # waited for
        self._departed: set[str] = set()  # gone by their own or the broker's account
        self._finished: set[str] = set()  # have run all their rounds
        self._live: set[str] = set()  # heard themselves, not through what the broker retains
        self._claims = dict.fromkeys(self.names, UNSEEN)  # the latest round each has opened

    # -- news -----------------------------------------------------------------------------------

    def reconnected(self) -> None:
        """The node has a new connection: what it hears from now on is live."""
        self._live.clear()

    def spoke(self, name: str) -> None:
        """A message came from *name* itself."""
        self._live.add(name)

    def started_anew(self, name: str) -> None:
        """*name* has begun a new epoch: what it was before says nothing."""
        self._claims[name] = UNSEEN
        self.present.discard(name)
        self._departed.discard(name)

    def hear(self, name: str) -> bool:
        """A sign of life; True if it brings *name* back.

        What a departed neighbour had sent before is none: it may have been overtaken on the way.
        """
        if name in self.present or name in self._departed:
            return False
        self.present.add(name)
        return True

    def depart(self, name: str) -> None:
        """*name* is gone until it says otherwise, or starts anew."""
        self._departed.add(name)
        self.present.discard(name)

    def arrive(self, name: str, *, finished: bool) -> None:
        """*name* says that it is there."""
        self._departed.discard(name)
        if finished:
            self._finished.add(name)

    def fall_silent(self, name: str) -> None:
        """*name* has let a deadline pass: not waited for until it is heard again."""
        self.present.discard(name)

    def claim(self, name: str, round_number: int) -> None:
        """*name* has opened *round_number*."""
        self._claims[name] = max(self._claims[name], round_number)

    # -- what follows ---------------------------------------------------------------------------

    def round_of(self, name: str) -> int:
        """The latest round that *name* is known to have opened, or UNSEEN."""
        return self._claims[name]

    def beyond(self, round_number: int) -> set[str]:
        """Those who are past *round_number*: present in a later one, or finished."""
        return self._finished | {n for n in self.present if self._claims[n] > round_number}

    def rounds(self) -> list[int]:
        """The rounds that the present neighbours are in."""
        return [self._claims[name] for name in self.present]

    @property
    def farthest(self) -> int:
        """The latest round that anybody is known to have opened, or UNSEEN."""
        return max(self._claims.values(), default=UNSEEN)

    def anyone_beyond(self, round_number: int) -> bool:
        """Whether a neighbour that has spoken since the node connected is past *round_number*."""
        return any(self._claims[name] > round_number for name in self._live)

    @property
    def all_there(self) -> bool:
        """Whether every neighbour is present, or has finished."""
        return self.present | self._finished >= self.names

    @property
    def all_live(self) -> bool:
        """Whether every present neighbour has spoken since the node connected."""
        return self.present <= self._live

    @property
    def all_finished(self) -> bool:
        """Whether every neighbour has run all its rounds."""
        return self._finished >= self.names

    @property
    def all_done(self) -> bool:
        """Whether every neighbour has finished or departed: nobody will ask any more."""
        return self._finished | self._departed >= self.names
