"""What a node is told: the settings of its fleet, its sensor and its neighbours.

The sections are shared with fleet.yaml (the operator's file); `load_node_config` reads node.yaml.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from .document import Document, read_document
from .errors import ConfigError, remedy_for
from .fitting import Path_

CONFIG_VERSION = 1
SAFE_KEY_BITS = 2048  # 112-bit strength; smaller only through crypto.allow_weak_keys
NODE_FILE = "node.yaml"
TLS_FOLDER = "tls"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "node.pem", "node.key"
LOGS_FOLDER = "logs"

MAX_ID = 63

NodeId = Annotated[
    str,
    Meta(
        # $ alone lets a last newline pass
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_ID - 1}}}$(?!\n)",
        description="1 to 63 letters, digits, - and _, the first a letter or digit",
    ),
]
DeviceNode = Annotated[
    str,
    Meta(
        # nothing that a unit file would expand
        pattern=r"^/dev(/[A-Za-z0-9_-][A-Za-z0-9_.,:+-]*)+$(?!\n)",
        description="the path of a device node, for example /dev/i2c-1",
    ),
]
Positive = Annotated[float, Meta(gt=0)]
_RESOLUTION = "a positive number, for example 2^-24 or 1e-6"
Resolution = (
    Annotated[str, Meta(pattern=r"^2 *\^ *-? *[0-9]{1,3}$", description=_RESOLUTION)]
    | Annotated[float, Meta(gt=0, le=1e6, description=_RESOLUTION)]
)
OBJECTIVE_KINDS = ("average", "mean", "least_squares", "ridge", "logistic", "huber")
ObjectiveKind = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(OBJECTIVE_KINDS)}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*)$(?!\n)",
        description=f"one of {', '.join(OBJECTIVE_KINDS)} or module:Class",
        examples=[*OBJECTIVE_KINDS],
    ),
]
NonNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
ExchangeName = Literal["sealed", "pairwise"]
FieldName = Annotated[str, Meta(min_length=1)]


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A mapping in a configuration file; unknown keys are errors."""


# -- the algorithm ------------------------------------------------------------------------------


class Stepsize(Section, frozen=True):
    """lambda_k = initial / (1 + decay k^exponent); entries drawn within +-spread of it."""

    initial: Positive = 0.3
    decay: NonNegative = 0.01
    exponent: NonNegative = 1.0
    spread: Annotated[float, Meta(ge=0, le=1)] = 1.0
    law: Literal["uniform", "normal", "log-normal"] = "uniform"


class Attenuation(Section, frozen=True):
    """gamma_k = 1 / (1 + scale k^exponent)."""

    scale: NonNegative = 0.1
    exponent: NonNegative = 0.81


class Algorithm(Section, frozen=True):
    """What all nodes of a fleet must agree on, round by round."""

    rounds: Count | None = None  # None: an endless fleet, which then needs period_s
    period_s: Positive | None = None  # seconds from one round's opening to the next
    resolution: Resolution = "2^-24"
    stepsize: Stepsize = field(default_factory=Stepsize)
    attenuation: Attenuation | Literal["none"] = "none"
    answer_timeout_s: Positive = 5.0
    start_timeout_s: Positive = 60.0  # how long the first round waits for every neighbour


class Crypto(Section, frozen=True):
    """Key size and the exchange that runs on it."""

    key_bits: Annotated[int, Meta(ge=256, le=8192)] = SAFE_KEY_BITS
    exchange: ExchangeName | None = None  # None in fleet.yaml: by its graph
    leaves: Literal["refuse", "open"] = "refuse"  # nodes of one neighbour in a sealed fleet
    rerandomise: Literal["full", "uniform"] = "full"
    pool: Annotated[int, Meta(ge=0, le=256)] = 8  # obfuscators kept ready per key
    pool_threads: Annotated[int, Meta(ge=0, le=16)] = 1
    table_kib: Annotated[int, Meta(ge=64, le=65536)] = 2560  # memory for the tables of one key
    constant_time: bool = False  # private exponents take the same time; costs about 40 %
    allow_weak_keys: bool = False


class Broker(Section, frozen=True):
    """Where the MQTT broker listens, and whether it speaks TLS and wants our certificate."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    tls: bool = False


# -- objective and sensor -----------------------------------------------------------------------


class Column(Section, frozen=True):
    """A named field of a reading, brought to order one: (value - offset) / scale."""

    field: FieldName
    offset: float = 0.0
    scale: float = 1.0


class Feature(Section, frozen=True):
    """One entry (or, with daily, 2*harmonics entries) of the regressor phi.

    Exactly one of constant, field and daily is given.
    """

    constant: float | None = None
    field: FieldName | None = None
    offset: float = 0.0
    scale: float = 1.0
    daily: FieldName | None = None  # field in hours: sin and cos of 2 pi h value / 24
    harmonics: Annotated[int, Meta(ge=1, le=12)] | None = None


class Objective(Section, frozen=True):
    """The private objective f_i, made of this node's readings."""

    kind: ObjectiveKind
    values: list[Column] | None = None  # average, mean
    target: Column | None = None  # least_squares, ridge, logistic, huber
    features: list[Feature] | None = None
    penalty: NonNegative = 0.0  # ridge, logistic, huber: + penalty/2 |x|^2
    threshold: Positive = 1.0  # huber: residuals above it count linearly
    window: Count = 4096  # readings kept; the oldest go first
    minibatch: Count | None = None  # None: the whole window in every gradient
    normalise_by: Count | None = None  # None: the mean over the node's own readings, so that every
    # node counts alike. One number for all nodes: every reading counts alike.


class CsvSensor(Section, frozen=True, tag_field="kind", tag="csv"):
    """Replay of a CSV file with a header line; only rows that match *where* are this node's."""

    path: str
    where: dict[str, str | int | float] = {}
    rows_per_round: Count | None = None  # None: the whole file before the first round
    limits: dict[str, tuple[float, float]] = {}
    timeout_s: Positive = 5.0


class SyntheticSensor(Section, frozen=True, tag_field="kind", tag="synthetic"):
    """Made-up readings for trials: each field normal with the given mean and deviation."""

    fields: dict[str, SyntheticField]
    seed: int = 0
    rows_per_round: Count = 1
    limits: dict[str, tuple[float, float]] = {}
    timeout_s: Positive = 5.0


class SyntheticField(Section, frozen=True):
    """A made-up quantity."""

    mean: float
    deviation: NonNegative = 0.0


class ThermalSensor(Section, frozen=True, tag_field="kind", tag="thermal"):
    """A Linux thermal zone, by its type (`x86_pkg_temp`, `cpu-thermal`) or its number."""

    zone: str | int
    field: str = "temperature_c"
    limits: dict[str, tuple[float, float]] = {}
    timeout_s: Positive = 5.0


class HwmonSensor(Section, frozen=True, tag_field="kind", tag="hwmon"):
    """A Linux hwmon chip, by its name; inputs such as {temp1_input: temperature_c}."""

    chip: str
    inputs: dict[str, str]
    limits: dict[str, tuple[float, float]] = {}
    timeout_s: Positive = 5.0


class CommandSensor(Section, frozen=True, tag_field="kind", tag="command"):
    """A program that prints one JSON object of numbers per run, for example {"lux": 310}."""

    command: list[str]
    devices: list[DeviceNode] = []  # that it opens: the service's sandbox hides all others
    limits: dict[str, tuple[float, float]] = {}
    timeout_s: Positive = 5.0


Sensor = CsvSensor | SyntheticSensor | ThermalSensor | HwmonSensor | CommandSensor


# -- the node -----------------------------------------------------------------------------------


class Neighbour(Section, frozen=True):
    """A node that shares an edge with this one; its public keys lie in neighbours/<id>.json."""

    id: NodeId
    neighbours: Annotated[list[NodeId], Meta(min_length=1)]  # its own, this node among them
    fingerprint: str  # of its public keys, pinned by provisioning

    @property
    def degree(self) -> int:
        """How many neighbours it has itself, for the Metropolis factor."""
        return len(self.neighbours)


class OwnKeys(Section, frozen=True):
    """What this node's own keys must be, by their public halves."""

    paillier: str  # fingerprint of the modulus
    identity: str  # in base64, as is the seal
    seal: str


class Simulation(Section, frozen=True):
    """Only for emulated fleets with data that may be seen; every log says what is on and why."""

    seed: int | None = None  # draws become reproducible: nothing is hidden any more
    trace_estimates: bool = False  # the estimate of every round goes to estimates.jsonl


class NodeConfig(Section, frozen=True):
    """node.yaml: all that one node knows of its fleet."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    node: NodeId
    algorithm: Algorithm
    objective: Objective
    sensor: Sensor
    neighbours: list[Neighbour] = []  # none only where the operator is to name them
    operator: str | None = None  # Ed25519, base64: whose word on neighbours the node takes
    broker: Broker = field(default_factory=Broker)
    crypto: Crypto = field(default_factory=Crypto)
    simulation: Simulation = field(default_factory=Simulation)
    seals: dict[NodeId, str] = {}  # X25519 keys of all with whom it shares a neighbour, in base64
    keys: OwnKeys | None = None  # None: keys made on the device
    checksum: str | None = None  # over what provisioning knows of others; see `checksum_of`

    @property
    def co_neighbours(self) -> set[str]:
        """All with whom this node shares a neighbour."""
        return {name for n in self.neighbours for name in n.neighbours} - {self.node}


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


def resolution_of(algorithm: Algorithm) -> float:
    """The resolution delta as a number: '2^-24' and 1e-6 are both allowed."""
    value = algorithm.resolution
    if isinstance(value, str):
        power = re.fullmatch(r"2\^(-?\d{1,3})", value.replace(" ", ""))
        if power is None:
            raise ValueError(value)
        return math.ldexp(1.0, int(power[1]))
    return float(value)


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
