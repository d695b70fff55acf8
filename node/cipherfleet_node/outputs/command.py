"""The output of `cipherfleet-node answer`: the published answer as a small table or as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cipherfleet_node.errors import AnswerUnavailable, one_line

from .answer import Answer
from .file import load

LOOK_EVERY_S = 1.0


def answer_lines(answer: Answer) -> Iterator[str]:
    """Yield the lines of the table; units are shown where answer.units names them."""
    state = "settled" if answer.settled else "NOT SETTLED ANY MORE, the values are old:"
    yield f"{answer.fleet}/{answer.node}, {answer.kind}: {state} round {answer.round}, {answer.at}"
    rows = list(_rows(answer))
    width = max(len(name) for name, _, _ in rows)
    for name, value, unit in rows:
        yield f"  {name:{width}}  {value:>14.{answer.digits + 3}g}  {unit}".rstrip()
    if answer.alarm is not None:
        yield f"  {'alarm':{width}}  {'YES' if answer.alarm else 'no':>14}"
    if answer.drift_alarm is not None:
        yield f"  {'drift alarm':{width}}  {'YES' if answer.drift_alarm else 'no':>14}"


def _rows(answer: Answer) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and unit of each number of *answer*."""
    model = answer.model
    units = {field: one_line(unit) for field, unit in model.units.items()}
    own = "" if answer.link == "logit" else units.get(model.target or "", "")
    for field, value in model.values.items():
        yield one_line(field), value, units.get(field, "")
    if model.intercept is not None:
        yield "intercept", model.intercept, own
    for field, value in model.coefficients.items():
        yield one_line(field), value, f"{own or 1} per {units[field]}" if field in units else ""
    for each in model.daily:
        name = f"{one_line(each.field)}, {24 / each.order:g} h"
        yield f"{name}, sin", each.sin, own
        yield f"{name}, cos", each.cos, own
    for name in ("corrected", "residual", "z"):
        value = getattr(answer, name)
        if value is not None:
            what = f"{name} {one_line(model.target)}" if model.target and name != "z" else name
            yield what, value, "" if name == "z" else own
    for name in ("fleet_residual", "drift", "drift_z"):
        value = getattr(answer, name)
        if value is not None:
            yield name.replace("_", " "), value, "" if name == "drift_z" else own


def follow(folder: Path) -> Iterator[Answer]:
    """Yield the answer of the node in *folder*, and each later one, without an end."""
    latest: Answer | None = None
    while True:
        try:
            found: Answer | None = load(folder)
        except AnswerUnavailable:
            found = latest
        if found is not None and found != latest:
            latest = found
            yield found
        time.sleep(LOOK_EVERY_S)
