"""Which tests pytest-xdist runs one after another in one process, and which of these groups first.

A worker takes a whole group and runs its tests in their order. Real daemons wait for each other
most of the time: groups of fleets run beside each other and beside the tests that compute. A run
takes at least as long as its longest group. Therefore fleets have several groups, and the groups
that take longest start first. pytest-xdist has to be called with --no-loadscope-reorder: by itself
it would start with the groups that have most tests, and end with those of fleets.
"""

from __future__ import annotations

import pytest

CONTAINERS = "docker"
FLEETS = "fleet"
# The fleets of processes in each of these places are a group; all others are one more group.
FLEET_PLACES = (
    "tests/deploy/test_install",
    "tests/deploy/",
    "tests/node/hostile/",
    "tests/node/runtime/test_identity.py",
    "tests/node/runtime/",
)
# Each test of these files is a group of its own: they compute for long and share nothing slow.
SEPARATE = (
    "tests/lab/test_attacks.py",
    "tests/lab/test_figures.py",
    "tests/node/core/test_agent.py",
    "tests/repo/test_repository.py",
)
# What takes longest, in this order: the beginnings of groups' names, of which the longest counts.
# With five processes, four have fleets from the first moment on. The fifth computes until one of
# them takes the next fleets.
LONGEST = (
    CONTAINERS,
    f"{FLEETS} of tests/deploy/",
    f"{FLEETS} of tests/node/runtime/test_identity.py",
    f"{FLEETS} of others",
    "tests/lab/test_figures.py::test_every_study_makes_its_page_and_figure[attacks]",
    "tests/repo/test_tutorial.py",
    "tests/deploy/test_deb.py",
    "tests/repo/test_repository.py::test_the_checks_pass",
    f"{FLEETS} of tests/deploy/test_install",
    FLEETS,
    "tests/kernel/",
    "tests/node/core/test_agent.py",
    "tests/lab/",
    "tests/provisioning/test_provision_session.py",
    "tests/hil/test_report.py",
)


def group_of(item: pytest.Item) -> str:
    """Return the name of the group of *item*."""
    if item.get_closest_marker("docker"):
        return CONTAINERS
    if item.get_closest_marker("fleet"):
        places = (place for place in FLEET_PLACES if item.nodeid.startswith(place))
        return f"{FLEETS} of {next(places, 'others')}"
    return item.nodeid if is_separate(item) else _file(item)


def is_separate(item: pytest.Item) -> bool:
    """Whether *item* is a group of its own. Without a mark, pytest-xdist takes it as one."""
    return _file(item) in SEPARATE


def rank_of(item: pytest.Item) -> int:
    """Return the place of the group of *item* in the order in which groups start."""
    group = group_of(item)
    known = [name for name in LONGEST if group.startswith(name)]
    return LONGEST.index(max(known, key=len)) if known else len(LONGEST)


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]
