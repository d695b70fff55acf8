"""The document of a measurement: a pyperf suite of raw samples, with their context and figures.

The raw samples are in `benchmarks`, so that pyperf and its tools read the file as it is. The key
`cipherfleet` holds everything else: the kind of measurement, the targets, the state of each machine
before and after, the validity with its reasons, and the figures.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from cipherfleet_node.errors import ConfigError, Mark, refuse
from cipherfleet_node.settings.yaml_document import parse_document

from .environment import Environment

SCHEMA = 1
SCHEMA_FILE = Path(__file__).parent / "document.schema.json"
MAX_BYTES = 256 * 1024 * 1024
SECOND = "second"
_REPEAT = "measure again: cipherfleet bench"

What = Literal["crypto", "rounds"]
Kind = Literal["device", "emulated", "host"]
Word = Annotated[str, Meta(min_length=1)]
Percentile = Annotated[float, Meta(ge=0)] | None
Seconds = Annotated[float, Meta(gt=0, description="a time in seconds, greater than 0")]
SIZES = ("key_bits", "dimension", "degree")  # these labels are numbers
_SIZE_SCHEMAS = {name: {"type": "number", "exclusiveMinimum": 0} for name in SIZES}
_NAME_SCHEMA = {
    "required": ["name", "unit"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "unit": {"const": SECOND},
        **_SIZE_SCHEMAS,
    },
}
Labels = dict[str, str | int | float]
SizedLabels = Annotated[Labels, Meta(extra_json_schema={"properties": _SIZE_SCHEMAS})]

# The largest of this many samples lies beyond the percentile with 95 % confidence (1 - p^n >=
# 0.95).
# With fewer samples the maximum is the better statement, and no percentile is computed.
LEAST_SAMPLES = {
    f"p{percent}": math.ceil(math.log(0.05) / math.log(percent / 100))
    for percent in (50, 90, 95, 99)
}


class DocumentPart(msgspec.Struct, frozen=True):
    """A mapping of the document. Unknown keys are ignored, so that later versions may add some."""


# -- the part that pyperf reads ------------------------------------------------------------------


class Run(DocumentPart, frozen=True, omit_defaults=True):
    """The samples of one process."""

    values: Annotated[list[Seconds], Meta(min_length=1)]
    warmups: list[tuple[Annotated[int, Meta(ge=1)], Annotated[float, Meta(ge=0)]]] = []
    metadata: Labels = {}  # such as clock_hz, cpu_share, target


class Benchmark(DocumentPart, frozen=True):
    """One case at one size, with one run per process."""

    metadata: Annotated[Labels, Meta(extra_json_schema=_NAME_SCHEMA)]
    runs: Annotated[list[Run], Meta(min_length=1)]

    @property
    def name(self) -> str:
        """The name, unique in the document."""
        return str(self.metadata["name"])

    @property
    def labels(self) -> Labels:
        """The labels that identify it: case, key_bits, dimension, degree, ..."""
        return {
            name: label for name, label in self.metadata.items() if name not in ("name", "unit")
        }

    @property
    def samples(self) -> list[float]:
        """The samples of all processes, in seconds."""
        return [value for run in self.runs for value in run.values]


# -- the part of cipherfleet ---------------------------------------------------------------------


class States(DocumentPart, frozen=True):
    """A machine before and after the measurement."""

    before: Environment
    after: Environment


class Target(DocumentPart, frozen=True):
    """A machine that took part."""

    name: Word
    kind: Kind
    environment: States


class Validity(DocumentPart, frozen=True):
    """True if the figures can be trusted; otherwise the reasons why not."""

    valid: bool
    reasons: list[Word]  # empty if valid
    notes: list[Word] = []  # caveats, no reason to reject the figures


class Figure(DocumentPart, frozen=True):
    """Percentiles of samples; None if there are too few, then `needs` has the required number."""

    name: Word
    labels: SizedLabels
    n: Annotated[int, Meta(ge=1)]
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    unit: Word = SECOND
    needs: dict[str, int] = {}


class NodeFigures(DocumentPart, frozen=True):
    """The figures of one node in a measurement of rounds."""

    name: Word
    target: Word  # name of the machine on which the node ran
    phases: dict[str, Figure] = {}  # by phase; all others add up to "round"
    beside: dict[str, Figure] = {}  # activities parallel to the phases: sample, trip, network, ...
    counts: dict[str, float] = {}  # silent, rejected, bytes_sent, ...


class MeasurementBody(DocumentPart, frozen=True):
    """The value of the key `cipherfleet`."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    what: What
    kind: Kind
    title: Word
    command: str
    measured_at: Word  # UTC, ISO 8601
    settings: dict[str, Any]  # must be equal in documents that are compared
    targets: Annotated[list[Target], Meta(min_length=1)]
    verdict: Validity
    figures: list[Figure]
    nodes: list[NodeFigures] = []
    predicted: dict[str, Seconds] = {}  # in seconds, by the name of the figure
    effort: dict[str, Any] = {}  # durations and repetitions; may differ between documents


class Measurement(DocumentPart, frozen=True):
    """The whole document, as the file holds it."""

    version: Literal["1.0"]  # version of pyperf's format
    metadata: Labels
    benchmarks: Annotated[list[Benchmark], Meta(min_length=1)]
    cipherfleet: MeasurementBody


# -- figures -------------------------------------------------------------------------------------


def figure(name: str, labels: Labels, samples: list[float], unit: str = SECOND) -> Figure:
    """Compute those percentiles of *samples* for which there are enough samples."""
    found = {
        key: _percentile(samples, key) if len(samples) >= least else None
        for key, least in LEAST_SAMPLES.items()
    }
    needs = {key: LEAST_SAMPLES[key] for key, value in found.items() if value is None}
    return Figure(name=name, labels=labels, n=len(samples), unit=unit, needs=needs, **found)


def _percentile(samples: list[float], key: str) -> float:
    return float(f"{np.percentile(samples, int(key[1:])):.7g}")


def figures(benchmarks: Iterable[Benchmark]) -> list[Figure]:
    """Compute one figure per benchmark, over the samples of all its processes."""
    return [figure(b.name, b.labels, b.samples) for b in benchmarks]


def benchmark(name: str, labels: Labels, runs: list[Run]) -> Benchmark:
    """Combine *runs* under a *name* that must be unique in the document."""
    return Benchmark(metadata={"name": name, "unit": SECOND, **labels}, runs=runs)


def measurement(
    what: What,
    kind: Kind,
    title: str,
    command: str,
    settings: Mapping[str, Any],
    targets: list[Target],
    verdict: Validity,
    benchmarks: list[Benchmark],
    nodes: Iterable[NodeFigures] = (),
    predicted: Mapping[str, float] | None = None,
    effort: Mapping[str, Any] | None = None,
) -> Measurement:
    """Create the document with the current time."""
    body = MeasurementBody(
        schema=SCHEMA,
        what=what,
        kind=kind,
        title=title,
        command=command,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=dict(settings),
        effort=dict(effort or {}),
        targets=targets,
        verdict=verdict,
        figures=figures(benchmarks),
        nodes=list(nodes),
        predicted=dict(predicted or {}),
    )
    return Measurement(version="1.0", metadata={}, benchmarks=benchmarks, cipherfleet=body)


# -- files ---------------------------------------------------------------------------------------


def to_text(document: Measurement) -> str:
    """Encode the document as JSON with one line per benchmark."""
    lines = ",\n  ".join(msgspec.json.encode(b).decode() for b in document.benchmarks)
    metadata = msgspec.json.encode(document.metadata).decode()
    body = msgspec.json.format(msgspec.json.encode(document.cipherfleet), indent=1).decode()
    return (
        f'{{"version": "{document.version}",\n"metadata": {metadata},\n'
        f'"benchmarks": [\n  {lines}\n],\n"cipherfleet": {body}}}\n'
    )


def write_measurement(file: Path, document: Measurement) -> None:
    """Write *document*. Raises ConfigError if the file cannot be written."""
    try:
        file.write_text(to_text(document), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def read_measurement(file: Path) -> Measurement:
    """Read the document in *file*.

    Raises ConfigError with the position if it is not a valid one.
    """
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{file}: has {size} bytes, must have at most {MAX_BYTES}")
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    document = _decode(data, file)
    for contradiction in _contradictions(document):
        raise ConfigError(f"{file}: {contradiction}", remedy=_REPEAT)
    return document


def _decode(data: bytes, file: Path) -> Measurement:
    try:
        return msgspec.json.decode(data, type=Measurement)
    except msgspec.ValidationError as error:
        _refuse_type_errors(data.decode(), file)
        raise ConfigError(f"{file}: is not a measurement: {error}", remedy=_REPEAT) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _json_error(data, file) from None


def _refuse_type_errors(text: str, file: Path) -> None:
    """Raise ConfigError with the positions of all type errors; the YAML parser reads JSON too."""
    try:
        parse_document(text, file).convert(Measurement)
    except ConfigError as error:
        refuse(
            ConfigError(str(each), each.mark, each.path, remedy=_REPEAT) for each in error.findings
        )


def _json_error(data: bytes, file: Path) -> ConfigError:
    """Return the error with the position at which *data* stops being JSON."""
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        mark = Mark(str(file), error.lineno, error.colno)
        return ConfigError(f"{mark}: is not valid JSON: {error.msg}", mark, remedy=_REPEAT)
    except (UnicodeDecodeError, RecursionError):
        pass
    return ConfigError(f"{file}: is not valid JSON", remedy=_REPEAT)


def _contradictions(document: Measurement) -> Iterator[str]:
    """Yield errors between several values: duplicate names, figures that contradict the samples."""
    for place, each in enumerate(document.benchmarks):
        if not each.metadata.get("name") or each.metadata.get("unit") != SECOND:
            yield f"benchmarks[{place}].metadata must have a name, and the unit {SECOND!r}"
            return
    labelled: list[Benchmark | Figure] = [*document.benchmarks, *document.cipherfleet.figures]
    for sized in labelled:
        yield from _wrong_sizes(sized)
    names = Counter(each.name for each in document.benchmarks)
    for name, times in names.items():
        if times > 1:
            yield f"benchmarks: {name!r} occurs {times} times, each name must occur once"
    recorded = {each.name: each for each in document.cipherfleet.figures}
    for computed in figures(document.benchmarks):
        if computed.name not in recorded:
            yield f"cipherfleet.figures: have no figure of the benchmark {computed.name!r}"
        elif not _agree(computed, recorded[computed.name]):
            yield (
                f"cipherfleet.figures: the figure of {computed.name!r} does not follow from its "
                "samples"
            )
    if document.cipherfleet.verdict.valid == bool(document.cipherfleet.verdict.reasons):
        yield "cipherfleet.verdict: must be valid without reasons, or not valid with at least one"


def _wrong_sizes(each: Benchmark | Figure) -> Iterator[str]:
    for name in SIZES:
        size = each.labels.get(name, 1)
        if isinstance(size, str) or size <= 0:
            yield f"{name} of {each.name!r} is {size!r}, must be a number greater than 0"


def _agree(computed: Figure, recorded: Figure) -> bool:
    return computed.n == recorded.n and all(
        _are_close(getattr(computed, key), getattr(recorded, key)) for key in LEAST_SAMPLES
    )


def _are_close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6)


# -- schema --------------------------------------------------------------------------------------


def measurement_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the document."""
    from cipherfleet_provisioning.fleet.schema import make_schema  # boards do not have it

    return make_schema(Measurement, "cipherfleet measurement")


def schema_text() -> str:
    """Return the text of the committed schema file."""
    return json.dumps(measurement_schema(), indent=1) + "\n"


def write_schema() -> None:
    """Rewrite the committed file: `python -m cipherfleet_hil.measurement.document`."""
    SCHEMA_FILE.write_text(schema_text())


if __name__ == "__main__":
    write_schema()
