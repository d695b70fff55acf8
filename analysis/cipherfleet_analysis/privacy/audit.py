"""Who learns what in this very fleet: its graph, its owners, its schedule, its settings.

Everybody follows the protocol and keeps what it sees; nodes of one owner pool it. Levels:

    fail   somebody learns private things with nobody's help outside its own trust domain (weak
           keys; one owner or node from whose disclosure a foreign node's flow, or its share of the
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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cipherfleet_analysis.convergence import COARSE_RESOLUTION
from cipherfleet_analysis.privacy.disclosure import Disclosure, count_triangulated  # moved
from cipherfleet_analysis.privacy.observers import Observer, list_observers  # moved
from cipherfleet_analysis.privacy.wording import format_count, format_names, format_nodes  # moved
from cipherfleet_node.settings.node_yaml import is_loopback
from cipherfleet_node.settings.sections import (
    SAFE_KEY_BITS,
    CsvSensor,
    ExchangeName,
    resolution_of,
)
from cipherfleet_provisioning.fleet.fleet import Fleet

from .averaging import (
    averaging_error,
    rounding_noise,
    rounds_to_pin_state,
    sharpest_error,
)

Level = Literal["ok", "note", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("fail", "warn", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; *about* is its name for scripts, *mend* may be empty."""

    level: Level
    about: str
    nodes: tuple[str, ...]
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Privacy:
    """All that was found, the gravest first."""

    findings: tuple[Finding, ...]
    who_learns_what: tuple[Observer, ...]


def check_privacy(fleet: Fleet, exchange: ExchangeName) -> Privacy:
    """Look at *fleet* as it would run under *exchange*, whichever its file names."""
    disclosure = Disclosure(fleet, exchange)
    findings = [
        *_settings(fleet),
        *_answers(disclosure),
        *_leaves(disclosure),
        *_owners(disclosure),
        *_cuts(disclosure),
        *_by_design(disclosure),
    ]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Privacy(tuple(findings), tuple(list_observers(disclosure)))


# -- what a coalition sees ----------------------------------------------------------------------


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


def _answers(disclosure: Disclosure) -> Iterator[Finding]:
    """An owner of all nodes but one needs no exchange to learn of that one."""
    for domain, inside in disclosure.members_of.items():
        if len(inside) == len(disclosure.graph.ids) - 1:
            outside = [node for node in disclosure.graph.ids if node not in inside]
            learnt = "value" if disclosure.averages else "gradient at the optimum"
            yield Finding(
                "fail", "answer", tuple(outside),
                f"{domain} holds every node but {outside[0]!r}: the common answer, less its own "
                f"nodes' shares, is that node's {learnt}",
                "let a third party take part: no exchange can hide it",
            )  # fmt: skip


# -- leaves -------------------------------------------------------------------------------------


def _leaves(disclosure: Disclosure) -> Iterator[Finding]:
    graph = disclosure.graph
    leaves = [node for node in graph.ids if graph.degree(node) == 1]
    if not leaves:
        yield Finding("ok", "leaf", (), "every node has two or more neighbours")
        return
    if disclosure.exchange == "sealed" and disclosure.fleet.file.crypto.leaves == "open":
        yield Finding(
            "warn", "leaf", tuple(leaves),
            f"{format_nodes(leaves)} with one neighbour only: asking that one alone, without a "
            "mask, it "
            "learns of it what a pairwise exchange tells",
            "a second neighbour for each, or crypto.leaves: refuse",
        )  # fmt: skip
        return
    if disclosure.exchange == "sealed":
        yield Finding(
            "fail", "leaf", tuple(leaves),
            f"{format_nodes(leaves)} with one neighbour only: what is asked of that one alone "
            "is no sum, "
            "and the sealed exchange cannot run",
            "a second neighbour for each, or crypto.exchange: pairwise",
        )  # fmt: skip
        return
    foreign = [
        n for n in leaves if disclosure.domains[n] != disclosure.domains[graph.neighbours(n)[0]]
    ]
    if not foreign:
        yield Finding(
            "ok", "leaf", tuple(leaves),
            f"{format_nodes(leaves)} with one neighbour only, of the same owner",
        )  # fmt: skip
        return
    yield Finding(
        "fail" if disclosure.averages else "warn", "leaf", tuple(foreign),
        f"{format_nodes(foreign)} with one neighbour only: that one alone, with nobody's help, "
        "sees all "
        f"that flows, and learns {disclosure.gradient_text}",
        "a second neighbour of another owner for each",
    )  # fmt: skip


# -- owners -------------------------------------------------------------------------------------


def _owners(disclosure: Disclosure) -> Iterator[Finding]:
    before = 0
    for owner in disclosure.owners:
        for finding in _owner(disclosure, owner):
            before += 1
            yield finding
    if disclosure.owners and not before:
        yield Finding(
            "ok", "owner", (),
            f"{format_count(disclosure.owners, 'owner')} of several nodes: pooling shows "
            "nothing more than "
            "its nodes see one by one",
        )  # fmt: skip


def _owner(disclosure: Disclosure, owner: str) -> Iterator[Finding]:
    """The findings on one owner; leaves have theirs already."""
    learnt = disclosure.learnt(disclosure.members_of[owner])
    ordered = {
        what: [n for n in disclosure.graph.ids if n in nodes and disclosure.graph.degree(n) > 1]
        for what, nodes in learnt.items()
    }
    flow, estimate = ordered["flow"], [n for n in ordered["estimate"] if n not in learnt["flow"]]
    if flow:
        yield Finding(
            "fail", "surrounded", tuple(flow),
            f"{owner} holds all neighbours of {format_nodes(flow)} and pools what they see: it "
            "learns "
            f"{disclosure.gradient_text}",
            "a neighbour of another owner for each",
        )  # fmt: skip
    if estimate:
        first = ", and the first is the node's own value" if disclosure.averages else ""
        yield Finding(
            "fail" if disclosure.averages else "warn", "estimate", tuple(estimate),
            f"{owner} sees enough of {format_nodes(estimate)}: where the differences cross "
            "lies the "
            f"estimate, exactly, in every round{first}",
            "fewer of its nodes beside each, or neighbours of other owners beside those",
        )  # fmt: skip
    told = learnt["flow"] | learnt["estimate"]
    difference = [n for n in ordered["difference"] if n not in told]
    if difference:
        yield Finding(
            "warn", "isolated", tuple(difference),
            f"{owner} holds an asker and all its other neighbours, and so takes the term of "
            f"{format_nodes(difference)} out of the sum: it sees their difference as pairwise "
            "shows it",
            "a second foreign neighbour for that asker",
        )  # fmt: skip
    if ordered["surrounded"]:
        yield Finding(
            "warn", "surrounded", tuple(ordered["surrounded"]),
            f"{owner} holds all neighbours of {format_nodes(ordered['surrounded'])}: only the "
            "terms of "
            "others in its askers' sums hide their differences from it",
            "a neighbour of another owner for each",
        )  # fmt: skip


# -- bottlenecks --------------------------------------------------------------------------------


def _cuts(disclosure: Disclosure) -> Iterator[Finding]:
    import networkx as nx

    graph = nx.Graph(disclosure.graph.edges)
    cuts = set(nx.articulation_points(graph))
    if not cuts:
        yield Finding("ok", "cut", (), "no single node or link holds the fleet together")
        return
    nodes = tuple(node for node in disclosure.graph.ids if node in cuts)
    total = "values" if disclosure.averages else "gradients at the optimum"
    shown = {
        "pairwise": "each sees all that flows between the parts it joins, and so learns the sum "
        f"over a whole part of its nodes' {total}",
        "sealed": "all news of one part for another passes through it, though it sees one sum only",
    }[disclosure.exchange]
    yield Finding(
        "warn", "cut", nodes,
        f"{format_nodes(nodes)} whose loss splits the fleet: {shown}",
        "an edge around each, for example topology: {kind: random_regular, degree: 4}",
    )  # fmt: skip
    leaf = {node for node in disclosure.graph.ids if disclosure.graph.degree(node) == 1}
    bridges = [edge for edge in nx.bridges(graph) if not leaf & set(edge)]
    if bridges:
        ends = {node for edge in bridges for node in edge}
        yield Finding(
            "note", "bridge", tuple(node for node in disclosure.graph.ids if node in ends),
            f"{format_count(bridges, 'link')} whose loss splits the fleet: "
            f"{format_names(f'{a} - {b}' for a, b in sorted(bridges))}",
            "a second link between the parts",
        )  # fmt: skip


# -- what the exchange shows by design ----------------------------------------------------------


def _by_design(disclosure: Disclosure) -> Iterator[Finding]:
    if disclosure.exchange == "pairwise":
        yield _pinned_state()
        if count_triangulated(disclosure):
            yield Finding(
                "note", "pair", (),
                "any two neighbours of a node that collude know its estimate exactly in every "
                "round: the lines of their two differences cross there",
                "neighbours that do not collude, or the sealed exchange",
            )  # fmt: skip
    elif all(disclosure.graph.degree(node) > 1 for node in disclosure.graph.ids):
        yield _isolating(disclosure)
    if not disclosure.averages:
        yield _telescoping(disclosure)


def _pinned_state() -> Finding:
    tenth, hundredth = rounds_to_pin_state(0.1), rounds_to_pin_state(0.01)
    return Finding(
        "note", "neighbour", (),
        f"every neighbour knows the difference to within a factor of two at once, to 10 % after "
        f"{tenth} rounds and to 1 % after {hundredth} in which estimates hardly move: and so the "
        "estimate",
        "neighbours that may know it, or the sealed exchange",
    )  # fmt: skip


def _isolating(disclosure: Disclosure) -> Finding:
    graph = disclosure.graph
    least = {n: min(graph.degree(near) for near in graph.neighbours(n)) for n in graph.ids}
    fewest = min(least.values())
    weakest = tuple(n for n in graph.ids if least[n] == fewest)
    return Finding(
        "note", "isolated", weakest,
        f"{fewest} colluding nodes, an asker and all its other neighbours, are enough to see the "
        f"difference of one of {format_nodes(weakest)} as pairwise shows it",
        "more neighbours for the nodes beside them",
    )  # fmt: skip


def _telescoping(disclosure: Disclosure) -> Finding:
    algorithm = disclosure.fleet.file.algorithm
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
        f"{disclosure.gradient_text}; {end}; rounding adds {noise:.2g} of a gradient of 1 to "
        "one round",
        "fewer rounds at the optimum, neighbours of several owners",
    )  # fmt: skip


# -- who learns what ----------------------------------------------------------------------------


# -- words --------------------------------------------------------------------------------------
