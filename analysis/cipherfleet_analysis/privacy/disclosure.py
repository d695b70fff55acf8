"""Disclosure: what a coalition of nodes can compute about the nodes outside it.

A coalition is a set of nodes that share everything they receive. They follow the protocol.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cipherfleet_node.settings.sections import ExchangeName
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.topology.graph import Graph

from .averaging import rounds_to_pin_gradient
from .linear_disclosure import identifiable_nodes


@dataclass(frozen=True)
class Disclosure:
    """A fleet with one exchange, and what coalitions of its nodes learn about other nodes."""

    fleet: Fleet
    exchange: ExchangeName

    @property
    def graph(self) -> Graph:
        """The topology of the fleet."""
        return self.fleet.graph

    @property
    def is_average(self) -> bool:
        """True if the estimates start at the nodes' own values, and no gradients are added."""
        return self.fleet.file.objective.kind == "average"

    @property
    def shows_equations(self) -> bool:
        """True if the nodes agree on normal equations, and not on the optimum alone."""
        file = self.fleet.file
        return file.algorithm.method == "statistics" and file.objective.kind != "mean"

    @cached_property
    def domains(self) -> Mapping[str, str]:
        """The trust domain of every node: its owner's, or its own."""
        return {
            member.id: f"node {member.id!r}" if member.owner is None else f"owner {member.owner!r}"
            for member in self.fleet.members
        }

    @cached_property
    def members_of(self) -> Mapping[str, frozenset[str]]:
        """The nodes of each trust domain."""
        found: dict[str, set[str]] = defaultdict(set)
        for node, domain in self.domains.items():
            found[domain].add(node)
        return {domain: frozenset(nodes) for domain, nodes in found.items()}

    @cached_property
    def owners(self) -> Sequence[str]:
        """The trust domains of two or more nodes: these nodes form a coalition."""
        return [domain for domain, nodes in self.members_of.items() if len(nodes) > 1]

    def count_isolated_differences(self, coalition: Collection[str]) -> Counter[str]:
        """Count, for every node outside, the differences to it that the coalition sees separately.

        pairwise: each of its neighbours inside sees one. sealed: a neighbour inside sees one if all
        its other neighbours are inside, too, because it can subtract their terms from its sum.
        """
        seen: Counter[str] = Counter()
        for node in coalition:
            outside = [near for near in self.graph.neighbours(node) if near not in coalition]
            if self.exchange == "pairwise" or len(outside) == 1:
                seen.update(outside)
        return seen

    def find_surrounded(self, coalition: Collection[str]) -> set[str]:
        """Return the nodes outside whose neighbours are all inside."""
        near = {n for node in coalition for n in self.graph.neighbours(node) if n not in coalition}
        return {n for n in near if all(m in coalition for m in self.graph.neighbours(n))}

    def find_disclosed(self, coalition: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the nodes outside about which the coalition learns more than one neighbour does.

        flow:        its coupling term, and therefore its steps. All its neighbours are inside, and
                     the coalition sees one of its differences. (sealed, from one difference only:
                     up to the disagreement of its neighbours)
        estimate:    exactly, in each round, from two differences: q_j + D_j/h_ij = q_m + D_m/h_im
                     has two unknowns and d equations. sealed: from enough sums
        difference:  sealed only, where one neighbour alone sees no single difference
        surrounded:  sealed only: all its neighbours are inside, and the terms of other nodes
                     outside hide it in every sum
        Checked by test_an_estimate_that_is_said_to_be_known_can_be_worked_out.
        """
        alone, around = self.count_isolated_differences(coalition), self.find_surrounded(coalition)
        estimate = self._find_estimates(coalition, alone)
        found = {
            "flow": {n for n in around if alone[n] or n in estimate},
            "estimate": estimate,
            "difference": {n for n in alone if self.exchange == "sealed"},
            "surrounded": {n for n in around if not alone[n] and n not in estimate},
        }
        return {what: frozenset(nodes) for what, nodes in found.items()}

    def _find_estimates(self, coalition: Collection[str], alone: Counter[str]) -> Collection[str]:
        if self.exchange == "sealed":
            return identifiable_nodes(self.graph, coalition, self.fleet.dimension)
        return {n for n, count in alone.items() if count > 1 and self.fleet.dimension > 1}

    @cached_property
    def gradient_text(self) -> str:
        """A phrase: what an observer that knows a node's coupling terms learns over many rounds."""
        algorithm = self.fleet.file.algorithm
        if self.is_average:
            return (
                "its own value exactly, once the fleet agrees: the answer minus the sum of its "
                "coupling terms"
            )
        if algorithm.method == "statistics":
            what = "its normal equations" if self.shows_equations else "the mean of its readings"
            return f"{what} exactly, once the fleet agrees"
        if algorithm.method == "exact":
            return (
                "its gradient at the optimum exactly, once the fleet agrees: method exact leaves "
                "no error"
            )
        if algorithm.stepsize.spread == 0:
            return "its gradient exactly, in every single round (stepsize.spread is 0)"
        tenth, twentieth = (
            f"{rounds_to_pin_gradient(algorithm, error):,} "
            f"({rounds_to_pin_gradient(algorithm, error, sharp=False):,})"
            for error in (0.1, 0.05)
        )
        accuracy = f"to 10 % after {tenth} rounds, to 5 % after {twentieth} rounds"
        return (
            f"its gradient {accuracy} with constant gradients, by the best known estimator (in "
            "brackets: by averaging)"
        )


def count_triangulated(disclosure: Disclosure) -> int:
    """Count the nodes whose estimate two colluding neighbours can compute (pairwise)."""
    if disclosure.fleet.dimension == 1:  # all differences lie on one line
        return 0
    return sum(disclosure.graph.degree(node) > 1 for node in disclosure.graph.ids)
