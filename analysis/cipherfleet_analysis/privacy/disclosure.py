"""What a coalition of nodes knows, and what it can determine from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cipherfleet_node.settings.sections import (
    ExchangeName,
)
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.topology.graph import Graph

from .averaging import (
    rounds_to_pin_gradient,
)
from .linear_disclosure import determined


@dataclass(frozen=True)
class Disclosure:
    """A fleet under an exchange, and what groups of its nodes see of the others."""

    fleet: Fleet
    exchange: ExchangeName

    @property
    def graph(self) -> Graph:
        """Who is whose neighbour."""
        return self.fleet.graph

    @property
    def averages(self) -> bool:
        """Whether the estimates start at the nodes' own values, and no gradient follows."""
        return self.fleet.file.objective.kind == "average"

    @cached_property
    def domains(self) -> Mapping[str, str]:
        """The trust domain of every node: its owner's, or its own."""
        return {
            member.id: f"node {member.id!r}" if member.owner is None else f"owner {member.owner!r}"
            for member in self.fleet.members
        }

    @cached_property
    def members_of(self) -> Mapping[str, frozenset[str]]:
        """The nodes of every trust domain."""
        found: dict[str, set[str]] = defaultdict(set)
        for node, domain in self.domains.items():
            found[domain].add(node)
        return {domain: frozenset(nodes) for domain, nodes in found.items()}

    @cached_property
    def owners(self) -> Sequence[str]:
        """The domains of two or more nodes, which have something to pool."""
        return [domain for domain, nodes in self.members_of.items() if len(nodes) > 1]

    def seen_alone(self, coalition: Collection[str]) -> Counter[str]:
        """For every node outside, how many of its differences the coalition sees unmixed.

        pairwise: each of its neighbours inside sees one. sealed: an asker inside sees one when
        all its other neighbours are inside too, since it can take their terms off its sum.
        """
        seen: Counter[str] = Counter()
        for node in coalition:
            outside = [near for near in self.graph.neighbours(node) if near not in coalition]
            if self.exchange == "pairwise" or len(outside) == 1:
                seen.update(outside)
        return seen

    def surrounded(self, coalition: Collection[str]) -> set[str]:
        """The nodes outside all of whose neighbours are inside."""
        near = {n for node in coalition for n in self.graph.neighbours(node) if n not in coalition}
        return {n for n in near if all(m in coalition for m in self.graph.neighbours(n))}

    def learnt(self, coalition: Collection[str]) -> dict[str, frozenset[str]]:
        """What the coalition learns of nodes outside beyond one neighbour's or asker's view.

        flow:        its coupling term, so its steps: all its neighbours are inside, and one of its
                     differences is seen (sealed, from one only: as far as its neighbours agree)
        estimate:    exactly, each round, from two differences: q_j + D_j/h_ij = q_m + D_m/h_im has
                     two unknowns and d equations; sealed, from sums enough
        difference:  sealed only, where a neighbour alone should see none
        surrounded:  sealed only: all neighbours inside, but other unknowns in every sum hide it
        Checked by test_an_estimate_that_is_said_to_be_known_can_be_worked_out.
        """
        alone, around = self.seen_alone(coalition), self.surrounded(coalition)
        estimate = self._estimates(coalition, alone)
        found = {
            "flow": {n for n in around if alone[n] or n in estimate},
            "estimate": estimate,
            "difference": {n for n in alone if self.exchange == "sealed"},
            "surrounded": {n for n in around if not alone[n] and n not in estimate},
        }
        return {what: frozenset(nodes) for what, nodes in found.items()}

    def _estimates(self, coalition: Collection[str], alone: Counter[str]) -> Collection[str]:
        if self.exchange == "sealed":
            return determined(self.graph, coalition, self.fleet.dimension)
        return {n for n, count in alone.items() if count > 1 and self.fleet.dimension > 1}

    @cached_property
    def gradient_text(self) -> str:
        """What knowing a node's flow tells of its readings in the long run."""
        algorithm = self.fleet.file.algorithm
        if self.averages:
            return "its own value exactly, once the fleet agrees: the answer less all that flowed"
        if algorithm.stepsize.spread == 0:
            return "its gradient exactly, in every single round (stepsize.spread is 0)"
        tenth, twentieth = (
            f"{rounds_to_pin_gradient(algorithm, error):,} "
            f"({rounds_to_pin_gradient(algorithm, error, sharp=False):,})"
            for error in (0.1, 0.05)
        )
        when = f"to 10 % after {tenth} still rounds, to 5 % after {twentieth}"
        return f"its gradient {when}, at the soonest (by plain averaging)"


def count_triangulated(disclosure: Disclosure) -> int:
    """How many nodes have two neighbours whose differences, pairwise, cross in one point."""
    if disclosure.fleet.dimension == 1:  # all differences lie on one line
        return 0
    return sum(disclosure.graph.degree(node) > 1 for node in disclosure.graph.ids)
