"""Advice on a fleet before a run, as findings."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet

from .centralised import range_of_starts, steepest
from .convergence import SCHEDULE, AccuracyError, check_schedule, rounds_to_consensus

# Relative to the range of the readings; the advice for `average` fleets aims at this accuracy.
CONSENSUS_ACCURACY = 1e-4


def advice(fleet: Fleet) -> Iterator[Finding]:
    """Yield the advice on *fleet*."""
    file = fleet.file
    if file.crypto.allow_weak_keys:
        text = f"WEAK KEYS ({file.crypto.key_bits} bits): this fleet protects no data"
        yield Finding("warn", "keys", text)
    if fleet.exchange == "pairwise":
        leaf = fleet.graph.leaf
        reason = f", because {leaf!r} has one neighbour only" if leaf else ""
        text = (
            f"the exchange is pairwise{reason}: neighbours learn the direction of every "
            "difference (cipherfleet check lists what else they learn)"
        )
        yield Finding("note", "exchange", text)
    yield from schedule_advice(fleet)


def schedule_advice(fleet: Fleet) -> Iterator[Finding]:
    """Yield the advice on rounds, stepsizes and noise."""
    if fleet.file.objective.kind == "average":
        yield _consensus_advice(fleet)
        return
    if fleet.file.algorithm.method == "exact":
        return  # it has no schedule
    for finding in check_schedule(fleet.file.algorithm):
        if finding.level != "ok":
            yield finding
    yield from _stepsize_warning(fleet)


def advice_line(finding: Finding) -> str:
    """Return *finding* as a line to print before a run: 'warn: text; remedy'."""
    line = f"{finding.level}: {finding.text}"
    return f"{line}; {finding.remedy}" if finding.remedy else line


def _stepsize_warning(fleet: Fleet) -> Iterator[Finding]:
    """Yield a warning if the largest stepsize exceeds 2/L for the node of greatest curvature L."""
    found, stepsize = steepest(fleet), fleet.file.algorithm.stepsize
    longest = stepsize.initial * (1.0 + stepsize.spread)
    if found is not None and longest * found[1] > 2.0:
        node, curvature = found
        safe = 2.0 / curvature / (1.0 + stepsize.spread)
        text = (
            f"stepsizes of up to {longest:.2g} are too large for node {node!r}, whose objective "
            f"has curvature {curvature:.3g}: its estimate may oscillate or diverge"
        )
        remedy = f"algorithm.stepsize.initial of {safe:.2g} or less is safe"
        yield Finding("warn", SCHEDULE, text, remedy)


def _consensus_advice(fleet: Fleet) -> Finding:
    """Return the number of rounds that averaging needs on this graph."""
    file, starts = fleet.file, range_of_starts(fleet)
    try:
        predicted = rounds_to_consensus(
            fleet.graph,
            CONSENSUS_ACCURACY,
            starts,
            resolution_of(file.algorithm),
            sealed=fleet.exchange == "sealed",
        )
    except AccuracyError as error:
        return Finding("warn", SCHEDULE, error.text, error.remedy)
    text = (
        f"{predicted.rounds} rounds bring every node within {CONSENSUS_ACCURACY:g} of the mean, "
        f"relative to the range of the readings (configured: {file.algorithm.rounds})"
    )
    return Finding("note", SCHEDULE, text)
