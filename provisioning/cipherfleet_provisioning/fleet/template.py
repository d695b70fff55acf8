"""Write a first fleet.yaml for `cipherfleet init`.

The file runs without changes. Its comments explain every setting, and contain the other settings
that are possible.
"""

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
import yaml

from cipherfleet_broker.program import TLS_PORT
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_node.settings.type_errors import did_you_mean
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.section import KEYS_OF_KIND, Topology, TopologyError

from .proposal import Proposal
from .sample import fields_text, objective_text
from .schema import SCHEMA_FILE, schema_text

FLEET_FILE, IGNORE_FILE, EDGES_FILE = "fleet.yaml", ".gitignore", "network.txt"
SEEDS = range(1, 21)  # tried in turn, until a random graph is connected
_EDGES_PER_LINE = 6
_ADDRESS = re.compile(
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9.-]{0,252})|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True)
class Plan:
    """The options of `cipherfleet init`."""

    nodes: int = 9
    topology: str = "ring"
    key_bits: int = SAFE_KEY_BITS
    broker: tuple[str, int] | None = None  # host and port; None: the fleet runs on this machine
    proposal: Proposal | None = None  # from a sample; None: temperature and humidity


def write_template(folder: Path, plan: Plan) -> list[Path]:
    """Write fleet.yaml and the files that belong to it into *folder*; return their paths.

    *folder* is created if it does not exist. fleet.yaml appears last, and complete. Raises
    ConfigError, before any file is written, for a plan that no fleet can have, and for a file that
    exists already: no file is overwritten.
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
    """Return the contents of all files by file name, in the order in which they are written."""
    if plan.key_bits % 16:
        raise ConfigError(f"--key-bits is {plan.key_bits}, must be a multiple of 16")
    ids = [node_id(n, plan.nodes) for n in range(1, plan.nodes + 1)]
    files = {IGNORE_FILE: _IGNORED, SCHEMA_FILE.name: schema_text()}
    if plan.topology == "file":
        files[EDGES_FILE] = "".join(f"{a} {b}\n" for a, b in _ring_edges(ids))
    fleet = _FLEET.format(
        schema=SCHEMA_FILE.name,
        name=_fleet_name(name),
        nodes=plan.nodes,
        pattern=f"node{{n:0{_digits(plan.nodes)}}}",
        topology=_topology_text(plan.topology, ids),
        key_bits=plan.key_bits,
        weak=", allow_weak_keys: true" if plan.key_bits < SAFE_KEY_BITS else "",
        weak_remark=_WEAK if plan.key_bits < SAFE_KEY_BITS else "",
        schedule=_ON_MACHINE if plan.broker is None else _ON_DEVICES,
        sensors="" if plan.broker is None else _SET_SENSORS,
        broker=_broker_text(plan.broker),
        objective=_OBJECTIVE if plan.proposal is None else objective_text(plan.proposal),
        fields=_FIELDS if plan.proposal is None else fields_text(plan.proposal),
    )
    return files | {FLEET_FILE: fleet}


def node_id(n: int, nodes: int) -> str:
    """Return the id of node number *n* (from 1) of *nodes*; all ids have the same length."""
    return f"node{n:0{_digits(nodes)}}"


def _digits(nodes: int) -> int:
    return len(str(nodes))


def _fleet_name(folder: str) -> str:
    """Derive a fleet's name from its folder's name, with the characters that a name may have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", folder)[:63].strip("-") or "fleet"


def parse_broker(address: str) -> tuple[str, int]:
    """Return host and port of 'HOST' or 'HOST:PORT'. Raises ConfigError."""
    found = _ADDRESS.fullmatch(address)
    port = int(found["port"] or TLS_PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise ConfigError(
            f"--broker is {address!r}, must be a host name or an address, with or without a port, "
            "for example broker.example.org or 192.168.1.5:8883"
        )
    return found["name"] or found["ipv6"], port


def _broker_text(broker: tuple[str, int] | None) -> str:
    if broker is None:
        return _HERE
    host, port = broker
    is_plain = ":" not in host and yaml.safe_load(host) == host  # no number, no null
    return _ELSEWHERE.format(host=host if is_plain else f'"{host}"', port=port)


# -- the topology -------------------------------------------------------------------------------


def _topology_text(kind: str, ids: list[str]) -> str:
    """Return the topology section for *kind*, with parameters that suit the number of nodes."""
    if kind not in KEYS_OF_KIND:
        kinds = ", ".join(KEYS_OF_KIND)
        raise ConfigError(
            f"--topology is {kind!r}, must be one of {kinds}{did_you_mean(kind, KEYS_OF_KIND)}"
        )
    if kind == "file":
        return f"{{kind: file, file: {EDGES_FILE}}}"
    if kind == "edges":
        return (
            "{kind: edges, edges: ["
            + _wrap_lines(f"[{a}, {b}]" for a, b in _ring_edges(ids))
            + "]}"
        )
    for keys in _suitable_sections(kind, len(ids)):
        try:
            build_graph(msgspec.convert(keys, Topology), ids)
        except TopologyError as error:
            refusal = error
        else:
            return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
    raise ConfigError(f"--topology {kind} with --nodes {len(ids)}: {refusal}")


def _suitable_sections(kind: str, n: int) -> Iterator[dict[str, str | int | float]]:
    """Yield sections for *n* nodes: one for each of SEEDS if the kind has a seed, otherwise one."""
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
    # twice the probability above which such a graph is usually connected
    "erdos_renyi": lambda n: {"probability": min(1.0, math.ceil(2e4 * math.log(n) / n) / 1e4)},
    "small_world": lambda n: {"neighbours": 4 if n > 4 else 2, "probability": 0.1},
    "geometric": lambda _: {"neighbours": 6},
}


def _ring_edges(ids: list[str]) -> Iterator[tuple[str, str]]:
    yield from pairwise(ids)
    if len(ids) > 2:
        yield ids[-1], ids[0]


def _wrap_lines(items: Iterable[str]) -> str:
    listed = list(items)
    lines = [listed[i : i + _EDGES_PER_LINE] for i in range(0, len(listed), _EDGES_PER_LINE)]
    return ",\n  ".join(", ".join(line) for line in lines)


# -- the texts ----------------------------------------------------------------------------------

_OBJECTIVE = "{kind: mean, values: [{field: temperature_c, offset: 20, scale: 5}]}"
_FIELDS = "{temperature_c: {mean: 21, deviation: 2}, humidity_pct: {mean: 40, deviation: 5}}"
_WEAK = "# WEAK KEYS: this fleet protects no data, it is for trials only.\n"

_ON_MACHINE = "  rounds: 100\n  #period_s: 60\n"
_ON_DEVICES = """\
  period_s: 60  # a round every minute, without end
  #rounds: 100
"""
_SET_SENSORS = """\
# THE READINGS ARE ARTIFICIAL until you set the sensors. If the devices differ, give each an entry
# of its own instead: - {id: attic, sensor: {kind: thermal, zone: 0, field: temperature_c}}
"""
_HERE = """\
# The address of the MQTT broker for devices; `run` starts a broker of its own. A broker on another
# machine must use TLS.
broker: {host: 127.0.0.1, port: 1883}
"""
_ELSEWHERE = """\
# The address of the MQTT broker, as all devices reach it; its certificate has this name. To set it
# up: cipherfleet provision broker. `run` starts a broker of its own.
broker: {{host: {host}, port: {port}, tls: true}}
"""

_IGNORED = """\
# Do not put these under version control: private keys, the nodes' folders with keys, results.
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

# Tests turn on every setting that is off: each is one line, and replaces the same key.
_FLEET = """\
# yaml-language-server: $schema={schema}
# A fleet of sensors that computes one common result. Only ciphertexts are sent over the network.
#
#     cipherfleet run fleet.yaml --rounds 3
#
# runs it on this machine, with one daemon per node and a broker. A line with "#" directly before a
# key is a setting that is off. To turn it on, remove the "#", and comment out the same key above.
config_version: 1
fleet: "{name}"

# The objective: what all nodes compute together. Readings stay on their node; offset and scale
# bring them to order one. weight: node (default): every node counts alike, however many readings it
# has. weight: reading: every reading counts alike; normalise_by is about the number of readings of
# one node, the same on all nodes (not for average).
# mean: the mean of the nodes' means, or of all readings. average: the nodes' means at the start.
# least_squares, ridge, logistic, huber: fit target by features; the fit minimises the mean of the
# nodes' mean losses, or of the losses of all readings.
# A node uses its latest readings: window: N (4096 by default), with window_s: SECONDS also none that
# is older. The fleet then follows the moving optimum. The windows of live sensors survive a restart.
objective: {objective}
#objective: {{kind: mean, values: [{{field: temperature_c, offset: 20, scale: 5}}], weight: reading, normalise_by: 100}}
#objective: {{kind: mean, values: [{{field: temperature_c, offset: 20, scale: 5}}], window: 500, window_s: 86400}}
#objective: {{kind: average, values: [{{field: temperature_c}}]}}
#objective: {{kind: least_squares, target: {{field: humidity_pct, offset: 40, scale: 10}}, features: [{{constant: 1}}, {{field: temperature_c, offset: 20, scale: 5}}]}}

# The topology: only neighbours exchange ciphertexts. A node has at most 63 neighbours.
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
# From positions of the nodes (a CSV file with the columns id, x, y), or from a file of edges
# (GraphML, or two ids per line). Both files are in the folder of this file:
#topology: {{kind: geometric, neighbours: 4, positions_file: positions.csv}}
#topology: {{kind: file, file: network.graphml}}
#topology: {{kind: file, file: network.txt}}

# The rounds, the same for all nodes. With method exact the fleet ends at the optimum itself, and every
# node chooses its own stepsizes. With until it ends earlier, once every node has that accuracy; a fleet
# with a period then begins to wait for it. method article is the article's iteration, with a schedule:
# stepsize: {{initial: 0.3, decay: 0.01, exponent: 1}} and attenuation: {{scale: 0.1, exponent: 0.81}}.
algorithm:
{schedule}  #until: {{accuracy: 1e-4}}
  resolution: 2^-32  # estimates are rounded to multiples of it before they are encrypted
  method: exact
  #method: statistics  # mean, least_squares, ridge: fewest rounds; shows the mean normal equations
  #method: article
  #scale: 0.7  # of curvature; by default the fleet agrees on one in its first six rounds
  #metric: newton  # or diagonal: steps that follow each node's own curvature; often fewer rounds
  #stepsize: {{spread: 0.5, law: normal}}  # how far the random stepsizes deviate from their mean
  answer_timeout_s: 5.0  # a round waits this long for a neighbour
  start_timeout_s: 60.0  # the first round waits this long

# The nodes and their sensors. With each: N, one entry makes N nodes. In id and sensor, {{n}} is the
# number of the node, and {{n:02}} has leading zeros. kind: synthetic makes artificial readings; the
# other kinds read files, sensors of the machine or of its network, or the output of a command.
{sensors}nodes:
  - each: {nodes}
    id: "{pattern}"
    sensor: {{kind: synthetic, rows_per_round: 1, fields: {fields}}}
    #sensor: {{kind: csv, path: readings.csv, where: {{node: "{{n}}"}}}}
    #sensor: {{kind: csv, path: readings.csv, where: {{node: "{{n}}"}}, first_rows: 96, rounds_per_row: 20}}
    #sensor: {{kind: thermal, zone: 0, field: temperature_c}}
    #sensor: {{kind: hwmon, chip: coretemp, inputs: {{temp1_input: temperature_c}}}}
    #sensor: {{kind: iio, chip: bmp280, inputs: {{temp: temperature_c}}}}
    #sensor: {{kind: w1, device: 28-0316a2795eff, field: temperature_c}}
    #sensor: {{kind: serial, device: /dev/ttyUSB0, format: json, fields: {{temperature_c: temperature}}}}
    #sensor: {{kind: modbus, host: 192.168.1.9, registers: {{temperature_c: {{address: 1, scale: 0.1}}}}}}
    #sensor: {{kind: mqtt, host: hub.local, fields: {{temperature_c: {{topic: zigbee2mqtt/desk, path: temperature}}}}}}
    #sensor: {{kind: http, url: http://192.168.1.9/measures/current, fields: {{temperature_c: atmp}}}}
    #sensor: {{kind: command, command: [./read-sensor, "{{n}}"], limits: {{temperature_c: [-40, 85]}}}}

# Paillier keys: 2048 bits or more. pool: obfuscators that a node computes while it is idle.
{weak_remark}crypto: {{key_bits: {key_bits}{weak}}}
# If every node has two neighbours or more, the exchange is sealed: a node learns the sum over its
# neighbours, and no single neighbour's term. Otherwise, or if you choose it, it is pairwise.
#crypto: {{key_bits: 3072, pool: 16, pool_threads: 2, exchange: pairwise}}

# What each node publishes of the answer once it has settled: outputs/answer.json in its folder, and with
# mqtt or exec more. Never to the broker of the fleet. `check` says who reads what.
answer: {{file: true, every_s: 60, digits: 4}}
#answer: {{exec: [/usr/local/bin/on-answer]}}
#answer: {{mqtt: {{host: 127.0.0.1, port: 1884, topic: "home/{{fleet}}/{{node}}", homeassistant: true}}}}

{broker}#broker: {{host: 127.0.0.1, port: 8883, tls: true}}
#broker: {{host: broker.example.org, port: 8883, tls: true}}
#broker: {{port: 8883, tls: true, cluster: [a.example.org, b.example.org, c.example.org]}}
"""  # noqa: E501 - a setting that is off is one line, so that a single # turns it on


# -- files --------------------------------------------------------------------------------------


def _check_absent(file: Path) -> None:
    if os.path.lexists(file):  # true for a dangling link, too
        raise ConfigError(f"{file}: exists already", remedy="name another folder, or move it away")


def _write(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _put(built: Path, file: Path) -> None:
    """Link the file to its name; unlike a rename, a link never replaces another file."""
    try:
        os.link(built, file)
    except FileExistsError:
        _check_absent(file)
        raise
