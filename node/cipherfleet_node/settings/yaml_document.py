"""Reading of a YAML file into plain data, with the line and column of every key and value.

The data types are those of the YAML 1.2 core schema: there are no dates and no sexagesimal numbers,
and "no" is a text. Duplicate keys, aliases, deep nesting and large files are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from cipherfleet_node.errors import ConfigError, Mark, one_line, refuse

from .type_errors import MAX_MISFITS, PEM, Path_, dotted, found_at, overlaps, validate

MAX_DEPTH = 32  # the C loader recurses, and overruns its stack at some ten thousand levels
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # 1,000 nodes that are written one by one need about 300 KB

_BRACKET = re.compile(  # strings and comments first: their brackets open no level
    r"""(?<![^\s\[{,:])(?:"(?:\\.|[^"\\])*"|'[^']*'|\#.*)|[\[\]{}]"""
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # the C loader exists only where libyaml does
    """SafeLoader with the implicit types of the YAML 1.2 core schema only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        [None if character == "\0" else character for character in _first],
    )


@dataclass(frozen=True)
class Document:
    """The plain data of a file, the place of every key and value, and the errors found so far."""

    file: Path
    data: Any
    marks: dict[Path_, Mark]  # the place of each value
    keys: dict[Path_, Mark]  # the place of each key
    faults: tuple[ConfigError, ...] = ()

    def mark(self, path: Sequence[str | int]) -> Mark:
        """Return the place of *path*, or of the nearest enclosing value that is in the file."""
        place = tuple(path)
        while place not in self.marks and place:
            place = place[:-1]
        return self.marks.get(place, Mark(str(self.file), 1, 1))

    def error(self, path: Sequence[str | int], message: str, *, remedy: str = "") -> ConfigError:
        """Return a ConfigError at the value: 'file:line:column: dotted.path message'."""
        return complaint(self.mark(path), path, message, remedy)

    def key_error(self, path: Path_, message: str, *, remedy: str = "") -> ConfigError:
        """Return a ConfigError at the key of *path* instead of its value."""
        return complaint(self.keys.get(path) or self.mark(path), path, message, remedy)

    def has(self, path: Path_) -> bool:
        """True if *path* is in the file."""
        return path in self.keys

    def found(self, path: Sequence[str | int]) -> str:
        """Return the value at *path* as text, shortened, and not shown if it may be a secret."""
        return found_at(self.data, path)

    def convert(self, kind: type[T]) -> T:
        """Return the data as *kind* (a msgspec type); raises ConfigError with all type errors."""
        return self.unchecked(kind).finish()

    def unchecked(self, kind: type[T]) -> Unchecked[T]:
        """Return the data as *kind*, together with its type errors.

        Raises ConfigError if no value of *kind* can be made even with placeholders.
        """
        value, mismatches = validate(self.data, kind)
        findings = [*self.faults]
        invalid_paths = [fault.path for fault in self.faults if fault.path is not None]
        for mismatch in mismatches:
            if not any(overlaps(mismatch.path, place) for place in invalid_paths):
                error = self.key_error if mismatch.at_key else self.error
                findings.append(error(mismatch.path, mismatch.message, remedy=mismatch.remedy))
        invalid_paths += [place for mismatch in mismatches for place in mismatch.invalid_paths]
        if value is None:
            refuse(findings)
        return Unchecked(self, value, findings, tuple(invalid_paths))


@dataclass
class Unchecked(Generic[T_co]):
    """A parsed value together with the errors found so far.

    At *invalid_paths* the value has placeholders. It may be used for further checks only, until
    `finish` returns it.
    """

    document: Document
    value: T_co
    findings: list[ConfigError]
    invalid_paths: tuple[Path_, ...] = ()

    def report(self, findings: Iterable[ConfigError]) -> None:
        """Add *findings*, except those at a path that is already invalid."""
        for finding in findings:
            path = finding.path
            if path is None or not any(overlaps(path, place) for place in self.invalid_paths):
                self.findings.append(finding)

    def is_valid_at(self, *path: str | int) -> bool:
        """True if no error was found at *path*, beneath it or above it."""
        places = [*self.invalid_paths, *(f.path for f in self.findings if f.path is not None)]
        return not any(overlaps(path, place) for place in places)

    def finish(self) -> T_co:
        """Return the value; raises ConfigError, or ConfigErrors, if any error was found."""
        refuse(self.findings)
        return self.value


def complaint(mark: Mark, path: Sequence[str | int], message: str, remedy: str = "") -> ConfigError:
    """Return a ConfigError 'file:line:column: dotted.path message'; never shows a PEM text."""
    name = dotted(path)
    text = f"{name} {message}" if name else message
    if PEM in text:
        text = "this looks like a key or a certificate, which does not belong here (not shown)"
    return ConfigError(one_line(f"{mark}: {text}"), mark, tuple(path), remedy=one_line(remedy))


def read_document(file: Path) -> Document:
    """Parse *file*; raises ConfigError if it cannot be read or is not one plain YAML mapping."""
    try:
        size = file.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise ConfigError(f"{file}: has {size} bytes, at most {MAX_DOCUMENT_BYTES} are allowed")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from None
    return parse_document(text, file)


def parse_document(text: str, file: Path) -> Document:
    """Parse *text*; *file* is used as a name in errors only. Raises ConfigError."""
    try:
        _check_events(text, file)
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        _check_brackets(text, error, file)
        mark = _fault_mark(error, file)
        context = f" ({error.context})" if error.context else ""
        raise ConfigError(f"{mark}: is not valid YAML: {error.problem}{context}", mark) from None
    except yaml.YAMLError:
        raise ConfigError(f"{file}:1:1: is not valid YAML: a character is not allowed") from None
    if root is None:
        raise ConfigError(f"{file}:1:1: is empty, must hold a mapping of settings")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}:1:1: must be a mapping of settings ('key: value' lines)")
    builder = _Builder(file)
    data = builder.build(root, ())
    return Document(file, data, builder.marks, builder.keys, tuple(builder.faults[:MAX_MISFITS]))


def _mark(file: Path, found: Any) -> Mark:
    return Mark(str(file), found.line + 1, found.column + 1)


def _fault_mark(error: yaml.MarkedYAMLError, file: Path) -> Mark:
    """Return the place of a syntax error.

    For an open quote or bracket it is the place where that begins, not where the parser noticed.
    """
    noticed, began = error.problem_mark, error.context_mark
    is_open = re.search("quoted|simple key|flow", error.context or "")
    if began is not None and (noticed is None or (is_open and began.line < noticed.line)):
        noticed = began
    return _mark(file, noticed) if noticed is not None else Mark(str(file), 1, 1)


def _check_events(text: str, file: Path) -> None:
    """Raise ConfigError for aliases, whose expansion could grow without bound, and deep nesting."""
    depth = 0
    aliases: list[ConfigError] = []
    for event in yaml.parse(text, Loader=_Loader):
        mark = _mark(file, event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent) and len(aliases) < MAX_MISFITS:
            aliases.append(complaint(mark, (), "is an alias, write out the value itself"))
        if depth > MAX_DEPTH:
            raise _too_deep(mark)
    refuse(aliases)


def _check_brackets(text: str, error: yaml.MarkedYAMLError, file: Path) -> None:
    """Raise ConfigError if the parser failed in brackets that are nested too deeply.

    The parser reads up to 1,024 characters ahead of its events, and newer releases refuse deep
    nesting there with texts of their own. This count does not depend on the release.
    """
    end = error.problem_mark.index if error.problem_mark else len(text)
    open_ = 0
    for found in _BRACKET.finditer(text, 0, end):
        open_ += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if open_ > MAX_DEPTH:
            before = text[: found.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise _too_deep(Mark(str(file), line, column))


def _too_deep(mark: Mark) -> ConfigError:
    return ConfigError(f"{mark}: is nested too deeply, at most {MAX_DEPTH} levels", mark)


_CORE = "tag:yaml.org,2002:"


def _plain_value(tag: str, text: str) -> Any:
    """Return the value of a scalar; raises ValueError. "010" is ten, infinity is not allowed."""
    match tag.removeprefix(_CORE):
        case "str" if "\0" not in text:  # no file name and no argument may contain it
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, 16 if text.startswith("0x") else 10)
        case "float" if math.isfinite(number := float(text)):
            return number
    raise ValueError(tag)


class _Builder:
    """Converts YAML nodes to plain data, and records the place of each value and the errors."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.marks: dict[Path_, Mark] = {}
        self.keys: dict[Path_, Mark] = {}
        self.faults: list[ConfigError] = []

    def build(self, node: yaml.Node, path: Path_) -> Any:
        """Return the plain data of *node*, which is at *path* in the document."""
        self.marks.setdefault(path, _mark(self._file, node.start_mark))
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return _plain_value(node.tag, node.value)
        except (ValueError, TypeError, AttributeError):
            self._fault(node, path, "has a YAML tag or value that is not allowed")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, path, "a key must be a plain word")
                continue
            here = (*path, key_node.value)
            if key_node.value in data:
                first = self.keys[here]
                text = f"is given twice, first at {first.line}:{first.column}"
                self._fault(key_node, here, text)
                continue
            self.keys[here] = key = _mark(self._file, key_node.start_mark)
            scalar = isinstance(value_node, yaml.ScalarNode)
            self.marks[here] = _mark(self._file, value_node.start_mark) if scalar else key
            data[key_node.value] = self.build(value_node, here)
        return data

    def _fault(self, node: yaml.Node, path: Path_, message: str) -> None:
        mark = _mark(self._file, node.start_mark)
        self.faults.append(complaint(mark, path, message))
