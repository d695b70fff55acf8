"""One run of a fleet on this machine, from fleet.yaml to the table of results."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cipherfleet_broker import RunningBroker, Security, start_broker, start_cluster
from cipherfleet_node.config import Broker, Simulation, resolution_of
from cipherfleet_node.draws import FloatVector
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.adviser import AccuracyError, rounds_to_consensus, schedule_notes
from cipherfleet_provisioning.bundles import check_target, write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    make_authority,
    secure,
    write_authority,
)
from cipherfleet_provisioning.fleet import Fleet, Overrides, load_fleet
from cipherfleet_provisioning.insight import centralised_answer, range_of_starts, steepest

from .local import LocalFleet
from .plots import plot_run
from .record import Recorded
from .results import Trajectory, disagreement, summarise

CONSENSUS_ACCURACY = 1e-4  # of the range of the readings; what `average` fleets are advised for
RESULT_FILE, PLOT_FILE = "result.json", "plot.png"
ENTRIES_SHOWN = 20  # of the answer, on a terminal
LEGEND = (
    "silent: answers that did not come in time; rejected: messages that nodes refused; "
    "restarts: daemons that were started again; a dash: not defined"
)
NODES_FOLDER, TLS_FOLDER = "nodes", "tls"
RUN_DAYS = 90  # of a run's own certificates


@dataclass(frozen=True)
class RunOptions:
    """The flags of `demo` and `run`."""

    overrides: Overrides = field(default_factory=Overrides)
    broker: str = "embedded"
    seed: int | None = None
    out: Path | None = None


def run_fleet(file: Path, options: RunOptions, console: Console) -> dict[str, Any]:
    """Run the fleet of *file* to its end; the figures, also written to <out>/result.json.

    *console* shows progress and advice (standard error). Raises CipherfleetError.
    """
    began = time.monotonic()
    fleet = load_fleet(file, options.overrides, endless=False)
    out = options.out or default_folder(fleet)
    check_target(out / NODES_FOLDER)
    for line in advice(fleet):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    optimum = centralised_answer(fleet)
    authority, security = _secured(fleet, out, options) if fleet.file.broker.tls else (None, None)
    with _started(fleet, options.broker, security) as brokers:
        simulation = Simulation(seed=options.seed, trace_estimates=True)
        bundles = provision(fleet, out, addresses(fleet, brokers), authority, simulation, console)
        with LocalFleet(bundles, patience(fleet)) as nodes:
            nodes.start()
            console.print(watch_hint(out), markup=False, highlight=False, soft_wrap=True)
            with showing_progress(fleet, nodes, console) as show:
                nodes.wait(show)
    count = "" if len(brokers) == 1 else f", a cluster of {len(brokers)}"
    more = {"out": str(out), "broker": f"{brokers[0].name} {brokers[0].version}{count}"}
    return conclude(fleet, nodes, optimum, time.monotonic() - began, more)


@contextmanager
def _started(
    fleet: Fleet, choice: str, security: Security | None
) -> Iterator[Sequence[RunningBroker]]:
    """The broker of a run, or as many as the cluster of fleet.yaml has."""
    cluster = fleet.file.broker.cluster
    if cluster is None or security is None:
        with start_broker(choice, security=security) as broker:
            yield [broker]
    else:
        with start_cluster(choice, fleet.file.fleet, len(cluster), security) as running:
            yield running.members


def addresses(fleet: Fleet, brokers: Sequence[RunningBroker]) -> dict[str, Broker]:
    """How each node reaches its own of *brokers*."""
    told = [Broker(host=each.host, port=each.port, tls=fleet.file.broker.tls) for each in brokers]
    return {name: told[place] for name, place in fleet.places(len(told)).items()}


def conclude(
    fleet: Fleet,
    nodes: Recorded,
    optimum: FloatVector | None,
    wall_s: float,
    more: dict[str, Any],
) -> dict[str, Any]:
    """The figures of a run that has ended, and *more* of it, with the folder `out` among it.

    Written there too, as is a plot.
    """
    trajectory = Trajectory.of(nodes, fleet.dimension)
    result = summarise(fleet, nodes, trajectory, optimum, wall_s) | more
    out = Path(result["out"])
    (out / RESULT_FILE).write_text(json.dumps(result, indent=1) + "\n")
    plot_run(trajectory, optimum, _title(result), out / PLOT_FILE)
    return result


def _secured(fleet: Fleet, out: Path, options: RunOptions) -> tuple[Certified, Security]:
    """An authority for this run alone, and what the broker needs of it, in <out>/tls."""
    if ":" in options.broker:
        raise ConfigError(
            f"broker.tls is true and the broker {options.broker} is not ours to certify: leave "
            "--broker out, or choose embedded or mosquitto"
        )
    folder, now = out / TLS_FOLDER, datetime.now(UTC)
    check_target(folder)
    folder.mkdir(mode=0o700, parents=True)
    authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
    write_authority(folder, authority)
    links = fleet.file.broker.cluster is not None
    return authority, secure(fleet, authority, folder, now, links=links)


def default_folder(fleet: Fleet) -> Path:
    """Where a run's results go unless told otherwise."""
    return Path("cipherfleet-out") / f"{fleet.file.fleet}-{time.strftime('%Y%m%d-%H%M%S')}"


def watch_hint(out: Path) -> str:
    """How to see the nodes of a fleet that runs, from another terminal."""
    return f"to watch it: cipherfleet watch {shlex.quote(str(out))}"


def advice(fleet: Fleet) -> Iterator[str]:
    """What is worth knowing before a run, a line each."""
    file = fleet.file
    if file.crypto.allow_weak_keys:
        yield f"warn: WEAK KEYS ({file.crypto.key_bits} bits): this fleet protects nothing"
    if fleet.exchange == "pairwise":
        leaf = next((name for name in fleet.graph.ids if fleet.graph.degree(name) == 1), None)
        why = f", since {leaf!r} has one neighbour only" if leaf else ""
        yield (
            f"note: the exchange is pairwise{why}: neighbours learn the direction of every "
            "difference (cipherfleet check says what else)"
        )
    yield from schedule_advice(fleet)


def schedule_advice(fleet: Fleet) -> Iterator[str]:
    """What is worth knowing of rounds, stepsizes and noise, a line each, its level first."""
    file = fleet.file
    if file.objective.kind == "average":
        yield _consensus_advice(fleet)
        return
    for note in schedule_notes(file.algorithm):
        if note.level != "ok":
            yield f"{note.level}: {note.text}"
    yield from _stepsize_warning(fleet)


def _stepsize_warning(fleet: Fleet) -> Iterator[str]:
    """A line where the longest step exceeds 2/L for the node of the greatest curvature L."""
    found, stepsize = steepest(fleet), fleet.file.algorithm.stepsize
    longest = stepsize.initial * (1.0 + stepsize.spread)
    if found is not None and longest * found[1] > 2.0:
        node, curvature = found
        yield (
            f"warn: steps of up to {longest:.2g} are too long for node {node!r}, whose objective "
            f"has curvature {curvature:.3g}: it may swing widely or diverge; "
            f"algorithm.stepsize.initial of {2.0 / curvature / (1.0 + stepsize.spread):.2g} or "
            "less is safe"
        )


def _consensus_advice(fleet: Fleet) -> str:
    """How many rounds the graph needs for the readings to be averaged."""
    file, starts = fleet.file, range_of_starts(fleet)
    try:
        predicted = rounds_to_consensus(
            fleet.graph,
            CONSENSUS_ACCURACY,
            starts,
            resolution_of(file.algorithm),
            sealed=fleet.exchange == "sealed",
        )
    except AccuracyError as error:
        return f"warn: {error}"
    return (
        f"note: {predicted.rounds} rounds bring every node within {CONSENSUS_ACCURACY:g} of the "
        f"mean, relative to the range of the readings (configured: {file.algorithm.rounds})"
    )


def patience(fleet: Fleet) -> float:
    """Seconds without any closed round after which a run has failed."""
    algorithm = fleet.file.algorithm
    return algorithm.start_timeout_s + 6 * algorithm.answer_timeout_s + (algorithm.period_s or 0.0)


def provision(
    fleet: Fleet,
    out: Path,
    broker: Broker | Mapping[str, Broker],
    authority: Certified | None,
    simulation: Simulation,
    console: Console,
) -> dict[str, Path]:
    """Keys and a folder for every node, under <out>/nodes."""
    with Progress(
        TextColumn("keys"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("keys", total=len(fleet.members))
        return write_bundles(
            fleet,
            out / NODES_FOLDER,
            broker,
            simulation,
            lambda _name: progress.advance(task),
            authority,
        )


@contextmanager
def showing_progress(fleet: Fleet, nodes: Recorded, console: Console) -> Iterator[Any]:
    """A bar with the round, the round time and the disagreement; never a state."""
    columns = (
        TextColumn("round {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[ms]} ms/round  disagreement {task.fields[apart]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=fleet.file.algorithm.rounds, ms="-", apart="-")

        def show() -> None:
            slowest = min(node.round for node in nodes.nodes.values())
            if slowest == 0 or not console.is_terminal:
                return
            latest = [line["ms"] for node in nodes.nodes.values() for line in node.rounds[-1:]]
            common = [node.estimates.get(slowest - 1) for node in nodes.nodes.values()]
            known = np.array([estimate for estimate in common if estimate is not None])
            progress.update(
                task,
                completed=slowest,
                ms=f"{np.median(latest):.0f}" if latest else "-",
                apart=f"{disagreement(known):.2g}" if len(known) else "-",
            )

        yield show


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['fleet']}: {result['nodes']} nodes, {result['edges']} edges, "
        f"{result['key_bits']}-bit keys, {result['exchange']}"
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_result(result: dict[str, Any], console: Console) -> None:
    """The table that people read."""
    console.print(_title(result), markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    for name in (
        "rounds",
        "relative_error",
        "disagreement",
        "silent",
        "rejected",
        "restarts",
        "wall_s",
    ):
        value = result[name]
        table.add_row(name, _shown(value))
    table.add_row(
        "round_ms p50 / p95", f"{result['round_ms']['p50']} / {result['round_ms']['p95']}"
    )
    table.add_row("bytes_per_edge_round", f"{result['bytes_per_edge_round']:.0f}")
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    answer = Table(title="the common answer")
    for heading in ("entry", "estimate (mean over nodes)", "centralised answer"):
        answer.add_column(heading, justify="right")
    optimum = result["optimum"] or [None] * len(result["estimate"])
    pairs = list(zip(result["estimate"], optimum, strict=True))
    for place, (estimate, best) in enumerate(pairs[:ENTRIES_SHOWN]):
        answer.add_row(str(place), f"{estimate:.6g}", "-" if best is None else f"{best:.6g}")
    console.print(answer)
    if len(pairs) > ENTRIES_SHOWN:
        rest = f"{len(pairs) - ENTRIES_SHOWN} more entries: {Path(result['out']) / RESULT_FILE}"
        console.print(rest, markup=False, highlight=False, soft_wrap=True)
    where = f"plot, logs and figures: {result['out']}"
    console.print(where, markup=False, highlight=False, soft_wrap=True)
