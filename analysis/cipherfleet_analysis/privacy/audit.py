"""Privacy audit of one fleet: what each observer learns, given topology, owners and settings.

The audit assumes that all participants follow the protocol and keep what they receive, and that
nodes of one owner share it. The levels of its findings are:

    fail   One trust domain alone learns private values: keys are weak, or an owner or a node can
           compute a foreign node's coupling term or its share of the answer. Also plain TCP to
           other hosts, and an exchange that cannot run on this graph.
    warn   A node or owner learns more than the exchange shows to any neighbour; or the loss of one
           node splits the fleet; or a protection that costs nothing is switched off.
    note   The exchange shows this by design; the text says how soon.
    ok     Checked without a finding.

For a coalition the audit uses all values of one round (see linear_disclosure), and the coupling
term of a node over all rounds. Sealed sums of several unknown nodes also separate over many rounds,
by independent component analysis. Its figures are measured ones, of SECURITY.md.
Source: node/PROTOCOL.md#what-leaks; the other figures come from averaging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cipherfleet_analysis.convergence import COARSE_RESOLUTION
from cipherfleet_analysis.privacy.disclosure import Disclosure, count_triangulated
from cipherfleet_analysis.privacy.observers import Observer, list_observers
from cipherfleet_analysis.privacy.wording import format_count, format_names, format_nodes
from cipherfleet_node.findings import LEVELS, Finding
from cipherfleet_node.settings.rules import is_loopback
from cipherfleet_node.settings.sections import (
    SAFE_KEY_BITS,
    CsvSensor,
    ExchangeName,
    resolution_of,
)
from cipherfleet_provisioning.fleet.fleet import Fleet

from .averaging import (
    averaging_error,
    best_estimator_error,
    rounding_noise,
    rounds_to_pin_state,
)

SEPARABLE_DEGREE = 4  # sums over fewer neighbours separate within SEPARABLE_ROUNDS rounds
SEPARABLE_ROUNDS = 1000


@dataclass(frozen=True)
class Privacy:
    """The findings of an audit, the most serious first, and the privacy table."""

    findings: tuple[Finding, ...]
    who_learns_what: tuple[Observer, ...]


def check_privacy(fleet: Fleet, exchange: ExchangeName) -> Privacy:
    """Audit *fleet* with *exchange*, which may differ from the exchange in its file."""
    disclosure = Disclosure(fleet, exchange)
    findings = [
        *_check_settings(fleet),
        *_check_answer(disclosure),
        *_check_leaves(disclosure),
        *_check_owners(disclosure),
        *_check_bottlenecks(disclosure),
        *_describe_exchange(disclosure),
    ]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Privacy(tuple(findings), tuple(list_observers(disclosure)))


# -- settings -----------------------------------------------------------------------------------


def _check_settings(fleet: Fleet) -> Iterator[Finding]:
    file = fleet.file
    crypto, broker, algorithm = file.crypto, file.broker, file.algorithm
    if crypto.key_bits < SAFE_KEY_BITS:
        yield Finding(
            "fail", "keys",
            f"keys of {crypto.key_bits} bits are weak: an observer that records the traffic can "
            "factor them and read every estimate",
            f"set crypto.key_bits to {SAFE_KEY_BITS} or more, without allow_weak_keys",
        )  # fmt: skip
    elif crypto.allow_weak_keys:
        yield Finding(
            "note", "keys",
            f"crypto.allow_weak_keys is set although keys have {crypto.key_bits} bits",
            "leave it out, so that weak keys are refused",
        )  # fmt: skip
    else:
        yield Finding("ok", "keys", f"keys of {crypto.key_bits} bits")
    if broker.tls:
        yield Finding("ok", "transport", "TLS 1.3 with a certificate per node")
    elif is_loopback(broker.host):
        yield Finding(
            "note", "transport",
            "plain TCP on this machine: its users see sizes, timing and the graph, and the broker "
            "admits every client",
            "write broker: {tls: true}",
        )  # fmt: skip
    else:
        yield Finding(
            "fail", "transport",
            f"plain TCP to {broker.host!r}: an observer on the network sees sizes, timing and the "
            "graph, and the broker admits every client",
            "write broker: {tls: true}",
        )  # fmt: skip
    if algorithm.stepsize.spread == 0 and file.objective.kind != "average":
        yield Finding(
            "warn", "spread",
            "stepsize.spread is 0: all stepsizes are public, so an observer that knows two "
            "consecutive estimates and the coupling term between them knows the gradient exactly, "
            "from one round",
            "set algorithm.stepsize.spread to 1, which costs hardly any accuracy",
        )  # fmt: skip
    if resolution_of(algorithm) >= COARSE_RESOLUTION:
        yield Finding(
            "note", "resolution",
            f"resolution {resolution_of(algorithm):.2g} is coarse: rounding hides steps below "
            f"{resolution_of(algorithm):.2g}, which hardly protects them and costs accuracy; "
            "observers see that closer estimates are equal",
            "set resolution to 2^-24, which costs nothing; the spread protects gradients, not the "
            "rounding",
        )  # fmt: skip
    recorded = [m.id for m in fleet.members if isinstance(m.sensor, CsvSensor)]
    if len(recorded) > 1:
        yield Finding(
            "note", "readings",
            "recorded files are divided among the nodes on the operator's machine: it sees these "
            "readings, and `cipherfleet run` traces estimates",
            "use live sensors, or a file on each device",
            nodes=tuple(recorded),
        )  # fmt: skip


# -- the answer itself --------------------------------------------------------------------------


def _check_answer(disclosure: Disclosure) -> Iterator[Finding]:
    """Yield a failure for an owner of all nodes but one: the common answer reveals that node."""
    for domain, inside in disclosure.members_of.items():
        if len(inside) == len(disclosure.graph.ids) - 1:
            outside = [node for node in disclosure.graph.ids if node not in inside]
            learnt = "value" if disclosure.is_average else "gradient at the optimum"
            if disclosure.fleet.file.algorithm.method == "statistics":
                learnt = "normal equations" if disclosure.shows_equations else "mean"
            yield Finding(
                "fail", "answer",
                f"{domain} owns every node except {outside[0]!r}: the common answer minus the "
                f"shares of its own nodes is that node's {learnt}",
                "add nodes of a third party: no exchange can hide it",
                nodes=tuple(outside),
            )  # fmt: skip


# -- leaves -------------------------------------------------------------------------------------


def _check_leaves(disclosure: Disclosure) -> Iterator[Finding]:
    graph = disclosure.graph
    leaves = [node for node in graph.ids if graph.degree(node) == 1]
    if not leaves:
        yield Finding("ok", "leaf", "every node has two or more neighbours")
        return
    if disclosure.exchange == "sealed" and disclosure.fleet.file.crypto.leaves == "open":
        yield Finding(
            "warn", "leaf",
            f"{format_nodes(leaves)} with one neighbour only: the answer of that neighbour has no "
            "mask, and such a node learns as much about it as with the pairwise exchange",
            "add a second neighbour for each, or write crypto.leaves: refuse",
            nodes=tuple(leaves),
        )  # fmt: skip
        return
    if disclosure.exchange == "sealed":
        yield Finding(
            "fail", "leaf",
            f"{format_nodes(leaves)} with one neighbour only: a sum over one neighbour hides "
            "nothing, and the sealed exchange cannot run",
            "add a second neighbour for each, or write crypto.exchange: pairwise",
            nodes=tuple(leaves),
        )  # fmt: skip
        return
    foreign = [
        n for n in leaves if disclosure.domains[n] != disclosure.domains[graph.neighbours(n)[0]]
    ]
    if not foreign:
        yield Finding(
            "ok", "leaf",
            f"{format_nodes(leaves)} with one neighbour only, of the same owner",
            nodes=tuple(leaves),
        )  # fmt: skip
        return
    yield Finding(
        "fail" if disclosure.is_average else "warn", "leaf",
        f"{format_nodes(foreign)} with one neighbour only: that neighbour alone sees the coupling "
        f"term of such a node, and learns {disclosure.gradient_text}",
        "add a second neighbour of another owner for each",
        nodes=tuple(foreign),
    )  # fmt: skip


# -- owners -------------------------------------------------------------------------------------


def _check_owners(disclosure: Disclosure) -> Iterator[Finding]:
    before = 0
    for owner in disclosure.owners:
        for finding in _check_owner(disclosure, owner):
            before += 1
            yield finding
    if disclosure.owners and not before:
        yield Finding(
            "ok", "owner",
            f"{format_count(disclosure.owners, 'owner')} of several nodes: together these nodes "
            "learn no more than each of them alone",
        )  # fmt: skip


def _check_owner(disclosure: Disclosure, owner: str) -> Iterator[Finding]:
    """Yield the findings on one owner, without leaves, which have findings of their own."""
    learnt = disclosure.find_disclosed(disclosure.members_of[owner])
    ordered = {
        what: [n for n in disclosure.graph.ids if n in nodes and disclosure.graph.degree(n) > 1]
        for what, nodes in learnt.items()
    }
    flow, estimate = ordered["flow"], [n for n in ordered["estimate"] if n not in learnt["flow"]]
    if flow:
        yield Finding(
            "fail", "surrounded",
            f"{owner} owns all neighbours of {format_nodes(flow)} and combines what they see: it "
            f"learns {disclosure.gradient_text}",
            "add a neighbour of another owner for each",
            nodes=tuple(flow),
        )  # fmt: skip
    if estimate:
        first = ", and the first is the node's own value" if disclosure.is_average else ""
        yield Finding(
            "fail" if disclosure.is_average else "warn", "estimate",
            f"{owner} sees enough differences to {format_nodes(estimate)} to compute the estimate "
            f"exactly in every round{first}",
            "choose a graph in which fewer of its nodes are neighbours of each, or in which those "
            "have neighbours of other owners",
            nodes=tuple(estimate),
        )  # fmt: skip
    found = learnt["flow"] | learnt["estimate"]
    difference = [n for n in ordered["difference"] if n not in found]
    if difference:
        yield Finding(
            "warn", "isolated",
            f"{owner} owns an asking node and all its other neighbours, and can therefore separate "
            f"the term of {format_nodes(difference)} from the sum: it sees this difference as with "
            "the pairwise exchange",
            "add a second neighbour of another owner to the asking node",
            nodes=tuple(difference),
        )  # fmt: skip
    if ordered["surrounded"]:
        yield Finding(
            "warn", "surrounded",
            f"{owner} owns all neighbours of {format_nodes(ordered['surrounded'])}: only the terms "
            "of other nodes in the sums hide the differences",
            "add a neighbour of another owner for each",
            nodes=tuple(ordered["surrounded"]),
        )  # fmt: skip


# -- bottlenecks --------------------------------------------------------------------------------


def _check_bottlenecks(disclosure: Disclosure) -> Iterator[Finding]:
    import networkx as nx

    graph = nx.Graph(disclosure.graph.edges)
    cuts = set(nx.articulation_points(graph))
    if not cuts:
        yield Finding("ok", "cut", "the loss of one node or link does not split the fleet")
        return
    nodes = tuple(node for node in disclosure.graph.ids if node in cuts)
    total = "values" if disclosure.is_average else "gradients at the optimum"
    shown = {
        "pairwise": "each sees the exchange between the parts it connects, and can compute the sum "
        f"over a whole part of its nodes' {total}",
        "sealed": "the parts influence each other only through it, although it sees one sum only",
    }[disclosure.exchange]
    yield Finding(
        "warn", "cut",
        f"{format_nodes(nodes)} whose loss splits the fleet: {shown}",
        "add an edge that bypasses each, for example with topology: {kind: random_regular, degree: "
        "4}",
        nodes=nodes,
    )  # fmt: skip
    leaf = {node for node in disclosure.graph.ids if disclosure.graph.degree(node) == 1}
    bridges = [edge for edge in nx.bridges(graph) if not leaf & set(edge)]
    if bridges:
        ends = {node for edge in bridges for node in edge}
        yield Finding(
            "note", "bridge",
            f"{format_count(bridges, 'link')} whose loss splits the fleet: "
            f"{format_names(f'{a} - {b}' for a, b in sorted(bridges))}",
            "add a second link between the parts",
            nodes=tuple(node for node in disclosure.graph.ids if node in ends),
        )  # fmt: skip


# -- what the exchange reveals by design --------------------------------------------------------


def _describe_exchange(disclosure: Disclosure) -> Iterator[Finding]:
    if disclosure.exchange == "pairwise":
        yield _describe_averaging()
        if count_triangulated(disclosure):
            yield Finding(
                "note", "pair",
                "any two colluding neighbours of a node can compute its estimate exactly in every "
                "round: it is the intersection of the two lines that their differences define",
                "choose neighbours that do not collude, or the sealed exchange",
            )  # fmt: skip
    elif all(disclosure.graph.degree(node) > 1 for node in disclosure.graph.ids):
        yield _describe_isolation(disclosure)
    if disclosure.exchange == "sealed" and not disclosure.is_average:
        yield from _check_separation(disclosure)
    if not disclosure.is_average:
        yield _describe_telescoping(disclosure)
    if disclosure.shows_equations:
        yield Finding(
            "note", "statistics",
            "every node learns the fleet's mean of the normal equations: the mean products of all "
            "pairs of features, and of each feature and the target, which is more than the optimum",
            "set algorithm.method: exact, which shows the optimum alone",
        )  # fmt: skip


def _describe_averaging() -> Finding:
    tenth, hundredth = rounds_to_pin_state(0.1), rounds_to_pin_state(0.01)
    return Finding(
        "note", "neighbour",
        f"every neighbour knows the difference, and with it the estimate, to within a factor of "
        f"two in one round, and to 10 % after {tenth} and to 1 % after {hundredth} rounds in which "
        "estimates hardly change",
        "choose neighbours that may know it, or the sealed exchange",
    )  # fmt: skip


def _describe_isolation(disclosure: Disclosure) -> Finding:
    graph = disclosure.graph
    least = {n: min(graph.degree(near) for near in graph.neighbours(n)) for n in graph.ids}
    fewest = min(least.values())
    weakest = tuple(n for n in graph.ids if least[n] == fewest)
    return Finding(
        "note", "isolated",
        f"{fewest} colluding nodes, an asking node and all its other neighbours, suffice to see "
        f"the difference of one of {format_nodes(weakest)} as with the pairwise exchange",
        "add neighbours to the nodes next to them",
        nodes=weakest,
    )  # fmt: skip


def _check_separation(disclosure: Disclosure) -> Iterator[Finding]:
    """Yield a warning if the sums of a node separate into single differences over many rounds.

    The limits are those of the table "One neighbour observes many rounds" in SECURITY.md.
    """
    graph, algorithm = disclosure.graph, disclosure.fleet.file.algorithm
    is_long = algorithm.rounds is None or algorithm.rounds > SEPARABLE_ROUNDS
    wanted = SEPARABLE_DEGREE + 1 if is_long else SEPARABLE_DEGREE
    is_even = algorithm.stepsize.spread < 1
    nodes = tuple(n for n in graph.ids if is_even or 1 < graph.degree(n) < wanted)
    if nodes:
        yield Finding(
            "warn", "separation",
            f"{format_nodes(nodes)} can separate a sum into single differences by independent "
            "component analysis, once estimates hardly change: at degree 2 or 3 to 7 .. 27 % after "
            "1,000 rounds, at degree 4 to half after 4,000; it does not learn whose is which",
            f"give every node {wanted} or more neighbours, and set algorithm.stepsize.spread to 1",
            nodes=nodes,
        )  # fmt: skip


def _describe_telescoping(disclosure: Disclosure) -> Finding:
    algorithm = disclosure.fleet.file.algorithm
    if disclosure.fleet.has_shield:
        is_quadratic = algorithm.shield == "quadratic"
        return Finding(
            "note", "telescoping",
            "all neighbours of a node together learn nothing of its gradient, as long as one of "
            "the partners of its shield does not collude; they learn second moments of features, "
            + ("to 20 .. 40 % of a guess" if is_quadratic else "to 0.5 % of a guess"),
            "" if is_quadratic else "set algorithm.shield: quadratic where these matter",
        )  # fmt: skip
    if algorithm.method != "article":
        return Finding(
            "note", "telescoping",
            f"all neighbours of a node together, if they know its coupling term, learn "
            f"{disclosure.gradient_text}",
            "set algorithm.shield: linear, or choose neighbours of several owners",
        )  # fmt: skip
    stepsize, rounds = algorithm.stepsize, algorithm.rounds
    noise = rounding_noise(algorithm, (rounds or 1) - 1)
    end = "this fleet runs without end, so the error keeps falling"
    if rounds is not None:
        error = min(
            averaging_error(stepsize.spread, rounds, noise),
            max(best_estimator_error(stepsize.spread, rounds, stepsize.law), noise),
        )
        end = f"after this fleet's {rounds:,} rounds the error is {100 * error:.2g} % or more"
    return Finding(
        "note", "telescoping",
        f"all neighbours of a node together, if they know its coupling term, learn "
        f"{disclosure.gradient_text}; {end}; in one round rounding adds an error of {noise:.2g}, "
        "relative to a gradient of 1",
        "run fewer rounds at the optimum, and choose neighbours of several owners",
    )  # fmt: skip
