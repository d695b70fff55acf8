"""A CSV file with a header line, parsed once. The rows of a node are selected by column values."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import CsvSensor
from cipherfleet_node.settings.type_errors import may_be_secret

from .base import Limits, check_fields, describe_limits, is_within, join_names

Where = Mapping[str, str | int | float]
Key = str | Decimal

MAX_CSV_BYTES = 256 * 2**20  # a parsed file takes about ten times its size in memory
SEPARATORS = (";", "\t", "|", ",")
GAP_MARKS = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
_CELL_SHOWN = 20
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?(?:\d+,\d*|,\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_SPECIAL = re.compile(r'[,"\r\n]')
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


class Format(NamedTuple):
    """How a file is written. *columns* has new names, by those in the file."""

    separator: str = ","
    decimal: str = "."
    columns: Mapping[str, str] = {}


class Row(NamedTuple):
    """A record, and the number of the line on which it begins, counted from 1."""

    line: int
    cells: list[str]


def format_of(config: CsvSensor) -> Format:
    """Return how the file of *config* is written."""
    return Format(config.separator, config.decimal, config.columns)


def gaps_of(config: CsvSensor) -> frozenset[str] | None:
    """Return the marks whose rows are left out, in small letters; None: a gap is an error."""
    if config.gaps == "refuse":
        return None
    return GAP_MARKS | {mark.strip().lower() for mark in config.gap_marks}


def read_rows(file: Path, where: Where, needed: Collection[str]) -> list[Sample]:
    """Return the samples in the rows of *file* that match *where*, in the order of the file.

    For many nodes with one file use a CsvTable, which reads the file once.
    Raises ConfigError with file and line.
    """
    return CsvTable(file).samples(where, needed)


class CsvTable:
    """All rows of a CSV file, grouped by the columns that select the rows of a node.

    *columns* are the names after renaming.

    Raises ConfigError unless the file is UTF-8 text with a header and rows of equal length.
    """

    def __init__(self, file: Path, form: Format | None = None) -> None:
        self.file, self.format = file, form or Format()
        records = _parse_rows(file, _read_text(file), self.format.separator)
        header = next(records, None)
        if header is None:
            raise ConfigError(f"{file}:1: is empty, must begin with a line of column names")
        self._header_line = header.line
        self.columns = self._column_names(header.cells)
        self._rows = [self._check_row(row) for row in records]
        if not self._rows:
            raise ConfigError(f"{file}:{header.line}: has column names but no rows below them")
        self._groups: dict[tuple[str, ...], dict[tuple[Key, ...], list[Row]]] = {}

    def select(self, where: Where) -> list[Row]:
        """Return the rows whose columns equal *where*; 3 equals '3', '3.0' and ' 3'.

        Raises ConfigError for an unknown column, and if no row matches.
        """
        names = tuple(sorted(where))
        wanted_keys = tuple(_key(str(where[name])) for name in names)
        rows = self._group_rows(names).get(wanted_keys)
        if not rows:
            wanted = ", ".join(f"{name}: {_quote_value(name, where[name])}" for name in names)
            raise ConfigError(
                f"{self.file}: none of its {len(self._rows)} rows matches where {{{wanted}}}"
            )
        return rows

    def samples(
        self,
        where: Where,
        needed: Collection[str],
        limits: Limits | None = None,
        gaps: Collection[str] | None = None,
    ) -> list[Sample]:
        """Return the numbers in the *needed* columns of the rows that match *where*.

        Columns with limits are checked even if they are not needed. All others may contain text.
        A row with one of the marks *gaps* in such a column is left out; see `gaps_of`.
        Raises ConfigError with line and column for a cell that is not a number within its limits.
        """
        limits = limits or {}
        self._check_separator(needed)
        check_fields(f"{self.file}:{self._header_line}", self.columns, needed, limits)
        checked = {n: i for i, n in enumerate(self.columns) if n in needed or n in limits}
        kept = [name for name in checked if name in needed]
        samples = []
        for row in self.select(where):
            if gaps and any(row.cells[i].strip().lower() in gaps for i in checked.values()):
                continue
            values = {n: self._value(row, n, place, limits) for n, place in checked.items()}
            samples.append(Sample({name: values[name] for name in kept}))
        if not samples:
            text = f"every row of this node has a gap in one of {join_names(checked)}"
            raise self._error(self._header_line, text)
        return samples

    def cut(self, where: Where) -> str:
        """Return the rows that match *where*, with the header, as CSV text for one node.

        It has commas between cells and the new names; the decimal signs are those of the file.
        """
        return "".join(map(_line, [self.columns, *(row.cells for row in self.select(where))]))

    def _column_names(self, cells: list[str]) -> tuple[str, ...]:
        names = tuple(cell.strip() for cell in cells)
        for index, name in enumerate(names):
            # A file without a header would show its first readings as names of columns.
            if _NUMBER.fullmatch(name):
                raise self._error(self._header_line, f"cell {index + 1} is a number, not a name")
            if name and name in names[:index]:
                raise self._error(self._header_line, f"names the column {name!r} twice")
        return self._rename(names)

    def _rename(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that the settings give the columns *names*."""
        new = self.format.columns
        absent = [name for name in new if name not in names]
        if absent:
            text = f"columns names {join_names(absent)}, the file has {join_names(names)}"
            raise self._error(self._header_line, text + self._other_separator(names))
        renamed = tuple(new.get(name, name) for name in names)
        for index, name in enumerate(renamed):
            if name and name in renamed[:index]:
                text = f"columns gives the name {name!r} to a second column"
                raise self._error(self._header_line, text)
        return renamed

    def _check_separator(self, needed: Collection[str]) -> None:
        """Raise ConfigError if the file is one column because it has another separator."""
        hint = self._other_separator(self.columns)
        if hint and not set(needed) <= set(self.columns):
            text = f"the separator is {self.format.separator!r}, and the file has one column"
            raise self._error(self._header_line, text + hint)

    def _other_separator(self, names: Sequence[str]) -> str:
        """Return a remedy if the only name of *names* looks like several, else ""."""
        if len(names) > 1:
            return ""
        found = next((sign for sign in SEPARATORS if sign in names[0]), None)
        return "" if found is None else f"; write separator: {json.dumps(found)}"

    def _check_row(self, row: Row) -> Row:
        found, wanted = len(row.cells), len(self.columns)
        hint = self._other_separator(self.columns)
        if found < wanted:
            missing = self.columns[found]
            text = f"the row is too short: {found} of {wanted} cells, {missing!r} is missing"
            raise self._error(row.line, text)
        if found > wanted:
            text = f"the row is too long: {found} cells, the last of {wanted} columns is"
            raise self._error(row.line, f"{text} {self.columns[-1]!r}{hint}")
        return row

    def _group_rows(self, names: tuple[str, ...]) -> dict[tuple[Key, ...], list[Row]]:
        groups = self._groups.get(names)
        if groups is None:
            absent = [name for name in names if name not in self.columns]
            if absent:
                text = (
                    f"where names {join_names(absent)}, the columns are {join_names(self.columns)}"
                )
                raise self._error(self._header_line, text)
            places = [self.columns.index(name) for name in names]
            groups = {}
            for row in self._rows:
                key = tuple(_key(self._with_point(row.cells[i])) for i in places)
                groups.setdefault(key, []).append(row)
            self._groups[names] = groups
        return groups

    def _value(self, row: Row, name: str, place: int, limits: Limits) -> float:
        cell = row.cells[place].strip()
        text = self._with_point(cell)
        # With decimal commas, 1.234 may be a thousand.
        if not _NUMBER.fullmatch(text) or (self.format.decimal == "," and "." in cell):
            raise self._error(row.line, f"column {name!r} {self._describe(cell)}")
        value = float(text)
        if not math.isfinite(value):
            raise self._error(row.line, f"column {name!r} is too large for a number")
        if not is_within(limits, name, value):
            raise self._error(row.line, f"column {name!r} is {describe_limits(limits, name)}")
        return value

    def _with_point(self, cell: str) -> str:
        """Return *cell* with a decimal point if it is a number with a decimal comma."""
        if self.format.decimal == "." or not _COMMA_NUMBER.fullmatch(cell.strip()):
            return cell
        return cell.replace(",", ".")

    def _describe(self, cell: str) -> str:
        """Return the error of a cell, and the setting that may be missing."""
        comma = self.format.decimal == ","
        if not comma and _COMMA_NUMBER.fullmatch(cell):
            return 'is a number with a comma; write decimal: ","'
        if comma and _NUMBER.fullmatch(cell):
            return "is a number with a point, and decimal is a comma"
        text = _describe_cell(cell)
        return text + ("; fill it, or write gaps: skip" if cell.lower() in GAP_MARKS else "")

    def _error(self, line: int, text: str) -> ConfigError:
        return ConfigError(f"{self.file}:{line}: {text}")


def _quote_value(name: str, value: str | int | float) -> str:
    text = "..." if may_be_secret(name) else str(value)
    return text if text.isprintable() and len(text) <= _CELL_SHOWN else repr(text[:_CELL_SHOWN])


def _read_text(file: Path) -> str:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block until it has a writer
            raise ConfigError(f"{file}: is not a regular file")
        if status.st_size > MAX_CSV_BYTES:
            raise ConfigError(
                f"{file}: has {status.st_size} bytes, at most {MAX_CSV_BYTES} are allowed"
            )
        data = file.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8 text") from None


def _parse_rows(file: Path, text: str, separator: str) -> Iterator[Row]:
    """Yield the records of *text*, without blank lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield Row(line, cells)
            line = reader.line_num + 1  # a quoted cell may have several lines
    except csv.Error as error:
        raise ConfigError(f"{file}:{line}: is not valid CSV: {error}") from None


def _line(cells: Sequence[str]) -> str:
    """Return a record as CSV text.

    Not csv.writer: it leaves a carriage return unquoted, which would end the record.
    """
    quoted = (
        '"' + cell.replace('"', '""') + '"' if _SPECIAL.search(cell) else cell for cell in cells
    )
    return (",".join(quoted) or '""') + "\n"


def _key(text: str) -> Key:
    """Return *text*, or its exact number, so that equal numbers are equal.

    A float would make long serial numbers equal that differ in their last digits.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        try:
            return Decimal(text)
        except InvalidOperation:  # an exponent of 19 digits or more
            return text
    return text


def _describe_cell(text: str) -> str:
    """Return the error of a cell. A text with digits could be a reading and is not shown."""
    if not text:
        return "is empty, must be a number"
    if _NOT_FINITE.fullmatch(text):
        return "is not a finite number"
    if any(character.isnumeric() for character in text):
        return f"holds {len(text)} characters that are not a number such as -12.5"
    shown = text if len(text) <= _CELL_SHOWN else text[: _CELL_SHOWN - 3] + "..."
    return f"is {shown!r}, must be a number"
