"""Builds the agent of a node and its link to the broker from the bundle and the saved state."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping

import msgspec

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import Setup, Trace
from cipherfleet_node.core.exchange import Blinding, Edge, Exchange, Pairwise, metropolis
from cipherfleet_node.core.limits import size_limits
from cipherfleet_node.core.messages import OPERATOR, TAG_BYTES, Presence
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.parameters import shared_parameters
from cipherfleet_node.core.randomness import Seeds, seeds_of, simulated_seeds
from cipherfleet_node.core.sealed import Seal, Sealed
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.core.state import State, after_damage, after_loss, first_state
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import NodeKeys, PublicKeys, identity_from_text
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.settings.sections import (
    NodeConfig,
    exact_scale_of,
    resolution_of,
    settled_accuracy,
)

from .bundle import Bundle
from .epochs import new_epoch, time_off_s
from .kept_bases import KeptBases
from .mqtt import Link
from .obfuscator_pools import OWN
from .store import Store

log = logging.getLogger(__name__)

DRAW_BITS = 48  # of the first draw: an earlier life of the node, now lost, had another one


def make_agent(
    bundle: Bundle,
    store: Store,
    saved: State | None,
    blinding: Blinding,
    trace: Trace,
    epoch: int | None = None,
) -> Agent:
    """Return the agent of *bundle*, which continues from *saved*, the state in *store*.

    *epoch* is that of this start; None: a new one.
    """
    config = bundle.config
    assert config.crypto.exchange is not None
    scale = exact_scale_of(config.algorithm, config.objective)
    parameters = shared_parameters(
        config.algorithm,
        config.crypto.exchange,
        bundle.objective.dimension,
        scale,
        config.generations,
        config.objective.drift,
    ).tag
    setup = Setup(
        fleet=config.fleet,
        node=config.node,
        key_tag=key_tag(bundle.keys.paillier.public),
        neighbours={name: key_tag(key) for name, key in bundle.neighbours_paillier.items()},
        exchange=make_exchange(bundle, blinding),
        algorithm=config.algorithm,
        resolution=resolution_of(config.algorithm),
        objective=bundle.objective,
        parameters=parameters,
        seeds=draw_seeds(config, bundle.keys),
        trace=trace,
        identities={name: identity_tag(keys) for name, keys in bundle.neighbours.items()},
        first_round=_first_round(bundle),
        exact_scale=scale,
        diameter=config.diameter or 0,
        away_s=_away_s(store, time.time()),
        shield=make_shield(bundle),
        own_accuracy=settled_accuracy(config),
    )
    return Agent(setup, restore_state(bundle, store, saved, parameters, epoch))


def _away_s(store: Store, clock_s: float) -> float:
    """Return how long the node was off, in seconds, as far as the clocks were plausible."""
    try:
        return time_off_s(store.current.stat().st_mtime, clock_s)
    except OSError:
        return 0.0


def _first_round(bundle: Bundle) -> int:
    """Return the first round of a node without a saved state."""
    return bundle.membership.message.from_round if bundle.membership else 0


def make_exchange(bundle: Bundle, blinding: Blinding) -> Exchange:
    """Return the configured exchange with the neighbours of *bundle*."""
    config, keys = bundle.config, bundle.neighbours_paillier
    edges = {
        n.id: Edge(keys[n.id], metropolis(len(config.neighbours), n.degree))
        for n in config.neighbours
    }
    common = bundle.keys.paillier, edges, bundle.objective.dimension, blinding
    if config.crypto.exchange == "pairwise":
        return Pairwise(*common)
    rosters = {n.id: frozenset(n.neighbours) for n in config.neighbours}
    leaves = config.crypto.leaves == "open"
    return Sealed(*common, Seal(config.fleet, config.node, rosters, bundle.secrets, leaves))


def make_shield(bundle: Bundle) -> Shield | None:
    """Return the shield of the node with the secrets of its partners; None without one."""
    given = bundle.config.generations
    if given is None:
        return None
    return Shield(
        index=given.index,
        every=given.every,
        roll_call=given.roll_call,
        averaging=given.averaging,
        members=bytes.fromhex(given.members),
        mean_partners=given.mean_partners,
        partners=bundle.partner_secrets,
        size=bundle.config.algorithm.shares,
        is_quadratic=bundle.config.algorithm.shield == "quadratic",
    )


def restore_state(
    bundle: Bundle,
    store: Store,
    saved: State | None,
    parameters: bytes,
    epoch: int | None = None,
) -> State:
    """Return the *saved* state with *epoch* or a new one, or a first state if none was saved.

    Raises ConfigError if the saved state belongs to another node or objective.
    """
    config = bundle.config
    if epoch is None:
        epoch = new_epoch(saved.epoch if saved else 0, time.time())
    if saved is None:
        has_run = store.has_run(bundle.keys.public.fingerprint)
        return _first_state(bundle, parameters, epoch, has_run=has_run)
    dimension = bundle.objective.dimension
    if (saved.fleet, saved.node) != (config.fleet, config.node) or (
        saved.estimate is not None and len(saved.estimate) != dimension
    ):
        raise ConfigError(
            f"{store.current}: the saved state belongs to {saved.fleet}/{saved.node} or to "
            "another objective",
            remedy="remove the folder 'state' to start without it",
        )
    if not saved.continuous and saved.records:
        log.warning("the latest state is damaged, lost or not known: this node skips rounds")
    if saved.parameters != parameters:
        log.warning("the settings have changed: queries of earlier rounds are not answered")
        saved = msgspec.structs.replace(after_damage(saved), records=[])
    return msgspec.structs.replace(saved, epoch=epoch, parameters=parameters)


def _first_state(bundle: Bundle, parameters: bytes, epoch: int, *, has_run: bool) -> State:
    """Return the state of a node without a saved one; it *has_run* if it has lost its state."""
    config = bundle.config
    draw = 0 if config.simulation.seed is not None else secrets.randbits(DRAW_BITS)
    first = first_state(config.fleet, config.node, parameters, epoch, draw)
    first = msgspec.structs.replace(first, round=_first_round(bundle))
    if not has_run:
        return first
    log.warning("this node has run before and its state is lost: it waits for its neighbours")
    return after_loss(first, secrets.randbits(DRAW_BITS))


def raise_epoch(state: State, epoch: int) -> State:
    """Return *state* for a start with *epoch*, after another start of this node became known.

    That start may have sent queries of later rounds, so the rounds of *state* are not continued.
    """
    lost = after_loss(state, secrets.randbits(DRAW_BITS))
    return msgspec.structs.replace(lost, epoch=epoch)


def make_link(bundle: Bundle, epoch: int, enqueue: Callable[[object], None]) -> Link:
    """Return the link to the broker, with the presence `lost` of *epoch* as its last will."""
    config, keys = bundle.config, bundle.keys
    lost = Presence(config.fleet, config.node, epoch, "lost")
    neighbours = [n.id for n in config.neighbours]
    own = topics.presence_topic(config.fleet, config.node)
    wanted = topics.subscriptions(config.fleet, config.node, neighbours)
    return Link(
        client_id(config, keys),
        config.broker,
        [topic for topic in wanted if topic != own],
        (wire.topic_of(lost), wire.encode(lost, keys.identity)),
        enqueue,
        bundle.tls,
        before=[own],  # an epoch above ours must be known before the first message is sent
    )


def make_verifiers(bundle: Bundle) -> dict[str, wire.Verifier]:
    """Return the verifiers of signatures by sender: neighbours, the operator, the node itself."""
    verifiers: dict[str, wire.Verifier] = {
        name: keys.identity for name, keys in bundle.neighbours.items()
    }
    if bundle.config.operator is not None:
        verifiers[OPERATOR] = identity_from_text(bundle.config.operator)
    verifiers[bundle.config.node] = bundle.keys.identity.public_key()
    return verifiers


def make_limits(bundle: Bundle) -> Mapping[str, int]:
    """Return the length in bytes of the longest valid message to this node, by kind."""
    crypto = bundle.config.crypto
    assert crypto.exchange is not None
    layout = Layout.of(crypto.exchange, crypto.key_bits, bundle.objective.dimension)
    return size_limits(layout, has_generations=bundle.config.generations is not None)


def identity_tag(keys: PublicKeys) -> bytes:
    """Return the tag by which a neighbour's identity key is remembered."""
    return hashlib.sha256(keys.identity.public_bytes_raw()).digest()[:TAG_BYTES]


def key_tag(key: PublicKey) -> bytes:
    """Return the tag that names *key* in messages."""
    return key.fingerprint[:TAG_BYTES]


def client_id(config: NodeConfig, keys: NodeKeys) -> str:
    """Return the MQTT client id of a node: equal on copies of its card, and unknown to others.

    A broker ends a connection when another client connects with the same id. A client that does not
    know the id cannot end this node's connection in this way.
    """
    secret = b"cipherfleet/v2/client-id\0" + keys.identity.private_bytes_raw()
    return f"{config.fleet}-{config.node}-{hashlib.sha256(secret).hexdigest()[:16]}"


def patience_s(config: NodeConfig) -> float:
    """Return the longest duration of a healthy round.

    It allows for neighbours that start late, and for several that become silent one after another.
    """
    algorithm = config.algorithm
    waits = algorithm.start_timeout_s + 6 * algorithm.answer_timeout_s
    return waits + config.source.timeout_s + (algorithm.period_s or 0.0)


def draw_seeds(config: NodeConfig, keys: NodeKeys) -> Seeds:
    """Return the seeds of the node's draws: from its identity key, or from that of a simulation."""
    seed = config.simulation.seed
    if seed is not None:
        return simulated_seeds(seed, config.fleet, config.node)
    label = b"cipherfleet/v2/draw-secret\0"
    return seeds_of(hmac.digest(keys.identity.private_bytes_raw(), label, "sha256"))


def obfuscator_sources(bundle: Bundle) -> dict[str, Source]:
    """Return the configured source for the node's own key, and for each neighbour's key."""
    crypto, keys = bundle.config.crypto, bundle.keys
    limit = crypto.table_kib * 1024
    generators = keys.generators
    own: Source = (
        OwnByTables(keys.paillier, generators, limit) if generators else OwnByCrt(keys.paillier)
    )
    neighbours: dict[str, Source] = {
        name: _full_source(bundle, name, key) if crypto.rerandomise == "full" else Uniform(key)
        for name, key in bundle.neighbours_paillier.items()
    }
    return {OWN: own, **neighbours}


def _full_source(bundle: Bundle, name: str, key: PublicKey) -> Full:
    """Return the source for the key of the neighbour *name*, with the bases that were kept."""
    kept = KeptBases(bundle.folder, name, key, bundle.keys.identity)
    return Full(key, bundle.config.crypto.table_kib * 1024, kept.load(), kept.save)
