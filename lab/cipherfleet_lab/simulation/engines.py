"""The two simulation engines: core (the node's own agents) and vector (all nodes as arrays).

Both yield the estimates after every round, shape (n, d), nodes in the fleet's order. With the
nodes' own random choices they agree up to the rounding of sums. On one machine the core engine
agrees with the daemons bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from cipherfleet_analysis.random_choices import Array, FleetRandomness, SeededRandomness
from cipherfleet_analysis.simulation import first_estimates, run
from cipherfleet_deploy.local.run import stall_timeout_s
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
from cipherfleet_node.sensors.csv_replay import rows_of_read
from cipherfleet_node.settings.sections import CsvSensor, SyntheticSensor, resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member
from cipherfleet_provisioning.key_making import make_keys

from .memory_fleet import MemoryFleet
from .node_randomness import NodeRandomness
from .scenario import Scenario

MAX_REPEATED_CHOICES = (
    50_000  # links times rounds up to which the vector engine repeats the nodes' random choices
)
_LOOK_S = 0.02  # virtual time between two checks of the progress


# -- arrays -------------------------------------------------------------------------------------


def repeats_node_choices(scenario: Scenario, rounds: int) -> bool:
    """True for small fleets, for which the vector engine repeats the nodes' random choices."""
    return bool(scenario.names) and len(scenario.links.askers) * rounds <= MAX_REPEATED_CHOICES


def run_vector(scenario: Scenario, rounds: int, seed: int, *, own_choices: bool) -> Iterator[Array]:
    """Simulate all nodes as arrays; *own_choices* repeats the nodes' random choices of the seed."""
    randomness: FleetRandomness = SeededRandomness(seed)
    if own_choices:
        randomness = NodeRandomness(
            lambda node, k: simulated_seed(seed, scenario.name, node, k),
            scenario.names,
            scenario.links,
        )
    algorithm = scenario.algorithm
    limit = 2.0 ** (VALUE_BITS - 1) * resolution_of(algorithm)
    x = first_estimates(scenario.starts, algorithm, randomness)
    running = run(
        scenario.links,
        x,
        scenario.gradients,
        algorithm,
        randomness,
        sealed=scenario.sealed,
        method=scenario.method,
    )
    for k, passed in enumerate(islice(running, rounds)):
        if not max(passed.estimates.max(), -passed.estimates.min()) < limit:
            raise HeadroomExceeded(
                f"an estimate leaves the range of +-{limit:g} in round {k}; choose a coarser "
                "algorithm.resolution or smaller stepsizes"
            )
        yield passed.estimates


# -- agents -------------------------------------------------------------------------------------


def make_fleet_keys(fleet: Fleet, progress: Callable[[str], None]) -> dict[str, PrivateKey]:
    """Generate keys for every node, of the size in the fleet file."""
    names = [member.id for member in fleet.members]
    made = make_keys(names, fleet.file.crypto.key_bits, progress)
    return {name: keys.paillier for name, keys in made.items()}


def run_core(
    fleet: Fleet, rounds: int, seed: int, keys: Mapping[str, PrivateKey] | None = None
) -> Iterator[Array]:
    """Simulate with the node's own agents over in-memory links; without *keys* in plaintext.

    On one machine the estimates are bit-identical to those of `cipherfleet run` with this seed.
    """
    file = fleet.file
    reads = {member.id: _read_all(fleet, member, rounds) for member in fleet.members}
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
        followers={member.id for member in fleet.members if member.role == "follower"},
    )
    seats = [memory.seats[member.id] for member in fleet.members]
    for member in fleet.members:
        memory.start(member.id)
    heard, limit_s = memory.now, stall_timeout_s(fleet)
    for k in range(rounds):
        while any(len(seat.reported) <= k for seat in seats):
            if memory.now > heard + limit_s:
                raise CipherfleetError(
                    f"no node closed round {k} within {limit_s:g} s: the fleet is stalled"
                )
            memory.advance(memory.now + _LOOK_S)
        heard = memory.now
        yield np.array([seat.reported[k].estimate for seat in seats])


def _read_all(fleet: Fleet, member: Member, rounds: int) -> Sequence[Sequence[Sample]]:
    """Return the samples of each reading of *member*'s sensor, starting before round 0.

    A follower uses no reading.
    """
    if member.role == "follower":
        return [()] * (rounds + 2)
    sensor = member.sensor
    match sensor:
        case CsvSensor():
            left = fleet.recorded(member) or []
            reads: list[Sequence[Sample]] = []
            for number in range(rounds + 2):
                count = rows_of_read(sensor, number)
                reads.append(left[:count])
                left = left[len(reads[-1]) :]
            return reads
        case SyntheticSensor():
            device = open_sensor(sensor, fleet.folder, make_objective(fleet.file.objective).fields)
            return [_read(device.read) for _ in range(rounds + 2)]
    raise ConfigError(
        f"the sensor of {member.id!r} is a live sensor",
        remedy="simulate a fleet with csv or synthetic sensors",
    )


def _read(read: Callable[[], list[Sample]]) -> list[Sample]:
    try:
        return read()
    except SensorUnavailable:
        return []
