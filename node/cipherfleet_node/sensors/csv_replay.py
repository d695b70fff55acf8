"""A sensor that replays a recorded CSV file."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import CsvSensor

from .csv_table import CsvTable, format_of, gaps_of

log = logging.getLogger(__name__)


class CsvReplay:
    """Return each row of this node once, in the order of the file.

    The whole file is read and checked at the start, so that no round can fail because of it.
    """

    def __init__(self, config: CsvSensor, folder: Path, needed: Collection[str]) -> None:
        table = CsvTable(folder / config.path, format_of(config))
        self.fields = tuple(name for name in table.columns if name in needed)
        self._left = table.samples(config.where, needed, config.limits, gaps_of(config))
        skipped = len(table.select(config.where)) - len(self._left)
        if skipped:
            log.info("%s: %d rows with gaps are left out", table.file, skipped)
        self._config = config
        self._reads = 0

    def read(self) -> list[Sample]:
        """Return the next samples: those of one round, or all without a pace; [] at the end."""
        count = rows_of_read(self._config, self._reads)
        self._reads += 1
        samples = self._left[:count]
        self._left = self._left[len(samples) :]
        return samples

    def close(self) -> None:
        """Drop the rows that have not been read."""
        self._left = []


def rows_of_read(config: CsvSensor, number: int) -> int | None:
    """Return the rows that read *number*, counted from 0, takes; None: all that are left.

    The node reads once before each round.
    """
    if config.rounds_per_row is None:
        return config.rows_per_round
    if number == 0:
        return config.first_rows
    return 1 if number % config.rounds_per_row == 0 else 0
