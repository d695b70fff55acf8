"""Builds an agent from a node's folder."""

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
    """TAG_BYTES over all that must be equal on every node of a fleet, or the optimum moves."""
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
    """How messages name a key."""
    return key.fingerprint[:TAG_BYTES]


def client_id(config: NodeConfig, keys: NodeKeys) -> str:
    """What the broker knows the connection by: the same for copies of a card, unknown to others.

    Brokers give the connection to whoever comes last under its client id.
    """
    secret = b"cipherfleet/v1/client-id\0" + keys.identity.private_bytes_raw()
    return f"{config.fleet}-{config.node}-{hashlib.sha256(secret).hexdigest()[:16]}"


def patience_s(config: NodeConfig) -> float:
    """The longest that a healthy round may take: neighbours start late, or fall silent in turn."""
    algorithm = config.algorithm
    waits = algorithm.start_timeout_s + 6 * algorithm.answer_timeout_s
    return waits + config.sensor.timeout_s + (algorithm.period_s or 0.0)


def round_seeds(config: NodeConfig) -> Callable[[int], bytes]:
    """Where a round's draws come from: the operating system, or a simulation's seed."""
    seed = config.simulation.seed
    if seed is None:
        return lambda _round: os.urandom(SEED_BYTES)
    return lambda k: simulated_seed(seed, config.fleet, config.node, k)


def obfuscator_sources(bundle: Bundle) -> dict[str, Source]:
    """For the node's own key and for every neighbour's, as the configuration wants them."""
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
