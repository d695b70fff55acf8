"""Propose an objective from a sample of readings: columns, offsets and scales.

The sample is a CSV file of the operator, for example of one device. Offset and scale bring its
columns to order one: the offset is the median, the scale the root mean square distance from it.
Both have two significant digits, so that the file shows no reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.sensors.base import join_names
from cipherfleet_node.settings.type_errors import did_you_mean

from .proposal import LeftOut, Proposal, ProposedColumn

DIGITS = 2
NEGLIGIBLE_SPREAD = 1e-9  # of the largest value: only rounding is left
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # not text in some YAML


def propose_objective(file: Path, target: str | None = None) -> Proposal:
    """Propose columns, offsets and scales from the sample in *file*.

    Without *target* the objective is the mean of all columns of numbers. Columns with other content
    and columns that are constant are left out. Raises ConfigError if *target* is no column, holds
    something else than numbers or is constant, and if no column is left.
    """
    table = CsvTable(file)
    if target is not None:
        _check_target(table, target)
    columns: list[ProposedColumn] = []
    left_out: list[LeftOut] = []
    for name in filter(None, table.columns):
        found = _propose_column(table, name)
        if isinstance(found, ProposedColumn):
            columns.append(found)
        else:
            left_out.append(found)
    if len(columns) <= (target is not None):
        reasons = "; ".join(f"{each.field!r} {each.reason}" for each in left_out)
        wanted = "beside the target " if target else ""
        raise ConfigError(
            f"{file}: no column {wanted}can be used: {reasons or 'it has no other'}",
            remedy="give a sample with a header and columns of numbers that change",
        )
    return Proposal(tuple(columns), tuple(left_out), target)


def _check_target(table: CsvTable, target: str) -> None:
    if target not in table.columns:
        known = [name for name in table.columns if name]
        text = f"{table.file}: has no column {target!r}, it has {join_names(known)}"
        raise ConfigError(text + did_you_mean(target, known))
    values = [sample.values[target] for sample in table.samples({}, [target])]
    found = propose_column(target, values)
    if isinstance(found, LeftOut):
        raise ConfigError(
            f"{table.file}: the target {target!r} {found.reason}",
            remedy="choose another --target, or leave it out for the mean of all columns",
        )


def _propose_column(table: CsvTable, name: str) -> ProposedColumn | LeftOut:
    try:
        samples = table.samples({}, [name])
    except ConfigError as error:
        return LeftOut(name, f"is not numeric: {error.text.removeprefix(f'{table.file}:')}")
    return propose_column(name, [sample.values[name] for sample in samples])


def propose_column(name: str, values: Sequence[float]) -> ProposedColumn | LeftOut:
    """Return offset and scale for *values*, or the reason why none can be given."""
    if "{" in name or "}" in name:
        return LeftOut(name, "has a brace in its name")
    middle, largest = median(values), max(map(abs, values))
    spread = _distance(values, middle)
    if spread <= NEGLIGIBLE_SPREAD * largest:
        return LeftOut(name, "is constant")
    # Two digits of a pressure of 1013 +- 8 hPa would leave it far from zero.
    place = min(_place(middle) - DIGITS + 1, _place(spread)) if middle else _place(spread)
    offset = float(round(Decimal(middle), -place))
    scale = _distance(values, offset)
    return ProposedColumn(name, offset, float(round(Decimal(scale), DIGITS - 1 - _place(scale))))


def _distance(values: Sequence[float], offset: float) -> float:
    return math.hypot(*((value - offset) / math.sqrt(len(values)) for value in values))


def _place(value: float) -> int:
    """Return the power of ten of the first digit of *value*, which is not 0."""
    return math.floor(math.log10(abs(value)))


# -- the texts of fleet.yaml --------------------------------------------------------------------


def objective_text(proposal: Proposal) -> str:
    """Return the objective section in one line."""
    if proposal.target is None:
        return f"{{kind: mean, values: [{', '.join(map(_column, proposal.columns))}]}}"
    by_name = {column.field: column for column in proposal.columns}
    target = _column(by_name[proposal.target])
    others = [_column(each) for each in proposal.columns if each.field != proposal.target]
    features = ", ".join(["{constant: 1}", *others])
    return f"{{kind: least_squares, target: {target}, features: [{features}]}}"


def fields_text(proposal: Proposal) -> str:
    """Return fields of a synthetic sensor whose readings look like the sample."""
    fields = (
        f"{_name(each.field)}: {{mean: {_number(each.offset)}, deviation: {_number(each.scale)}}}"
        for each in proposal.columns
    )
    return f"{{{', '.join(fields)}}}"


def _column(column: ProposedColumn) -> str:
    figures: Mapping[str, float] = {"offset": column.offset, "scale": column.scale}
    rest = ", ".join(f"{key}: {_number(value)}" for key, value in figures.items())
    return f"{{field: {_name(column.field)}, {rest}}}"


def _name(field: str) -> str:
    is_plain = _PLAIN.fullmatch(field) and field.lower() not in _WORDS
    return field if is_plain else json.dumps(field, ensure_ascii=False)


def _number(value: float) -> str:
    """Return *value* without an exponent, which some YAML readers take for text."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
