"""Advice on a fleet before a run: lines that begin with `warn: ` or `note: `."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_node.settings.sections import resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet

from .centralised import range_of_starts, steepest
from .convergence import AccuracyError, rounds_to_consensus, schedule_notes

# Relative to the range of the readings; the advice for `average` fleets aims at this accuracy.
CONSENSUS_ACCURACY = 1e-4


def advice(fleet: Fleet) -> Iterator[str]:
    """Yield the advice on *fleet*, one line each; a line begins with its level."""
    file = fleet.file
    if file.crypto.allow_weak_keys:
        yield f"warn: WEAK KEYS ({file.crypto.key_bits} bits): this fleet protects no data"
    if fleet.exchange == "pairwise":
        leaf = next((name for name in fleet.graph.ids if fleet.graph.degree(name) == 1), None)
        reason = f", because {leaf!r} has one neighbour only" if leaf else ""
        yield (
            f"note: the exchange is pairwise{reason}: neighbours learn the direction of every "
            "difference (cipherfleet check lists what else they learn)"
        )
    yield from schedule_advice(fleet)


def schedule_advice(fleet: Fleet) -> Iterator[str]:
    """Yield the advice on rounds, stepsizes and noise, one line each, with its level first."""
    file = fleet.file
    if file.objective.kind == "average":
        yield _consensus_advice(fleet)
        return
    for note in schedule_notes(file.algorithm):
        if note.level != "ok":
            yield f"{note.level}: {note.text}"
    yield from _stepsize_warning(fleet)


def _stepsize_warning(fleet: Fleet) -> Iterator[str]:
    """Yield a warning if the largest stepsize exceeds 2/L for the node of greatest curvature L."""
    found, stepsize = steepest(fleet), fleet.file.algorithm.stepsize
    longest = stepsize.initial * (1.0 + stepsize.spread)
    if found is not None and longest * found[1] > 2.0:
        node, curvature = found
        yield (
            f"warn: stepsizes of up to {longest:.2g} are too large for node {node!r}, whose "
            f"objective has curvature {curvature:.3g}: its estimate may oscillate or diverge; "
            f"algorithm.stepsize.initial of {2.0 / curvature / (1.0 + stepsize.spread):.2g} or "
            "less is safe"
        )


def _consensus_advice(fleet: Fleet) -> str:
    """Return a line with the number of rounds that averaging needs on this graph."""
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
        return f"warn: {error}"
    return (
        f"note: {predicted.rounds} rounds bring every node within {CONSENSUS_ACCURACY:g} of the "
        f"mean, relative to the range of the readings (configured: {file.algorithm.rounds})"
    )
