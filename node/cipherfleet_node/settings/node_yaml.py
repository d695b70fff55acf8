"""Reading and checking of node.yaml: the settings of a node's fleet, its sensor and its neighbours.

The checks of the sections that fleet.yaml has as well are shared with provisioning.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cipherfleet_node.errors import REISSUE_BUNDLE, ConfigError, remedy_for
from cipherfleet_node.settings.sections import (
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


# -- node.yaml ----------------------------------------------------------------------------------


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
    config = unchecked.value
    unchecked.report(check_algorithm(document, config.algorithm))
    if unchecked.is_valid_at("crypto"):
        unchecked.report(check_crypto(document, config.crypto))
    if unchecked.is_valid_at("broker"):
        unchecked.report(check_broker(document, config.broker))
    if unchecked.is_valid_at("objective", "kind"):
        unchecked.report(check_parts(document, config.objective))
    unchecked.report(check_objective(document, config.objective))
    unchecked.report(check_sensor(document, config.sensor, ("sensor",)))
    if unchecked.is_valid_at("node"):
        unchecked.report(_check_neighbours(document, config))
    unchecked.report(_check_exchange(document, config))
    if all(unchecked.is_valid_at(section) for section in ("node", "neighbours", "crypto")):
        unchecked.report(_check_seals(document, config))
    if not unchecked.findings:  # after another error the checksum would be wrong as well
        unchecked.report(_check_checksum(document, config))
    return unchecked.finish()


def _check_neighbours(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
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
            f"lacks {missing[0]!r}{others}, a co-neighbour of this node, which the sealed "
            "exchange needs",
            remedy=REISSUE_BUNDLE,
        )


def checksum_of(config: NodeConfig) -> str:
    """Return a SHA-256, in hexadecimal digits, over the parts that only provisioning writes.

    This node cannot notice a wrong seal of another node otherwise: only the sums of a common
    neighbour would not open. The checksum finds accidents and no attacks, since a program that
    changes the file can change the checksum too.
    """
    others = [(n.id, n.neighbours, n.fingerprint) for n in config.neighbours]
    own = config.keys and (config.keys.paillier, config.keys.identity, config.keys.seal)
    seals = sorted(config.seals.items())
    made = [config.fleet, config.node, own, config.operator, others, seals]
    return hashlib.sha256(b"cipherfleet/v1/node\0" + msgspec.json.encode(made)).hexdigest()


def _check_checksum(document: Document, config: NodeConfig) -> Iterator[ConfigError]:
    if config.checksum is None:
        if config.neighbours and config.crypto.exchange == "sealed":
            text = "lacks checksum, which the sealed exchange needs"
            yield document.error((), text, remedy=REISSUE_BUNDLE)
    elif config.checksum != checksum_of(config):
        yield document.error(
            ("checksum",),
            "does not match: fleet, node, keys, operator, neighbours or seals were changed "
            "since provisioning wrote them",
            remedy=REISSUE_BUNDLE,
        )


# -- checks that types cannot express, shared with fleet.yaml -----------------------------------


def check_algorithm(document: Document, algorithm: Algorithm) -> Iterator[ConfigError]:
    """Yield the errors of the schedule: an invalid resolution, or no number of rounds."""
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
    """Yield an error for weak keys that are not allowed explicitly, or an invalid key size."""
    here = ("crypto", "key_bits")
    if crypto.key_bits % 16:
        near = max(crypto.key_bits + 8, SAFE_KEY_BITS) // 16 * 16
        yield document.error(
            here, f"is {crypto.key_bits}, must be a multiple of 16, for example {near}"
        )
    elif crypto.key_bits < SAFE_KEY_BITS and not crypto.allow_weak_keys:
        yield document.error(
            here,
            f"is {crypto.key_bits}, which is a weak key: use {SAFE_KEY_BITS} or more, or set "
            "crypto.allow_weak_keys: true in a fleet that protects nothing",
        )


def check_broker(document: Document, broker: Broker) -> Iterator[ConfigError]:
    """Yield an error for a connection without TLS that would leave this machine."""
    if not broker.tls and not is_loopback(broker.host):
        yield document.error(
            ("broker", "host"),
            f"is {broker.host!r}: plain TCP is allowed on the loopback interface only",
            remedy="set broker.tls: true",
        )


def is_loopback(host: str) -> bool:
    """True if *host* is an address or a name of this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fields_named(objective: Objective) -> Iterator[tuple[Path_, str]]:
    """Yield the path and the name of each field of a reading that the section uses."""
    for index, column in enumerate(objective.values or ()):
        yield ("values", index, "field"), column.field
    if objective.target is not None:
        yield ("target", "field"), objective.target.field
    for index, feature in enumerate(objective.features or ()):
        for key, name in (("field", feature.field), ("daily", feature.daily)):
            if name is not None:
                yield ("features", index, key), name


def check_objective(document: Document, objective: Objective) -> Iterator[ConfigError]:
    """Yield the errors of the columns and features of an objective, each checked alone."""
    for index, column in enumerate(objective.values or ()):
        yield from _check_scale(document, ("objective", "values", index), column.scale)
    if objective.target is not None:
        yield from _check_scale(document, ("objective", "target"), objective.target.scale)
    for index, feature in enumerate(objective.features or ()):
        yield from _check_feature(document, ("objective", "features", index), feature)


def check_parts(document: Document, objective: Objective) -> Iterator[ConfigError]:
    """Yield the first part that the objective's kind lacks, or else the parts it does not have."""
    kind = objective.kind
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    if kind in ("average", "mean"):
        required, excluded = ("values",), ("target", "features")
    elif kind in OBJECTIVE_KINDS:
        required, excluded = ("target", "features"), ("values",)
    for name in required:
        if not getattr(objective, name):
            yield document.error(("objective", name), f"is needed for kind {kind}")
            return  # the kind itself may be the error
    for name in excluded:
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
    """Yield an error for limits that no value satisfies, and for an empty command."""
    for name, (low, high) in sensor.limits.items():
        if not low < high:
            yield document.error(
                (*path, "limits", name), f"is [{low}, {high}], must be [lowest, highest]"
            )
    if isinstance(sensor, CommandSensor) and not sensor.command:
        yield document.error((*path, "command"), "is empty, must be [program, argument, ...]")
