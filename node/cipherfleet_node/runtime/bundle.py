"""Reading and checking of a node's folder: settings, keys, neighbours, sensor and certificate."""

from __future__ import annotations

import hashlib
import hmac
import logging
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.perturbation import Perturbation, ReleaseSeeds, release_seeds_of
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.errors import REISSUE_BUNDLE, ConfigError
from cipherfleet_node.keys.key_files import (
    MASKS,
    SHARES,
    NodeKeys,
    PublicKeys,
    check_own_keys,
    read_keys,
    read_neighbour,
    seal_from_text,
    seal_to_text,
    shared_secret,
)
from cipherfleet_node.sensors import Address, open_sensor
from cipherfleet_node.sensors.base import SensorDevice
from cipherfleet_node.settings.node_yaml import NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import CsvSensor, NodeConfig, Source

from .membership import CheckedMembership, read_membership

log = logging.getLogger(__name__)

D = TypeVar("D", bound=SensorDevice)


@dataclass(frozen=True, repr=False)
class Bundle:
    """The checked content of a node's folder."""

    folder: Path
    config: NodeConfig
    keys: NodeKeys
    neighbours: dict[str, PublicKeys]
    objective: Objective
    sensor: SensorDevice
    secrets: Mapping[str, bytes]  # shared with each co-neighbour, for the masks
    membership: CheckedMembership | None  # the operator's latest, if one has come
    tls: ssl.SSLContext | None = None  # None: plain TCP on this machine
    # Shared with each partner, by its index, for the shares of the shield.
    partner_secrets: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def neighbours_paillier(self) -> dict[str, PublicKey]:
        return {name: keys.paillier for name, keys in self.neighbours.items()}


def read_bundle(folder: Path) -> Bundle:
    """Read and check *folder*; raises ConfigError for the first error in it."""
    config = load_node_config(folder)
    keys = read_keys(folder, config.crypto)
    context = None
    if config.broker.tls:
        from cipherfleet_node.keys.tls import (
            read_context,  # X.509 takes memory that plain TCP spares
        )

        context = read_context(folder, config.node, datetime.now(UTC))
    membership = read_membership(folder, config)
    if membership is not None:
        config, neighbours = membership.apply_to(config), membership.neighbours
        if membership.message.fingerprint != keys.public.fingerprint:
            raise ConfigError(
                f"{folder}: the operator's membership is for keys with fingerprint "
                f"{membership.message.fingerprint[:16]}..., those in keys have "
                f"{keys.public.fingerprint[:16]}...",
                remedy="enrol this node again",
            )
    else:
        neighbours = {
            n.id: read_neighbour(folder, n.id, n.fingerprint, config.crypto.key_bits)
            for n in config.neighbours
        }
        _check_pins(folder, config, keys, neighbours)
    if not neighbours and membership is None:
        raise ConfigError(f"{folder}: has no neighbours yet: run the node, so that it enrols")
    if len(neighbours) > MAX_DEGREE:
        raise ConfigError(f"{folder}: has {len(neighbours)} neighbours, at most {MAX_DEGREE}")
    _check_readings_file(folder, config)
    objective = make_node_objective(
        config.algorithm, config.objective, config.role, make_perturbation(config, keys)
    )
    return Bundle(
        folder=folder,
        config=config,
        keys=keys,
        neighbours=neighbours,
        objective=objective,
        sensor=open_node_sensor(folder, config, objective.fields, open_sensor),
        secrets=_shared_secrets(folder, config, keys),
        membership=membership,
        tls=context,
        partner_secrets=partner_secrets(folder, config, keys),
    )


def _check_readings_file(folder: Path, config: NodeConfig) -> None:
    """Raise ConfigError if the readings are not those of the release.

    Only this node would get other noise. The others keep theirs, and a second result with the same
    noise would show more than two results with independent noise.
    """
    privacy, sensor = config.privacy, config.source
    if privacy is None or privacy.readings_file is None or not isinstance(sensor, CsvSensor):
        return
    file = folder / sensor.path
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if found != privacy.readings_file:
        raise ConfigError(
            f"{file}: the readings were changed since provisioning wrote them: with the section "
            "privacy, other readings need other noise on all nodes",
            remedy="put the file back, or provision the whole fleet again, which is another "
            "release of the result",
        )


def make_perturbation(config: NodeConfig, keys: NodeKeys) -> Perturbation | None:
    """Return what the node adds to its objective; None without the section privacy."""
    if config.privacy is None:
        return None
    return Perturbation(config.privacy, release_seeds(config, keys))


def release_seeds(config: NodeConfig, keys: NodeKeys) -> ReleaseSeeds:
    """Return the seeds of the noise: from the identity key, or from the seed of a simulation."""
    seed = config.simulation.seed
    if seed is not None:
        label = f"cipherfleet simulation release {seed} {config.fleet} {config.node}"
        return release_seeds_of(hashlib.sha256(label.encode()).digest())
    label_of_key = b"cipherfleet/v2/release-secret\0"
    return release_seeds_of(hmac.digest(keys.identity.private_bytes_raw(), label_of_key, "sha256"))


def open_node_sensor(
    folder: Path,
    config: NodeConfig,
    needed: Collection[str],
    opener: Callable[[Source, Path, Collection[str], Address], D],
) -> D:
    """Open the sensors of *config* by *opener*; the objective uses the fields *needed*.

    A follower's objective needs none. If its sensor has all fields of the features, it reads them
    for the prediction that it publishes.
    """
    features = config.objective.features or []
    broker = (config.broker.host, config.broker.port)
    if config.role == "follower" and features:
        fields = {name for f in features for name in (f.field, f.daily) if name is not None}
        try:
            return opener(config.source, folder, fields, broker)
        except ConfigError:
            log.info("the sensor lacks fields of objective.features: there is no corrected value")
    return opener(config.source, folder, needed, broker)


def _check_pins(
    folder: Path, config: NodeConfig, keys: NodeKeys, neighbours: Mapping[str, PublicKeys]
) -> None:
    """Raise ConfigError if a key in the settings differs from the key in its file."""
    if config.keys is not None:
        check_own_keys(folder, keys, config.keys)
    for name, seal in config.seals.items():
        if name in neighbours and seal != seal_to_text(neighbours[name].seal):
            raise ConfigError(
                f"{folder / NODE_FILE}: seals.{name} is not the seal in {name}.json among the "
                "neighbours",
                remedy=REISSUE_BUNDLE,
            )


def _shared_secrets(folder: Path, config: NodeConfig, keys: NodeKeys) -> dict[str, bytes]:
    if config.crypto.exchange != "sealed":
        return {}
    return {
        name: _secret(folder, f"seals.{name}", keys, config.seals[name], config.fleet, MASKS)
        for name in sorted(config.co_neighbours)
    }


def partner_secrets(folder: Path, config: NodeConfig, keys: NodeKeys) -> dict[int, bytes]:
    """Return the secret that the node shares with each partner, by the partner's index.

    Raises ConfigError for a key that is invalid.
    """
    partners = config.generations.partners if config.generations is not None else {}
    return {
        partner.index: _secret(
            folder,
            f"generations.partners.{name}.seal",
            keys,
            partner.seal,
            config.fleet,
            SHARES,
        )
        for name, partner in partners.items()
    }


def _secret(
    folder: Path, place: str, keys: NodeKeys, other: str, fleet: str, purpose: str
) -> bytes:
    """Return the secret shared with the owner of the key *other*, which stands at *place*."""
    try:
        return shared_secret(keys.seal, seal_from_text(other), fleet, purpose)
    except ValueError:
        raise ConfigError(
            f"{folder / NODE_FILE}: {place} is not an X25519 public key in base64",
            remedy=REISSUE_BUNDLE,
        ) from None
