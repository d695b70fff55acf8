"""What a node is told: the settings of its fleet, its sensor and its neighbours.

The sections are shared with fleet.yaml (the operator's file); `load_node_config` reads node.yaml.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cipherfleet_node.errors import ConfigError, remedy_for
from cipherfleet_node.settings.sections import (  # moved
    _RESOLUTION,
    OBJECTIVE_KINDS,
    SAFE_KEY_BITS,
    Algorithm,
    Broker,
    CommandSensor,
    Crypto,
    Feature,
    NodeConfig,
    Objective,
    Sensor,
    resolution_of,
)

from .type_errors import Path_
from .yaml_document import Document, read_document

NODE_FILE = "node.yaml"
TLS_FOLDER = "tls"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "node.pem", "node.key"
LOGS_FOLDER = "logs"


# -- the algorithm ------------------------------------------------------------------------------


# -- objective and sensor -----------------------------------------------------------------------


# node counts alike. One number for all nodes: every reading counts alike.


# -- the node -----------------------------------------------------------------------------------


def load_node_config(folder: Path) -> NodeConfig:
    """Read and check *folder*/node.yaml; raises ConfigError with all mistakes."""
    try:
        document = read_document(folder / NODE_FILE)
    except ConfigError as error:
        found = error.__context__  # what the system said of the file, if it was not read at all
        remedy = "mend it, or get the bundle anew from provisioning"
        remedy = remedy_for(found, remedy) if isinstance(found, OSError) else remedy
        raise ConfigError(f"{error}; {remedy}") from None
    draft = document.draft(NodeConfig)
    config = draft.value
    draft.note(check_algorithm(document, config.algorithm))
    if draft.sound("crypto"):
        draft.note(check_crypto(document, config.crypto))
    if draft.sound("broker"):
        draft.note(check_broker(document, config.broker))
    if draft.sound("objective", "kind"):
        draft.note(check_parts(document, config.objective))
    draft.note(check_objective(document, config.objective))
    draft.note(check_sensor(document, config.sensor, ("sensor",)))
    if draft.sound("node"):
        draft.note(_check_neighbours(document, config))
    draft.note(_check_exchange(document, config))
    if all(draft.sound(section) for section in ("node", "neighbours", "crypto")):
        draft.note(_check_seals(document, config))
    if not draft.findings:  # what is known to be wrong does not fit its checksum
        draft.note(_check_checksum(document, config))
    return draft.checked()


def _check_neighbours(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
    if not config.neighbours and config.operator is None:
        told = "names nobody: list the neighbours, or give operator, the key of who is to name them"
        yield document.error(("neighbours",), told)
    seen: set[str] = {config.node}
    for index, neighbour in enumerate(config.neighbours):
        if neighbour.id in seen:
            yield document.error(
                ("neighbours", index, "id"), f"is {neighbour.id!r}, which is named already"
            )
        seen.add(neighbour.id)
        if config.node not in neighbour.neighbours:
            yield document.error(
                ("neighbours", index, "neighbours"),
                f"lacks {config.node!r}, this node itself; get the bundle anew from provisioning",
            )


def _check_exchange(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
    if config.crypto.exchange is None:
        yield document.error(("crypto", "exchange"), "is needed: sealed or pairwise")


def _check_seals(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
    if config.crypto.exchange != "sealed":
        return
    missing = sorted(config.co_neighbours - config.seals.keys())
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield document.error(
            ("seals",),
            f"lacks {missing[0]!r}{others}, with whom this node shares a neighbour, and which a "
            "sealed exchange needs; get the bundle anew from provisioning",
        )


def checksum_of(config: NodeConfig) -> str:
    """64 hexadecimal digits over the parts of *config* that only provisioning can make.

    A seal of another node that is not its own shows nowhere on this node: the sums of a neighbour
    would not open. This finds accidents; who writes the file can write its checksum.
    """
    others = [(n.id, n.neighbours, n.fingerprint) for n in config.neighbours]
    own = config.keys and (config.keys.paillier, config.keys.identity, config.keys.seal)
    seals = sorted(config.seals.items())
    made = [config.fleet, config.node, own, config.operator, others, seals]
    return hashlib.sha256(b"cipherfleet/v1/node\0" + msgspec.json.encode(made)).hexdigest()


def _check_checksum(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
    if config.checksum is None:
        if config.neighbours and config.crypto.exchange == "sealed":
            told = "lacks checksum, which a sealed exchange needs"
            yield document.error((), f"{told}; get the bundle anew from provisioning")
    elif config.checksum != checksum_of(config):
        yield document.error(
            ("checksum",),
            "does not fit: fleet, node, keys, operator, neighbours or seals were changed since "
            "provisioning wrote them; get the bundle anew from provisioning",
        )


# -- checks that types cannot express, shared with fleet.yaml -----------------------------------


def check_algorithm(document: Document, algorithm: Algorithm) -> Iterator[ConfigError]:
    """What is wrong with a schedule that cannot run."""
    here = ("algorithm", "resolution")
    try:
        fits = 0 < resolution_of(algorithm) <= 1e6
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        yield document.error(here, f"is {document.found(here)}, must be {_RESOLUTION}")
    if algorithm.rounds is None and algorithm.period_s is None:
        yield document.error(
            ("algorithm",), "needs rounds (how many), or period_s (seconds) for an endless fleet"
        )


def check_crypto(document: Document, crypto: Crypto) -> Iterator[ConfigError]:
    """What is wrong with keys that are weak without saying so, or of an odd size."""
    here = ("crypto", "key_bits")
    if crypto.key_bits % 16:
        near = max(crypto.key_bits + 8, SAFE_KEY_BITS) // 16 * 16
        yield document.error(
            here, f"is {crypto.key_bits}, must be a multiple of 16, for example {near}"
        )
    elif crypto.key_bits < SAFE_KEY_BITS and not crypto.allow_weak_keys:
        yield document.error(
            here,
            f"is {crypto.key_bits}, which is a weak key: use {SAFE_KEY_BITS} or more, or say "
            "crypto.allow_weak_keys: true in a fleet that protects nothing",
        )


def check_broker(document: Document, broker: Broker) -> Iterator[ConfigError]:
    """What is wrong with plain TCP that would leave this machine."""
    if not broker.tls and not is_loopback(broker.host):
        yield document.error(
            ("broker", "host"),
            f"is {broker.host!r}: plain TCP is allowed on the loopback interface only; "
            "set broker.tls: true",
        )


def is_loopback(host: str) -> bool:
    """Whether *host* names this machine's own loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fields_named(objective: Objective) -> Iterator[tuple[Path_, str]]:
    """Every field of a reading that the section names, and where."""
    for index, column in enumerate(objective.values or ()):
        yield ("values", index, "field"), column.field
    if objective.target is not None:
        yield ("target", "field"), objective.target.field
    for index, feature in enumerate(objective.features or ()):
        for key, name in (("field", feature.field), ("daily", feature.daily)):
            if name is not None:
                yield ("features", index, key), name


def check_objective(document: Document, objective: Objective) -> Iterator[ConfigError]:
    """What is wrong with the parts of an objective, each by itself."""
    for index, column in enumerate(objective.values or ()):
        yield from _check_scale(document, ("objective", "values", index), column.scale)
    if objective.target is not None:
        yield from _check_scale(document, ("objective", "target"), objective.target.scale)
    for index, feature in enumerate(objective.features or ()):
        yield from _check_feature(document, ("objective", "features", index), feature)


def check_parts(document: Document, objective: Objective) -> Iterator[ConfigError]:
    """The first part that the objective's kind needs and lacks, or else those it does not know."""
    kind = objective.kind
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    if kind in ("average", "mean"):
        wanted, unwanted = ("values",), ("target", "features")
    elif kind in OBJECTIVE_KINDS:
        wanted, unwanted = ("target", "features"), ("values",)
    for name in wanted:
        if not getattr(objective, name):
            yield document.error(("objective", name), f"is needed for kind {kind}")
            return  # the kind itself may be the mistake
    for name in unwanted:
        if getattr(objective, name) is not None:
            yield document.error(("objective", name), f"does not belong to kind {kind}")


def _check_scale(document: Document, path: Path_, scale: float) -> Iterator[ConfigError]:
    if scale == 0:
        yield document.error((*path, "scale"), "is 0, must be another number")


def _check_feature(document: Document, path: Path_, feature: Feature) -> Iterator[ConfigError]:
    given = [n for n in ("constant", "field", "daily") if getattr(feature, n) is not None]
    if len(given) != 1:
        yield document.error(
            path, "must have exactly one of constant, field and daily, for example {constant: 1}"
        )
    elif feature.harmonics is not None and feature.daily is None:
        yield document.error((*path, "harmonics"), "belongs to daily features only")
    yield from _check_scale(document, path, feature.scale)


def check_sensor(document: Document, sensor: Sensor, path: Path_) -> Iterator[ConfigError]:
    """What is wrong with limits that nothing can satisfy, and with empty commands."""
    for name, (low, high) in sensor.limits.items():
        if not low < high:
            yield document.error(
                (*path, "limits", name), f"is [{low}, {high}], must be [lowest, highest]"
            )
    if isinstance(sensor, CommandSensor) and not sensor.command:
        yield document.error((*path, "command"), "is empty, must be [program, argument, ...]")
