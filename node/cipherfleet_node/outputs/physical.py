"""From a solution in the objective's units to an answer in the units of the readings.

The solution is first rounded to multiples of the accuracy at which the node has settled. All that
is published follows from these multiples and from the node's own newest reading. A finer number
would show steps of the node, and has no right digits in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from cipherfleet_node.core.drift import Judgement
from cipherfleet_node.core.objective import feature_values, feature_width
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.robust import middle_and_deviation
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.window import FloatMatrix
from cipherfleet_node.settings.sections import OBJECTIVE_KINDS, AnswerSection, ObjectiveSection

from .answer import Answer, Harmonic, Model

EXACT = 15  # significant digits that a binary64 number always has
LEAST_WINDOW = 8  # readings; the deviation of fewer residuals says nothing


@dataclass(frozen=True, repr=False)
class Newest:
    """What the node itself has measured; private, and in the objective's units.

    *regressor* of the newest reading has shape (d,). *rows* is the window, shape (n, d + 1), with
    the target in the last column; None for a node without a target, such as a follower.
    """

    regressor: FloatVector | None = None
    rows: FloatMatrix | None = None
    drift: Judgement | None = None


@dataclass(frozen=True)
class Residual:
    """The residual of the newest reading; z is None if the window is short or has no spread."""

    value: float
    z: float | None


def regressor_of(sample: Sample, section: ObjectiveSection) -> FloatVector | None:
    """Return the regressor of *sample*, shape (d,); None if a field is missing."""
    features = section.features or []
    needed = {name for f in features for name in (f.field, f.daily) if name is not None}
    if not features or not needed <= sample.values.keys():
        return None
    return np.array([entry for f in features for entry in feature_values(f, sample)])


def on_grid(solution: FloatVector, accuracy: float) -> FloatVector:
    """Return each entry of *solution* as a multiple of *accuracy*."""
    return np.round(solution / accuracy) * accuracy


def significant(value: float, digits: int) -> float:
    """Return *value* with so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def make_model(
    solution: FloatVector,
    section: ObjectiveSection,
    digits: int = EXACT,
    units: Mapping[str, str] | None = None,
) -> Model:
    """Return *solution*, shape (d,), in the units of the readings. *digits* round each parameter.

    The intercept has more digits. It is computed from the rounded coefficients, and from the
    rounded prediction for a reading in which every field is at its offset: so rounding costs
    accuracy in proportion to the distance from there, however large the offsets are.
    """
    known = units or {}
    if section.kind not in OBJECTIVE_KINDS:
        return Model(values={f"x{i}": significant(x, digits) for i, x in enumerate(solution)})
    if section.target is None:
        columns = zip(section.values or [], solution, strict=True)
        values = {c.field: significant(c.offset + c.scale * x, digits) for c, x in columns}
        return Model(values=values, units=_only(known, values))
    return _regression(solution, section, digits, known)


def _regression(
    solution: FloatVector, section: ObjectiveSection, digits: int, units: Mapping[str, str]
) -> Model:
    target = section.target
    assert target is not None
    # The logit has no unit, so only the features are unscaled.
    offset, scale = (0.0, 1.0) if section.kind == "logistic" else (target.offset, target.scale)
    centre, moved, place = offset, 0.0, 0
    coefficients: dict[str, float] = {}
    daily: list[Harmonic] = []
    for feature in section.features or []:
        entries = scale * solution[place : place + feature_width(feature)]
        place += len(entries)
        if feature.constant is not None:
            centre += float(feature.constant * entries[0])
        elif feature.daily is not None:
            daily += _harmonics(feature.daily, entries, digits)
        else:
            assert feature.field is not None
            slope = significant(entries[0] / feature.scale, digits)
            moved += slope * feature.offset
            coefficients[feature.field] = coefficients.get(feature.field, 0.0) + slope
    return Model(
        target=target.field,
        intercept=significant(significant(centre, digits) - moved, EXACT),
        coefficients=coefficients,
        daily=daily,
        units=_only(units, [target.field, *coefficients, *(each.field for each in daily)]),
    )


def _harmonics(field: str, entries: FloatVector, digits: int) -> list[Harmonic]:
    pairs = entries.reshape(-1, 2)
    return [
        Harmonic(field, order, significant(sin, digits), significant(cos, digits))
        for order, (sin, cos) in enumerate(pairs, 1)
    ]


def _only(units: Mapping[str, str], names: Sequence[str] | Mapping[str, float]) -> dict[str, str]:
    return {name: units[name] for name in names if name in units}


def predicted(
    regressors: FloatMatrix, solution: FloatVector, section: ObjectiveSection
) -> FloatVector:
    """Return the prediction for each row of *regressors*, shape (n, d), in the target's unit.

    For kind logistic it is the probability of class 1.
    """
    target = section.target
    assert target is not None
    found: FloatVector = regressors @ solution
    if section.kind == "logistic":
        return 0.5 * (1.0 + np.tanh(0.5 * found))
    return target.offset + target.scale * found


def residual_of(
    rows: FloatMatrix, solution: FloatVector, section: ObjectiveSection
) -> Residual | None:
    """Return target minus prediction of the last of *rows*, and its robust z among all rows."""
    if section.target is None or not len(rows):
        return None
    offset, scale = section.target.offset, section.target.scale
    targets = rows[:, -1] if section.kind == "logistic" else offset + scale * rows[:, -1]
    found = targets - predicted(rows[:, :-1], solution, section)
    return Residual(float(found[-1]), _robust_z(found))


def _robust_z(found: FloatVector) -> float | None:
    middle, deviation = middle_and_deviation(found)
    if len(found) < LEAST_WINDOW or deviation == 0.0:
        return None
    return float(found[-1] - middle) / deviation


@dataclass(frozen=True, repr=False)
class Place:
    """Whose answer it is, and of which round and time."""

    fleet: str
    node: str
    round: int
    at: str


def make_answer(
    place: Place,
    solution: FloatVector,
    section: ObjectiveSection,
    settings: AnswerSection,
    accuracy: float,
    newest: Newest,
    fleet_residual: float | None = None,
) -> Answer | None:
    """Return the answer to publish; None while *solution*, shape (d,), is not finite.

    *accuracy* is that at which the node has settled, in the objective's units. *fleet_residual* is
    the entry of the estimate that `objective.drift` adds to the solution.
    """
    if not np.isfinite(solution).all():
        return None
    rounded, digits = on_grid(solution, accuracy), settings.digits
    answer = Answer(
        fleet=place.fleet,
        node=place.node,
        settled=True,
        round=place.round,
        at=place.at,
        kind=section.kind,
        link="logit" if section.kind == "logistic" else "identity",
        digits=digits,
        model=make_model(rounded, section, digits, settings.units),
    )
    if section.target is None or section.kind not in OBJECTIVE_KINDS:
        return answer
    corrected = residual = z = alarm = None
    if newest.regressor is not None:
        found = predicted(newest.regressor[np.newaxis], rounded, section)[0]
        corrected = significant(float(found), digits)
    own = None if newest.rows is None else residual_of(newest.rows, rounded, section)
    if own is not None:
        residual = significant(own.value, digits)
        z = None if own.z is None else significant(own.z, digits)
        alarm = own.z is not None and abs(own.z) >= settings.alarm
    answer = msgspec.structs.replace(
        answer, corrected=corrected, residual=residual, z=z, alarm=alarm
    )
    if fleet_residual is None:
        return answer
    return _with_drift(answer, fleet_residual, section.target.scale, accuracy, newest.drift)


def _with_drift(
    answer: Answer, fleet_residual: float, scale: float, accuracy: float, own: Judgement | None
) -> Answer:
    """Return *answer* with the residual of the fleet, and with its difference to the node's own."""
    digits = answer.digits
    common = float(on_grid(np.array([fleet_residual]), accuracy)[0])
    answer = msgspec.structs.replace(answer, fleet_residual=significant(scale * common, digits))
    if own is None:
        return answer
    return msgspec.structs.replace(
        answer,
        drift=significant(scale * own.difference, digits),
        drift_z=None if own.z is None else significant(own.z, digits),
        drift_alarm=own.is_alarm,
    )
