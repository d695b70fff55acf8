"""Who learns what in this very fleet: its graph, its owners, its schedule, its settings.

Everybody follows the protocol and keeps what it sees; nodes of one owner pool it. Levels:

    fail   somebody learns private things with nobody's help outside its own trust domain (weak
           keys; one owner or node from whose sight a foreign node's flow, or its share of the
           answer, cannot hide), plain TCP to other hosts, or the exchange cannot run on this graph
    warn   a single node or owner learns more than the exchange shows to any neighbour, or one node
           carries a whole part of the fleet, or a guard is switched off that costs nothing
    note   what the exchange shows by design, and how soon
    ok     looked at, as it should be

A coalition is given all that one round tells it (sealed_sums: linear algebra over its askers), and
the flow of a node over all rounds. Not searched for is what sealed sums of several unknown nodes
tell over many rounds, by blind separation
(test_blind_separation_tells_the_terms_of_a_sealed_sum_apart shows that they do).
Source: ALGORITHM section 6; the figures are those of attack_rounds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cipherfleet_node.settings.node_yaml import is_loopback
from cipherfleet_node.settings.sections import (
    SAFE_KEY_BITS,
    CsvSensor,
    ExchangeName,
    resolution_of,
)

from .adviser import COARSE_RESOLUTION
from .attack_rounds import (
    averaging_error,
    rounding_noise,
    rounds_to_pin_gradient,
    rounds_to_pin_state,
    sharpest_error,
)
from .fleet import Fleet
from .sealed_sums import determined
from .topology import Graph

Level = Literal["ok", "note", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("fail", "warn", "note", "ok")

MOST_NAMED = 5  # owners or edges in a sentence; findings hold all nodes
_DEGREE_CLASSES = ((1, 1), (2, 2), (3, 3), (4, 7), (8, 15), (16, 63))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; *about* is its name for scripts, *mend* may be empty."""

    level: Level
    about: str
    nodes: tuple[str, ...]
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Observer:
    """A row of the table who learns what; *count* such observers there are in this fleet."""

    observer: str
    count: int
    each_round: str
    many_rounds: str
    never: str


@dataclass(frozen=True)
class Privacy:
    """All that was found, the gravest first."""

    findings: tuple[Finding, ...]
    who_learns_what: tuple[Observer, ...]


def check_privacy(fleet: Fleet, exchange: ExchangeName) -> Privacy:
    """Look at *fleet* as it would run under *exchange*, whichever its file names."""
    sight = Sight(fleet, exchange)
    findings = [
        *_settings(fleet),
        *_answers(sight),
        *_leaves(sight),
        *_owners(sight),
        *_cuts(sight),
        *_by_design(sight),
    ]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Privacy(tuple(findings), tuple(_who_learns_what(sight)))


# -- what a coalition sees ----------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
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


# -- settings -----------------------------------------------------------------------------------


def _settings(fleet: Fleet) -> Iterator[Finding]:
    file = fleet.file
    crypto, broker, algorithm = file.crypto, file.broker, file.algorithm
    if crypto.key_bits < SAFE_KEY_BITS:
        yield Finding(
            "fail", "keys", (),
            f"keys of {crypto.key_bits} bits are weak: whoever records the traffic can factor them "
            "and read every estimate",
            f"crypto.key_bits of {SAFE_KEY_BITS} or more, without allow_weak_keys",
        )  # fmt: skip
    elif crypto.allow_weak_keys:
        yield Finding(
            "note", "keys", (),
            f"crypto.allow_weak_keys is set though keys have {crypto.key_bits} bits",
            "leave it out, so that weak keys are refused",
        )  # fmt: skip
    else:
        yield Finding("ok", "keys", (), f"keys of {crypto.key_bits} bits")
    if broker.tls:
        yield Finding("ok", "transport", (), "TLS 1.3 with a certificate per node")
    elif is_loopback(broker.host):
        yield Finding(
            "note", "transport", (),
            "plain TCP on this machine: its users see sizes, timing and the graph, and the broker "
            "admits anybody",
            "broker: {tls: true}",
        )  # fmt: skip
    else:
        yield Finding(
            "fail", "transport", (),
            f"plain TCP to {broker.host!r}: anybody on the way sees sizes, timing and the graph, "
            "and the broker admits anybody",
            "broker: {tls: true}",
        )  # fmt: skip
    if algorithm.stepsize.spread == 0 and file.objective.kind != "average":
        yield Finding(
            "warn", "spread", (),
            "stepsize.spread is 0: all stepsizes are public, so that whoever knows two estimates "
            "and the flow between them has the gradient exactly, from one round",
            "algorithm.stepsize.spread: 1 costs next to no accuracy",
        )  # fmt: skip
    if resolution_of(algorithm) >= COARSE_RESOLUTION:
        yield Finding(
            "note", "resolution", (),
            f"resolution {resolution_of(algorithm):.2g} is coarse: steps below "
            f"{resolution_of(algorithm):.2g} drown in rounding, which hides a little and costs "
            "accuracy; estimates nearer than that are seen to be equal",
            "resolution: 2^-24 costs nothing; privacy is the spread's matter, not the rounding's",
        )  # fmt: skip
    recorded = [m.id for m in fleet.members if isinstance(m.sensor, CsvSensor)]
    if len(recorded) > 1:
        yield Finding(
            "note", "readings", tuple(recorded),
            "recorded files are cut on the machine of whoever provisions the fleet: it sees these "
            "readings, and `cipherfleet run` traces estimates",
            "live sensors, or a file on each device",
        )  # fmt: skip


# -- the answer itself --------------------------------------------------------------------------


def _answers(sight: Sight) -> Iterator[Finding]:
    """An owner of all nodes but one needs no exchange to learn of that one."""
    for domain, inside in sight.members_of.items():
        if len(inside) == len(sight.graph.ids) - 1:
            outside = [node for node in sight.graph.ids if node not in inside]
            learnt = "value" if sight.averages else "gradient at the optimum"
            yield Finding(
                "fail", "answer", tuple(outside),
                f"{domain} holds every node but {outside[0]!r}: the common answer, less its own "
                f"nodes' shares, is that node's {learnt}",
                "let a third party take part: no exchange can hide it",
            )  # fmt: skip


# -- leaves -------------------------------------------------------------------------------------


def _leaves(sight: Sight) -> Iterator[Finding]:
    graph = sight.graph
    leaves = [node for node in graph.ids if graph.degree(node) == 1]
    if not leaves:
        yield Finding("ok", "leaf", (), "every node has two or more neighbours")
        return
    if sight.exchange == "sealed" and sight.fleet.file.crypto.leaves == "open":
        yield Finding(
            "warn", "leaf", tuple(leaves),
            f"{_nodes(leaves)} with one neighbour only: asking that one alone, without a mask, it "
            "learns of it what a pairwise exchange tells",
            "a second neighbour for each, or crypto.leaves: refuse",
        )  # fmt: skip
        return
    if sight.exchange == "sealed":
        yield Finding(
            "fail", "leaf", tuple(leaves),
            f"{_nodes(leaves)} with one neighbour only: what is asked of that one alone is no sum, "
            "and the sealed exchange cannot run",
            "a second neighbour for each, or crypto.exchange: pairwise",
        )  # fmt: skip
        return
    foreign = [n for n in leaves if sight.domains[n] != sight.domains[graph.neighbours(n)[0]]]
    if not foreign:
        yield Finding(
            "ok", "leaf", tuple(leaves),
            f"{_nodes(leaves)} with one neighbour only, of the same owner",
        )  # fmt: skip
        return
    yield Finding(
        "fail" if sight.averages else "warn", "leaf", tuple(foreign),
        f"{_nodes(foreign)} with one neighbour only: that one alone, with nobody's help, sees all "
        f"that flows, and learns {sight.gradient_text}",
        "a second neighbour of another owner for each",
    )  # fmt: skip


# -- owners -------------------------------------------------------------------------------------


def _owners(sight: Sight) -> Iterator[Finding]:
    before = 0
    for owner in sight.owners:
        for finding in _owner(sight, owner):
            before += 1
            yield finding
    if sight.owners and not before:
        yield Finding(
            "ok", "owner", (),
            f"{_count(sight.owners, 'owner')} of several nodes: pooling shows nothing more than "
            "its nodes see one by one",
        )  # fmt: skip


def _owner(sight: Sight, owner: str) -> Iterator[Finding]:
    """The findings on one owner; leaves have theirs already."""
    learnt = sight.learnt(sight.members_of[owner])
    ordered = {
        what: [n for n in sight.graph.ids if n in nodes and sight.graph.degree(n) > 1]
        for what, nodes in learnt.items()
    }
    flow, estimate = ordered["flow"], [n for n in ordered["estimate"] if n not in learnt["flow"]]
    if flow:
        yield Finding(
            "fail", "surrounded", tuple(flow),
            f"{owner} holds all neighbours of {_nodes(flow)} and pools what they see: it learns "
            f"{sight.gradient_text}",
            "a neighbour of another owner for each",
        )  # fmt: skip
    if estimate:
        first = ", and the first is the node's own value" if sight.averages else ""
        yield Finding(
            "fail" if sight.averages else "warn", "estimate", tuple(estimate),
            f"{owner} sees enough of {_nodes(estimate)}: where the differences cross lies the "
            f"estimate, exactly, in every round{first}",
            "fewer of its nodes beside each, or neighbours of other owners beside those",
        )  # fmt: skip
    told = learnt["flow"] | learnt["estimate"]
    difference = [n for n in ordered["difference"] if n not in told]
    if difference:
        yield Finding(
            "warn", "isolated", tuple(difference),
            f"{owner} holds an asker and all its other neighbours, and so takes the term of "
            f"{_nodes(difference)} out of the sum: it sees their difference as pairwise shows it",
            "a second foreign neighbour for that asker",
        )  # fmt: skip
    if ordered["surrounded"]:
        yield Finding(
            "warn", "surrounded", tuple(ordered["surrounded"]),
            f"{owner} holds all neighbours of {_nodes(ordered['surrounded'])}: only the terms of "
            "others in its askers' sums hide their differences from it",
            "a neighbour of another owner for each",
        )  # fmt: skip


# -- bottlenecks --------------------------------------------------------------------------------


def _cuts(sight: Sight) -> Iterator[Finding]:
    import networkx as nx  # noqa: PLC0415 - slow to import

    graph = nx.Graph(sight.graph.edges)
    cuts = set(nx.articulation_points(graph))
    if not cuts:
        yield Finding("ok", "cut", (), "no single node or link holds the fleet together")
        return
    nodes = tuple(node for node in sight.graph.ids if node in cuts)
    total = "values" if sight.averages else "gradients at the optimum"
    shown = {
        "pairwise": "each sees all that flows between the parts it joins, and so learns the sum "
        f"over a whole part of its nodes' {total}",
        "sealed": "all news of one part for another passes through it, though it sees one sum only",
    }[sight.exchange]
    yield Finding(
        "warn", "cut", nodes,
        f"{_nodes(nodes)} whose loss splits the fleet: {shown}",
        "an edge around each, for example topology: {kind: random_regular, degree: 4}",
    )  # fmt: skip
    leaf = {node for node in sight.graph.ids if sight.graph.degree(node) == 1}
    bridges = [edge for edge in nx.bridges(graph) if not leaf & set(edge)]
    if bridges:
        ends = {node for edge in bridges for node in edge}
        yield Finding(
            "note", "bridge", tuple(node for node in sight.graph.ids if node in ends),
            f"{_count(bridges, 'link')} whose loss splits the fleet: "
            f"{_named(f'{a} - {b}' for a, b in sorted(bridges))}",
            "a second link between the parts",
        )  # fmt: skip


# -- what the exchange shows by design ----------------------------------------------------------


def _by_design(sight: Sight) -> Iterator[Finding]:
    if sight.exchange == "pairwise":
        yield _pinned_state()
        if _pairs(sight):
            yield Finding(
                "note", "pair", (),
                "any two neighbours of a node that collude know its estimate exactly in every "
                "round: the lines of their two differences cross there",
                "neighbours that do not collude, or the sealed exchange",
            )  # fmt: skip
    elif all(sight.graph.degree(node) > 1 for node in sight.graph.ids):
        yield _isolating(sight)
    if not sight.averages:
        yield _telescoping(sight)


def _pairs(sight: Sight) -> int:
    """How many nodes have two neighbours whose differences, pairwise, cross in one point."""
    if sight.fleet.dimension == 1:  # all differences lie on one line
        return 0
    return sum(sight.graph.degree(node) > 1 for node in sight.graph.ids)


def _pinned_state() -> Finding:
    tenth, hundredth = rounds_to_pin_state(0.1), rounds_to_pin_state(0.01)
    return Finding(
        "note", "neighbour", (),
        f"every neighbour knows the difference to within a factor of two at once, to 10 % after "
        f"{tenth} rounds and to 1 % after {hundredth} in which estimates hardly move: and so the "
        "estimate",
        "neighbours that may know it, or the sealed exchange",
    )  # fmt: skip


def _isolating(sight: Sight) -> Finding:
    graph = sight.graph
    least = {n: min(graph.degree(near) for near in graph.neighbours(n)) for n in graph.ids}
    fewest = min(least.values())
    weakest = tuple(n for n in graph.ids if least[n] == fewest)
    return Finding(
        "note", "isolated", weakest,
        f"{fewest} colluding nodes, an asker and all its other neighbours, are enough to see the "
        f"difference of one of {_nodes(weakest)} as pairwise shows it",
        "more neighbours for the nodes beside them",
    )  # fmt: skip


def _telescoping(sight: Sight) -> Finding:
    algorithm = sight.fleet.file.algorithm
    stepsize, rounds = algorithm.stepsize, algorithm.rounds
    noise = rounding_noise(algorithm, (rounds or 1) - 1)
    end = "it runs for ever: time is on their side"
    if rounds is not None:
        error = min(
            averaging_error(stepsize.spread, rounds, noise),
            max(sharpest_error(stepsize.spread, rounds, stepsize.law), noise),
        )
        end = f"after this fleet's {rounds:,} rounds to {100 * error:.2g} % at best"
    return Finding(
        "note", "telescoping", (),
        f"all neighbours of a node together, where they know its flow, learn "
        f"{sight.gradient_text}; {end}; rounding adds {noise:.2g} of a gradient of 1 to one round",
        "fewer rounds at the optimum, neighbours of several owners",
    )  # fmt: skip


# -- who learns what ----------------------------------------------------------------------------

_NO_STATE = "any estimate, reading or key"
_NO_READINGS = "single readings, where the objective sums many"


def _who_learns_what(sight: Sight) -> Iterator[Observer]:
    yield from _outsiders(sight.fleet)
    if sight.exchange == "pairwise":
        yield from _neighbours_pairwise(sight)
    else:
        yield from _askers_sealed(sight)
    yield from _owner_rows(sight)
    yield from _all_neighbours(sight)
    deviating = (
        "with a query of its own making the half weight, and so the estimate"
        if sight.exchange == "pairwise"
        else "with a query of its own making the weighted sum of the estimates"
    )
    yield Observer(
        "a neighbour that breaks the protocol", len(sight.graph.ids), deviating,
        "all that follows from it", _NO_READINGS,
    )  # fmt: skip
    yield Observer(
        "whoever holds a node's disk", len(sight.graph.ids), "its readings, estimate and keys",
        "the same", "other nodes' keys",
    )  # fmt: skip


def _outsiders(fleet: Fleet) -> Iterator[Observer]:
    weak = fleet.file.crypto.key_bits < SAFE_KEY_BITS
    never = "nothing is safe: keys are weak" if weak else _NO_STATE
    many = "every estimate, by factoring a key" if weak else "who is present when"
    on_the_way = "sizes, timing" if fleet.file.broker.tls else "sizes, timing, the graph"
    yield Observer("eavesdropper", 1, on_the_way, many, never)
    count = len(fleet.file.broker.hosts)
    yield Observer("broker", count, "sizes, timing, the graph, presence", many, never)


def _neighbours_pairwise(sight: Sight) -> Iterator[Observer]:
    graph = sight.graph
    leaves = sum(graph.degree(node) == 1 for node in graph.ids)
    others = 2 * len(graph.edges) - leaves
    within = "direction and signs of the difference, its scale within a factor of two"
    state = f"the estimate: the difference to 10 % in {rounds_to_pin_state(0.1)} still rounds"
    if others:
        secret = "its own value exactly" if sight.averages else "the gradient"
        never = f"{secret}, unless neighbours collude; {_NO_READINGS}"
        yield Observer("one neighbour of a node", others, within, state, never)
    if pairs := _pairs(sight):
        first = ": the first is its own value" if sight.averages else ""
        yield Observer(
            "two neighbours of a node, colluding", pairs, f"its exact estimate{first}",
            "all its estimates", _NO_READINGS,
        )  # fmt: skip
    if leaves:
        yield Observer(
            "the only neighbour of a leaf", leaves, within + ", all that flows",
            f"the estimate, and {sight.gradient_text}", _NO_READINGS,
        )  # fmt: skip


def _askers_sealed(sight: Sight) -> Iterator[Observer]:
    degrees = [sight.graph.degree(node) for node in sight.graph.ids]
    for low, high in _DEGREE_CLASSES:
        inside = [degree for degree in degrees if low <= degree <= high]
        if not inside:
            continue
        size = _range(min(inside), max(inside))
        if high == 1:
            yield Observer("a node with 1 neighbour", len(inside), "it cannot run sealed", "-", "-")
            continue
        many = "the mean of the sum"
        if sight.fleet.dimension >= low:
            many += "; where estimates stand still each difference, without a name, by blind "
            many += "separation (as many entries as neighbours)"
        yield Observer(
            f"a node with {size} neighbours", len(inside),
            f"one weighted sum of {size} differences", many,
            f"whose difference is whose, unless all but one collude; {_NO_READINGS}",
        )  # fmt: skip


def _owner_rows(sight: Sight) -> Iterator[Observer]:
    """Owners that learn the same kinds of things share a row."""
    groups: dict[tuple[str, ...], list[tuple[str, dict[str, frozenset[str]]]]] = defaultdict(list)
    for owner in sight.owners:
        learnt = sight.learnt(sight.members_of[owner])
        groups[tuple(what for what, nodes in learnt.items() if nodes)].append((owner, learnt))
    for kinds, group in groups.items():
        counts = {
            what: _nodes({node for _, learnt in group for node in learnt[what]}) for what in kinds
        }
        each = [f"{_EACH_ROUND[what]} of {count}" for what, count in counts.items()]
        many = [f"of {counts['flow']}: {sight.gradient_text}"] if "flow" in counts else []
        many += [f"all estimates of {counts['estimate']}"] if "estimate" in counts else []
        yield Observer(
            _named(owner for owner, _ in group), len(group),
            "; ".join(each) or "no more than its nodes one by one",
            "; ".join(many) or "no more than its nodes one by one", _NO_READINGS,
        )  # fmt: skip


_EACH_ROUND = {
    "flow": "all that flows to and from",
    "estimate": "the exact estimate",
    "difference": "the difference, alone,",
    "surrounded": "all sums around",
}


def _all_neighbours(sight: Sight) -> Iterator[Observer]:
    """All neighbours of a node colluding: what they know of it, grouped."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for node in sight.graph.ids:
        if sight.graph.degree(node) == 1:
            continue  # a leaf has a row of its own
        learnt = sight.learnt(frozenset(sight.graph.neighbours(node)))
        kinds[tuple(what for what in ("flow", "estimate") if node in learnt[what])] += 1
    for learnt_, count in sorted(kinds.items(), reverse=True):
        if "flow" not in learnt_:
            yield Observer(
                "all neighbours of a node, colluding", count,
                "their sums, in each of which another node's term hides it", "as each of them",
                f"its difference alone; {_NO_READINGS}",
            )  # fmt: skip
            continue
        exact = ", the exact estimate" if "estimate" in learnt_ else ""
        step = "" if sight.averages else ": the step, not the gradient"
        if not sight.averages and sight.fleet.file.algorithm.stepsize.spread == 0:
            step = ": the step, and the gradient"
        yield Observer(
            "all neighbours of a node, colluding", count,
            f"all that flows to and from it{exact}{step}", sight.gradient_text, _NO_READINGS,
        )  # fmt: skip


# -- words --------------------------------------------------------------------------------------


def _nodes(nodes: Collection[str]) -> str:
    """*nodes* by name where they are few, by number where they are many."""
    return f"node {next(iter(nodes))!r}" if len(nodes) == 1 else f"{len(nodes):,} nodes"


def _count(things: Collection[object], word: str) -> str:
    return f"{len(things):,} {word}{'' if len(things) == 1 else 's'}"


def _named(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - MOST_NAMED:,} more" if len(known) > MOST_NAMED else ""
    return ", ".join(known[:MOST_NAMED]) + more


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
