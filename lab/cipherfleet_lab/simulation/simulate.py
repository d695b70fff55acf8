"""`cipherfleet simulate`: error and disagreement of a fleet in every round, over several seeds."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cipherfleet_analysis.random_choices import Array
from cipherfleet_deploy.local.results import disagreement, relative_error
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import ExchangeName, Method
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from . import engines
from .scenario import Scenario, make_synthetic, scenario_of_fleet, spread_fleet

SYNTHETIC_NODES, SYNTHETIC_DEGREE, SYNTHETIC_DIMENSION, SYNTHETIC_ROUNDS = 1000, 6, 4, 10
RESULT_FILE, PLOT_FILE = "simulation.json", "simulation.png"
SHOWN_ROUNDS = 10
FIGURES = {"relative_error": "relative error", "disagreement": "disagreement"}

Rounds = Iterator[Array]
Run = Callable[[int], Rounds]  # simulates one seed
RandomChoices = Literal["the nodes' own", "fast"]


@dataclass
class Stopwatch:
    """Adds up the time of the blocks that it measures."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process; other processes hardly change it

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the time of the block."""
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began


@dataclass(frozen=True)
class SimulationOptions:
    """The options of the command line."""

    engine: Literal["core", "vector"] = "vector"
    seed: int = 1
    seeds: int = 1
    rounds: int | None = None
    nodes: int | None = None
    degree: int | None = None
    method: Method | None = None
    encrypted: bool = False
    out: Path | None = None


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of every round over the seeds; None in rounds in which it is not defined."""

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `cipherfleet simulate`: `--json` prints these keys in this order."""

    fleet: str
    nodes: int
    edges: int
    rounds: int
    dimension: int
    exchange: ExchangeName
    engine: Literal["core", "vector"]
    encrypted: bool
    draws: RandomChoices
    readings: str
    optimum: list[float] | None  # the centralised answer; None if it is not known
    seeds: list[int]
    relative_error: Band | None  # None if the optimum is not known
    disagreement: Band | None
    seconds_per_round: float
    cpu_seconds_per_round: float
    peak_memory_mib: float
    wall_s: float
    out: str | msgspec.UnsetType = msgspec.UNSET  # the folder of file and plot; left out without


def simulate(file: Path | None, options: SimulationOptions, console: Console) -> SimulationResult:
    """Simulate the fleet of *file*, or a synthetic one, and write the files that are requested.

    Raises ConfigError if the file cannot be simulated.
    """
    began = time.monotonic()
    fleet = None if file is None else _load(file, options)
    scenario = _scenario(file, fleet, options)
    rounds = options.rounds or scenario.algorithm.rounds or SYNTHETIC_ROUNDS
    run, draws = _engine(fleet, scenario, rounds, options, console)
    seeds = range(options.seed, options.seed + options.seeds)
    measured, taken = _measure(run, scenario, rounds, seeds, console)
    result = SimulationResult(
        fleet=scenario.name,
        nodes=scenario.nodes,
        edges=scenario.edges,
        rounds=rounds,
        dimension=scenario.solutions(scenario.starts[:1]).shape[1],
        exchange="sealed" if scenario.sealed else "pairwise",
        engine=options.engine,
        encrypted=options.encrypted,
        draws=draws,
        readings=scenario.readings,
        optimum=None if scenario.optimum is None else scenario.optimum.tolist(),
        seeds=list(seeds),
        relative_error=_band(measured["relative_error"]),
        disagreement=_band(measured["disagreement"]),
        seconds_per_round=taken.seconds / (len(seeds) * rounds),
        cpu_seconds_per_round=taken.cpu_seconds / (len(seeds) * rounds),
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        wall_s=time.monotonic() - began,
    )
    if options.out is None:
        return result
    _write(result, options.out)
    return msgspec.structs.replace(result, out=str(options.out))


# -- scenarios and engines ----------------------------------------------------------------------


def _load(file: Path, options: SimulationOptions) -> Fleet:
    overrides = Overrides(rounds=options.rounds, method=options.method)
    fleet = load_fleet(file, overrides, endless=False)
    if options.nodes is None or _is_enlarged(fleet, options):
        return fleet
    return load_fleet(file, replace(overrides, nodes=options.nodes), endless=False)


def _is_enlarged(fleet: Fleet, options: SimulationOptions) -> bool:
    """True if more nodes than the file's, or another graph, are requested."""
    return options.degree is not None or (options.nodes or 0) > len(fleet.members)


def _scenario(file: Path | None, fleet: Fleet | None, options: SimulationOptions) -> Scenario:
    if fleet is None:
        nodes, degree = options.nodes or SYNTHETIC_NODES, options.degree or SYNTHETIC_DEGREE
        return make_synthetic(nodes, degree, SYNTHETIC_DIMENSION, seed=0)
    try:
        if _is_enlarged(fleet, options):
            return spread_fleet(fleet, options.nodes or len(fleet.members), options.degree)
        return scenario_of_fleet(fleet)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _engine(
    fleet: Fleet | None,
    scenario: Scenario,
    rounds: int,
    options: SimulationOptions,
    console: Console,
) -> tuple[Run, RandomChoices]:
    """Return the function that runs a seed, and which random choices it makes."""
    if options.engine == "vector":
        own = engines.repeats_node_choices(scenario, rounds)
        draws: RandomChoices = "the nodes' own" if own else "fast"
        return lambda seed: engines.run_vector(scenario, rounds, seed, own_choices=own), draws
    if fleet is None or not scenario.names:
        raise ConfigError(
            "the core engine runs only the nodes of a file",
            remedy="give FILE, no --degree, and at most the file's --nodes, or use --engine vector",
        )
    keys = None
    if options.encrypted:
        with console.status("keys") if console.is_terminal else nullcontext():
            keys = engines.make_fleet_keys(fleet, lambda _name: None)
    return lambda seed: engines.run_core(fleet, rounds, seed, keys), "the nodes' own"


# -- figures ------------------------------------------------------------------------------------


def _measure(
    run: Run, scenario: Scenario, rounds: int, seeds: Sequence[int], console: Console
) -> tuple[dict[str, Array], Stopwatch]:
    """Return relative error and disagreement, (seeds, rounds), and the time of all rounds."""
    figures = {name: np.full((len(seeds), rounds), np.nan) for name in FIGURES}
    columns = (TextColumn("round {task.completed}/{task.total}"), BarColumn(), TimeElapsedColumn())
    taken = Stopwatch()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(seeds) * rounds)
        for row, seed in enumerate(seeds):
            passed = run(seed)
            for k in range(rounds):
                with taken.measuring():
                    estimates = next(passed)
                estimates = scenario.solutions(estimates)
                if scenario.optimum is not None:
                    figures["relative_error"][row, k] = relative_error(estimates, scenario.optimum)
                figures["disagreement"][row, k] = disagreement(estimates)
                progress.advance(task)
    return figures, taken


def _band(values: Array) -> Band | None:
    """Return mean, minimum and maximum over seeds per round; None if all values are unknown."""
    if np.isnan(values).all():
        return None
    mean, low, high = (
        [_finite_or_none(entry) for entry in over_seeds(values, axis=0)]
        for over_seeds in (np.mean, np.min, np.max)
    )
    return Band(mean=mean, low=low, high=high)


def _finite_or_none(figure: float) -> float | None:
    return float(figure) if math.isfinite(figure) else None


# -- output -------------------------------------------------------------------------------------


def show(result: SimulationResult, console: Console) -> None:
    """Print the result as a table."""
    secret = "encrypted" if result.encrypted else "plaintext"
    table = Table(
        title=f"{result.fleet}: {result.nodes} nodes, {result.edges} edges, "
        f"{result.exchange}, {result.engine} engine, {secret}"
    )
    table.add_column("round", justify="right")
    for heading in FIGURES.values():
        table.add_column(heading)
    for k in _shown_rounds(result.rounds):
        table.add_row(str(k + 1), *(_cell(result, name, k) for name in FIGURES))
    console.print(table)
    seeds = result.seeds
    over = f"seeds {seeds[0]} to {seeds[-1]}: mean [least, greatest]" if seeds[1:] else "one seed"
    cost = f"{result.seconds_per_round:.3g} s per round"
    lines = [
        f"{over}; random choices: {result.draws}; readings: {result.readings}",
        f"{cost}, {result.peak_memory_mib:.0f} MiB at most",
    ]
    if result.out is not msgspec.UNSET:
        lines.append(f"plot and figures: {result.out}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown_rounds(rounds: int) -> list[int]:
    """Return the first and the last round, and some in between on a logarithmic scale."""
    return sorted({round(k) - 1 for k in np.geomspace(1, rounds, min(rounds, SHOWN_ROUNDS))})


def _cell(result: SimulationResult, name: str, k: int) -> str:
    band: Band | None = getattr(result, name)
    if band is None or band.mean[k] is None:
        return "-"
    if len(result.seeds) == 1:
        return f"{band.mean[k]:.3g}"
    return f"{band.mean[k]:.3g} [{band.low[k]:.3g}, {band.high[k]:.3g}]"


def _write(result: SimulationResult, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(result), indent=1, allow_nan=False)
    (out / RESULT_FILE).write_text(text + "\n")
    _plot(result, out / PLOT_FILE)


def _plot(result: SimulationResult, file: Path) -> None:
    from matplotlib.figure import Figure  # takes 0.4 s, which --help must not wait for

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    rounds = np.arange(1, result.rounds + 1)
    for place, (name, label) in enumerate(FIGURES.items()):
        band: Band | None = getattr(result, name)
        if band is None:
            continue
        # A logarithmic axis has no zero: rounds in which all nodes agree exactly leave a gap.
        mean, low, high = (
            np.array([entry or np.nan for entry in entries], dtype=np.float64)
            for entries in (band.mean, band.low, band.high)
        )
        axes.plot(rounds, mean, ".-", color=f"C{place}", label=label)
        axes.fill_between(rounds, low, high, color=f"C{place}", alpha=0.25)
    axes.set(yscale="log", xlabel="round")
    seeds = len(result.seeds)
    over = f"; mean and range over {seeds} seeds" if seeds > 1 else ""
    axes.set_title(f"root mean square over nodes{over}", fontsize="medium", loc="left")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.suptitle(f"{result.fleet}: {result.nodes} nodes, {result.exchange}")
    figure.savefig(file, dpi=120)
