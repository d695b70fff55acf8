"""The weight of nodes and readings in the common answer, in words and as findings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import ObjectiveSection
from cipherfleet_provisioning.fleet.fleet import Fleet

WEIGHT = "weight"  # subject of findings
UNEQUAL = 2.0  # the most readings of a node over the least, from which the weight is worth a note
FAR = 4.0  # times that the declared count may differ from the mean count


def describe_weight(section: ObjectiveSection) -> str:
    """Return what counts alike in the answer of a fleet with this objective."""
    if section.weight == "node":
        return "every node counts alike"
    return f"every reading counts alike, {section.normalise_by} of them count one"


def weight_findings(fleet: Fleet) -> Iterator[Finding]:
    """Yield the findings on the weight; they need recorded readings."""
    section = fleet.file.objective
    counts = _readings_used(fleet)
    if not counts:
        return
    mean = round(statistics.fmean(counts))
    declared = section.normalise_by
    if section.weight == "reading" and declared is not None:
        if not mean / FAR <= declared <= mean * FAR:
            text = f"normalise_by is {declared}, the nodes have {mean} readings on average"
            remedy = f"set objective.normalise_by: {mean}, which keeps gradients at order one"
            yield Finding("note", WEIGHT, text, remedy)
    elif max(counts) >= UNEQUAL * min(counts) and section.kind != "average":
        text = f"nodes have {min(counts)} to {max(counts)} readings, and {describe_weight(section)}"
        remedy = f"objective.weight: reading with normalise_by: {mean} makes every reading do so"
        yield Finding("note", WEIGHT, text, remedy)


def _readings_used(fleet: Fleet) -> list[int]:
    """Return every node's number of readings in a full window; [] if a sensor is a live one."""
    members = [member for member in fleet.members if member.role != "follower"]
    recorded = [fleet.recorded(member) for member in members]
    window = fleet.file.objective.window
    counts = [min(len(samples), window) for samples in recorded if samples is not None]
    return counts if len(counts) == len(recorded) else []
