"""Parts of an agent that are computed from a node's settings and keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import msgspec

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import (
    TAG_BYTES,
)
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, simulated_seed
from cipherfleet_node.keys.key_files import NodeKeys
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.settings.sections import Algorithm, NodeConfig, resolution_of

from .bundle import Bundle
from .obfuscator_pools import OWN


def parameters_digest(algorithm: Algorithm, exchange: str, dimension: int) -> bytes:
    """Return TAG_BYTES of a digest over the settings that must be equal on every node.

    If they differed, the fleet would converge to another point than its optimum.
    """
    shared = [
        wire.WIRE_VERSION,
        exchange,
        dimension,
        [VALUE_BITS, HALF_WEIGHT_BITS, METROPOLIS_BITS],
        resolution_of(algorithm),
        algorithm.stepsize.initial,
        algorithm.stepsize.decay,
        algorithm.stepsize.exponent,
        algorithm.attenuation,
    ]
    return hashlib.sha256(msgspec.json.encode(shared)).digest()[:TAG_BYTES]


def key_tag(key: PublicKey) -> bytes:
    """Return the tag that names *key* in messages."""
    return key.fingerprint[:TAG_BYTES]


def client_id(config: NodeConfig, keys: NodeKeys) -> str:
    """Return the MQTT client id of a node: equal on copies of its card, and unknown to others.

    A broker ends a connection when another client connects with the same id. A client that does not
    know the id cannot end this node's connection in this way.
    """
    secret = b"cipherfleet/v1/client-id\0" + keys.identity.private_bytes_raw()
    return f"{config.fleet}-{config.node}-{hashlib.sha256(secret).hexdigest()[:16]}"


def patience_s(config: NodeConfig) -> float:
    """Return the longest duration of a healthy round.

    It allows for neighbours that start late, and for several that become silent one after another.
    """
    algorithm = config.algorithm
    waits = algorithm.start_timeout_s + 6 * algorithm.answer_timeout_s
    return waits + config.sensor.timeout_s + (algorithm.period_s or 0.0)


def round_seeds(config: NodeConfig) -> Callable[[int], bytes]:
    """Return the source of round seeds: the operating system, or the seed of a simulation."""
    seed = config.simulation.seed
    if seed is None:
        return lambda _round: os.urandom(SEED_BYTES)
    return lambda k: simulated_seed(seed, config.fleet, config.node, k)


def obfuscator_sources(bundle: Bundle) -> dict[str, Source]:
    """Return the configured source for the node's own key, and for each neighbour's key."""
    crypto, keys = bundle.config.crypto, bundle.keys
    limit = crypto.table_kib * 1024
    generators = keys.generators
    own: Source = (
        OwnByTables(keys.paillier, generators, limit) if generators else OwnByCrt(keys.paillier)
    )
    neighbours: dict[str, Source] = {
        name: Full(key, limit) if crypto.rerandomise == "full" else Uniform(key)
        for name, key in bundle.neighbours_paillier.items()
    }
    return {OWN: own, **neighbours}
