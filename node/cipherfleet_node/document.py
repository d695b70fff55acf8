"""Read a YAML file so that every later complaint can name file, line and column.

Plain data comes from the YAML core schema (no dates, no sexagesimal numbers, "no" is a word);
duplicate keys, aliases and oversize files are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from .errors import ConfigError

MAX_DEPTH = 32  # the C loader recurses, and overruns its stack at some ten thousand levels
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # 1,000 nodes written out one by one need about 300 KB
SECRET_WORDS = ("password", "secret", "token", "private")

Path_ = tuple[str | int, ...]
T = TypeVar("T")

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
class Mark:
    """A place in a file, counted from 1 as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """Plain data together with the place of every value in it."""

    file: Path
    data: Any
    marks: dict[Path_, Mark]

    def mark(self, path: Sequence[str | int]) -> Mark:
        """The place of *path*, or of the nearest enclosing value that the file holds."""
        place = tuple(path)
        while place not in self.marks and place:
            place = place[:-1]
        return self.marks.get(place, Mark(str(self.file), 1, 1))

    def error(self, path: Sequence[str | int], message: str) -> ConfigError:
        """A ConfigError at *path*: 'file:line:column: dotted.path message'."""
        name = dotted(path)
        return ConfigError(f"{self.mark(path)}: {name}{' ' if name else ''}{message}")

    def found(self, path: Sequence[str | int]) -> str:
        """What stands at *path*, shortened, and hidden where the key's name says secret."""
        value = self.data
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return "nothing"
        if any(word in str(step).lower() for step in path for word in SECRET_WORDS):
            return "a value (not shown)"
        if isinstance(value, dict | list):
            empty = "a " if value else "an empty "
            return empty + ("mapping" if isinstance(value, dict) else "list")
        if value is None:
            return "nothing"
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        return text if len(text) <= 40 else text[:37] + "..."

    def convert(self, kind: type[T]) -> T:
        """The data as *kind* (a msgspec type).

        Raises ConfigError with the place of the first value that does not fit.
        """
        try:
            return msgspec.convert(self.data, kind, strict=True)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), kind) from None

    def _explain(self, text: str, kind: Any) -> ConfigError:
        message, path = _split_path(text)
        path = self._located(path, text, kind)
        unknown = re.search(r"unknown field `(.*)`", message)
        if unknown:
            key = unknown[1]
            return self.error((*path, key), "is not a known key" + _hint(key, kind))
        missing = re.search(r"missing required field `(.*)`", message)
        if missing:
            return self.error((*path, missing[1]), "is missing and has no default")
        wanted = _choices(kind, path) if re.match("Invalid|Expected `.*str", message) else None
        if "matching regex" in message:
            wanted = _description(kind, path)
        if wanted is None:
            wanted = re.sub(r"^Expected ", "", message)
            wanted = _plain_words(re.sub(r", got `.*`$", "", wanted).replace("`", ""))
        return self.error(path, f"is {self.found(path)}, must be {wanted}")

    def _located(self, path: Path_, text: str, kind: Any) -> Path_:
        """*path* with the keys that msgspec calls "...": those that fail alike when alone."""
        for place, step in enumerate(path):
            if step != "...":
                continue
            here = path[:place]
            for key, value in self._at(here).items():
                try:
                    msgspec.convert(_replaced(self.data, here, {key: value}), kind, strict=True)
                except msgspec.ValidationError as error:
                    if str(error) == text:
                        path = (*here, key, *path[place + 1 :])
                        break
        return path

    def _at(self, path: Path_) -> dict[str, Any]:
        value = self.data
        for step in path:
            value = value[step]
        return value if isinstance(value, dict) else {}


def dotted(path: Sequence[str | int]) -> str:
    """('nodes', 3, 'id') -> 'nodes[3].id'."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_document(file: Path) -> Document:
    """Parse *file*; raises ConfigError for what cannot be read or is not one plain YAML mapping."""
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
    """The document in *text*; *file* is only its name. Raises ConfigError."""
    try:
        _check_depth(text, file)
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(f"{file}:1:1: is empty, must hold a mapping of settings")
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{file}:1:1: must be a mapping of settings ('key: value' lines)")
        marks: dict[Path_, Mark] = {}
        data = _Builder(str(file), marks).build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else f"{file}:1:1"
        raise ConfigError(f"{place}: is not valid YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{file}:1:1: is not valid YAML: a character is not allowed") from None
    return Document(file, data, marks)


def _check_depth(text: str, file: Path) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            mark = event.start_mark
            assert mark is not None
            place = f"{file}:{mark.line + 1}:{mark.column + 1}"
            raise ConfigError(f"{place}: is nested too deeply, at most {MAX_DEPTH} levels")


_CORE = "tag:yaml.org,2002:"


def _plain_value(tag: str, text: str) -> Any:
    """The value of a scalar: "010" is ten, and there is no infinity. Raises ValueError."""
    match tag.removeprefix(_CORE):
        case "str" if "\0" not in text:  # no name of a file, no argument may hold it
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
    """Turns YAML nodes into plain data and remembers where each value stood."""

    def __init__(self, file: str, marks: dict[Path_, Mark]) -> None:
        self._file, self._marks = file, marks
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: Path_) -> Any:
        if id(node) in self._seen:
            raise ConfigError(f"{self._place(node)}: {dotted(path)} is an alias, write it out")
        self._seen.add(id(node))
        self._marks.setdefault(path, self._place(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self._place(key_node)}: a key must be a plain word")
            if key in data:
                first = self._marks[(*path, key)]
                raise ConfigError(
                    f"{self._place(key_node)}: {dotted((*path, key))} is given twice, "
                    f"first at {first.line}:{first.column}"
                )
            here = (*path, key)
            self._marks[here] = self._place(
                value_node if isinstance(value_node, yaml.ScalarNode) else key_node
            )
            data[key] = self.build(value_node, here)
        return data

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        try:
            return _plain_value(node.tag, node.value)
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(
                f"{self._place(node)}: {dotted(path)} has a YAML tag or value that is not allowed"
            ) from None

    def _place(self, node: yaml.Node) -> Mark:
        return Mark(self._file, node.start_mark.line + 1, node.start_mark.column + 1)


def _split_path(text: str) -> tuple[str, Path_]:
    """msgspec's 'message - at `$.a[0].b`' -> (message, ('a', 0, 'b'))."""
    message, _, where = text.partition(" - at `")
    steps: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+|\.\.\.)\]", where):
        steps.append(name or (int(index) if index != "..." else index))
    return message, tuple(steps)


def _hint(key: str, kind: Any) -> str:
    words = sorted(_field_names(kind, set()))
    close = get_close_matches(key, words, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _field_names(kind: Any, seen: set[Any]) -> set[str]:
    names: set[str] = set()
    for inner in getattr(kind, "__args__", ()):
        names |= _field_names(inner, seen)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        for field in msgspec.structs.fields(kind):
            names.add(field.encode_name)
            names |= _field_names(field.type, seen)
    return names


def _replaced(data: Any, path: Path_, value: Any) -> Any:
    """*data* with *value* at *path*, without touching the original."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = _replaced(data[path[0]], path[1:], value)
    return copy


def _choices(kind: Any, path: Path_) -> str | None:
    """'one of a, b or a mapping': what a field of fixed words may hold."""
    types = list(_types_at(inspect.type_info(kind), path))
    words = [str(value) for t in types if isinstance(t, inspect.LiteralType) for value in t.values]
    if not words:
        return None
    text = f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    mapping = any(isinstance(t, inspect.StructType | inspect.DictType) for t in types)
    return text + " or a mapping" * mapping


def _description(kind: Any, path: Path_) -> str | None:
    """What the type at *path* says of itself in words."""
    for found in _types_at(inspect.type_info(kind), path):
        if isinstance(found, inspect.Metadata) and found.extra_json_schema:
            text: str | None = found.extra_json_schema.get("description")
            return text
    return None


def _types_at(found: inspect.Type, path: Path_) -> Iterator[inspect.Type]:
    """All types that a value at *path* may have, unions taken apart."""
    if isinstance(found, inspect.UnionType):
        for each in found.types:
            yield from _types_at(each, path)
    elif isinstance(found, inspect.Metadata):
        if not path:
            yield found
        yield from _types_at(found.type, path)
    elif not path:
        yield found
    elif isinstance(found, inspect.StructType):
        for field in found.fields:
            if field.encode_name == path[0]:
                yield from _types_at(field.type, path[1:])
        if found.tag_field == path[0] and found.tag is not None:
            yield inspect.LiteralType((str(found.tag),))
    elif isinstance(found, inspect.DictType):
        yield from _types_at(found.value_type, path[1:])
    elif isinstance(found, inspect.ListType):
        yield from _types_at(found.item_type, path[1:])


def _plain_words(text: str) -> str:
    """msgspec's type words in an operator's language."""
    for word, plain in (
        ("int | float", "a number"),
        ("float", "a number"),
        ("int", "a whole number"),
        ("str", "a text"),
        ("bool", "true or false"),
        ("array", "a list"),
        ("object", "a mapping"),
        ("null", "nothing"),
    ):
        text = re.sub(rf"\b{re.escape(word)}\b", plain, text)
    return text.replace(" | ", " or ")
