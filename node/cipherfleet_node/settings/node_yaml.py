"""Reading and checking of node.yaml: the settings of a node's fleet, its sensor and its neighbours.

The rules for sections that fleet.yaml has as well are in rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cipherfleet_node.errors import REISSUE_BUNDLE, ConfigError, remedy_for
from cipherfleet_node.settings.sections import NodeConfig, has_shield

from .rules import (
    Rule,
    apply_rules,
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
    sensor_errors,
)
from .yaml_document import Unchecked, read_document

NODE_FILE = "node.yaml"
TLS_FOLDER = "tls"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "node.pem", "node.key"
LOGS_FOLDER = "logs"


def load_node_config(folder: Path) -> NodeConfig:
    """Read and check *folder*/node.yaml; raises ConfigError with all errors of the file."""
    try:
        document = read_document(folder / NODE_FILE)
    except ConfigError as error:
        cause = error.__context__  # an OSError if the file could not be read
        remedy = f"fix it, or {REISSUE_BUNDLE}"
        remedy = remedy_for(cause, remedy) if isinstance(cause, OSError) else remedy
        raise ConfigError(str(error), remedy=remedy) from None
    unchecked = document.unchecked(NodeConfig)
    apply_rules(NODE_RULES, unchecked)
    return unchecked.finish()


def checksum_of(config: NodeConfig) -> str:
    """Return a SHA-256, in hexadecimal digits, over the parts that only provisioning writes.

    This node cannot notice a wrong seal of another node otherwise: only the sums of a common
    neighbour would not open. The checksum finds accidents and no attacks, since a program that
    changes the file can change the checksum too.
    """
    others = [(n.id, n.neighbours, n.fingerprint) for n in config.neighbours]
    own = config.keys and (config.keys.paillier, config.keys.identity, config.keys.seal)
    seals = sorted(config.seals.items())
    made: list[object] = [config.fleet, config.node, own, config.operator, others, seals]
    if config.generations is not None:
        made.append(config.generations)
    if config.privacy is not None:
        made += [config.privacy, config.objective]  # one release: no node may change its own
    return hashlib.sha256(b"cipherfleet/v2/node\0" + msgspec.json.encode(made)).hexdigest()


def _check_sensor(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """There is one sensor or a list, with limits that values can satisfy."""
    yield from sensor_errors(draft.document, draft.value, ())


def _check_sensor_broker(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """A sensor reads at no broker of the fleet."""
    yield from sensor_broker_errors(draft, draft.value.source, ())


def _check_role(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """A follower runs the exact method, and only a follower may be without a sensor."""
    yield from role_errors(draft, draft.value.role, draft.value.source, ())


def _check_private_sensor(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """With the section privacy, all readings of a run are there before its first round."""
    yield from privacy_sensor_errors(draft, draft.value.role, draft.value.source, ())


def _check_diameter(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """A fleet that ends when it has settled knows its diameter."""
    config = draft.value
    if config.algorithm.until is not None and config.diameter is None:
        text = "needs diameter, the number of hops between the nodes that are farthest apart"
        yield draft.document.error(("algorithm", "until"), text, remedy=REISSUE_BUNDLE)


def _check_neighbours(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """The neighbours are other nodes, each listed once, and each has this node as a neighbour."""
    document, config = draft.document, draft.value
    if not config.neighbours and config.operator is None:
        text = "is empty: list the neighbours, or set operator, the key that signs memberships"
        yield document.error(("neighbours",), text)
    seen: set[str] = {config.node}
    for index, neighbour in enumerate(config.neighbours):
        if neighbour.id in seen:
            yield document.error(
                ("neighbours", index, "id"), f"is {neighbour.id!r}, which is listed already"
            )
        seen.add(neighbour.id)
        if config.node not in neighbour.neighbours:
            yield document.error(
                ("neighbours", index, "neighbours"),
                f"lacks {config.node!r}, this node itself",
                remedy=REISSUE_BUNDLE,
            )


def _check_exchange(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """The file chooses one of the two exchanges."""
    if draft.value.crypto.exchange is None:
        yield draft.document.error(("crypto", "exchange"), "is needed: sealed or pairwise")


def _check_seals(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """The sealed exchange has a seal of every co-neighbour."""
    config = draft.value
    if config.crypto.exchange != "sealed":
        return
    missing = sorted(config.co_neighbours - config.seals.keys())
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield draft.document.error(
            ("seals",),
            f"lacks {missing[0]!r}{others}, a co-neighbour of this node, which the sealed "
            "exchange needs",
            remedy=REISSUE_BUNDLE,
        )


def _check_generations(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """A node with a shield and neighbours knows its partners, and the schedule of generations."""
    document, config = draft.document, draft.value
    given, here = config.generations, ("generations",)
    if not has_shield(config.algorithm, config.objective):
        if given is not None:
            text = "is not used by algorithm.shield: none"
            yield document.key_error(here, text, remedy=REISSUE_BUNDLE)
    elif given is not None:
        for fault in given.list_faults(config.node):
            yield document.error(here, fault, remedy=REISSUE_BUNDLE)
    elif config.neighbours:
        text = "needs the section generations, which names the partners of this node"
        yield document.error(("algorithm", "shield"), text, remedy=REISSUE_BUNDLE)


def _check_checksum(draft: Unchecked[NodeConfig]) -> Iterator[ConfigError]:
    """The parts that provisioning writes have the checksum that it wrote."""
    document, config = draft.document, draft.value
    if config.checksum is None:
        is_sealed = config.crypto.exchange == "sealed"
        if config.neighbours and (is_sealed or config.privacy is not None):
            needs = "the sealed exchange" if is_sealed else "the section privacy"
            text = f"lacks checksum, which {needs} needs"
            yield document.error((), text, remedy=REISSUE_BUNDLE)
    elif config.checksum != checksum_of(config):
        yield document.error(
            ("checksum",),
            "does not match: fleet, node, keys, operator, neighbours, seals, generations, or "
            "privacy and objective were changed since provisioning wrote them",
            remedy=REISSUE_BUNDLE,
        )


NODE_RULES: tuple[Rule[Unchecked[NodeConfig]], ...] = (
    Rule((), check_algorithm),
    Rule((("algorithm",),), check_method),
    Rule((("algorithm",), ("objective",)), check_gradient),
    Rule((("crypto",),), check_crypto),
    Rule((("broker",),), check_broker),
    Rule((("objective", "kind"),), check_parts),
    Rule((), check_objective),
    Rule((("algorithm",), ("objective",)), check_statistics),
    Rule((("privacy",), ("algorithm",), ("objective",)), check_privacy),
    Rule((("privacy",), ("algorithm",), ("objective",)), check_drift),
    Rule((), _check_sensor),
    Rule((("broker",), ("sensor",), ("sensors",)), _check_sensor_broker),
    Rule((("privacy",), ("sensor",), ("sensors",)), _check_private_sensor),
    Rule((("algorithm",), ("objective",), ("sensor",), ("sensors",)), _check_role),
    Rule((("algorithm",),), _check_diameter),
    Rule((("node",),), _check_neighbours),
    Rule((), _check_exchange),
    Rule((("node",), ("neighbours",), ("crypto",)), _check_seals),
    Rule((("node",), ("algorithm",), ("objective",), ("neighbours",)), _check_generations),
    Rule((("answer",), ("broker",), ("objective",)), check_answer),
    Rule(((),), _check_checksum),  # after another error the checksum would be wrong as well
)
