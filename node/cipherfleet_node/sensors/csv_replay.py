"""A recorded CSV file in place of a live sensor."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import CsvSensor

from .csv_table import CsvTable


class CsvReplay:
    """Gives each row that is this node's once, in the file's order.

    The file is read and checked as a whole when opened, so that no round fails on it later.
    """

    def __init__(self, config: CsvSensor, folder: Path, needed: Collection[str]) -> None:
        table = CsvTable(folder / config.path)
        self.fields = tuple(name for name in table.columns if name in needed)
        self._left = table.samples(config.where, needed, config.limits)
        self._rows_per_round = config.rows_per_round

    def read(self) -> list[Sample]:
        """The next rows_per_round samples, or all of them; [] once none is left."""
        count = self._rows_per_round or len(self._left)
        samples, self._left = self._left[:count], self._left[count:]
        return samples

    def close(self) -> None:
        """Forget the rows that were not read."""
        self._left = []
