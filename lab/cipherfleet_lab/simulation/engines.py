"""The two engines: the node's own agents in one process, and all nodes as arrays.

Both yield the estimates after every round, shape (n, d), nodes in the fleet's order. With the draws
of the nodes they agree to the rounding of sums; the first agrees with the daemons on the same
machine bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from cipherfleet_analysis.simulation import Array, Chance, Generated, first_estimates, run
from cipherfleet_deploy.local.run import patience
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import simulated_seed
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import (
    CipherfleetError,
    ConfigError,
    HeadroomExceeded,
    SensorUnavailable,
)
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.sections import CsvSensor, SyntheticSensor, resolution_of
from cipherfleet_provisioning.bundles import make_keys
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member

from .memory_fleet import MemoryFleet
from .node_draws import NodeDraws
from .scenario import Scenario

OWN_DRAWS = 50_000  # link-rounds up to which every node's own draws are repeated
_LOOK_S = 0.02  # of virtual time between looks at what is done


# -- arrays -------------------------------------------------------------------------------------


def repeats_draws(scenario: Scenario, rounds: int) -> bool:
    """Whether the vector engine takes the nodes' own draws, which it does for small fleets."""
    return bool(scenario.names) and len(scenario.links.askers) * rounds <= OWN_DRAWS


def vector(scenario: Scenario, rounds: int, seed: int, *, own_draws: bool) -> Iterator[Array]:
    """All nodes at once; *own_draws* are those of the nodes of a run with this seed, else fast."""
    chance: Chance = Generated(seed)
    if own_draws:
        chance = NodeDraws(
            lambda node, k: simulated_seed(seed, scenario.name, node, k),
            scenario.names,
            scenario.links,
        )
    algorithm = scenario.algorithm
    room = 2.0 ** (VALUE_BITS - 1) * resolution_of(algorithm)
    x = first_estimates(scenario.starts, algorithm, chance)
    running = run(scenario.links, x, scenario.gradients, algorithm, chance, sealed=scenario.sealed)
    for k, passed in enumerate(islice(running, rounds)):
        if not max(passed.estimates.max(), -passed.estimates.min()) < room:
            raise HeadroomExceeded(
                f"an estimate leaves the range of +-{room:g} in round {k}: take a coarser "
                "algorithm.resolution or smaller stepsizes"
            )
        yield passed.estimates


# -- agents -------------------------------------------------------------------------------------


def keys_of(fleet: Fleet, progress: Callable[[str], None]) -> dict[str, PrivateKey]:
    """Fresh keys for every node, as large as the file says."""
    names = [member.id for member in fleet.members]
    made = make_keys(names, fleet.file.crypto.key_bits, progress)
    return {name: keys.paillier for name, keys in made.items()}


def core(
    fleet: Fleet, rounds: int, seed: int, keys: Mapping[str, PrivateKey] | None = None
) -> Iterator[Array]:
    """The node's own agents over links in memory; without *keys* nothing is encrypted.

    Estimates are those of `cipherfleet run` with this seed, bit for bit on the same machine.
    """
    file = fleet.file
    reads = {member.id: _reads(fleet, member, rounds) for member in fleet.members}
    memory = MemoryFleet(
        fleet.graph.edges,
        {name: given[0] for name, given in reads.items()},
        file.objective,
        file.algorithm,
        seed=seed,
        resolution=resolution_of(file.algorithm),
        sealed=fleet.exchange == "sealed",
        leaves_open=file.crypto.leaves == "open",
        later={name: given[1:] for name, given in reads.items()},
        keys=keys or {},
        name=file.fleet,
    )
    seats = [memory.seats[member.id] for member in fleet.members]
    for member in fleet.members:
        memory.start(member.id)
    heard = memory.now
    for k in range(rounds):
        while any(len(seat.reported) <= k for seat in seats):
            if memory.now > heard + patience(fleet):
                raise CipherfleetError(f"nobody closes round {k}: the fleet stands still")
            memory.advance(memory.now + _LOOK_S)
        heard = memory.now
        yield np.array([seat.reported[k].estimate for seat in seats])


def _reads(fleet: Fleet, member: Member, rounds: int) -> Sequence[Sequence[Sample]]:
    """What each reading of *member*'s sensor brings, from the one before round 0 on."""
    sensor = member.sensor
    match sensor:
        case CsvSensor():
            samples = fleet.recorded(member) or []
            count = sensor.rows_per_round or max(len(samples), 1)
            return [samples[at : at + count] for at in range(0, len(samples), count)] or [[]]
        case SyntheticSensor():
            device = open_sensor(sensor, fleet.folder, make_objective(fleet.file.objective).fields)
            return [_read(device.read) for _ in range(rounds + 2)]
    raise ConfigError(
        f"the sensor of {member.id!r} is a live one: simulate a fleet with csv or synthetic sensors"
    )


def _read(read: Callable[[], list[Sample]]) -> list[Sample]:
    try:
        return read()
    except SensorUnavailable:
        return []
