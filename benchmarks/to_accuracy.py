"""Measure what it costs to reach an accuracy: rounds, bytes, CPU seconds and wall seconds.

All methods solve one problem on this machine, one after the other, in one run. The methods of
cipherfleet are real daemons with real keys. Figures that no run has reached are called
extrapolated, or a lower bound.

    python benchmarks/to_accuracy.py --gate
    python benchmarks/to_accuracy.py --methods exact gradient-tracking --nodes 5 --key-bits 1024
    python benchmarks/to_accuracy.py --gate --page to-accuracy.md
    python benchmarks/to_accuracy.py --methods exact flower --flower-python flower/bin/python
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console

from accuracy.daemons import DAEMON_METHODS
from accuracy.flower import FLOWER_METHODS, installed_version
from accuracy.page import page, show
from accuracy.peers import peers_not_run
from accuracy.plain_fleet import PLAIN_METHODS
from accuracy.result import AccuracyResult, Gate, Gateable, MethodResult
from accuracy.scene import Scene
from accuracy.with_phe import PHE_METHODS
from cipherfleet_broker import start_broker
from cipherfleet_hil.measurement.environment import describe_machine

LEVEL = "1e-3"
# The exact method against: the figures of another one, and the largest ratio.
GATES: Sequence[tuple[str, Gateable, float]] = (
    ("article-best", "bytes", 1 / 10),
    ("article-best", "wall_s", 1 / 10),
    ("naive-phe", "bytes", 1 / 100),
    ("naive-phe", "wall_s", 1 / 100),
)


class Method(Protocol):
    """A method that the benchmark measures."""

    @property
    def name(self) -> str:
        """The name on the command line."""

    @property
    def is_available(self) -> bool:
        """True if this version of cipherfleet, and what is installed, can run it."""

    def measure(self, scene: Scene) -> MethodResult:
        """Run it on *scene*, and return its costs."""


METHODS: Sequence[Method] = (*DAEMON_METHODS, *PLAIN_METHODS, *PHE_METHODS, *FLOWER_METHODS)


def main() -> int:
    """Measure and print; with --gate exit code 1 if a gate fails."""
    options = _options()
    chosen = [m for m in METHODS if m.name in options.methods]
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="cipherfleet-accuracy-") as name,
        start_broker(options.broker) as broker,
    ):
        scene = Scene(
            folder=Path(name),
            broker=broker,
            nodes=options.nodes,
            key_bits=options.key_bits,
            simulated_rounds=options.simulated_rounds,
            exact_rounds=options.exact_rounds,
            article_rounds=options.article_rounds,
            plain_rounds=options.plain_rounds,
            phe_rounds=options.phe_rounds,
            flower_python=options.flower_python,
            flower_rounds=options.flower_rounds,
        )
        result = _measure(scene, chosen, console)
    _print(result, options)
    return 1 if options.gate and not has_passed(result) else 0


def _measure(scene: Scene, chosen: Sequence[Method], console: Console) -> AccuracyResult:
    machine, results = describe_machine(), []
    for method in chosen:
        if method.is_available:
            console.print(f"running {method.name}", highlight=False)
            results.append(method.measure(scene))
    return AccuracyResult(
        machine=machine,
        nodes=scene.nodes,
        edges=scene.problem.edges,
        dimension=scene.problem.dimension,
        key_bits=scene.key_bits,
        simulated_rounds=scene.simulated_rounds,
        methods=tuple(results),
        not_run=peers_not_run([each.name for each in results]),
        gates=tuple(evaluate_gates(results)),
    )


def evaluate_gates(results: Sequence[MethodResult]) -> Iterator[Gate]:
    """Yield the gates whose two methods both ran.

    A cost of the exact method that was not measured passes no gate: its ratio is infinite.
    """
    by_name = {each.name: each for each in results}
    for against, figure, limit in GATES:
        if "exact" not in by_name or against not in by_name:
            continue
        own, other = by_name["exact"].cost(LEVEL), by_name[against].cost(LEVEL)
        ratio = getattr(own, figure) / getattr(other, figure)
        yield Gate(
            against=against,
            level=LEVEL,
            figure=figure,
            ratio=ratio if own.kind == "measured" else float("inf"),
            limit=limit,
            kind=other.kind,
        )


def has_passed(result: AccuracyResult) -> bool:
    """True if every one of GATES was evaluated and none has failed."""
    return len(result.gates) == len(GATES) and not any(gate.has_failed for gate in result.gates)


def _options() -> argparse.Namespace:
    names = [method.name for method in METHODS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = f"of {', '.join(names)} (default: all, those of Flower with --flower-python only)"
    parser.add_argument("--methods", nargs="+", choices=names, metavar="METHOD", help=chosen)
    parser.add_argument("--nodes", type=int, default=10, help="motes (default: 10)")
    parser.add_argument("--key-bits", type=int, default=2048, help="default: 2048")
    parser.add_argument("--exact-rounds", type=int, default=250, help="to run (default: 250)")
    parser.add_argument("--article-rounds", type=int, default=60, help="to run (default: 60)")
    parser.add_argument("--plain-rounds", type=int, default=300, help="to run (default: 300)")
    parser.add_argument("--phe-rounds", type=int, default=2, help="to run (default: 2)")
    parser.add_argument(
        "--flower-rounds",
        type=int,
        default=12,
        help="to run where Flower is deployed (default: 12)",
    )
    parser.add_argument(
        "--flower-python",
        type=Path,
        metavar="PATH",
        help="the interpreter of an environment with flwr, and with ray for the simulated methods",
    )
    parser.add_argument("--simulated-rounds", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--broker", default="embedded")
    parser.add_argument("--gate", action="store_true", help="exit code 1 if a gate fails")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--page", type=Path, help="also write a page in Markdown to this file")
    options = parser.parse_args()
    if options.flower_python is not None:
        # Not resolved: the interpreter of a virtual environment is a link to another one.
        options.flower_python = options.flower_python.expanduser().absolute()
    try:
        options.methods = choose_methods(options.methods, options.flower_python)
    except ValueError as error:
        parser.error(str(error))
    return options


def choose_methods(names: Sequence[str] | None, flower_python: Path | None) -> list[str]:
    """Return the methods to run: *names*, or all that can run if it is None.

    Raises ValueError if a method of Flower is among *names* without its environment.
    """
    missing: dict[str, str] = {}
    for method in FLOWER_METHODS:
        if flower_python is None:
            missing[method.name] = "needs --flower-python PATH"
        elif installed_version(flower_python, method.needs) is None:
            install = f"pip install '{method.requirement}'"
            missing[method.name] = f"needs {method.needs} for {flower_python}: {install}"
    if flower_python is not None and "flower" in missing:
        raise ValueError(f"--flower-python: {missing['flower']}")
    for name in names or ():
        if name in missing:
            raise ValueError(f"--methods {name}: {missing[name]}")
    return (
        [each.name for each in METHODS if each.name not in missing] if names is None else [*names]
    )


def _print(result: AccuracyResult, options: argparse.Namespace) -> None:
    if options.page is not None:
        options.page.write_text(page(result), encoding="utf-8")
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        show(result, Console(width=160))


if __name__ == "__main__":
    sys.exit(main())
