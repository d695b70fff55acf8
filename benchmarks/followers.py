"""Compare what a node's own labels, the fleet, and the fleet without its labels give on later days.

`python benchmarks/followers.py [air|rooms]` prints the tables of docs/tutorials/followers.md, and
with `--readings 72` those of a fit to the latest 72 readings of each node. One
solver with all readings fits each model: it is what a fleet agrees on. The readings are those of
examples/air and examples/rooms: members have recorded readings to fit, followers later ones. The
script also reads what the nodes do not have: the labels of the followers, to fit and to judge.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from cipherfleet_analysis.centralised import minimise
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_node.core.objective import Mean, Regression, make_objective
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.window import FloatMatrix
from cipherfleet_node.outputs.physical import predicted
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.sections import CsvSensor, ObjectiveSection, Role
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.fleet.members import Member

EXAMPLES = ("air", "rooms")
HEAD = ("node", "role", "own labels alone", "fleet with its labels", "fleet without its labels")


@dataclass(frozen=True)
class Node:
    """A node of an example: its readings to fit, and its later readings; both with labels."""

    name: str
    role: Role
    fitted: Regression
    later: FloatMatrix  # shape (n, d + 1), in the objective's units; the target is the last column


class Row(msgspec.Struct, frozen=True):
    """The figure of merit of one node on its later readings, under three models."""

    node: str
    role: Role
    alone: float
    with_own: float
    without_own: float

    @property
    def used(self) -> float:
        """The figure of the model that the node has in the fleet of the example."""
        return self.with_own if self.role == "member" else self.without_own


@dataclass(frozen=True)
class Measure:
    """A figure of merit: it compares a model's predictions with the labels."""

    title: str
    decimals: int
    of: Callable[[FloatVector, FloatVector], float]


def rmse(found: FloatVector, labels: FloatVector) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean((found - labels) ** 2)))


def balanced_accuracy(found: FloatVector, labels: FloatVector) -> float:
    """Return the mean of the shares of both classes that are found, with the threshold 1/2."""
    is_found = found > 0.5
    return float(is_found[labels == 1.0].mean() + (~is_found[labels == 0.0]).mean()) / 2.0


MEASURES: Mapping[str, Measure] = {
    "air": Measure("RMSE of PM2.5 in µg/m³, lower is better", 1, rmse),
    "rooms": Measure("balanced accuracy, higher is better", 2, balanced_accuracy),
}


def load_example(name: str) -> Fleet:
    """Return the fleet of the example *name*."""
    return load_fleet(example_folder(name) / "fleet.yaml")


def nodes_of(fleet: Fleet, readings: int | None = None) -> list[Node]:
    """Return the nodes of an example, whose members have one file and its followers another.

    *readings* are the latest ones to fit, of each node; None: all.
    """
    tables = {member.role: _table(fleet, member) for member in fleet.members}
    section = fleet.file.objective
    fitting = msgspec.structs.replace(section, window=readings or section.window)
    return [
        Node(
            member.id,
            member.role,
            _absorbed(fitting, tables["member"], member),
            _absorbed(section, tables["follower"], member).window.rows,
        )
        for member in fleet.members
    ]


def _table(fleet: Fleet, member: Member) -> CsvTable:
    assert isinstance(member.sensor, CsvSensor), f"{member.id} has no recorded readings"
    return fleet.tables[fleet.folder / Path(member.sensor.path)]


def _absorbed(section: ObjectiveSection, table: CsvTable, member: Member) -> Regression:
    assert isinstance(member.sensor, CsvSensor)
    objective = make_objective(section)
    assert isinstance(objective, Regression)
    objective.absorb(table.samples(member.sensor.where, objective.fields))
    return objective


def fit(nodes: Sequence[Node]) -> FloatVector:
    """Return the optimum of the mean of the objectives of *nodes*, shape (d,)."""
    objectives: list[Mean | Regression] = [node.fitted for node in nodes]
    return minimise(objectives)


def judge(node: Node, model: FloatVector, section: ObjectiveSection, measure: Measure) -> float:
    """Return the figure of *model*, shape (d,), on the later readings of *node*."""
    found = predicted(node.later[:, :-1], model, section)
    return measure.of(found, labels_of(node, section))


def labels_of(node: Node, section: ObjectiveSection) -> FloatVector:
    """Return the later labels of *node*, in the target's unit."""
    assert section.target is not None
    labels: FloatVector = section.target.offset + section.target.scale * node.later[:, -1]
    return labels


def rows_of(nodes: Sequence[Node], section: ObjectiveSection, measure: Measure) -> list[Row]:
    """Return the table: a row for each of *nodes*."""
    members = [node for node in nodes if node.role == "member"]
    rows = []
    for node in nodes:
        others = [member for member in members if member is not node]
        models = [fit([node]), fit([*others, node]), fit(others)]
        figures = [judge(node, model, section, measure) for model in models]
        rows.append(Row(node.name, node.role, *figures))
    return rows


def exchanged(nodes: Sequence[Node]) -> list[Node]:
    """Return *nodes* with members as followers and followers as members."""
    other: dict[Role, Role] = {"member": "follower", "follower": "member"}
    return [Node(node.name, other[node.role], node.fitted, node.later) for node in nodes]


def mean_of(rows: Sequence[Row], role: Role) -> Row:
    """Return the means over the nodes of *role*."""
    chosen = [row for row in rows if row.role == role]
    means = np.mean([(r.alone, r.with_own, r.without_own) for r in chosen], axis=0).tolist()
    return Row(f"mean of {role}s", role, *means)


def ratio_of(rows: Sequence[Row]) -> float:
    """Return the mean figure of followers over that of members, all under the fleet's model."""
    return mean_of(rows, "follower").used / mean_of(rows, "member").used


def table(rows: Sequence[Row], measure: Measure) -> str:
    """Return *rows* as a table in Markdown. The model that a node has in the fleet is bold."""
    lines = [_line(HEAD), _line(["---"] * 2 + ["--:"] * 3)]
    for row in rows:
        alone, with_own, without_own = (
            f"{figure:.{measure.decimals}f}"
            for figure in (row.alone, row.with_own, row.without_own)
        )
        if row.role == "member":
            with_own = f"**{with_own}**"
        else:
            without_own = f"**{without_own}**"
        lines.append(_line([row.node, row.role, alone, with_own, without_own]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_of_example(name: str, readings: int | None = None) -> tuple[list[Row], str]:
    """Return the rows of the example *name*, and what is printed of them.

    *readings* are the latest ones to fit, of each node; None: all.
    """
    fleet, measure = load_example(name), MEASURES[name]
    nodes, section = nodes_of(fleet, readings), fleet.file.objective
    rows = rows_of(nodes, section, measure)
    if name != "air":  # three desks against one have no mean worth a row
        return rows, table(rows, measure)
    shown = [*rows, mean_of(rows, "member"), mean_of(rows, "follower")]
    swapped = ratio_of(rows_of(exchanged(nodes), section, measure))
    deviations = [float(np.std(labels_of(node, section))) for node in nodes]
    notes = (
        f"Mean error of followers over that of members: {ratio_of(rows):.2f}; "
        f"with the roles exchanged: {swapped:.2f}.\n"
        f"Standard deviation of the labels: {min(deviations):.1f} to {max(deviations):.1f}."
    )
    return rows, f"{table(shown, measure)}\n\n{notes}"


def main(arguments: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("example", nargs="*", metavar="EXAMPLE", help="air, rooms; default: both")
    parser.add_argument("--readings", type=int, metavar="N", help="fit the latest N of each node")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(arguments)
    names = given.example or EXAMPLES
    if unknown := sorted(set(names) - set(EXAMPLES)):
        parser.error(f"EXAMPLE is {unknown[0]!r}, must be one of {', '.join(EXAMPLES)}")
    if given.readings is not None and given.readings < 1:
        parser.error(f"--readings is {given.readings}, must be a whole number >= 1")
    made = {name: table_of_example(name, given.readings) for name in names}
    if given.json:
        print(json.dumps({name: msgspec.to_builtins(rows) for name, (rows, _) in made.items()}))
        return 0
    for name, (_, text) in made.items():
        print(f"{name}: {MEASURES[name].title}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
