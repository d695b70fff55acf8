"""The groups in which pytest-xdist runs the tests are about tests that there are."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.groups import FLEET_PLACES, FLEETS, LONGEST, SEPARATE, group_of, rank_of
from tests.support.paths import ROOT

NAMED = [name for name in (*SEPARATE, *FLEET_PLACES, *LONGEST) if "/" in name]


@pytest.mark.parametrize("name", NAMED)
def test_what_the_groups_name_is_there(name: str) -> None:
    file, _, function = name.removeprefix(f"{FLEETS} of ").partition("::")
    assert list(ROOT.glob(f"{file}*"))
    assert not function or f"def {function.partition('[')[0]}" in (ROOT / file).read_text()


def test_groups_start_in_the_order_of_the_list(request: pytest.FixtureRequest) -> None:
    """The order in which this very run has collected its tests."""
    ranks = [rank_of(item) for item in request.session.items]
    # pytest itself brings tests forward that share a fixture with parameters.
    steps_back = [(a, b) for a, b in pairwise(ranks) if a > b]
    assert len(steps_back) <= 3, steps_back
    for item in request.session.items:
        groups = [mark.args[0] for mark in item.iter_markers("xdist_group")]
        if item.get_closest_marker("fleet"):
            assert groups == [group_of(item)]
            assert groups[0].startswith(FLEETS)
