"""The figures of a finished run for the page: round times, phases, and the error where it is known.

The folder of a run is on this machine. Its nodes trace their estimates,
so the error can be computed here. Estimates themselves are not sent to the browser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.results import Trajectory, disagreement, relative_error
from cipherfleet_deploy.local.run import RESULT_FILE
from cipherfleet_deploy.watch.sources import find_node_folders, read_run_graph
from cipherfleet_deploy.watch.table import NodeStatus
from cipherfleet_deploy.watch.watch import View
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import load_node_config

MAX_POINTS = 1000  # rounds shown; of a longer run every n-th


class FinishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run by round; lists have one entry for each of *rounds*."""

    ended: str  # complete, interrupted or failed
    settled: bool
    rounds: list[int]
    median_ms: list[float | None]
    worst_ms: list[float | None]
    phases: dict[str, dict[str, float]]  # by node: mean ms of a round in each phase
    error: list[float | None] | None  # relative to the centralised answer; None: not known
    disagreement: list[float | None] | None  # None: no estimates were traced


@dataclass(frozen=True)
class _Records:
    nodes: Mapping[str, NodeRecord]


def is_finished_run(place: Path) -> bool:
    """Return True if *place* is the folder of a local run that has written its figures."""
    return (place / RESULT_FILE).is_file()


def read_finished_run(place: Path) -> tuple[FinishedRun, View]:
    """Read the folder of a run. Raises ConfigError if its result cannot be read."""
    result = _read_result(place / RESULT_FILE)
    folders = find_node_folders(place)
    records = _Records({folder.name: NodeRecord(folder.name, folder) for folder in folders})
    for record in records.nodes.values():
        record.read()
    run = _summarise(result, records)
    rows = [_describe(record) for record in records.nodes.values()]
    fleet = load_node_config(folders[0]).fleet
    return run, View(fleet, rows, connected=True, graph=read_run_graph(folders))


def _read_result(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        return {key: found[key] for key in ("ended", "settled", "dimension", "optimum")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{file}: holds no result of a run",
            remedy="name the --out folder of cipherfleet run or demo",
        ) from None


def _describe(record: NodeRecord) -> NodeStatus:
    times = [line["ms"] for line in record.rounds]
    return NodeStatus(
        node=record.id,
        state="finished",
        stale=False,
        age_s=None,
        round=record.round,
        round_ms=round(median(times), 1) if times else None,
        rejected=sum(int(line.get("rejected", 0)) for line in record.rounds[-1:]),
    )


def _summarise(result: Mapping[str, Any], records: _Records) -> FinishedRun:
    times: dict[int, list[float]] = {}
    for record in records.nodes.values():
        for line in record.rounds:
            times.setdefault(int(line["round"]), []).append(line["ms"])
    count = max([*times, *(record.round - 1 for record in records.nodes.values())], default=-1) + 1
    shown = range(0, count, max(1, math.ceil(count / MAX_POINTS)))
    error, spread = _errors(result, records, shown)
    return FinishedRun(
        ended=result["ended"],
        settled=result["settled"],
        rounds=[k + 1 for k in shown],
        median_ms=_finite(median(times[k]) if k in times else math.nan for k in shown),
        worst_ms=_finite(max(times.get(k, [math.nan])) for k in shown),
        phases={record.id: _mean_phases(record.rounds) for record in records.nodes.values()},
        error=error,
        disagreement=spread,
    )


def _errors(
    result: Mapping[str, Any], records: _Records, shown: Sequence[int]
) -> tuple[list[float | None] | None, list[float | None] | None]:
    """Return error and disagreement after each round of *shown*; None if they are not known."""
    if not any(record.estimates for record in records.nodes.values()):
        return None, None
    wanted = set(shown)
    latest = [
        estimates
        for k, estimates in enumerate(Trajectory.of(records, result["dimension"]).latest)
        if k in wanted
    ]
    spread = _finite(disagreement(each) for each in latest)
    if result["optimum"] is None:
        return None, spread
    optimum = np.asarray(result["optimum"], float)
    return _finite(relative_error(each, optimum) for each in latest), spread


def _mean_phases(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = sorted({name for line in rounds for name in line.get("phases", {})})
    return {
        name: round(sum(line["phases"].get(name, 0.0) for line in rounds) / len(rounds), 3)
        for name in names
    }


def _finite(values: Iterable[float]) -> list[float | None]:
    """Return *values* with None for each that JSON cannot express."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]
