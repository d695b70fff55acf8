"""The document of a measurement: a pyperf suite of raw samples, and what is to be known of them.

Samples stand in the document once, as `benchmarks`, so that pyperf and its tools read the file as
it is. All else is under `cipherfleet`: what was measured, where, in which state the machine was
before and after, whether the figures are valid and if not why, and the figures themselves.
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
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES = 256 * 1024 * 1024
SECOND = "second"
_REPEAT = "measure again: cipherfleet bench"

What = Literal["crypto", "rounds"]
Kind = Literal["device", "emulated", "host"]
Word = Annotated[str, Meta(min_length=1)]
Percentile = Annotated[float, Meta(ge=0)] | None
Seconds = Annotated[float, Meta(gt=0, description="a time in seconds, more than 0")]
SIZES = ("key_bits", "dimension", "degree")  # the labels that are numbers
_SIZED = {name: {"type": "number", "exclusiveMinimum": 0} for name in SIZES}
_NAMED = {
    "required": ["name", "unit"],
    "properties": {"name": {"type": "string", "minLength": 1}, "unit": {"const": SECOND}, **_SIZED},
}
Labels = dict[str, str | int | float]
SizedLabels = Annotated[Labels, Meta(extra_json_schema={"properties": _SIZED})]

# With 95 % confidence the largest of so many samples lies beyond the percentile (1 - p^n >= 0.95);
# with fewer, a percentile says less than the maximum does, and none is told.
LEAST_SAMPLES = {
    f"p{percent}": math.ceil(math.log(0.05) / math.log(percent / 100))
    for percent in (50, 90, 95, 99)
}


class Part(msgspec.Struct, frozen=True):
    """A mapping of the document; later versions may add keys, which are not looked at."""


# -- what pyperf reads ---------------------------------------------------------------------------


class Run(Part, frozen=True, omit_defaults=True):
    """The samples of one process."""

    values: Annotated[list[Seconds], Meta(min_length=1)]
    warmups: list[tuple[Annotated[int, Meta(ge=1)], Annotated[float, Meta(ge=0)]]] = []
    metadata: Labels = {}  # such as clock_hz, cpu_share, target


class Benchmark(Part, frozen=True):
    """One case at one size, with a run for every process."""

    metadata: Annotated[Labels, Meta(extra_json_schema=_NAMED)]
    runs: Annotated[list[Run], Meta(min_length=1)]

    @property
    def name(self) -> str:
        """No other benchmark of the document has it."""
        return str(self.metadata["name"])

    @property
    def labels(self) -> Labels:
        """What tells it from others: case, key_bits, dimension, degree, ..."""
        return {
            name: label for name, label in self.metadata.items() if name not in ("name", "unit")
        }

    @property
    def samples(self) -> list[float]:
        """Those of all processes, seconds."""
        return [value for run in self.runs for value in run.values]


# -- what we add ---------------------------------------------------------------------------------


class States(Part, frozen=True):
    """A machine before and after the measurement."""

    before: Environment
    after: Environment


class Target(Part, frozen=True):
    """A machine that took part."""

    name: Word
    kind: Kind
    environment: States


class Verdict(Part, frozen=True):
    """Whether the figures mean what they say; if not, why."""

    valid: bool
    reasons: list[Word]  # none, where valid
    notes: list[Word] = []  # worth knowing, no reason to doubt


class Figure(Part, frozen=True):
    """Percentiles of samples; None where they are too few, and then `needs` says how many do."""

    name: Word
    labels: SizedLabels
    n: Annotated[int, Meta(ge=1)]
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    unit: Word = SECOND
    needs: dict[str, int] = {}


class NodeFigures(Part, frozen=True):
    """How one node fared in a measurement of rounds."""

    name: Word
    target: Word  # the machine that it ran on
    phases: dict[str, Figure] = {}  # by phase, which add up to "round", the whole
    beside: dict[str, Figure] = {}  # what lasts at the same time: sample, trip, network, ...
    counts: dict[str, float] = {}  # silent, rejected, bytes_sent, ...


class Told(Part, frozen=True):
    """All that stands under `cipherfleet`."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    what: What
    kind: Kind
    title: Word
    command: str
    measured_at: Word  # UTC, ISO 8601
    settings: dict[str, Any]  # all that must be alike for two documents to be compared
    targets: Annotated[list[Target], Meta(min_length=1)]
    verdict: Verdict
    figures: list[Figure]
    nodes: list[NodeFigures] = []
    predicted: dict[str, Seconds] = {}  # seconds, by the name of a figure
    effort: dict[str, Any] = {}  # how long, how often: unlike settings, it may differ


class Measurement(Part, frozen=True):
    """The whole document."""

    version: Literal["1.0"]  # of pyperf's format
    metadata: Labels
    benchmarks: Annotated[list[Benchmark], Meta(min_length=1)]
    cipherfleet: Told


# -- figures -------------------------------------------------------------------------------------


def figure(name: str, labels: Labels, samples: list[float], unit: str = SECOND) -> Figure:
    """The percentiles of *samples* that there are enough of."""
    found = {
        key: _percentile(samples, key) if len(samples) >= least else None
        for key, least in LEAST_SAMPLES.items()
    }
    needs = {key: LEAST_SAMPLES[key] for key, value in found.items() if value is None}
    return Figure(name=name, labels=labels, n=len(samples), unit=unit, needs=needs, **found)


def _percentile(samples: list[float], key: str) -> float:
    return float(f"{np.percentile(samples, int(key[1:])):.7g}")


def figures(benchmarks: Iterable[Benchmark]) -> list[Figure]:
    """One for each benchmark, over the samples of all its processes."""
    return [figure(b.name, b.labels, b.samples) for b in benchmarks]


def benchmark(name: str, labels: Labels, runs: list[Run]) -> Benchmark:
    """The samples of *runs*, under a name that no other benchmark has."""
    return Benchmark(metadata={"name": name, "unit": SECOND, **labels}, runs=runs)


def measurement(
    what: What,
    kind: Kind,
    title: str,
    command: str,
    settings: Mapping[str, Any],
    targets: list[Target],
    verdict: Verdict,
    benchmarks: list[Benchmark],
    nodes: Iterable[NodeFigures] = (),
    predicted: Mapping[str, float] | None = None,
    effort: Mapping[str, Any] | None = None,
) -> Measurement:
    """The document, dated now."""
    told = Told(
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
    return Measurement(version="1.0", metadata={}, benchmarks=benchmarks, cipherfleet=told)


# -- files ---------------------------------------------------------------------------------------


def to_text(document: Measurement) -> str:
    """JSON, a line for each benchmark."""
    lines = ",\n  ".join(msgspec.json.encode(b).decode() for b in document.benchmarks)
    metadata = msgspec.json.encode(document.metadata).decode()
    told = msgspec.json.format(msgspec.json.encode(document.cipherfleet), indent=1).decode()
    return (
        f'{{"version": "{document.version}",\n"metadata": {metadata},\n'
        f'"benchmarks": [\n  {lines}\n],\n"cipherfleet": {told}}}\n'
    )


def write_measurement(file: Path, document: Measurement) -> None:
    """Write *document*; raises ConfigError where that cannot be."""
    try:
        file.write_text(to_text(document), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def read_measurement(file: Path) -> Measurement:
    """The document in *file*; raises ConfigError, with the place, for what is none."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: has more than {MAX_BYTES} bytes: no measurement of ours")
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    document = _decoded(data, file)
    for told in _faults(document):
        raise ConfigError(f"{file}: {told}; {_REPEAT}")
    return document


def _decoded(data: bytes, file: Path) -> Measurement:
    try:
        return msgspec.json.decode(data, type=Measurement)
    except msgspec.ValidationError as error:
        _tell_misfits(data.decode(), file)
        raise ConfigError(f"{file}: is no measurement: {error}; {_REPEAT}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _broken(data, file) from None


def _tell_misfits(text: str, file: Path) -> None:
    """Raise ConfigError with the place of all that does not fit: JSON is YAML too, if slower."""
    try:
        parse_document(text, file).convert(Measurement)
    except ConfigError as error:
        refuse(ConfigError(f"{each}; {_REPEAT}", each.mark, each.path) for each in error.findings)


def _broken(data: bytes, file: Path) -> ConfigError:
    """Where *data* ceases to be JSON."""
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        mark = Mark(str(file), error.lineno, error.colno)
        return ConfigError(f"{mark}: is not valid JSON: {error.msg}; {_REPEAT}", mark)
    except (UnicodeDecodeError, RecursionError):
        pass
    return ConfigError(f"{file}: is not valid JSON; {_REPEAT}")


def _faults(document: Measurement) -> Iterator[str]:
    """What no single value tells: names, and figures that are not those of the samples."""
    for place, each in enumerate(document.benchmarks):
        if not each.metadata.get("name") or each.metadata.get("unit") != SECOND:
            yield f"benchmarks[{place}].metadata must have a name, and the unit {SECOND!r}"
            return
    labelled: list[Benchmark | Figure] = [*document.benchmarks, *document.cipherfleet.figures]
    yield from (told for sized in labelled for told in _odd_sizes(sized))
    names = Counter(each.name for each in document.benchmarks)
    for name, times in names.items():
        if times > 1:
            yield f"benchmarks: {name!r} stands there {times} times, each name must be there once"
    told = {each.name: each for each in document.cipherfleet.figures}
    for computed in figures(document.benchmarks):
        if computed.name not in told:
            yield f"cipherfleet.figures: has none for the benchmark {computed.name!r}"
        elif not _agree(computed, told[computed.name]):
            yield f"cipherfleet.figures: those of {computed.name!r} are not those of its samples"
    if document.cipherfleet.verdict.valid == bool(document.cipherfleet.verdict.reasons):
        yield "cipherfleet.verdict: must be valid without a reason, or not valid with one"


def _odd_sizes(each: Benchmark | Figure) -> Iterator[str]:
    for name in SIZES:
        size = each.labels.get(name, 1)
        if isinstance(size, str) or size <= 0:
            yield f"{name} of {each.name!r} is {size!r}, must be a number more than 0"


def _agree(computed: Figure, told: Figure) -> bool:
    return computed.n == told.n and all(
        _close(getattr(computed, key), getattr(told, key)) for key in LEAST_SAMPLES
    )


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6)


# -- schema --------------------------------------------------------------------------------------


def measurement_schema() -> dict[str, Any]:
    """The shape of the document (JSON Schema 2020-12)."""
    (top,), parts = msgspec.json.schema_components([Measurement], ref_template="#/$defs/{name}")
    return {"$schema": DIALECT, "title": "cipherfleet measurement", **top, "$defs": parts}


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(measurement_schema(), indent=1) + "\n"


def write_schema() -> None:
    """Bring the committed file up to date: `python -m cipherfleet_hil.measurement.document`."""
    SCHEMA_FILE.write_text(schema_text())


if __name__ == "__main__":
    write_schema()
