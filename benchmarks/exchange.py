"""Compare the encrypted exchange with phe and other Paillier libraries, with gates on the ratios.

The cases are those of `cipherfleet bench crypto`. Other libraries, if installed, run the same naive
exchange as phe: one ciphertext per coordinate, blinded answers.

    python benchmarks/exchange.py --bits 2048 3072 --dimensions 1 32 --degrees 1 4
    python benchmarks/exchange.py --quick --json
    python benchmarks/exchange.py --gate        2048 and 3072 bits, d = 32; exit 1 on failure
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import asdict
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cipherfleet_hil.measurement.environment import describe_machine
from cipherfleet_hil.measuring.cases import ONLINE, all_inside_name
from cipherfleet_hil.measuring.exchange_scene import OWN_CRT, OWN_TABLE, PHE, UNIFORM
from cipherfleet_hil.measuring.sampling import Effort
from cipherfleet_hil.report.terminal import track_progress
from cipherfleet_node.errors import CipherfleetError
from exchange_ratios.comparisons import (
    APART,
    CIPHERTEXTS,
    DECRYPTION,
    EXCHANGE,
    KEY_SIZES,
    OWN,
    PHE_JSON,
    TOGETHER,
    RatioPlan,
    compare_decryptions,
    compare_exchanges,
    compare_own_encryptions,
    measure,
    report,
)
from exchange_ratios.interleaved import InterleavedComparison
from exchange_ratios.libraries import (
    OTHER_LIBRARIES,
    PEER,
    QUICK_LIBRARIES,
    connect_libraries,
)
from exchange_ratios.tables import show

EXIT_FAILED = 1


def main() -> int:
    """Measure and print; exit code 1 if a gate fails."""
    options = _options()
    where, console = asdict(describe_machine()), Console(stderr=True)
    wanted = [OTHER_LIBRARIES[name] for name in options.libraries]
    libraries = [library for library in wanted if library.is_installed]
    plan = _plan(options)
    comparisons = measure(
        plan,
        track_progress("comparisons", console),
        lambda keys: connect_libraries(libraries, keys, console),
    )
    result = report(comparisons, where, *(library.package for library in libraries))
    result["not_installed"] = {r.name: r.how_to_install for r in wanted if not r.is_installed}
    gate_results = (
        evaluate_gates(comparisons, plan.key_bits, dict(options.require)) if options.gate else []
    )
    result["gates"] = [gate_result.to_json() for gate_result in gate_results]
    _print(result, options.json)
    return EXIT_FAILED if any(gate_result.has_failed for gate_result in gate_results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, nargs="+", choices=KEY_SIZES, metavar="BITS")
    parser.add_argument("--dimensions", type=int, nargs="+", metavar="D")
    parser.add_argument("--degrees", type=int, nargs="+", metavar="N")
    parser.add_argument("--seconds", type=float, help="minimum CPU time per comparison")
    parser.add_argument("--passes", type=int, help="minimum passes per comparison")
    parser.add_argument(
        "--libraries",
        nargs="*",
        choices=OTHER_LIBRARIES,
        help="other libraries to compare; the slow ones (lightphe, tno) only if named",
    )
    parser.add_argument("--quick", action="store_true", help="2048 bits, d = 32, two passes")
    parser.add_argument("--full", action="store_true", help="all sizes: half an hour and more")
    parser.add_argument("--gate", action="store_true", help="check the ratios against their limits")
    parser.add_argument(
        "--require",
        type=_requirement,
        action="append",
        default=[],
        metavar="GATE=RATIO",
        help="replace the limit of a gate",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.gate and (options.dimensions or options.degrees):
        parser.error("--gate sets dimensions and degrees: leave --dimensions and --degrees out")
    if options.libraries is None:
        options.libraries = [PEER] if options.gate else list(QUICK_LIBRARIES)
    return options


def _requirement(text: str) -> tuple[str, float]:
    name, _, limit = text.partition("=")
    if name not in {gate.name for gate in GATES}:
        raise argparse.ArgumentTypeError(
            f"{name!r} is not a gate, must be one of {', '.join(gate.name for gate in GATES)}"
        )
    return name, float(limit)


def _plan(options: argparse.Namespace) -> RatioPlan:
    """Return the plan: a preset, changed by explicit options."""
    if options.gate:
        preset = RatioPlan((2048, 3072), (32,), (1, 4), Effort(2.0, 3), GATED_COMPARISONS)
    elif options.full:
        preset = RatioPlan(KEY_SIZES, (1, 2, 8, 32, 128), (1, 4, 8), Effort(2.0, 3))
    elif options.quick:
        preset = RatioPlan((2048,), (32,), (1,), Effort(0.0, 2))
    else:
        preset = RatioPlan()
    effort = Effort(
        preset.effort.seconds if options.seconds is None else options.seconds,
        options.passes or preset.effort.passes,
    )
    return replace(
        preset,
        key_bits=options.bits or preset.key_bits,
        dimensions=options.dimensions or preset.dimensions,
        degrees=options.degrees or preset.degrees,
        effort=effort,
    )


def _print(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    console = Console()
    show(result, console)
    for name, how in result["not_installed"].items():
        console.print(f"{name}: not installed; to compare: {how}")
    if result["gates"]:
        console.print(_make_gate_table(result["gates"]))


# -- gates ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeySizeFigures:
    """The measurements at one key size."""

    comparisons: Sequence[InterleavedComparison]

    def ratio(self, kind: str, slow: str, fast: str, degree: int | None = None) -> float | None:
        """Return the median of a ratio; None if it was not measured."""
        for comparison in self._select(kind, degree):
            if {slow, fast} <= comparison.ms.keys():
                return comparison.ratio(slow, fast).median
        return None

    def fastest_other_library(self) -> float | None:
        """Return the ratio of the fastest other library's naive exchange to `online`, degree 1."""
        comparisons = self._select(EXCHANGE, 1)
        libraries = {
            name
            for comparison in comparisons
            for name in comparison.ms.keys() & OTHER_LIBRARIES.keys()
        }
        ratios = [self.ratio(EXCHANGE, name, ONLINE, 1) for name in libraries]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    def bytes_ratio(self) -> float | None:
        """Return the bytes of phe's JSON over those of our ciphertexts."""
        for comparison in self._select(EXCHANGE, 1):
            return comparison.bytes[PHE_JSON] / comparison.bytes[CIPHERTEXTS]
        return None

    def _select(self, kind: str, degree: int | None) -> list[InterleavedComparison]:
        return [c for c in self.comparisons if c.kind == kind and c.degree == degree]


@dataclass(frozen=True)
class Gate:
    """A ratio that must not fall below its limit."""

    name: str
    description: str
    limit: float
    measured: Callable[[KeySizeFigures], float | None]


def _exchange(degree: int, ours: str) -> Callable[[KeySizeFigures], float | None]:
    return lambda figures: figures.ratio(EXCHANGE, PHE, ours, degree)


def _own(ours: str) -> Callable[[KeySizeFigures], float | None]:
    return lambda figures: figures.ratio(OWN, PHE, ours)


GATED_COMPARISONS = (
    compare_own_encryptions,
    compare_decryptions,
    compare_exchanges,
)
_ALL = all_inside_name(OWN_TABLE, UNIFORM)
# 60 to 70 % of the first measurements: ratios vary by 10 to 25 % between runs and machines.
GATES = (
    Gate("online-1", "phe / online, degree 1", 150, _exchange(1, ONLINE)),
    Gate("online-4", "phe / online, degree 4", 400, _exchange(4, ONLINE)),
    Gate("all-1", "phe / all timed, degree 1", 30, _exchange(1, _ALL)),
    Gate("all-4", "phe / all timed, degree 4", 45, _exchange(4, _ALL)),
    Gate(
        "reference-library",
        "fastest other library / online, degree 1",
        35,
        KeySizeFigures.fastest_other_library,
    ),
    Gate("bytes", "phe JSON / ciphertexts, bytes", 75, KeySizeFigures.bytes_ratio),
    Gate("own-crt", "phe.encrypt / own key, CRT", 3, _own(OWN_CRT)),
    Gate("own-table", "phe.encrypt / own key, table", 8, _own(OWN_TABLE)),
    Gate(
        "combined-4",
        "four decryptions / one combined",
        3,
        lambda figures: figures.ratio(DECRYPTION, APART, TOGETHER, 4),
    ),
)


@dataclass(frozen=True)
class GateResult:
    """The result of a gate at a key size; *ratio* is None if it was not measured."""

    name: str
    description: str
    key_bits: int
    ratio: float | None
    limit: float

    @property
    def has_failed(self) -> bool:
        """True if the ratio was measured and is below the limit."""
        return self.ratio is not None and self.ratio < self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the object that the report holds under `gates`."""
        return {
            "name": self.name,
            "says": self.description,
            "key_bits": self.key_bits,
            "ratio": self.ratio,
            "limit": self.limit,
            "fallen": self.has_failed,
        }


def evaluate_gates(
    comparisons: Sequence[InterleavedComparison], sizes: Iterable[int], limits: Mapping[str, float]
) -> list[GateResult]:
    """Evaluate every gate at every key size; *limits* replace the default limits by gate name."""
    gate_results = []
    for bits in sizes:
        figures = KeySizeFigures(
            [comparison for comparison in comparisons if comparison.key_bits == bits]
        )
        for gate in GATES:
            limit = limits.get(gate.name, gate.limit)
            gate_results.append(
                GateResult(gate.name, gate.description, bits, gate.measured(figures), limit)
            )
    return gate_results


def _make_gate_table(gates: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("gate", "key", "ratio of", "measured", "limit", "", title="gates", box=SIMPLE)
    for gate in gates:
        ratio = gate["ratio"]
        gate_result = "[red]FAILED" if gate["fallen"] else "holds"
        table.add_row(
            gate["name"],
            str(gate["key_bits"]),
            gate["says"],
            "-" if ratio is None else f"{ratio:.3g}x",
            f"{gate['limit']:.3g}x",
            "not measured" if ratio is None else gate_result,
        )
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CipherfleetError as error:
        sys.exit(f"exchange.py: {error}")
