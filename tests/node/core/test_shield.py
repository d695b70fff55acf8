"""The shield: shares of participants sum to zero, and only the two ends of a pair know them."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.exact import BETA
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.keys.key_files import MASKS, SHARES, shared_secret
from cipherfleet_provisioning.generations import Participant, digest_participants, draw_partners

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
