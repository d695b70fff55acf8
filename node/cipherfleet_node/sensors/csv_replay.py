"""A sensor that replays a recorded CSV file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import CsvSensor

from .csv_table import CsvTable


class CsvReplay:
    """Return each row of this node once, in the order of the file.

    The whole file is read and checked at the start, so that no round can fail because of it.
    """

    def __init__(self, config: CsvSensor, folder: Path, needed: Collection[str]) -> None:
        table = CsvTable(folder / config.path)
        self.fields = tuple(name for name in table.columns if name in needed)
        self._left = table.samples(config.where, needed, config.limits)
        self._rows_per_round = config.rows_per_round

    def read(self) -> list[Sample]:
        """Return the next rows_per_round samples, or all if it is not set; [] at the end."""
        count = self._rows_per_round or len(self._left)
        samples, self._left = self._left[:count], self._left[count:]
        return samples

    def close(self) -> None:
        """Drop the rows that have not been read."""
        self._left = []
