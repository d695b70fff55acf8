"""Run a fleet as processes on this machine, from fleet.yaml to the table of results."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cipherfleet_analysis.advice import advice, advice_line
from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_broker import RunningBroker, Security, start_broker, start_cluster
from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_deploy.progress import Lines, print_line, show_count
from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import check_target, write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    make_authority,
    secure,
    write_authority,
)
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .launched import Launcher
from .plots import plot_run
from .processes import LocalFleet
from .record import NodeRecord, Recorded
from .results import SETTLED, RunResult, Trajectory, disagreement, plural, summarise

RESULT_FILE, PLOT_FILE = "result.json", "plot.png"
WITH_TIME = 70  # characters; a narrower terminal has no room for the elapsed time
ENTRIES_SHOWN = 20  # of the answer, on a terminal
LEGEND = (
    "silent: answers that did not arrive in time; rejected: messages that nodes refused; "
    "restarts: daemons that were started again; a dash: not defined"
)
NODES_FOLDER, TLS_FOLDER = "nodes", "tls"
MADE_FOLDERS = (NODES_FOLDER, TLS_FOLDER, "broker")
RUN_DAYS = 90  # validity of the certificates that a run makes


@dataclass(frozen=True)
class RunOptions:
    """The options of `demo` and `run`."""

    overrides: Overrides = field(default_factory=Overrides)
    broker: str = "embedded"
    seed: int | None = None
    out: Path | None = None


@dataclass
class Report:
    """Collects what the figures of a run need, and writes the figures to the folder *out*.

    A run that ends early is reported as far as it came. *out* holds no earlier run.
    """

    fleet: Fleet
    out: Path
    console: Console
    nodes: Recorded | None = None  # None until the nodes start
    more: dict[str, Any] = field(default_factory=dict)  # further fields of the result

    def __post_init__(self) -> None:
        """Compute the centralised answer if the readings are at hand.

        Raises ConfigError if *out* is in use.
        """
        self.began = time.monotonic()
        check_out(self.out)
        places = (self.out, *(self.out / name for name in MADE_FOLDERS))
        self._new = [place for place in places if not os.path.lexists(place)]
        self.optimum = centralised_answer(self.fleet)

    @contextmanager
    def report_failures(self) -> Iterator[None]:
        """Report the rounds closed so far if the block is interrupted or fails."""
        try:
            yield
        except (KeyboardInterrupt, CipherfleetError, OSError) as error:
            self._end_early(error)
            raise

    @defer_interrupts()
    def conclude(
        self,
        ended: Literal["complete", "interrupted", "failed"] = "complete",
        reason: str | None = None,
    ) -> RunResult:
        """Write the figures and a plot to *out*, and return the figures. Ctrl-C waits for this."""
        assert self.nodes is not None
        Lines(self.console).begin("writing figures and plot")
        trajectory = Trajectory.of(self.nodes, self.fleet.solution_dimension)
        wall_s = time.monotonic() - self.began
        result = summarise(self.fleet, self.nodes, trajectory, self.optimum, wall_s)
        result = msgspec.structs.replace(
            result, ended=ended, reason=reason, out=str(self.out), **self.more
        )
        (self.out / RESULT_FILE).write_text(
            json.dumps(msgspec.to_builtins(result), indent=1) + "\n"
        )
        plot_run(trajectory, self.optimum, _title(result), self.out / PLOT_FILE)
        if not result.settled:
            print_line(self.console, f"warn: {unsettled_warning(result)}")
        return result

    def _end_early(self, error: KeyboardInterrupt | CipherfleetError | OSError) -> None:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        for node in self.nodes.nodes.values() if self.nodes else ():
            node.read()
        if self.nodes is not None and any(node.round for node in self.nodes.nodes.values()):
            try:
                if is_interrupt:
                    self.conclude("interrupted")
                else:
                    self.conclude("failed", str(error))
            except OSError as problem:  # a full disk, which may also be why the run failed
                text = f"warn: {self.out}: cannot write the figures: {problem.strerror}"
                print_line(self.console, text)
            else:
                print_line(self.console, f"figures of the rounds until then: {self.out}")
        elif is_interrupt or self.nodes is None:
            for place in self._new:
                shutil.rmtree(place, ignore_errors=True)


def run_fleet(file: Path, options: RunOptions, console: Console) -> RunResult:
    """Run the fleet of *file* to its end. Return the figures, also written to <out>/result.json.

    *console* is standard error; it shows progress and advice. A run that is interrupted or fails
    writes the figures of the rounds that were closed. Raises CipherfleetError.
    """
    fleet = load_fleet(file, options.overrides, endless=False)
    out, lines = options.out or default_folder(fleet), Lines(console)
    report = Report(fleet, out, console)
    for finding in advice(fleet):
        print_line(console, advice_line(finding))
    with report.report_failures(), Launcher() as launcher:
        authority, security = (
            _make_security(fleet, out, options) if fleet.file.broker.tls else (None, None)
        )
        lines.begin("starting the broker")
        with _start_brokers(fleet, options.broker, security) as brokers:
            count = "" if len(brokers) == 1 else f", a cluster of {len(brokers)}"
            report.more = {"broker": f"{brokers[0].name} {brokers[0].version}{count}"}
            simulation = Simulation(seed=options.seed, trace_estimates=True)
            bundles = write_node_folders(
                fleet, out, assign_brokers(fleet, brokers), authority, simulation, console
            )
            with LocalFleet(bundles, stall_timeout_s(fleet), launcher=launcher) as nodes:
                lines.begin(f"starting {len(bundles)} nodes")
                report.nodes = nodes
                nodes.start()
                print_line(console, watch_hint(out))
                with show_progress(fleet, nodes, console) as show:
                    nodes.wait(show)
    return report.conclude()


@contextmanager
def _start_brokers(
    fleet: Fleet, choice: str, security: Security | None
) -> Iterator[Sequence[RunningBroker]]:
    """Start one broker, or as many as the cluster in fleet.yaml has."""
    cluster = fleet.file.broker.cluster
    if cluster is None or security is None:
        with start_broker(choice, security=security) as broker:
            yield [broker]
    else:
        with start_cluster(choice, fleet.file.fleet, len(cluster), security) as running:
            yield running.members


def assign_brokers(fleet: Fleet, brokers: Sequence[RunningBroker]) -> dict[str, Broker]:
    """Return the address of each node's own broker, which is one of *brokers*."""
    found = [Broker(host=each.host, port=each.port, tls=fleet.file.broker.tls) for each in brokers]
    return {name: found[place] for name, place in fleet.places(len(found)).items()}


def _make_security(fleet: Fleet, out: Path, options: RunOptions) -> tuple[Certified, Security]:
    """Make a certificate authority for this run, and the broker's files from it, in <out>/tls."""
    if ":" in options.broker:
        raise ConfigError(
            "broker.tls is true, and this run cannot make a certificate for the broker "
            f"{options.broker}",
            remedy="leave --broker out, or choose embedded or mosquitto",
        )
    folder, now = out / TLS_FOLDER, datetime.now(UTC)
    check_target(folder)
    folder.mkdir(mode=0o700, parents=True)
    authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
    write_authority(folder, authority)
    links = fleet.file.broker.cluster is not None
    return authority, secure(fleet, authority, folder, now, links=links)


def default_folder(fleet: Fleet) -> Path:
    """Return the folder of a run's results if the operator names none."""
    return Path("cipherfleet-out") / f"{fleet.file.fleet}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_out(out: Path) -> None:
    """Raise ConfigError if the folder *out* holds an earlier run, or cannot be made."""
    nodes = out / NODES_FOLDER
    if not nodes.is_dir() or nodes.is_symlink():
        check_target(nodes)
        return
    remedy = f"name another folder with --out, or remove this one: rm -r {shlex.quote(str(out))}"
    if (out / RESULT_FILE).exists():
        raise ConfigError(f"{out}: holds an earlier run and its {RESULT_FILE}", remedy=remedy)
    closed = max((_count_closed_rounds(folder) for folder in nodes.iterdir()), default=0)
    raise ConfigError(
        f"{out}: holds keys and logs of a run without a {RESULT_FILE}: it was killed after "
        f"{plural(closed, 'round')}, or is still running; it cannot be resumed",
        remedy=remedy,
    )


def _count_closed_rounds(folder: Path) -> int:
    node = NodeRecord(folder.name, folder)
    node.read()
    return node.round


def watch_hint(out: Path) -> str:
    """Return the line that says how to watch a running fleet from another terminal."""
    return f"to watch it: cipherfleet watch {shlex.quote(str(out))}"


def stall_timeout_s(fleet: Fleet) -> float:
    """Return the seconds without any closed round after which a run has failed."""
    algorithm = fleet.file.algorithm
    return algorithm.start_timeout_s + 6 * algorithm.answer_timeout_s + (algorithm.period_s or 0.0)


def write_node_folders(
    fleet: Fleet,
    out: Path,
    broker: Broker | Mapping[str, Broker],
    authority: Certified | None,
    simulation: Simulation,
    console: Console,
) -> dict[str, Path]:
    """Write keys and a folder for every node under <out>/nodes; return the folders by node id."""
    with show_count("keys", len(fleet.members), console) as advance:
        return write_bundles(
            fleet,
            out / NODES_FOLDER,
            broker,
            simulation,
            lambda _name: advance(),
            authority,
            with_bases=True,
        )


@contextmanager
def show_progress(fleet: Fleet, nodes: Recorded, console: Console) -> Iterator[Callable[[], None]]:
    """Show the round, the round time and the disagreement, in a bar or in lines.

    Yields a function that updates the display. No estimate is ever shown.
    """
    columns = [
        TextColumn("round {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[ms]} ms/round  disagreement {task.fields[apart]}"),
        *([TimeElapsedColumn()] if console.width >= WITH_TIME else []),
    ]
    total, lines = fleet.file.algorithm.rounds, Lines(console)
    lines.begin(f"round 0/{total}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, ms="-", apart="-")

        def describe() -> str:
            slowest = min(node.round for node in nodes.nodes.values())
            ms, apart = _ms_and_disagreement(nodes, slowest)
            progress.update(task, completed=slowest, ms=ms, apart=apart)
            return f"round {slowest}/{total}  {ms} ms/round  disagreement {apart}"

        def show() -> None:
            if console.is_terminal:
                describe()
            else:
                lines.update(describe)

        yield show


def _ms_and_disagreement(nodes: Recorded, slowest: int) -> tuple[str, str]:
    """Return the median time of the latest rounds, and the disagreement, as texts.

    The disagreement is that after the latest round that all nodes have closed. Both are "-" until
    there is such a round.
    """
    if slowest == 0:
        return "-", "-"
    latest = [line["ms"] for node in nodes.nodes.values() for line in node.rounds[-1:]]
    common = [node.estimates.get(slowest - 1) for node in nodes.nodes.values()]
    known = np.array([estimate for estimate in common if estimate])
    return (
        f"{np.median(latest):.0f}" if latest else "-",
        f"{disagreement(known):.2g}" if len(known) else "-",
    )


def unsettled_warning(result: RunResult) -> str:
    """Return the warning that the estimates have not settled, with the remedy."""
    by_error = result.relative_error is not None and not result.noise
    names = ("relative_error",) if by_error else ("disagreement", "movement")
    figures = ", ".join(
        f"{name.replace('_', ' ')} {_format(getattr(result, name))}" for name in names
    )
    return (
        f"not settled after {plural(result.rounds, 'round')}: {figures}, must be below "
        f"{SETTLED:g}; run more rounds (cipherfleet check FILE simulates how many) or choose other "
        "stepsizes"
    )


def _title(result: RunResult) -> str:
    return (
        f"{result.fleet}: {result.nodes} nodes, {result.edges} edges, "
        f"{result.key_bits}-bit keys, {result.exchange}"
    )


def _format(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_result(result: RunResult, console: Console) -> None:
    """Print the figures and the common answer as tables."""
    console.print(_title(result), markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_row("settled", "yes" if result.settled else "NO")
    for name in (
        "rounds",
        "relative_error",
        "disagreement",
        "silent",
        "rejected",
        "restarts",
        "wall_s",
    ):
        value = getattr(result, name)
        is_noisy = name == "relative_error" and result.noise
        label = f"{name}, noise of privacy included" if is_noisy else name
        table.add_row(label, _format(value))
    table.add_row("round_ms p50 / p95", f"{result.round_ms.p50} / {result.round_ms.p95}")
    table.add_row("bytes_per_edge_round", f"{result.bytes_per_edge_round:.0f}")
    reached = {name: count for name, count in result.rounds_to.items() if count is not None}
    if reached:
        text = ", ".join(f"{name} after {count}" for name, count in reached.items())
        table.add_row("relative_error stays below", text)
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    after = f"NOT SETTLED after {plural(result.rounds, 'round')}"
    answer = Table(title="the common answer" if result.settled else after)
    for heading in ("entry", "estimate (mean over nodes)", "centralised answer"):
        answer.add_column(heading, justify="right")
    optimum: Sequence[float | None] = result.optimum or [None] * len(result.estimate)
    pairs = list(zip(result.estimate, optimum, strict=False))  # without a solution there are none
    for place, (estimate, best) in enumerate(pairs[:ENTRIES_SHOWN]):
        answer.add_row(str(place), f"{estimate:.6g}", "-" if best is None else f"{best:.6g}")
    console.print(answer)
    console.print(f"every {result.weight} counts alike in both", style="dim", highlight=False)
    if len(pairs) > ENTRIES_SHOWN:
        rest = f"{len(pairs) - ENTRIES_SHOWN} more entries: {Path(result.out) / RESULT_FILE}"
        console.print(rest, markup=False, highlight=False, soft_wrap=True)
    where = f"plot, logs and figures: {result.out}"
    console.print(where, markup=False, highlight=False, soft_wrap=True)
