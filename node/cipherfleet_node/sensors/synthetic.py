"""Made-up readings for trials."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import SyntheticSensor

from .base import check_fields, check_plausible


class Synthetic:
    """Independent normal fields, the same ones at every start with the same seed."""

    def __init__(self, config: SyntheticSensor, needed: Collection[str]) -> None:
        self.fields = tuple(config.fields)
        check_fields("sensor synthetic", self.fields, needed, config.limits)
        self._config = config
        # A source per field: adding a field leaves the others' values as they were.
        self._sources = {
            name: Random(f"{config.seed}/{name}")  # noqa: S311 - an invented reading, no secret
            for name in config.fields
        }

    def read(self) -> list[Sample]:
        """rows_per_round samples; raises SensorUnavailable if one lies outside the limits."""
        samples = [self._sample() for _ in range(self._config.rows_per_round)]
        for sample in samples:
            check_plausible("sensor synthetic", sample.values, self._config.limits)
        return samples

    def close(self) -> None:
        """Nothing to let go of."""

    def _sample(self) -> Sample:
        return Sample(
            {
                name: self._sources[name].gauss(made_up.mean, made_up.deviation)
                for name, made_up in self._config.fields.items()
            }
        )
