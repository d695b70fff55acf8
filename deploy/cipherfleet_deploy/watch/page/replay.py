"""Show a recording: the lines that `cipherfleet watch --json` has printed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cipherfleet_deploy.local.run import NODES_FOLDER
from cipherfleet_deploy.watch.sources import find_node_folders, read_run_graph
from cipherfleet_deploy.watch.table import ABSENT, ORDER, NodeStatus, natural_sort_key
from cipherfleet_deploy.watch.watch import View, WatchResult
from cipherfleet_node.core.messages import are_node_ids
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import read_ledger
from cipherfleet_provisioning.sets import find_current_set
from cipherfleet_provisioning.topology.graph import Graph

from .state import PageState


def read_graph(place: Path) -> Graph:
    """Return the graph of *place*: a fleet.yaml, a set, or the folder of a run.

    Raises ConfigError.
    """
    if not place.is_dir():
        return load_fleet(place).graph
    if (current := find_current_set(place)) is not None:
        return read_ledger(current).graph
    if (place / NODES_FOLDER).is_dir():
        return read_run_graph(find_node_folders(place))
    raise ConfigError(
        f"{place}: holds no fleet",
        remedy="name the fleet.yaml, the set, or the folder of the run that was recorded",
    )


def replay(file: Path, graph: Graph) -> PageState:
    """Return the state after all lines of *file*, with its history. Raises ConfigError."""
    state: PageState | None = None
    rows = {name: NodeStatus(name, ABSENT, stale=False, age_s=None) for name in graph.ids}
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                result = _read_line(line, f"{file}:{number}")
                rows |= {row.node: row for row in result.nodes}
                ordered = [rows[name] for name in sorted(rows, key=natural_sort_key)]
                state = state or PageState(result.fleet, f"recording {file.name}")
                state.take(View(result.fleet, ordered, result.connected, graph), result.at)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", remedy="name a readable file") from None
    if state is None:
        raise ConfigError(f"{file}: is empty", remedy=_REMEDY)
    return state


_REMEDY = "record with cipherfleet watch DIR --json > FILE"


def _read_line(line: bytes, mark: str) -> WatchResult:
    try:
        result = msgspec.json.decode(line, type=WatchResult)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{mark}: is no watch-result ({error})", remedy=_REMEDY) from None
    names = [row.node for row in result.nodes]
    states = {row.state for row in result.nodes}
    if not are_node_ids([result.fleet, *names]) or not states <= set(ORDER):
        raise ConfigError(f"{mark}: a name or a state is none of a fleet", remedy=_REMEDY)
    return result
