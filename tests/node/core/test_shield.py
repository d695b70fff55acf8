"""The shield: shares of participants sum to zero, and only the two ends of a pair know them."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.exact import BETA
from cipherfleet_node.core.quadratic import symmetric
from cipherfleet_node.core.shield import QUADRATIC, Shield, counted_partners
from cipherfleet_node.keys.key_files import MASKS, SHARES, shared_secret
from cipherfleet_provisioning.generations import Participant, digest_participants, draw_partners
from tests.support.paths import ROOT
from tests.tools.make_vectors import shield_vectors

VECTORS = ROOT / "node" / "vectors"
UNIT = 2.0**-32
KEYS = [X25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i in range(8)]


def shields_of(count: int, fleet: str = "f") -> list[Shield]:
    """The shields of a fleet, as its nodes compute them from the keys of their partners."""
    drawn = draw_partners(fleet, tuple(range(count)))
    public = [key.public_key() for key in KEYS]
    listed = [Participant(f"n{i}", i, public[i].public_bytes_raw()) for i in range(count)]
    return [
        Shield(
            index=index,
            every=208,
            roll_call=10,
            averaging=32,
            members=digest_participants(fleet, listed, drawn),
            mean_partners=float(count - 1),
            partners={
                other: shared_secret(KEYS[index], public[other], fleet, SHARES)
                for other in drawn[index]
            },
        )
        for index in range(count)
    ]


SHIELDS = shields_of(8)


def shares_of(name: bytes, participants: set[int], dimension: int = 3) -> list[list[int]]:
    return [SHIELDS[i].shares(name, participants, dimension, UNIT) for i in sorted(participants)]


@given(st.sets(st.integers(0, 7)), st.binary(max_size=40), st.integers(1, 4))
def test_shares_sum_to_zero_for_any_participants(
    participants: set[int], name: bytes, dimension: int
) -> None:
    """As integers, exactly."""
    totals = [sum(column) for column in zip(*shares_of(name, participants, dimension), strict=True)]
    assert totals == [0] * (dimension if participants else 0)


@given(st.sets(st.integers(0, 7), min_size=2), st.sets(st.integers(0, 7), min_size=2))
def test_another_generation_or_list_has_other_shares(one: set[int], other: set[int]) -> None:
    assert shares_of(b"g1", one) != shares_of(b"g2", one)
    if one != other:
        assert shares_of(b"g1", one) != shares_of(b"g1", other)


@given(st.sets(st.integers(0, 7)), st.integers(1, 5))
def test_quadratic_shares_sum_to_zero_for_any_participants(
    participants: set[int], dimension: int
) -> None:
    """Up to the rounding of a few sums of binary64 numbers of size one."""
    shields = [SHIELDS[i] for i in participants]
    made = [shield.quadratic(participants, dimension, 0.7) for shield in shields]
    assert np.abs(np.sum(made, axis=0)).max(initial=0.0) < 1e-14


def test_a_pair_keeps_its_quadratic_share_when_others_come_and_go() -> None:
    """So the lists of many generations tell nothing by their average."""
    everyone = set(range(8))
    of_pair = np.array(SHIELDS[0].quadratic({0, 3}, 3, 0.7))
    without = SHIELDS[0].quadratic(everyone - {3}, 3, 0.7)
    all_of_them = SHIELDS[0].quadratic(everyone, 3, 0.7)
    np.testing.assert_allclose(all_of_them, without + of_pair, atol=1e-15)
    np.testing.assert_array_equal(SHIELDS[3].quadratic({0, 3}, 3, 0.7), -of_pair)


@pytest.mark.parametrize(
    ("scale", "mean_partners", "is_same"),
    [(0.7, 7.0, True), (0.7, 10.0, True), (0.7, 12.0, False), (0.35, 7.0, False)],
    ids=["nothing", "few more partners", "more partners", "another c0"],
)
def test_no_quadratic_share_comes_in_two_sizes(
    scale: float, mean_partners: float, is_same: bool
) -> None:
    """H + Q and H + Q / 2 would show H. Other sizes have independent shares."""
    before = np.array(SHIELDS[0].quadratic(range(8), 3, 0.7))
    shield = dataclasses.replace(SHIELDS[0], mean_partners=mean_partners)
    after = np.array(shield.quadratic(range(8), 3, scale))
    if is_same:
        np.testing.assert_array_equal(after, before)
    else:
        ratios = after / before
        assert ratios.max() - ratios.min() > 0.5


@given(st.floats(0, 200))
def test_partners_are_counted_to_the_nearest_power_of_two(number: float) -> None:
    exponent = math.log2(counted_partners(number))
    assert exponent == int(exponent)
    assert abs(math.log2(max(number, 1.0)) - exponent) < 0.5 + 1e-12


@pytest.mark.parametrize("dimension", [4, 40])
def test_quadratic_shares_have_the_same_size_in_all_dimensions(dimension: int) -> None:
    """The largest of d eigenvalues is about 2 sqrt(d) deviations, here 0.8 in every dimension."""
    everyone = range(8)
    upper = [shield.quadratic(everyone, dimension, 1.0) for shield in SHIELDS]
    made, deviation = [symmetric(each, dimension) for each in upper], np.std(upper)
    assert deviation == pytest.approx(QUADRATIC * (4 / dimension) ** 0.5, rel=0.25)
    largest = np.mean([np.abs(np.linalg.eigvalsh(matrix)).max() for matrix in made])
    assert 0.4 < largest < 1.0


def test_the_vectors_of_shares_are_up_to_date() -> None:
    assert json.loads((VECTORS / "shield.json").read_text()) == approximate(shield_vectors())


def approximate(vectors: Any) -> Any:
    """Return *vectors* with numbers that may differ in their last bits."""
    cases = [{**c, "quadratic": pytest.approx(c["quadratic"], rel=1e-14)} for c in vectors["cases"]]
    return {**vectors, "cases": cases}


@pytest.mark.parametrize("case", range(3))
def test_the_vectors_of_shares_hold_by_the_text(case: int) -> None:
    """Computed as node/PROTOCOL.md says, section 7.15, without our own code."""
    given_all = json.loads((VECTORS / "shield.json").read_text())
    case_ = given_all["cases"][case]
    secrets = {int(i): bytes.fromhex(secret) for i, secret in given_all["secrets"].items()}
    index, m, d = given_all["index"], given_all["mean_partners"], 3
    present = set(case_["participants"]) - {index}

    def drawn(other: int, label: bytes, count: int) -> list[int]:
        seed = hmac.digest(secrets[other], b"cipherfleet/v2/share\0" + label, "sha256")
        data = hashlib.shake_256(seed + b"share").digest(16 * 12 * count)
        whole = [int.from_bytes(data[i : i + 16], "big") % 2**48 for i in range(0, len(data), 16)]
        return [sum(whole[12 * i : 12 * i + 12]) - 6 * 2**48 for i in range(count)]

    def total(parts: dict[int, list[int]], count: int) -> list[int]:
        signed = [[v if index < other else -v for v in part] for other, part in parts.items()]
        return [sum(column) for column in zip([0] * count, *signed, strict=True)]

    few, c0 = counted_partners(m), given_all["c0"]
    size = round(given_all["shares"] / (3 * given_all["unit"] * m**0.5))
    name = bytes.fromhex(given_all["generation"])
    for label, others in (("hidden", present), ("added", present & set(given_all["fresh"]))):
        parts = {o: [size * v >> 48 for v in drawn(o, label.encode() + name, d)] for o in others}
        assert [int(text) for text in case_[label]] == total(parts, d)
    text = b"quadratic" + struct.pack(">dQ", c0, few)
    entries = {o: [v >> 8 for v in drawn(o, text, 6)] for o in present}
    scaled = [v * 2.0**-40 * c0 * 0.2 * (4 / (d * few)) ** 0.5 for v in total(entries, 6)]
    assert case_["quadratic"] == pytest.approx(scaled, rel=1e-14)


def test_both_ends_of_every_pair_have_the_same_secret() -> None:
    for shield in SHIELDS:
        for other, secret in shield.partners.items():
            assert SHIELDS[other].partners[shield.index] == secret
            assert len(secret) == 32
    assert len({secret for each in SHIELDS for secret in each.partners.values()}) == 8 * 7 // 2


def test_the_secrets_of_shares_are_not_those_of_masks_or_of_another_fleet() -> None:
    ends = KEYS[0], KEYS[1].public_key()
    found = {shared_secret(*ends, fleet, use) for fleet in "fg" for use in (MASKS, SHARES)}
    assert len(found) == 4


def test_a_node_that_is_alone_has_no_share() -> None:
    assert SHIELDS[3].shares(b"g", [3], 2, UNIT) == [0, 0]
    assert SHIELDS[3].shares(b"g", [], 2, UNIT) == [0, 0]


def test_a_share_has_the_deviation_of_the_scale_of_curvature() -> None:
    """Of 40,000 normal numbers: five deviations of their mean square, one alarm in a million."""
    size = 40_000
    drawn = np.array(SHIELDS[0].shares(b"g", range(8), size, UNIT)) * UNIT * BETA
    assert np.mean(drawn**2) == pytest.approx(1.0, abs=5 * np.sqrt(2.0 / size))
