"""Queries whose fields do not matter, but for those that a test names."""

from __future__ import annotations

from collections.abc import Sequence

from cipherfleet_node.core.messages import Query


def query_of(
    fleet: str,
    sender: str,
    epoch: int,
    number: int,
    roster: Sequence[str] = (),
    ciphertexts: Sequence[bytes] = (),
) -> Query:
    """Return a query of tags of zeros that says nothing of earlier rounds."""
    tag = bytes(8)
    return Query(
        fleet,
        sender,
        epoch,
        number,
        list(roster),
        [],
        False,
        None,
        0,
        tag,
        tag,
        list(ciphertexts),
    )
