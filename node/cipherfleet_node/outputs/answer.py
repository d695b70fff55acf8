"""The published answer: what answer.json holds, and how a program computes with it.

It is published only while the node has settled; `publisher.py` says why. This module imports no
numpy, so that a program that only reads the file starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.type_errors import did_you_mean

HOURS = 24.0


class Harmonic(msgspec.Struct, frozen=True):
    """A daily term: sin * sin(a) + cos * cos(a), with a = 2 pi order field / 24."""

    field: str  # in hours
    order: int
    sin: float
    cos: float


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The agreed parameters in the units of the readings: no offset and no scale is left.

    With a *target* the prediction is intercept + the sum of coefficient times field + the daily
    terms. For kind logistic this is the logit, and the prediction is its probability.
    """

    target: str | None = None  # the field that is predicted; None for average and mean
    intercept: float | None = None
    coefficients: dict[str, float] = {}  # by field: per unit of the field
    daily: list[Harmonic] = []
    values: dict[str, float] = {}  # of average and mean: by field. Of other classes: x0, x1, ...
    units: dict[str, str] = {}  # by field, as far as answer.units names them

    @property
    def fields(self) -> list[str]:
        """The fields that a prediction needs."""
        return sorted({*self.coefficients, *(each.field for each in self.daily)})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The agreed answer of a fleet as one node publishes it.

    When the node is not settled any more, *settled* is false and all else stays as it was.
    """

    fleet: str
    node: str
    settled: bool
    round: int  # of the values
    at: str  # time of the values in UTC, for example 2026-11-27T20:15:03Z
    kind: str
    link: Literal["identity", "logit"] = "identity"
    digits: int  # significant digits of all numbers below
    model: Model
    corrected: float | None = None  # the prediction for the newest reading
    residual: float | None = None  # target minus prediction; None without a target
    z: float | None = None  # the residual in robust deviations of those in the node's window
    alarm: bool | None = None  # |z| is at least answer.alarm; None without a residual
    # With objective.drift, in the unit of the target; all but the first need a target.
    fleet_residual: float | None = None  # the mean residual of the fleet, over the drift window
    drift: float | None = None  # the mean residual of this node minus that of the fleet
    drift_z: float | None = None  # in robust deviations from its usual value; None: not known yet
    drift_alarm: bool | None = None  # it has left its usual range

    def predict(self, reading: Mapping[str, float]) -> float:
        """Return the prediction of the target for *reading*, fields with values in their units.

        Further fields are ignored. For kind logistic the result is the probability of class 1.
        Raises ConfigError for a missing field, a value that is no finite number, and a kind that
        predicts nothing.
        """
        model = self.model
        if model.target is None or model.intercept is None:
            raise ConfigError(
                f"an answer of kind {self.kind} predicts nothing", remedy="read model.values"
            )
        known = {field: _number(reading, field, model.fields) for field in model.fields}
        total = model.intercept
        total += sum(each * known[field] for field, each in model.coefficients.items())
        for each in model.daily:
            angle = 2.0 * math.pi * each.order * known[each.field] / HOURS
            total += each.sin * math.sin(angle) + each.cos * math.cos(angle)
        return sigmoid(total) if self.link == "logit" else total


def sigmoid(logit: float) -> float:
    """Return the probability that belongs to *logit*."""
    return 0.5 * (1.0 + math.tanh(0.5 * logit))


def _number(reading: Mapping[str, float], field: str, needed: list[str]) -> float:
    if field not in reading:
        close = did_you_mean(field, reading)
        given = close.replace("did you mean", "it has") if close else ""
        raise ConfigError(
            f"the reading has no {field!r}{given.rstrip('?')}; a prediction needs "
            f"{', '.join(map(repr, needed))}"
        )
    value = reading[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"the reading's {field!r} must be a finite number")
    return float(value)
