"""From a solution of order one to parameters, predictions and residuals in physical units."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.objective import feature_values, feature_width
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.outputs.answer import Answer, sigmoid
from cipherfleet_node.outputs.physical import (
    Newest,
    Place,
    make_answer,
    make_model,
    on_grid,
    regressor_of,
    residual_of,
    significant,
)
from cipherfleet_node.settings.sections import AnswerSection, Column, Feature, ObjectiveSection

PLACE = Place("trial", "n1", 7, "2026-11-27T20:15:03Z")
SECTION = ObjectiveSection(
    kind="ridge",
    target=Column(field="pm25", offset=30, scale=20),
    features=[
        Feature(constant=1.0),
        Feature(field="pm10", offset=50, scale=25),
        Feature(field="rh", offset=1013.25, scale=10),
    ],
)
OFFSETS, SCALES = st.floats(-2000, 2000), st.sampled_from([-20.0, -0.5, 0.1, 1.0, 3.0, 250.0])
NUMBERS = st.floats(-5, 5)


def answer_of(
    solution: list[float], section: ObjectiveSection = SECTION, **changes: object
) -> Answer:
    settings = msgspec.convert(changes, AnswerSection)
    answer = make_answer(PLACE, np.array(solution), section, settings, 1e-3, Newest())
    assert answer is not None
    return answer


@st.composite
def features(draw: st.DrawFn) -> list[Feature]:
    made: list[Feature] = []
    for place in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["constant", "field", "daily"]))
        if kind == "constant":
            made.append(Feature(constant=draw(st.floats(-3, 3))))
        elif kind == "daily":
            made.append(Feature(daily="hour", harmonics=draw(st.integers(1, 3))))
        else:  # the same field may come twice
            field = f"v{place // 2}"
            made.append(Feature(field=field, offset=draw(OFFSETS), scale=draw(SCALES)))
    return made


@given(features(), OFFSETS, SCALES, st.sampled_from(["ridge", "huber", "logistic"]), st.data())
def test_the_model_in_physical_units_predicts_what_the_scaled_one_does(
    made: list[Feature], offset: float, scale: float, kind: str, data: st.DataObject
) -> None:
    target = Column(field="y", offset=offset, scale=scale)
    section = ObjectiveSection(kind=kind, target=target, features=made)
    solution = np.array([data.draw(NUMBERS) for f in made for _ in range(feature_width(f))])
    values = {
        "v0": data.draw(OFFSETS),
        "v1": data.draw(OFFSETS),
        "hour": data.draw(st.floats(0, 24)),
    }
    phi = np.array([entry for f in made for entry in feature_values(f, Sample(values))])
    z = float(phi @ solution)
    is_logistic = kind == "logistic"
    expected = sigmoid(z) if is_logistic else offset + scale * z
    answer = Answer(
        fleet="f", node="n", settled=True, round=1, at="", kind=kind, digits=15,
        link="logit" if is_logistic else "identity", model=make_model(solution, section),
    )  # fmt: skip
    # Coefficients have 15 digits, and products of up to 5 * 250 / 0.1 and 4000 cancel.
    largest = 1.0 if is_logistic else abs(scale)
    spread = sum(abs(s) / abs(f.scale) * 4000 for f in made if f.field for s in solution)
    bound = 1e-13 * (abs(offset) + largest * (1.0 + float(np.abs(phi).max()) * 20 + spread))
    assert abs(answer.predict(values) - expected) <= bound


def test_a_mean_is_given_by_field_in_the_unit_of_the_field() -> None:
    columns = [Column(field="t", offset=20, scale=5), Column(field="rh")]
    section = ObjectiveSection(kind="mean", values=columns)
    answer = answer_of([0.24781, -1.23456], section, units={"t": "°C"})
    assert answer.model.values == {"t": 21.24, "rh": -1.235}
    assert answer.model.units == {"t": "°C"}
    assert (answer.corrected, answer.residual, answer.alarm) == (None, None, None)
    with pytest.raises(ConfigError, match="predicts nothing"):
        answer.predict({})


def test_a_class_of_the_users_own_gives_its_entries_by_number() -> None:
    section = ObjectiveSection(kind="my_module:Mine")
    assert answer_of([1.0, 2.0006], section).model.values == {"x0": 1.0, "x1": 2.001}


def test_coefficients_are_per_unit_of_the_field() -> None:
    model = answer_of([0.5, 2.0, -0.1]).model
    assert model.target == "pm25"
    assert model.coefficients == {"pm10": 20 * 2.0 / 25, "rh": 20 * -0.1 / 10}
    assert model.intercept == pytest.approx(30 + 20 * 0.5 - 1.6 * 50 + 0.2 * 1013.25, rel=1e-14)
    assert model.fields == ["pm10", "rh"]


@given(st.lists(NUMBERS, min_size=3, max_size=3), st.integers(1, 6))
def test_rounding_costs_no_more_than_its_digits_however_large_the_offsets_are(
    solution: list[float], digits: int
) -> None:
    """The reading is one scale away from every offset. Plain rounding would cost 100 times more."""
    rounded = on_grid(np.array(solution), 1e-3)
    answer = answer_of(solution, digits=digits)
    plain = Sample({"pm10": 75.0, "rh": 1023.25})
    exact = 30 + 20 * float(np.array([1.0, 1.0, 1.0]) @ rounded)
    centre = 30 + 20 * abs(rounded[0])
    bound = 0.5 * 10.0 ** (1 - digits) * (centre + 20 * float(np.abs(rounded[1:]).sum()))
    assert abs(answer.predict(plain.values) - exact) <= bound * (1 + 1e-9) + 1e-9


@given(st.floats(-1e6, 1e6).filter(bool), st.integers(1, 12))
def test_a_number_has_the_significant_digits_that_are_set(value: float, digits: int) -> None:
    rounded = significant(value, digits)
    assert math.isclose(rounded, value, rel_tol=0.5000001 * 10.0 ** (1 - digits))
    assert float(f"{rounded:.{digits}g}") == rounded


@given(st.floats(-10, 10), st.floats(1e-6, 1.0))
def test_parameters_are_multiples_of_the_accuracy_however_many_digits_there_are(
    value: float, accuracy: float
) -> None:
    """The same multiple gives the same answer: nothing finer is published."""
    section = ObjectiveSection(kind="mean", values=[Column(field="t")])
    settings = AnswerSection(digits=12)
    middle = on_grid(np.array([value]), accuracy)
    moved = middle + 0.49 * accuracy
    first, second = (
        make_answer(PLACE, x, section, settings, accuracy, Newest()) for x in (middle, moved)
    )
    assert first == second


def test_nothing_is_published_while_the_statistics_determine_no_minimum() -> None:
    found = np.array([1.0, math.nan, 0.0])
    assert make_answer(PLACE, found, SECTION, AnswerSection(), 1e-3, Newest()) is None


# -- the newest reading -------------------------------------------------------------------------


def window(residuals: list[float]) -> Newest:
    """Readings with pm10 and rh at their offsets, and pm25 = 30 + 20 (0.5 + residual)."""
    rows = np.array([[1.0, 0.0, 0.0, 0.5 + residual] for residual in residuals])
    return Newest(rows[-1, :-1], rows)


def measured(newest: Newest, section: ObjectiveSection = SECTION) -> Answer:
    solution = np.array([0.5, 2.0, -0.1])
    answer = make_answer(PLACE, solution, section, AnswerSection(), 1e-3, newest)
    assert answer is not None
    return answer


def test_residuals_are_in_the_unit_of_the_target_and_far_ones_give_an_alarm() -> None:
    usual = [-0.02, 0.01, 0.0, 0.02, -0.01, 0.015, -0.015]
    calm, far = measured(window([*usual, 0.01])), measured(window([*usual, 0.4]))
    assert (calm.corrected, calm.residual, calm.alarm) == (40.0, 0.2, False)
    assert (far.corrected, far.residual, far.alarm) == (40.0, 8.0, True)
    assert calm.z is not None
    assert far.z is not None
    assert abs(calm.z) < 1.0
    assert far.z > 15.0


@pytest.mark.parametrize("residuals", [[0.4], [0.0, 0.4] * 3, [0.1] * 20])
def test_a_short_window_and_one_without_spread_have_no_z(residuals: list[float]) -> None:
    answer = measured(window(residuals))
    assert (answer.z, answer.alarm) == (None, False)


def test_a_follower_has_a_prediction_and_no_residual() -> None:
    regressor = regressor_of(Sample({"pm10": 75.0, "rh": 1013.25}), SECTION)
    answer = measured(Newest(regressor))
    assert (answer.corrected, answer.residual, answer.alarm) == (80.0, None, None)
    assert answer.predict({"pm10": 75.0, "rh": 1013.25}) == pytest.approx(80.0)


def test_a_reading_without_all_fields_has_no_prediction() -> None:
    assert regressor_of(Sample({"pm10": 75.0}), SECTION) is None
    assert measured(Newest()).corrected is None


def test_a_logistic_answer_predicts_a_probability_and_its_residual_is_that_of_the_class() -> None:
    target = Column(field="busy", offset=1, scale=2)  # 1 and 3 are the classes 0 and 1
    section = msgspec.structs.replace(SECTION, kind="logistic", target=target)
    answer = measured(Newest(np.array([1.0, 0.0, 0.0]), np.array([[1.0, 0.0, 0.0, 1.0]])), section)
    assert answer.link == "logit"
    assert answer.corrected == pytest.approx(sigmoid(0.5), rel=1e-3)
    assert answer.residual == pytest.approx(1 - sigmoid(0.5), rel=1e-3)
    assert answer.predict({"pm10": 50, "rh": 1013.25}) == pytest.approx(sigmoid(0.5))


def test_the_residuals_of_the_window_follow_from_the_same_prediction() -> None:
    rows = window([0.1, -0.2, 0.3]).rows
    assert rows is not None
    own = residual_of(rows, np.array([0.5, 2.0, -0.1]), SECTION)
    assert own is not None
    assert own.value == pytest.approx(6.0)


# -- predict() ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"pm10": 41}, ["'rh'", "needs 'pm10', 'rh'"]),
        ({"PM10": 41, "rh": 60}, ["no 'pm10', it has 'PM10'", "needs 'pm10', 'rh'"]),
        ({}, ["'pm10'", "needs 'pm10', 'rh'"]),
        ({"pm10": math.nan, "rh": 60}, ["'pm10' must be a finite number"]),
        ({"pm10": "41", "rh": 60}, ["'pm10' must be a finite number"]),
        ({"pm10": True, "rh": 60}, ["'pm10' must be a finite number"]),
    ],
)
def test_an_error_of_predict_names_the_field_and_those_that_are_needed(
    reading: dict[str, float], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        answer_of([0.5, 2.0, -0.1]).predict(reading)
    assert all(word in str(refused.value) for word in words)
    assert "41" not in str(refused.value)


def test_predict_ignores_fields_that_it_does_not_need() -> None:
    answer = answer_of([0.5, 2.0, -0.1])
    needed = {"pm10": 41, "rh": 60}
    assert answer.predict(needed | {"lux": 3}) == answer.predict(needed)
