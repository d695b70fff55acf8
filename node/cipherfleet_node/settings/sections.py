"""The sections of node.yaml and fleet.yaml as msgspec types. This module reads no file.

The docstrings are the descriptions in the JSON Schema, which editors show. The file is long, since
all sections are in it: both files, the schema and the checks read the same types.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import Meta, field

from .type_errors import RefusedKey

CONFIG_VERSION = 1


JOIN_TOLERANCE_S = 60.0


SAFE_KEY_BITS = 2048  # a strength of 112 bits; smaller keys need crypto.allow_weak_keys


MAX_ID = 63


LEAST_PARTICIPANTS = 3  # of a generation: the shares of two are known to both
MAX_PARTICIPANTS = 1024  # of generations, counting the nodes that the fleet has lost


MAX_PARTNERS = 128  # of one node; provisioning gives 16 to 60


MAX_GENERATION_ROUNDS = 1_000_000  # twenty times what the longest possible line needs


NodeId = Annotated[
    str,
    Meta(
        # `$` alone would match before a newline at the end
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_ID - 1}}}$(?!\n)",
        description="1 to 63 letters, digits, - and _, the first a letter or digit",
    ),
]


DeviceNode = Annotated[
    str,
    Meta(
        # no character that has a meaning in a systemd unit file
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


Weight = Literal["node", "reading"]


FieldName = Annotated[str, Meta(min_length=1)]


FileName = Annotated[str, Meta(min_length=1)]


AnswerTopic = Annotated[
    str,
    Meta(
        pattern=r"^[^+#\x00/$][^+#\x00]{0,199}$(?!\n)",
        description="up to 200 characters without + and #, and with no / or $ at the begin",
        examples=["cipherfleet-answer/{fleet}/{node}"],
    ),
]


Host = Annotated[str, Meta(min_length=1, max_length=253)]


MAX_FIELDS = 64  # of one sensor


# Keys joined by dots. A list is for keys that contain a dot. A number counts the items of a list
# from 0 on.
JsonPath = (
    Annotated[str, Meta(min_length=1, max_length=200, examples=["AM2301.Temperature"])]
    | Annotated[list[str | int], Meta(min_length=1, max_length=16)]
)


SubscribedTopic = Annotated[
    str,
    Meta(
        pattern=r"^[^+#\x00]{1,200}$(?!\n)",
        description="up to 200 characters without + and #",
        examples=["zigbee2mqtt/attic"],
    ),
]


HttpUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-~]{0,2000})?$(?!\n)",
        description="http:// or https://, a host without user and password, and a path",
        examples=["http://192.168.1.7/measures/current"],
    ),
]


OneWireDevice = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{2}-[0-9a-f]{12}$(?!\n)",
        description="the family, a hyphen and twelve digits, for example 28-0316a2795eff",
    ),
]


Baud = Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200]


Parity = Literal["none", "even", "odd"]


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A mapping in a configuration file. Unknown keys are errors."""


AGREE: Literal["agree"] = "agree"  # the fleet finds its scale of curvature by itself
Scale = float | Literal["agree"]


Method = Literal["article", "exact", "statistics"]


# The kinds whose optimum solves linear equations with sums over the readings as coefficients.
STATISTICS_KINDS = ("mean", "least_squares", "ridge")

MetricName = Literal["step", "diagonal", "newton"]

ShieldName = Literal["none", "linear", "quadratic"]


class Stepsize(Section, frozen=True):
    """The mean stepsize lambda_k = initial / (1 + decay k^exponent), and the law of its entries."""

    initial: Positive = 0.3
    decay: NonNegative = 0.01
    exponent: NonNegative = 1.0
    spread: Annotated[float, Meta(ge=0, le=2)] = 1.0  # above 1 in method exact only
    law: Literal["uniform", "normal", "log-normal"] = "uniform"


class Attenuation(Section, frozen=True):
    """The attenuation factor gamma_k = 1 / (1 + scale k^exponent)."""

    scale: NonNegative = 0.1
    exponent: NonNegative = 0.81


class Until(Section, frozen=True):
    """The accuracy at which the fleet has settled: it ends then, or waits for its period."""

    accuracy: Positive  # of every entry of the estimate, in the objective's units of order one


class Algorithm(Section, frozen=True):
    """The schedule of the rounds, and the values that must be equal on all nodes of a fleet."""

    rounds: Count | None = None  # None: an endless fleet, which then needs period_s
    period_s: Positive | None = None  # seconds from one round's opening to the next
    until: Until | None = None  # not for article: beside rounds or period_s
    resolution: Resolution = "2^-32"
    method: Method = "exact"
    # The scale of curvature c0, not for article. agree: the fleet finds it in its first rounds, or,
    # with statistics, takes 1.
    scale: Positive | Literal["agree"] = AGREE
    metric: MetricName = "step"  # exact only: how steps follow the node's own curvature
    # linear: shares with partners hide a node's gradient from all its neighbours; not for article.
    # quadratic: they hide a part of the curvature of its objective as well; for exact only.
    shield: ShieldName = "none"
    # Deviation of a share of the shield, in units of c0: it hides gradients that are smaller.
    shares: Annotated[float, Meta(ge=0.25, le=16)] = 1.0
    stepsize: Stepsize = field(default_factory=Stepsize)
    attenuation: Attenuation | Literal["none"] = "none"
    answer_timeout_s: Positive = 5.0
    start_timeout_s: Positive = 60.0  # the longest wait for all neighbours before the first round


class Crypto(Section, frozen=True):
    """The key size, the kind of exchange, and the memory and threads for obfuscators."""

    key_bits: Annotated[int, Meta(ge=256, le=8192)] = SAFE_KEY_BITS
    exchange: ExchangeName | None = None  # None in fleet.yaml: chosen by the graph
    leaves: Literal["refuse", "open"] = "refuse"  # nodes with one neighbour in a sealed fleet
    rerandomise: Literal["full", "uniform"] = "full"
    pool: Annotated[int, Meta(ge=0, le=256)] = 8  # obfuscators kept ready per key
    pool_threads: Annotated[int, Meta(ge=0, le=16)] = 1
    table_kib: Annotated[int, Meta(ge=64, le=65536)] = 2560  # memory for the tables of one key
    constant_time: bool = False  # powers with private exponents in constant time; about 40 % slower
    allow_weak_keys: bool = False


NO_PASSWORDS = RefusedKey(
    "is refused: the broker's access rules need one certificate per node; with a password that all "
    "nodes share, every node could publish as any other",
    "run a second mosquitto beside that broker, on another port, and set it up with: "
    "cipherfleet provision broker DIR --install",
)


COUNTED_BY_PROVISIONING = RefusedKey(
    "is refused here: provisioning counts the nodes with readings and writes it to node.yaml",
    "leave it out",
)


class Broker(Section, frozen=True):
    """The address of the MQTT broker, and whether it uses TLS with a client certificate."""

    # Keys that other programs have here, and why they are refused.
    REFUSED: ClassVar[Mapping[str, RefusedKey]] = dict.fromkeys(
        ("user", "username", "password"), NO_PASSWORDS
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    tls: bool = False


class Column(Section, frozen=True):
    """A field of a reading, brought to order one: (value - offset) / scale."""

    field: FieldName
    offset: float = 0.0
    scale: float = 1.0


class Feature(Section, frozen=True):
    """One entry of the regressor phi, or with *daily* 2 * harmonics entries.

    Exactly one of *constant*, *field* and *daily* must be given.
    """

    constant: float | None = None
    field: FieldName | None = None
    offset: float = 0.0
    scale: float = 1.0
    daily: FieldName | None = None  # field in hours: sin and cos of 2 pi h value / 24
    harmonics: Annotated[int, Meta(ge=1, le=12)] | None = None


# Kinds whose residual is the target minus a linear prediction.
DRIFT_KINDS = ("least_squares", "ridge", "huber")


class Drift(Section, frozen=True):
    """The fleet also agrees on the mean of its residuals. It shows a sensor that drifts."""

    window: Annotated[int, Meta(ge=1, le=100_000)] = 24  # newest readings whose residuals are used
    # A node has an alarm if its own mean residual minus that of the fleet is so many robust
    # deviations from its usual value. Each node may have another limit.
    alarm: Positive = 5.0


class ObjectiveSection(Section, frozen=True):
    """The private objective f_i of a node, computed from its readings."""

    kind: ObjectiveKind
    values: list[Column] | None = None  # average, mean
    target: Column | None = None  # least_squares, ridge, logistic, huber
    features: list[Feature] | None = None
    penalty: NonNegative = 0.0  # ridge, logistic, huber: + penalty/2 |x|^2
    threshold: Positive = 1.0  # huber: residuals above it count linearly
    window: Count = 4096  # the number of latest readings kept
    window_s: Positive | None = None  # seconds after which a reading is dropped, but for the newest
    minibatch: Count | None = None  # None: every gradient uses the whole window
    weight: Weight = "node"  # what counts alike in the fleet: every node, or every reading
    # With weight reading: the declared number of readings, the same on all nodes, that counts one.
    normalise_by: Count | None = None
    drift: Drift | None = None  # least_squares, ridge, huber, with method exact

    def count_for_mean(self, readings: int) -> int:
        """Return the number by which a sum over a node's *readings* is divided.

        Its own number gives every node the same weight, the declared one every reading.
        """
        return self.normalise_by or readings if self.weight == "reading" else readings


class Guard(Section, frozen=True):
    """What the readings of a field may do from one to the next. A reading that fails is not used.

    A guard compares readings since the start of the node; the first one passes.
    """

    change_per_minute: Positive | None = None  # largest change in a minute, in the field's unit
    stuck_after_readings: Annotated[int, Meta(ge=2)] | None = None  # so many equal ones in a row
    stuck_after_s: Positive | None = None  # the same value for so long, in three readings or more


class SensorSection(Section, frozen=True, kw_only=True):
    """What every sensor has: plausible values, guards, and the longest time of a read."""

    limits: dict[str, tuple[float, float]] = {}
    guards: dict[FieldName, Guard] = {}
    timeout_s: Positive = 5.0


Separator = Annotated[
    str,
    Meta(
        pattern=r'^[^"\r\nA-Za-z0-9.+-]$(?!\n)',
        description="one character, for example ';' or \"\\t\"",
        examples=[",", ";", "\t"],
    ),
]


class CsvSensor(SensorSection, frozen=True, tag_field="kind", tag="csv"):
    """A replay of a CSV file with a header line. The node uses the rows that match *where*."""

    path: str
    where: dict[str, str | int | float] = {}
    separator: Separator = ","  # between two cells
    decimal: Literal[".", ","] = "."
    columns: dict[str, FieldName] = {}  # new names: {column in the file: name here}
    gaps: Literal["refuse", "skip"] = "refuse"  # a row with a gap is an error, or left out
    gap_marks: list[str] = []  # gaps beside empty cells, NaN, NA, N/A, null and -: [ERR, "-999"]
    rows_per_round: Count | None = None  # None: the whole file before the first round
    rounds_per_row: Count | None = None  # instead: first_rows at once, then a row in so many rounds
    first_rows: Count = 1


class SyntheticSensor(SensorSection, frozen=True, tag_field="kind", tag="synthetic"):
    """Generated readings for trials. Each field is normal with its mean and deviation."""

    fields: dict[str, SyntheticField]
    seed: int = 0
    rows_per_round: Count = 1


class SyntheticField(Section, frozen=True):
    """Mean and standard deviation of a generated field."""

    mean: float
    deviation: NonNegative = 0.0


class ThermalSensor(SensorSection, frozen=True, tag_field="kind", tag="thermal"):
    """A Linux thermal zone, named by its type (`x86_pkg_temp`, `cpu-thermal`) or its number."""

    zone: str | int
    field: str = "temperature_c"


class HwmonSensor(SensorSection, frozen=True, tag_field="kind", tag="hwmon"):
    """A Linux hwmon chip, named by its name, with inputs such as {temp1_input: temperature_c}."""

    chip: str
    inputs: dict[str, str]


class CommandSensor(SensorSection, frozen=True, tag_field="kind", tag="command"):
    """A program that prints one JSON object of numbers per run, for example {"lux": 310}."""

    command: list[str]
    fields: list[FieldName] = []  # what it prints; needed in the list `sensors`
    devices: list[DeviceNode] = []  # the devices it opens: the service's sandbox hides all others


class ClockSensor(SensorSection, frozen=True, tag_field="kind", tag="clock"):
    """The clock of the node as fields: hour, 0 to 24 with fractions, and weekday, 0 for Monday.

    There is no reading while the kernel's clock is not synchronised. Zone local is the time zone of
    the device, with its summer time.
    """

    zone: Literal["utc", "local"] = "utc"


class PluginSensor(SensorSection, frozen=True, tag_field="kind", tag="plugin"):
    """A sensor of another package, by its name in the entry point group `cipherfleet.sensors`."""

    name: FieldName
    options: dict[FieldName, Any] = {}  # what the plug-in declares


class MqttField(Section, frozen=True):
    """The messages with a field: a number, or JSON in which *path* leads to the number."""

    topic: SubscribedTopic
    path: JsonPath | None = None  # None: the whole message is the number
    # The path to the time of the measurement: only with it does a retained message count.
    last_seen: JsonPath | None = None


class MqttSensor(SensorSection, frozen=True, tag_field="kind", tag="mqtt"):
    """Messages at a broker of the owner's own, for example of zigbee2mqtt, Tasmota or ESPHome.

    The first read waits for the first messages, at most timeout_s.
    """

    fields: Annotated[dict[FieldName, MqttField], Meta(min_length=1, max_length=MAX_FIELDS)]
    host: Host = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    # Topics with the state of the device, or of its gateway: no reading while one says offline.
    availability: Annotated[list[SubscribedTopic], Meta(max_length=MAX_FIELDS)] = []
    max_age_s: Positive = 900.0  # no reading from older messages
    tls: bool = False  # with the authorities of the system, unless *ca* names others
    ca: FileName | None = None  # this file and the next ones: relative to the node's folder
    certificate: FileName | None = None
    key: FileName | None = None
    user: FieldName | None = None
    password_file: FileName | None = None  # its first line


class HttpSensor(SensorSection, frozen=True, tag_field="kind", tag="http"):
    """A device that answers a GET request with JSON, for example AirGradient or Shelly.

    timeout_s is the limit for the whole answer.
    """

    url: HttpUrl
    fields: Annotated[dict[FieldName, JsonPath], Meta(min_length=1, max_length=MAX_FIELDS)]
    ca: FileName | None = None  # for https; relative to the node's folder


class IioSensor(SensorSection, frozen=True, tag_field="kind", tag="iio"):
    """A chip of the kernel's class iio, by its name, with inputs such as {temp: temperature_c}."""

    chip: str
    inputs: Annotated[dict[str, str], Meta(min_length=1, max_length=MAX_FIELDS)]


class OneWireSensor(SensorSection, frozen=True, tag_field="kind", tag="w1"):
    """A one-wire thermometer such as the DS18B20, by its identity (`28-0316a2795eff`)."""

    device: OneWireDevice
    field: str = "temperature_c"


class SerialSensor(SensorSection, frozen=True, tag_field="kind", tag="serial"):
    """A device that sends by itself over a serial port: lines of text, or frames of a dust sensor.

    *fields* says where each field is: a key (lines), a path (json), the number of a column from 1
    on (csv), or a quantity of the frame such as pm2_5 (pms5003, sds011). A
    device that sends rarely needs a longer timeout_s.
    """

    device: DeviceNode
    format: Literal["lines", "csv", "json", "pms5003", "sds011"]
    fields: Annotated[dict[FieldName, JsonPath | Count], Meta(min_length=1, max_length=MAX_FIELDS)]
    baud: Baud = 9600
    parity: Parity = "none"


class ModbusRegister(Section, frozen=True):
    """One number in a Modbus device: register * scale + offset."""

    address: Annotated[int, Meta(ge=0, le=65535)]  # as in the message: 40001 of a manual is 0
    table: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "int16"
    words: Literal["high_first", "low_first"] = "high_first"  # of types with 32 bits
    scale: float = 1.0
    offset: float = 0.0


class ModbusSensor(SensorSection, frozen=True, tag_field="kind", tag="modbus"):
    """Registers of a Modbus device, at a *host* (TCP) or at a serial *device* (RTU)."""

    registers: Annotated[dict[FieldName, ModbusRegister], Meta(min_length=1, max_length=MAX_FIELDS)]
    host: Host | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 502
    device: DeviceNode | None = None
    baud: Baud = 9600
    parity: Parity = "none"
    unit: Annotated[int, Meta(ge=0, le=255)] = 1  # the address of the device


class NoSensor(SensorSection, frozen=True, tag_field="kind", tag="none"):
    """No sensor: for a node whose role is follower."""


Sensor = (
    CsvSensor
    | SyntheticSensor
    | ThermalSensor
    | HwmonSensor
    | IioSensor
    | OneWireSensor
    | SerialSensor
    | ModbusSensor
    | MqttSensor
    | HttpSensor
    | CommandSensor
    | ClockSensor
    | PluginSensor
    | NoSensor
)

Sensors = Annotated[list[Sensor], Meta(min_length=1, max_length=32)]


class SensorGroup(msgspec.Struct, frozen=True):
    """The sensors of the list `sensors`, which give one sample together."""

    sensors: tuple[Sensor, ...]
    join_tolerance_s: float

    @property
    def timeout_s(self) -> float:
        """The longest timeout: all sensors are read at the same time."""
        return max(sensor.timeout_s for sensor in self.sensors)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """The limits of all sensors; no two have the same field."""
        return {name: pair for each in self.sensors for name, pair in each.limits.items()}

    @property
    def guards(self) -> dict[str, Guard]:
        """The guards of all sensors."""
        return {name: guard for each in self.sensors for name, guard in each.guards.items()}


Source = Sensor | SensorGroup  # where the readings of a node come from


def source_of(sensor: Sensor, sensors: list[Sensor] | None, join_tolerance_s: float) -> Source:
    """Return the source of a node; a list of one sensor is that sensor."""
    if not sensors:
        return sensor
    return sensors[0] if len(sensors) == 1 else SensorGroup(tuple(sensors), join_tolerance_s)


def parts_of(source: Source) -> tuple[Sensor, ...]:
    """Return the single sensors of *source*."""
    return source.sensors if isinstance(source, SensorGroup) else (source,)


# A follower takes part without readings of its own, and ends at the optimum of the members.
Role = Literal["member", "follower"]


class AnswerMqtt(Section, frozen=True):
    """The owner's own MQTT broker, which gets the agreed answer. Never the broker of the fleet."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    topic: AnswerTopic = "cipherfleet-answer/{fleet}/{node}"  # {fleet} and {node} are replaced
    homeassistant: bool = False  # True: also retained discovery messages below homeassistant/
    tls: bool = False  # with the authorities of the system, unless *ca* names others
    ca: FileName | None = None  # this file and the next ones: relative to the node's folder
    certificate: FileName | None = None
    key: FileName | None = None
    user: FieldName | None = None
    password_file: FileName | None = None  # its first line


class AnswerMetrics(Section, frozen=True):
    """An HTTP page with counts and durations of the node, which a Prometheus on the device reads.

    It needs the extra `metrics` of the package.
    """

    host: Host = "127.0.0.1"  # another address shows the page to the network
    port: Annotated[int, Meta(ge=1, le=65535)] = 9477
    values: bool = False  # True: also the answer, under the rules of all outputs


class AnswerSection(Section, frozen=True):
    """What a node publishes of the agreed answer once it has settled, and where."""

    file: bool = True  # outputs/answer.json in the node's folder
    every_s: Annotated[float, Meta(ge=1)] = 60.0  # at most one answer in so many seconds
    digits: Annotated[int, Meta(ge=1, le=12)] = 4  # significant digits of what is published
    alarm: Positive = 4.0  # the robust z of a residual from which on `alarm` is true
    # Without algorithm.until: the accuracy at which the node itself has settled, in the objective's
    # units of order one. It ends no fleet. No parameter is published at a finer resolution.
    accuracy: Positive = 1e-3
    units: dict[FieldName, str] = {}  # the unit of a field, for example {pm25: ug/m3}
    exec: Annotated[list[str], Meta(min_length=1)] | None = None  # a program: JSON on its input
    exec_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    mqtt: AnswerMqtt | None = None
    metrics: AnswerMetrics | None = None
    plugins: dict[FieldName, dict[str, str | int | float | bool]] = {}  # by entry point: options


Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


# Kinds with bounds for the gradient and the curvature of a single reading.
PRIVACY_KINDS = ("least_squares", "ridge", "logistic", "huber")


class Privacy(Section, frozen=True):
    """Differential privacy of the result: noise on the objective, drawn once for each release.

    It protects one reading of one node from an observer who sees the result only.
    """

    # Keys that provisioning writes, and why fleet.yaml refuses them.
    REFUSED: ClassVar[Mapping[str, RefusedKey]] = {"nodes": COUNTED_BY_PROVISIONING}

    epsilon: Positive  # of one release; smaller: more noise
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    norm: Positive = 2.5  # a longer regressor is scaled down to this Euclidean length
    residual: Positive = 2.0  # not for logistic: a residual above it counts linearly
    readings: Count | None = None  # every node has as many; None: provisioning counts csv files
    colluders: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share of the nodes that may collude


class NodePrivacy(Privacy, frozen=True, kw_only=True):
    """The section `privacy` of node.yaml: that of fleet.yaml with the numbers it leaves open."""

    REFUSED: ClassVar[Mapping[str, RefusedKey]] = {}

    readings: Count
    nodes: Count  # the nodes with readings, which share the noise
    readings_file: Digest | None = None  # SHA-256 of the csv file that provisioning wrote


class Neighbour(Section, frozen=True):
    """A node that shares an edge with this one. Its public keys are in neighbours/<id>.json."""

    id: NodeId
    neighbours: Annotated[list[NodeId], Meta(min_length=1)]  # its own; this node is one of them
    fingerprint: str  # of its public keys, pinned by provisioning

    @property
    def degree(self) -> int:
        """The number of its own neighbours, for the Metropolis factor."""
        return len(self.neighbours)


ParticipantIndex = Annotated[int, Meta(ge=0, lt=MAX_PARTICIPANTS)]
GenerationRounds = Annotated[int, Meta(ge=1, le=MAX_GENERATION_ROUNDS)]


class Partner(Section, frozen=True):
    """A node with which this one shares a secret for the shares of the shield."""

    index: ParticipantIndex  # in the fleet's list of participants
    seal: str  # X25519 public key in base64


class Generations(Section, frozen=True):
    """The public schedule of generations, and the partners of this node; see core/shield.py."""

    index: ParticipantIndex  # of this node in the fleet's list of participants
    every: GenerationRounds  # G, rounds from one generation to the next
    roll_call: GenerationRounds  # D, rounds before a generation that list its participants
    averaging: GenerationRounds  # W, rounds in which the imbalance is averaged
    mean_partners: Annotated[float, Meta(ge=0, le=MAX_PARTNERS)]  # of a node, over the fleet
    members: Digest  # SHA-256 over the fleet's list of participants, in hexadecimal digits
    partners: Annotated[dict[NodeId, Partner], Meta(max_length=MAX_PARTNERS)] = {}

    @property
    def least_every(self) -> int:
        """The rounds that a generation takes, with D rounds each for its votes and its retries."""
        return self.averaging + 3 * self.roll_call + 8

    def list_faults(self, node: str) -> Iterator[str]:
        """Yield what makes the section of *node* inconsistent, as the end of a sentence."""
        if not 0 <= self.mean_partners <= MAX_PARTNERS:  # a message may have none of these numbers
            yield f"has mean_partners {self.mean_partners}, must be 0 to {MAX_PARTNERS}"
        if self.every < self.least_every:
            yield (
                f"has every: {self.every}, must be at least averaging + 3 roll_call + 8, which is "
                f"{self.least_every}"
            )
        if node in self.partners:
            yield f"has {node!r}, this node itself, among its partners"
        seen = {self.index}
        for name, partner in self.partners.items():
            if partner.index in seen:
                yield f"gives {name!r} the index {partner.index}, which another node has"
            seen.add(partner.index)


class OwnKeys(Section, frozen=True):
    """The public keys that belong to this node's own private keys."""

    paillier: str  # fingerprint of the modulus
    identity: str  # Ed25519 public key in base64
    seal: str  # X25519 public key in base64


class Simulation(Section, frozen=True):
    """Settings for emulated fleets with data that are not private. The log warns of each one."""

    seed: int | None = None  # makes all random choices of a round repeatable: protects nothing
    trace_estimates: bool = False  # write the estimate of every round to estimates.jsonl


class NodeConfig(Section, frozen=True):
    """The content of node.yaml: everything that one node knows about its fleet."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    node: NodeId
    algorithm: Algorithm
    objective: ObjectiveSection
    sensor: Sensor = field(default_factory=NoSensor)  # only a follower may have none
    sensors: Sensors | None = None  # several instead of one, joined to one sample
    join_tolerance_s: Positive = JOIN_TOLERANCE_S  # greatest age of a value in a joined sample
    role: Role = "member"
    diameter: Count | None = None  # of the graph, in hops; algorithm.until needs it
    neighbours: list[Neighbour] = []  # empty only if the operator sets them later
    operator: str | None = None  # Ed25519 key in base64 that signs memberships for this node
    broker: Broker = field(default_factory=Broker)
    crypto: Crypto = field(default_factory=Crypto)
    answer: AnswerSection = field(default_factory=AnswerSection)
    privacy: NodePrivacy | None = None  # None: the result is the optimum itself
    simulation: Simulation = field(default_factory=Simulation)
    seals: dict[NodeId, str] = {}  # X25519 public keys of its co-neighbours, in base64
    generations: Generations | None = None  # None: no shield, or not enrolled yet
    keys: OwnKeys | None = None  # None: the keys were generated on the device
    checksum: str | None = None  # over the parts that only provisioning writes; see `checksum_of`

    @property
    def source(self) -> Source:
        """The sensor, or the group of several."""
        return source_of(self.sensor, self.sensors, self.join_tolerance_s)

    @property
    def co_neighbours(self) -> set[str]:
        """The ids of all nodes that share a neighbour with this node."""
        return {name for n in self.neighbours for name in n.neighbours} - {self.node}

    @property
    def is_idle_leaf(self) -> bool:
        """True for a node that asks no neighbour, because it has one in a sealed exchange."""
        crypto = self.crypto
        return len(self.neighbours) == 1 and crypto.exchange == "sealed" and crypto.leaves != "open"


def exact_scale_of(algorithm: Algorithm, objective: ObjectiveSection) -> Scale | None:
    """Return the scale of curvature c0 or AGREE, or None if the exact iteration is not used.

    An average has no gradient: all methods run it as plain averaging. Over statistics every
    objective has curvature one.
    """
    if algorithm.method == "article" or objective.kind == "average":
        return None
    if algorithm.method == "statistics" and algorithm.scale == AGREE:
        return 1.0
    return algorithm.scale


def has_shield(algorithm: Algorithm, objective: ObjectiveSection) -> bool:
    """True if the nodes hide their duals by shares; an average and the article's method have none.

    Only the exact iteration has duals.
    """
    return algorithm.shield != "none" and exact_scale_of(algorithm, objective) is not None


class Publishing(Protocol):
    """The sections that decide when an answer may be published: a NodeConfig, or a fleet's file."""

    @property
    def algorithm(self) -> Algorithm:
        """The method, and `until`."""

    @property
    def objective(self) -> ObjectiveSection:
        """The kind."""

    @property
    def answer(self) -> AnswerSection:
        """The accuracy without `until`."""


def settled_accuracy(sections: Publishing) -> float | None:
    """Return the accuracy at which a node has settled, in the objective's units of order one.

    None: its rounds never show it. The article's method moves along the gradient while the nodes
    agree already. An average has no gradient, so there all methods are the same.
    """
    algorithm = sections.algorithm
    if algorithm.method == "article" and sections.objective.kind != "average":
        return None
    return sections.answer.accuracy if algorithm.until is None else algorithm.until.accuracy


def resolution_of(algorithm: Algorithm) -> float:
    """Return the resolution as a number; '2^-24' and 1e-6 are both allowed.

    Raises ValueError for another text, and OverflowError if the power is too large.
    """
    value = algorithm.resolution
    if isinstance(value, str):
        power = re.fullmatch(r"2\^(-?\d{1,3})", value.replace(" ", ""))
        if power is None:
            raise ValueError(value)
        return math.ldexp(1.0, int(power[1]))
    return float(value)
