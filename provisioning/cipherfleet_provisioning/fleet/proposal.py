"""What `cipherfleet init --sample` proposes, as types. This module imports nothing heavy."""

from __future__ import annotations

import msgspec


class ProposedColumn(msgspec.Struct, frozen=True):
    """A column of the sample with the proposed offset and scale, in the column's unit."""

    field: str
    offset: float
    scale: float


class LeftOut(msgspec.Struct, frozen=True):
    """A column of the sample that the objective does not use, and why."""

    field: str
    reason: str


class Proposal(msgspec.Struct, frozen=True):
    """The columns of the objective, and the one among them that the others explain, if any."""

    columns: tuple[ProposedColumn, ...]
    left_out: tuple[LeftOut, ...]
    target: str | None = None
