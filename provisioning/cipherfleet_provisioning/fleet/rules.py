"""The rules of fleet.yaml, in the order in which `load_fleet` applies them.

Print them with: python -m cipherfleet_provisioning.fleet.rules
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from cipherfleet_node.core.metric import check_hessian
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.quadratic import LEAST_COUPLING, MOST_DIMENSIONS
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.rules import (
    Rule,
    check_algorithm,
    check_answer,
    check_broker,
    check_crypto,
    check_drift,
    check_gradient,
    check_method,
    check_objective,
    check_parts,
    check_privacy,
    check_statistics,
    privacy_sensor_errors,
    role_errors,
    sensor_broker_errors,
)
from cipherfleet_node.settings.sections import (
    LEAST_PARTICIPANTS,
    MAX_PARTICIPANTS,
    STATISTICS_KINDS,
    Broker,
    has_shield,
)
from cipherfleet_node.settings.type_errors import MAX_MISFITS
from cipherfleet_node.settings.yaml_document import Document
from cipherfleet_provisioning.topology.build import build_graph, section_faults
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import loosely_coupled
from cipherfleet_provisioning.topology.section import TopologyError

from .draft import FleetDraft
from .members import COUNT, ENTRY_RULES, ID, choose_members, read_members
from .readings import (
    FILE_RULES,
    READING_RULES,
    SENSOR,
    check_files,
    check_names,
    check_readings,
)

# -- single sections ----------------------------------------------------------------------------


def _check_end(draft: FleetDraft) -> Iterator[ConfigError]:
    """A fleet that must end has a number of rounds."""
    if not draft.endless and draft.value.algorithm.rounds is None:
        text = "has no rounds: set their number here, or with --rounds"
        yield draft.document.error(("algorithm",), text)


def _check_method(draft: FleetDraft) -> Iterator[ConfigError]:
    """Every setting of the algorithm is one that its method uses, unless --method replaced it."""
    if draft.overrides.method is None:
        yield from check_method(draft)


def _check_statistics(draft: FleetDraft) -> Iterator[ConfigError]:
    """Method statistics has an objective with sums over its readings, and they fit a message."""
    errors = [*check_statistics(draft), *_check_size(draft)]
    for error in errors:
        if draft.overrides.method is None:
            yield error
        else:
            text = f"{error.text} (method {draft.overrides.method} is from --method)"
            remedy = "leave --method out, or name another method"
            yield ConfigError(text, error.mark, error.path, remedy=remedy)


def _check_size(draft: FleetDraft) -> Iterator[ConfigError]:
    """Yield an error if a vector of statistics is longer than a message may be."""
    file = draft.value
    if file.algorithm.method != "statistics" or file.objective.kind not in STATISTICS_KINDS:
        return
    count = make_node_objective(file.algorithm, file.objective).dimension
    # Without a choice it may become the pairwise exchange, whose messages are longer.
    layout = Layout.of(file.crypto.exchange or "pairwise", file.crypto.key_bits, count)
    found = layout.ciphertexts * layout.ciphertext_bytes
    if found > MAX_MESSAGE_BYTES:
        yield draft.document.error(
            ("algorithm", "method"),
            f"is statistics: {count:,} numbers in {layout.ciphertexts:,} ciphertexts make "
            f"{found:,} bytes, a message has at most {MAX_MESSAGE_BYTES:,}",
            remedy="set algorithm.method: exact, or leave features out",
        )


def _check_keys(draft: FleetDraft) -> Iterator[ConfigError]:
    """Keys have a possible size, and weak keys are allowed explicitly."""
    for error in check_crypto(draft):
        if draft.overrides.key_bits is None:
            yield error
        else:
            text = f"{error} ({draft.overrides.key_bits} is from --key-bits)"
            yield ConfigError(text, error.mark)


def _check_brokers(draft: FleetDraft) -> Iterator[ConfigError]:
    """A connection without TLS stays on this machine; a cluster uses TLS and different hosts."""
    document, brokers = draft.document, draft.value.broker
    cluster = brokers.cluster
    if cluster is None:
        yield from check_broker(draft)
        return
    if not brokers.tls:
        text = "needs broker.tls: true: brokers of a cluster identify each other by certificates"
        yield document.key_error(("broker", "cluster"), text)
    if brokers.host != Broker().host:
        text = f"is {brokers.host!r}, and broker.cluster names the hosts: leave one of them out"
        yield document.error(("broker", "host"), text)
    for place, host in enumerate(cluster):
        if host in cluster[:place]:
            text = f"names {host!r} twice: each broker of a cluster is on a host of its own"
            yield document.error(("broker", "cluster", place), text)


def _check_kind(draft: FleetDraft) -> Iterator[ConfigError]:
    """The objective has the parts of its kind, and a class of the user's own can be imported."""
    yield from check_parts(draft)
    objective = draft.value.objective
    if ":" in objective.kind:
        try:
            made = make_objective(objective)
            if draft.is_valid_at("algorithm"):
                check_hessian(made, draft.value.algorithm.metric)
        except ConfigError as error:  # no such module:Class, or one without the method it needs
            mark = draft.document.mark(("objective", "kind"))
            yield ConfigError(f"{mark}: {error}", mark, ("objective", "kind"))


# -- nodes and graph ----------------------------------------------------------------------------


def _check_nodes(draft: FleetDraft) -> Iterable[ConfigError]:
    """Every entry of nodes is valid: ENTRY_RULES."""
    draft.members = read_members(draft)
    return ()  # the rules of the entries have reported the errors


def _check_graph(draft: FleetDraft) -> Iterator[ConfigError]:
    """The topology connects all nodes that are used."""
    known = [member.id for member in draft.members]
    try:
        draft.members = choose_members(draft.members, draft.value, draft.overrides.nodes)
    except ConfigError as error:
        yield error
        return
    draft.graph = yield from _build_graph(draft, [member.id for member in draft.members], known)


def _build_graph(
    draft: FleetDraft, ids: Sequence[str], known: Collection[str]
) -> Generator[ConfigError, None, Graph | None]:
    """Build the graph; None after an error. Every edge to an unknown node is reported."""
    document, topology = draft.document, draft.value.topology
    faults = list(islice(section_faults(topology, ids, known), MAX_MISFITS))
    if faults:
        yield from (_locate(document, fault) for fault in faults)
        return None
    edges = dict(enumerate(topology.edges or ()))
    for _ in range(MAX_MISFITS):
        given = list(edges.values()) if topology.edges is not None else None
        left = msgspec.structs.replace(topology, edges=given)
        try:
            return build_graph(left, ids, draft.folder, known)
        except TopologyError as error:
            match error.path:
                case ("edges", int(place), int(side)):
                    index = list(edges)[place]
                    path = ("topology", "edges", index, side)
                    yield document.error(path, error.message)
                    del edges[index]
                case _:
                    # After an edge was left out, this error may be its consequence.
                    if len(edges) == len(topology.edges or ()):
                        yield _locate(document, error)
                    break
    return None


def _locate(document: Document, error: TopologyError) -> ConfigError:
    return document.error(("topology", *error.path), error.message, remedy=error.remedy)


def _check_roles(draft: FleetDraft) -> Iterator[ConfigError]:
    """Followers run the exact method, others have a sensor, and not all nodes are followers."""
    nodes = draft.value.nodes
    for index, entry in enumerate(nodes):
        yield from role_errors(draft, entry.role, entry.source, ("nodes", index))
    if all(entry.role == "follower" for entry in nodes):
        text = "are all followers: at least one must have readings of its own"
        yield draft.document.error(("nodes",), text)


def _check_private_sensors(draft: FleetDraft) -> Iterator[ConfigError]:
    """With the section privacy, all readings of a run are there before its first round."""
    for index, entry in enumerate(draft.value.nodes):
        yield from privacy_sensor_errors(draft, entry.role, entry.source, ("nodes", index))


def _check_sensor_brokers(draft: FleetDraft) -> Iterator[ConfigError]:
    """A sensor reads at no broker of the fleet."""
    for index, entry in enumerate(draft.value.nodes):
        yield from sensor_broker_errors(draft, entry.source, ("nodes", index))


def _check_participants(draft: FleetDraft) -> Iterator[ConfigError]:
    """A fleet with a shield has 3 to 1,024 nodes."""
    file, count = draft.value, len(draft.members)
    if not has_shield(file.algorithm, file.objective) or draft.graph is None:
        return
    if not LEAST_PARTICIPANTS <= count <= MAX_PARTICIPANTS:
        yield draft.document.error(
            ("algorithm", "shield"),
            f"is {file.algorithm.shield}, and the fleet has {count:,} nodes: a shield needs "
            f"{LEAST_PARTICIPANTS} to {MAX_PARTICIPANTS:,}",
            remedy="set algorithm.shield: none, or change the number of nodes",
        )


def _check_quadratic(draft: FleetDraft) -> Iterator[ConfigError]:
    """The quadratic shield has few dimensions, and the links of every node have enough weight."""
    file, graph, document = draft.value, draft.graph, draft.document
    is_used = file.algorithm.shield == "quadratic" and has_shield(file.algorithm, file.objective)
    if not is_used or graph is None:
        return
    here, remedy = ("algorithm", "shield"), "or set algorithm.shield: linear"
    count = make_node_objective(file.algorithm, file.objective).dimension
    if count > MOST_DIMENSIONS:
        yield document.error(
            here,
            f"is quadratic, and an estimate has {count:,} numbers: it allows {MOST_DIMENSIONS}",
            remedy=f"leave features out, {remedy}",
        )
    loose = loosely_coupled(graph)
    if loose:
        shown = ", ".join(f"{node!r} has {weight:.2f}" for node, weight in loose[:MAX_MISFITS])
        more = f" and {len(loose) - MAX_MISFITS} more" if len(loose) > MAX_MISFITS else ""
        yield document.error(
            here,
            "is quadratic, which needs links whose weights 1 / (1 + degree of the end that has "
            f"more) sum to {LEAST_COUPLING} at every node; {shown}{more}",
            remedy=f"give these nodes links to nodes with few neighbours, {remedy}",
        )


def _check_leaves(draft: FleetDraft) -> Iterator[ConfigError]:
    """In the sealed exchange every node has two neighbours, unless crypto.leaves is open."""
    crypto = draft.value.crypto
    leaf = draft.graph.leaf if draft.graph is not None else None
    if crypto.exchange == "sealed" and leaf is not None and crypto.leaves == "refuse":
        yield draft.document.error(
            ("crypto", "exchange"),
            f"is sealed, but {leaf!r} has one neighbour only, and a sum over one hides nothing: "
            "give it another edge, or write crypto.leaves: open (such a node then learns as much "
            "about its neighbour as with pairwise), or exchange: pairwise",
        )


# -- the list -----------------------------------------------------------------------------------

FLEET_RULES: tuple[Rule[FleetDraft], ...] = (
    Rule((), check_algorithm),
    Rule((("algorithm",),), _check_method),
    Rule((("algorithm",), ("objective",)), check_gradient),
    Rule((("algorithm",),), _check_end),
    Rule((("crypto",),), _check_keys),
    Rule((("broker",),), _check_brokers),
    Rule((), check_objective),
    Rule((("objective", "kind"),), _check_kind),
    Rule((("algorithm",), ("objective",), ("crypto",)), _check_statistics),
    Rule((("privacy",), ("algorithm",), ("objective",)), check_privacy),
    Rule((("privacy",), ("algorithm",), ("objective",)), check_drift),
    Rule((), _check_nodes),
    Rule((("privacy",), ("nodes",)), _check_private_sensors),
    Rule((("broker",), ("nodes",)), _check_sensor_brokers),
    Rule((("answer",), ("broker",), ("objective",)), check_answer),
    Rule((("algorithm",), ("objective",), ("nodes",)), _check_roles),
    Rule((ID, COUNT), _check_graph),  # without all ids, every edge to the others would be an error
    Rule((("algorithm",), ("objective",), ("nodes",)), _check_participants),
    Rule((("algorithm",), ("objective",), ("nodes",), ("topology",)), _check_quadratic),
    Rule((("topology",), ("crypto", "leaves"), ("crypto", "exchange")), _check_leaves),
    Rule((), check_files),
    Rule((SENSOR,), check_names),
    Rule((), check_readings),
)


def describe_rules() -> str:
    """Return all rules as text, one per line."""
    lists = {
        "fleet.yaml": FLEET_RULES,
        "ENTRY_RULES, for each entry of nodes": ENTRY_RULES,
        "FILE_RULES, for each node": FILE_RULES,
        "READING_RULES, for each node": READING_RULES,
    }
    return "\n\n".join(
        "\n".join([title, *(f"  {rule}" for rule in rules)]) for title, rules in lists.items()
    )


if __name__ == "__main__":
    sys.stdout.write(describe_rules() + "\n")
