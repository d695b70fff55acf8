"""A sensor that generates random readings for trials."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import SyntheticSensor

from .base import check_fields, check_plausible


class Synthetic:
    """Independent normal fields. The values repeat at every start with the same seed."""

    def __init__(self, config: SyntheticSensor, needed: Collection[str]) -> None:
        self.fields = tuple(config.fields)
        check_fields("sensor synthetic", self.fields, needed, config.limits)
        self._config = config
        # One generator per field: another field does not change the values of the others.
        self._sources = {
            name: Random(f"{config.seed}/{name}")  # noqa: S311 - a generated reading, no secret
            for name in config.fields
        }

    def read(self) -> list[Sample]:
        """Return rows_per_round samples; raises SensorUnavailable if one is outside its limits."""
        samples = [self._sample() for _ in range(self._config.rows_per_round)]
        for sample in samples:
            check_plausible("sensor synthetic", sample.values, self._config.limits)
        return samples

    def close(self) -> None:
        """Do nothing: there is no device to release."""

    def _sample(self) -> Sample:
        return Sample(
            {
                name: self._sources[name].gauss(field.mean, field.deviation)
                for name, field in self._config.fields.items()
            }
        )
