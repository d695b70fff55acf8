"""The sensor of a node that has none: a follower."""

from __future__ import annotations

from cipherfleet_node.core.sample import Sample


class Absent:
    """It has no fields, and never a reading."""

    fields: tuple[str, ...] = ()

    def read(self) -> list[Sample]:
        """Return an empty list: there is nothing to read."""
        return []

    def close(self) -> None:
        """Do nothing: there is no device to release."""
