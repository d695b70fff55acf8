"""Advice on method `statistics`: the rounds that it saves, and the size of its messages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cipherfleet_analysis.cost.traffic import layout_of
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.statistics import Statistics
from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES
from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import STATISTICS_KINDS, resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet, change_method

from .forecast import answer_of, objectives_to_simulate
from .rounds import rounds_needed

ACCURACY = 1e-4
LEAST_SAVING = 2.0  # the factor in rounds from which on it is proposed


def statistics_advice(fleet: Fleet) -> Iterator[Finding]:
    """Yield the comparison of methods statistics and exact, for a fleet that runs one of them.

    A fleet that runs exact gets a finding only if statistics needs less than half of the rounds.
    Both methods are simulated until their relative error is below ACCURACY. There is no finding
    for readings that are not known, and for objectives that have no statistics.
    """
    method, section = fleet.file.algorithm.method, fleet.file.objective
    is_possible = section.kind in STATISTICS_KINDS and section.minibatch is None
    if method == "article" or not is_possible:
        return
    fleets = {name: change_method(fleet, name) for name in ("statistics", "exact")}
    if not _can_compare(fleets["statistics"]):
        return
    needed = {name: rounds_needed(each, ACCURACY)[0] for name, each in fleets.items()}
    sizes = {name: _size(each) for name, each in fleets.items()}
    saves = _is_saving(needed["statistics"], needed["exact"])
    text = ", ".join(f"method {name} {_rounds(needed[name])}, {sizes[name]}" for name in fleets)
    text = f"to a relative error of {ACCURACY:g} in simulation: {text}"
    if method == "statistics":
        shows_more = section.kind != "mean" and not saves
        remedy = "set algorithm.method: exact, which shows less to every node" if shows_more else ""
        yield Finding("note", "method", text, remedy)
    elif saves:
        yield Finding("note", "method", text, _proposal(section.kind))


def _proposal(kind: str) -> str:
    if kind == "mean":
        return "set algorithm.method: statistics, which shows no more than the optimum either"
    return (
        "set algorithm.method: statistics, if every node may learn the fleet's mean of the normal "
        "equations, which is more than the optimum"
    )


def _can_compare(fleet: Fleet) -> bool:
    """True if statistics of known readings fit the headroom and a message, and have an answer."""
    objectives, _ = objectives_to_simulate(fleet)
    own = np.array([each.own for each in objectives if isinstance(each, Statistics)])
    limit = 2.0 ** (VALUE_BITS - 1) * resolution_of(fleet.file.algorithm)
    layout = layout_of(fleet)
    if not own.size or layout.ciphertexts * layout.ciphertext_bytes > MAX_MESSAGE_BYTES:
        return False
    answer = answer_of(fleet, objectives)
    return bool(np.abs(own).max() < limit and answer is not None and answer.any())


def _is_saving(statistics: int | None, exact: int | None) -> bool:
    return statistics is not None and (exact is None or LEAST_SAVING * statistics < exact)


def _rounds(needed: int | None) -> str:
    return "does not get there" if needed is None else f"needs {needed:,} rounds"


def _size(fleet: Fleet) -> str:
    ciphertexts = layout_of(fleet).ciphertexts
    plural = "" if ciphertexts == 1 else "s"
    return f"with {fleet.dimension:,} numbers in {ciphertexts:,} ciphertext{plural} per message"
