"""A fleet.yaml to begin with: it runs as it is, and its comments say what else it could be."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_node.settings.type_errors import meant
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.section import KEYS_OF_KIND, Topology, TopologyError

from .schema import SCHEMA_FILE, schema_text

FLEET_FILE, IGNORE_FILE, EDGES_FILE = "fleet.yaml", ".gitignore", "network.txt"
SEEDS = range(1, 21)  # tried in turn, until a random graph hangs together
_EDGES_PER_LINE = 6


@dataclass(frozen=True)
class Plan:
    """What `cipherfleet init` is asked for."""

    nodes: int = 9
    topology: str = "ring"
    key_bits: int = SAFE_KEY_BITS


def write_template(folder: Path, plan: Plan) -> list[Path]:
    """Make *folder*, if need be, with a fleet.yaml and what belongs to it; returns the files.

    fleet.yaml appears last and whole. Raises ConfigError, before anything is made, for a plan that
    no fleet can have, and for a file that exists already: nothing is overwritten.
    """
    texts = template(folder.absolute().name, plan)
    for name in texts:
        _check_absent(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".init-", dir=folder) as building:
            for name, text in texts.items():
                _write(Path(building) / name, text)
            for name in texts:
                _put(Path(building) / name, folder / name)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be filled: {error.strerror or error}") from None
    return [folder / name for name in texts]


def template(name: str, plan: Plan) -> dict[str, str]:
    """The texts of all files, by file name, in the order in which they are to appear."""
    if plan.key_bits % 16:
        raise ConfigError(f"--key-bits is {plan.key_bits}, must be a multiple of 16")
    ids = [node_id(n, plan.nodes) for n in range(1, plan.nodes + 1)]
    files = {IGNORE_FILE: _IGNORED, SCHEMA_FILE.name: schema_text()}
    if plan.topology == "file":
        files[EDGES_FILE] = "".join(f"{a} {b}\n" for a, b in _ring_of(ids))
    fleet = _FLEET.format(
        schema=SCHEMA_FILE.name,
        name=_fleet_name(name),
        nodes=plan.nodes,
        pattern=f"node{{n:0{_digits(plan.nodes)}}}",
        topology=_topology_text(plan.topology, ids),
        key_bits=plan.key_bits,
        weak=", allow_weak_keys: true" if plan.key_bits < SAFE_KEY_BITS else "",
        weak_remark=_WEAK if plan.key_bits < SAFE_KEY_BITS else "",
    )
    return files | {FLEET_FILE: fleet}


def node_id(n: int, nodes: int) -> str:
    """The id of the n-th of *nodes* nodes, all of one length."""
    return f"node{n:0{_digits(nodes)}}"


def _digits(nodes: int) -> int:
    return len(str(nodes))


def _fleet_name(folder: str) -> str:
    """A fleet's name after its folder, in the characters that a name may have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", folder)[:63].strip("-") or "fleet"


# -- the topology -------------------------------------------------------------------------------


def _topology_text(kind: str, ids: list[str]) -> str:
    """The section for *kind* with parameters that suit the number of nodes."""
    if kind not in KEYS_OF_KIND:
        kinds = ", ".join(KEYS_OF_KIND)
        raise ConfigError(
            f"--topology is {kind!r}, must be one of {kinds}{meant(kind, KEYS_OF_KIND)}"
        )
    if kind == "file":
        return f"{{kind: file, file: {EDGES_FILE}}}"
    if kind == "edges":
        return "{kind: edges, edges: [" + _wrapped(f"[{a}, {b}]" for a, b in _ring_of(ids)) + "]}"
    for keys in _suited(kind, len(ids)):
        try:
            build_graph(msgspec.convert(keys, Topology), ids)
        except TopologyError as error:
            refusal = error
        else:
            return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
    raise ConfigError(f"--topology {kind} with --nodes {len(ids)}: {refusal}")


def _suited(kind: str, n: int) -> Iterator[dict[str, str | int | float]]:
    """The section for *n* nodes, with one seed after the other where the kind has one."""
    keys = {"kind": kind} | _PARAMETERS.get(kind, _none)(n)
    if "seed" not in KEYS_OF_KIND[kind]:
        yield keys
        return
    for seed in SEEDS:
        yield keys | {"seed": seed}


def _none(_: int) -> dict[str, int | float]:
    return {}


_PARAMETERS: Mapping[str, Callable[[int], dict[str, int | float]]] = {
    "random_regular": lambda n: {"degree": min(4, n - 1)},
    # twice the probability from which on a graph hangs together
    "erdos_renyi": lambda n: {"probability": min(1.0, math.ceil(2e4 * math.log(n) / n) / 1e4)},
    "small_world": lambda n: {"neighbours": 4 if n > 4 else 2, "probability": 0.1},
    "geometric": lambda _: {"neighbours": 6},
}


def _ring_of(ids: list[str]) -> Iterator[tuple[str, str]]:
    yield from pairwise(ids)
    if len(ids) > 2:
        yield ids[-1], ids[0]


def _wrapped(items: Iterable[str]) -> str:
    listed = list(items)
    lines = [listed[i : i + _EDGES_PER_LINE] for i in range(0, len(listed), _EDGES_PER_LINE)]
    return ",\n  ".join(", ".join(line) for line in lines)


# -- the texts ----------------------------------------------------------------------------------

_WEAK = "# WEAK KEYS: this fleet protects nothing, it is for trials only.\n"

_IGNORED = """\
# What must not be versioned: private keys, the nodes' folders (which hold them), results.
cipherfleet-out/
nodes/
tls/
keys/
*.key
*.pem
paillier.json
state/
logs/
.init-*/
"""

# Tests turn on every setting that is off: each is one line, and loads in place of the same key.
_FLEET = """\
# yaml-language-server: $schema={schema}
# A fleet of sensors that agree on one answer while only ciphertexts travel.
#
#     cipherfleet run fleet.yaml --rounds 3
#
# tries it on this machine: one daemon per node, and a broker. "#" right before a key is a setting
# that is off. To turn it on take the "#" away; where the key is on already, swap the two.
config_version: 1
fleet: "{name}"

# What all nodes compute together. Every node keeps its readings; offset and scale bring them to
# order one. Every node counts alike, however many readings it has. mean: the mean of the nodes'
# means. average: the same, of the readings that nodes have at their start. least_squares, ridge,
# logistic, huber: a fit of target by features that makes the mean of the nodes' mean losses least.
# With normalise_by: N, about the readings of one node, every reading counts alike (not average).
objective: {{kind: mean, values: [{{field: temperature_c, offset: 20, scale: 5}}]}}
#objective: {{kind: mean, values: [{{field: temperature_c, offset: 20, scale: 5}}], normalise_by: 100}}
#objective: {{kind: average, values: [{{field: temperature_c}}]}}
#objective: {{kind: least_squares, target: {{field: humidity_pct, offset: 40, scale: 10}}, features: [{{constant: 1}}, {{field: temperature_c, offset: 20, scale: 5}}]}}

# Who is whose neighbour: neighbours exchange ciphertexts, and only they. At most 63 each.
topology: {topology}
#topology: {{kind: ring}}
#topology: {{kind: line}}
#topology: {{kind: star}}
#topology: {{kind: grid}}
#topology: {{kind: torus}}
#topology: {{kind: complete}}
#topology: {{kind: random_regular, degree: 4, seed: 1}}
#topology: {{kind: erdos_renyi, probability: 0.5, seed: 1}}
#topology: {{kind: small_world, neighbours: 4, probability: 0.1, seed: 1}}
#topology: {{kind: geometric, neighbours: 6, seed: 1}}
# By where the nodes stand (a CSV file with the columns id, x, y), or by a file of edges (GraphML,
# or two ids a line), both beside this file:
#topology: {{kind: geometric, neighbours: 4, positions_file: positions.csv}}
#topology: {{kind: file, file: network.graphml}}
#topology: {{kind: file, file: network.txt}}

# The schedule, the same for all nodes. A step, (1 + spread) * initial at most, must stay below
# 2/L for the greatest curvature L of a node's objective: `run` warns where it does not.
algorithm:
  rounds: 100
  #period_s: 60
  resolution: 2^-24  # what estimates are rounded to before they are encrypted
  stepsize: {{initial: 0.3, decay: 0.01, exponent: 1.0, spread: 1.0, law: uniform}}
  attenuation: none
  #attenuation: {{scale: 0.1, exponent: 0.81}}
  answer_timeout_s: 5.0  # how long a round waits for a neighbour
  start_timeout_s: 60.0  # how long the first round does

# The nodes and their sensors. With each, one entry stands for a row of nodes: {{n}} in id and sensor
# is the number, {{n:02}} has leading zeros. These readings are made up; the other kinds are real.
nodes:
  - each: {nodes}
    id: "{pattern}"
    sensor: {{kind: synthetic, rows_per_round: 1, fields: {{temperature_c: {{mean: 21, deviation: 2}}, humidity_pct: {{mean: 40, deviation: 5}}}}}}
    #sensor: {{kind: csv, path: readings.csv, where: {{node: "{{n}}"}}}}
    #sensor: {{kind: thermal, zone: 0, field: temperature_c}}
    #sensor: {{kind: hwmon, chip: coretemp, inputs: {{temp1_input: temperature_c}}}}
    #sensor: {{kind: command, command: [./read-sensor, "{{n}}"], limits: {{temperature_c: [-40, 85]}}}}

# Paillier keys: 2048 bits or more. pool: random factors that a node makes ready while it is idle.
{weak_remark}crypto: {{key_bits: {key_bits}{weak}}}
# Where every node has two neighbours or more the exchange is sealed: a node learns the sum over its
# neighbours and nothing of one of them. Otherwise, or if you say so, it is pairwise.
#crypto: {{key_bits: 3072, pool: 16, pool_threads: 2, exchange: pairwise}}

# Where devices find the MQTT broker; `run` starts one of its own. Beyond this machine TLS is a must.
broker: {{host: 127.0.0.1, port: 1883}}
#broker: {{host: 127.0.0.1, port: 8883, tls: true}}
#broker: {{host: broker.example.org, port: 8883, tls: true}}
#broker: {{port: 8883, tls: true, cluster: [a.example.org, b.example.org, c.example.org]}}
"""  # noqa: E501 - a setting that is off is one line, so that a single # turns it on


# -- files --------------------------------------------------------------------------------------


def _check_absent(file: Path) -> None:
    if os.path.lexists(file):  # a dangling link exists, too
        raise ConfigError(f"{file}: exists already; name another folder, or move it away")


def _write(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _put(built: Path, file: Path) -> None:
    """The file under its name; unlike a rename, a link never takes the place of another file."""
    try:
        os.link(built, file)
    except FileExistsError:
        _check_absent(file)
        raise
