"""The digest of shared settings: bytes that any language can compute."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import msgspec
import pytest

from cipherfleet_node.core.parameters import SharedParameters, shared_parameters
from cipherfleet_node.settings.sections import Algorithm, Attenuation, Generations, Stepsize
from tests.support.paths import ROOT
from tests.tools.make_vectors import parameters_vectors

VECTORS = json.loads((ROOT / "node/vectors/parameters.json").read_text())
BASE = Algorithm(rounds=1, method="article")
STATISTICS = Algorithm(rounds=1, method="statistics")


def text(name: str) -> bytes:
    return name.encode() + b"\0"


def test_the_parameters_vectors_are_up_to_date() -> None:
    assert json.loads(json.dumps(parameters_vectors())) == VECTORS


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_parameters_vectors_hold(case: Any) -> None:
    """Computed here as node/PROTOCOL.md says, without our code."""
    fields = case["fields"]
    kind, reals = ("power", fields["attenuation"]) if fields["attenuation"] else ("none", (0, 0))
    if fields["exact_scale"]:
        kind, reals = fields["exact_method"], (fields["exact_scale"], 3.0)
    widths = [fields[f"{name}_bits"] for name in ("value", "half_weight", "metropolis")]
    steps = [fields[name] for name in ("resolution", "initial", "decay", "exponent")]
    data = text("cipherfleet/v2/parameters") + struct.pack(">Q", fields["wire_version"])
    data += text(fields["exchange"]) + struct.pack(">4Q", fields["dimension"], *widths)
    data += struct.pack(">4d", *steps) + text(kind) + struct.pack(">2d", *reals)
    if fields["schedule"]:
        data += text(fields["shield"]) + struct.pack(">3Q", *fields["schedule"])
        data += struct.pack(">d", fields["shares"])
    if fields["drift_window"]:
        data += text("drift") + struct.pack(">Qd", fields["drift_window"], 8.0)
    assert data.hex() == case["bytes"]
    assert hashlib.sha256(data).hexdigest()[:16] == case["tag"]
    lists = {name: fields[name] and tuple(fields[name]) for name in ("attenuation", "schedule")}
    given = fields | lists
    assert SharedParameters(**given).encoded == data


def test_no_two_cases_have_the_same_tag() -> None:
    assert len({case["tag"] for case in VECTORS["cases"]}) == len(VECTORS["cases"]) >= 3


@pytest.mark.parametrize(
    "other",
    [
        shared_parameters(BASE, "pairwise", 1),
        shared_parameters(BASE, "sealed", 2),
        shared_parameters(Algorithm(rounds=1, resolution="2^-23"), "sealed", 1),
        shared_parameters(Algorithm(rounds=1, stepsize=Stepsize(initial=0.2)), "sealed", 1),
        shared_parameters(Algorithm(rounds=1, stepsize=Stepsize(decay=0.2)), "sealed", 1),
        shared_parameters(Algorithm(rounds=1, stepsize=Stepsize(exponent=2)), "sealed", 1),
        shared_parameters(Algorithm(rounds=1, attenuation=Attenuation()), "sealed", 1),
        shared_parameters(BASE, "sealed", 1, 1.0),
        shared_parameters(BASE, "sealed", 1, 0.25),
        shared_parameters(STATISTICS, "sealed", 1, 1.0),
    ],
)
def test_each_shared_setting_changes_the_tag(other: SharedParameters) -> None:
    assert other.tag != shared_parameters(BASE, "sealed", 1).tag


def test_every_round_of_the_schedule_of_generations_changes_the_tag() -> None:
    """The list of participants does not: the nodes still exchange their estimates."""
    schedule = Generations(
        index=0, every=208, roll_call=10, averaging=32, mean_partners=2.0, members="0" * 64
    )
    replace = msgspec.structs.replace
    others = {
        shared_parameters(Algorithm(rounds=1), "sealed", 1, 1.0, each).tag
        for each in (
            None,
            schedule,
            replace(schedule, every=209),
            replace(schedule, roll_call=11),
            replace(schedule, averaging=33),
            replace(schedule, index=4, members="1" * 64),
        )
    }
    larger = Algorithm(rounds=1, shares=2.0)
    others.add(shared_parameters(larger, "sealed", 1, 1.0, schedule).tag)
    assert len(others) == 6


def test_statistics_and_estimates_of_one_length_do_not_mix() -> None:
    exact = shared_parameters(Algorithm(rounds=1, method="exact"), "sealed", 14, 1.0)
    assert shared_parameters(STATISTICS, "sealed", 14, 1.0).tag != exact.tag


@pytest.mark.parametrize(
    "same",
    [
        Algorithm(rounds=9, period_s=3.0, answer_timeout_s=1.0, start_timeout_s=2.0),
        Algorithm(rounds=1, stepsize=Stepsize(law="normal", spread=0.5)),
        Algorithm(rounds=1, resolution=2.0**-32),
        Algorithm(rounds=1, stepsize=Stepsize(initial=0.3, decay=0.01, exponent=1)),
    ],
)
def test_private_settings_and_other_spellings_do_not(same: Algorithm) -> None:
    assert shared_parameters(same, "sealed", 1).tag == shared_parameters(BASE, "sealed", 1).tag
