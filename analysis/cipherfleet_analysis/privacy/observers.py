"""The privacy table: what each kind of observer learns in each round, in many rounds, and never."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_provisioning.fleet.fleet import Fleet

from .averaging import rounds_to_pin_state
from .disclosure import Disclosure, count_triangulated
from .wording import format_names, format_nodes, format_range

_DEGREE_CLASSES = ((1, 1), (2, 2), (3, 3), (4, 7), (8, 15), (16, 63))


@dataclass(frozen=True)
class Observer:
    """A row of the privacy table; *count* is the number of such observers in this fleet."""

    observer: str
    count: int
    each_round: str
    many_rounds: str
    never: str


_NO_STATE = "any estimate, reading or key"
_NO_READINGS = "single readings, where the objective sums many"


def list_observers(disclosure: Disclosure) -> Iterator[Observer]:
    """Yield the rows of the privacy table."""
    yield from _outsiders(disclosure.fleet)
    if disclosure.exchange == "pairwise":
        yield from _pairwise_neighbours(disclosure)
    else:
        yield from _sealed_askers(disclosure)
    yield from _owner_rows(disclosure)
    yield from _all_neighbours(disclosure)
    if disclosure.shows_equations:
        yield Observer(
            "every node", len(disclosure.graph.ids), "its estimate of the mean normal equations",
            "the fleet's mean of the normal equations, which is more than the optimum",
            f"those of a single node, unless all its neighbours collude; {_NO_READINGS}",
        )  # fmt: skip
    deviating = (
        "with a forged query: the half weight, and with it the estimate"
        if disclosure.exchange == "pairwise"
        else "with a forged query: the weighted sum of the estimates"
    )
    yield Observer(
        "a neighbour that breaks the protocol", len(disclosure.graph.ids), deviating,
        "what follows from these", _NO_READINGS,
    )  # fmt: skip
    yield Observer(
        "a reader of a node's disk", len(disclosure.graph.ids), "its readings, estimate and keys",
        "the same", "other nodes' keys",
    )  # fmt: skip


def _outsiders(fleet: Fleet) -> Iterator[Observer]:
    weak = fleet.file.crypto.key_bits < SAFE_KEY_BITS
    never = "nothing is protected: keys are weak" if weak else _NO_STATE
    many = "every estimate, by factoring a key" if weak else "when each node is present"
    on_the_network = "sizes, timing" if fleet.file.broker.tls else "sizes, timing, the graph"
    yield Observer("eavesdropper", 1, on_the_network, many, never)
    count = len(fleet.file.broker.hosts)
    yield Observer("broker", count, "sizes, timing, the graph, presence", many, never)


def _pairwise_neighbours(disclosure: Disclosure) -> Iterator[Observer]:
    graph = disclosure.graph
    leaves = sum(graph.degree(node) == 1 for node in graph.ids)
    others = 2 * len(graph.edges) - leaves
    within = "direction and signs of the difference, its scale within a factor of two"
    state = (
        f"the estimate: the difference to 10 % after {rounds_to_pin_state(0.1)} rounds in which "
        "estimates hardly change"
    )
    if others:
        secret = "its own value exactly" if disclosure.is_average else "the gradient"
        never = f"{secret}, unless neighbours collude; {_NO_READINGS}"
        yield Observer("one neighbour of a node", others, within, state, never)
    if pairs := count_triangulated(disclosure):
        first = ": the first is its own value" if disclosure.is_average else ""
        yield Observer(
            "two neighbours of a node, colluding", pairs, f"its exact estimate{first}",
            "all its estimates", _NO_READINGS,
        )  # fmt: skip
    if leaves:
        yield Observer(
            "the only neighbour of a leaf", leaves, within + ", the leaf's coupling term",
            f"the estimate, and {disclosure.gradient_text}", _NO_READINGS,
        )  # fmt: skip


def _sealed_askers(disclosure: Disclosure) -> Iterator[Observer]:
    degrees = [disclosure.graph.degree(node) for node in disclosure.graph.ids]
    for low, high in _DEGREE_CLASSES:
        inside = [degree for degree in degrees if low <= degree <= high]
        if not inside:
            continue
        size = format_range(min(inside), max(inside))
        if high == 1:
            yield Observer(
                "a node with 1 neighbour", len(inside), "it cannot use the sealed exchange",
                "-", "-",
            )  # fmt: skip
            continue
        many = "the mean of the sum"
        if disclosure.fleet.dimension >= low:
            many += "; with constant estimates each difference, but not whose it is, by blind "
            many += "separation (the estimate has as many entries as the node has neighbours)"
        yield Observer(
            f"a node with {size} neighbours", len(inside),
            f"one weighted sum of {size} differences", many,
            f"whose difference is whose, unless all but one collude; {_NO_READINGS}",
        )  # fmt: skip


def _owner_rows(disclosure: Disclosure) -> Iterator[Observer]:
    """Yield one row for all owners that learn the same kinds of values."""
    groups: dict[tuple[str, ...], list[tuple[str, dict[str, frozenset[str]]]]] = defaultdict(list)
    for owner in disclosure.owners:
        learnt = disclosure.find_disclosed(disclosure.members_of[owner])
        groups[tuple(what for what, nodes in learnt.items() if nodes)].append((owner, learnt))
    for kinds, group in groups.items():
        counts = {
            what: format_nodes({node for _, learnt in group for node in learnt[what]})
            for what in kinds
        }
        each = [f"{_EACH_ROUND[what]} of {count}" for what, count in counts.items()]
        many = [f"of {counts['flow']}: {disclosure.gradient_text}"] if "flow" in counts else []
        many += [f"all estimates of {counts['estimate']}"] if "estimate" in counts else []
        yield Observer(
            format_names(owner for owner, _ in group), len(group),
            "; ".join(each) or "no more than each of its nodes alone",
            "; ".join(many) or "no more than each of its nodes alone", _NO_READINGS,
        )  # fmt: skip


_EACH_ROUND = {
    "flow": "the coupling term",
    "estimate": "the exact estimate",
    "difference": "the single difference",
    "surrounded": "all sums with a term",
}


def _all_neighbours(disclosure: Disclosure) -> Iterator[Observer]:
    """Yield rows for all neighbours of a node in collusion, grouped by what they learn."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for node in disclosure.graph.ids:
        if disclosure.graph.degree(node) == 1:
            continue  # a leaf has a row of its own
        learnt = disclosure.find_disclosed(frozenset(disclosure.graph.neighbours(node)))
        kinds[tuple(what for what in ("flow", "estimate") if node in learnt[what])] += 1
    for learnt_, count in sorted(kinds.items(), reverse=True):
        if "flow" not in learnt_:
            yield Observer(
                "all neighbours of a node, colluding", count,
                "their sums, in each of which another node's term hides it",
                "the same as each of them alone", f"its single difference; {_NO_READINGS}",
            )  # fmt: skip
            continue
        exact = ", the exact estimate" if "estimate" in learnt_ else ""
        step = "" if disclosure.is_average else ": the step, not the gradient"
        if not disclosure.is_average and disclosure.fleet.file.algorithm.stepsize.spread == 0:
            step = ": the step, and the gradient"
        yield Observer(
            "all neighbours of a node, colluding", count,
            f"its coupling term{exact}{step}", disclosure.gradient_text, _NO_READINGS,
        )  # fmt: skip
