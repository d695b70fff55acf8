"""The shield of a fleet: how many partners of a node it takes to take its protection away.

The shares of a node hide its dual as long as one of its partners is honest. If all partners of a
node work together, they know its shares, and the shield hides nothing from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from cipherfleet_analysis.privacy.wording import (
    format_count,
    format_names,
    format_nodes,
    format_range,
)
from cipherfleet_node.findings import Finding
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.generations import draw_partners


def shield_findings(fleet: Fleet) -> Iterator[Finding]:
    """Yield how many partners each node has, and whether one owner has all of them.

    There is no finding for a fleet without a shield. A node counts its own owner as honest. The
    indices are those of a new set.
    """
    if not fleet.has_shield:
        return
    names = [member.id for member in fleet.members]
    drawn = draw_partners(fleet.file.fleet, tuple(range(len(names))))
    partners = {names[index]: [names[other] for other in others] for index, others in drawn.items()}
    counts = [len(others) for others in partners.values()]
    text = (
        f"it takes all partners of a node together, {format_range(min(counts), max(counts))} of "
        f"{len(names):,} nodes, to cut it off from all honest partners and take its shield away"
    )
    surrounded = _find_surrounded(fleet, partners)
    if surrounded:
        owners = sorted(set(surrounded.values()))
        yield Finding(
            "warn",
            "shield",
            f"{text}; {format_names(owners)} alone owns all partners of {format_nodes(surrounded)}",
            "add nodes of other owners",
            nodes=tuple(surrounded),
        )
        return
    owned = Counter(member.owner for member in fleet.members if member.owner)
    if owned:
        text += f"; none of {format_count(owned, 'owner')} alone owns all partners of a node"
    yield Finding("note", "shield", text)


def _find_surrounded(fleet: Fleet, partners: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the nodes whose partners all belong to one other owner, with this owner."""
    owner_of = {member.id: member.owner for member in fleet.members}
    owners = {name: {owner_of[other] for other in others} for name, others in partners.items()}
    return {
        name: owner
        for name, found in owners.items()
        for owner in found
        if len(found) == 1 and owner is not None and owner != owner_of[name]
    }
