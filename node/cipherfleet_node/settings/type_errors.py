"""Validation of plain data against a msgspec type, with all type errors in words for operators.

msgspec stops at the first error. `validate` therefore repairs that value in a copy of the data and
validates the copy again, until there are no more errors. This needs no second validator: the types
alone say what is allowed. The file is long, since each kind of error has words of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

MAX_MISFITS = 50  # a file with more errors is probably not a file of this kind
_WORD_SHOWN = 60
_SECRET = re.compile(  # names of keys with secret values; not allow_weak_keys, not key_bits
    r"passw|passphrase|secret|token|private|credential|authori[sz]ation|(?<!weak_)keys?$",
    re.IGNORECASE,
)
PEM = "-----BEGIN"
_SECRET_TEXT = re.compile(rf"{PEM}|://[^/@]*@")  # a key, or an address with a user and a password
_OF_KEY = re.compile(r"(Expected `str`.*) - at `key` in `(\$[^`]*)`", re.DOTALL)  # msgspec's text

Path_ = tuple[str | int, ...]
EACH = -1  # in a path: every index of a list


@dataclass(frozen=True)
class TypeMismatch:
    """A type error at *path*. Further errors at *invalid_paths* may only follow from this one."""

    path: Path_
    message: str
    invalid_paths: tuple[Path_, ...]
    at_key: bool = False  # the error is in the key, not in its value
    remedy: str = ""


@dataclass(frozen=True)
class RefusedKey:
    """Why a section refuses a key on purpose, and what to do instead.

    A section gives them by key in its class variable REFUSED.
    """

    reason: str
    remedy: str


def validate(data: Any, kind: Any) -> tuple[Any, list[TypeMismatch]]:
    """Convert *data* to *kind*; return the value and all type errors.

    The value has placeholders at the paths of the errors and must not be used there. It is None if
    the data cannot be repaired.
    """
    found: list[TypeMismatch] = []
    for _ in range(2 * MAX_MISFITS):
        try:
            return msgspec.convert(data, kind, strict=True), found
        except msgspec.ValidationError as error:
            mismatch, data = _repaired(str(error), data, kind, _info_of(kind))
        known = [place for earlier in found for place in earlier.invalid_paths]
        if not any(overlaps(mismatch.path, place) for place in known):
            found.append(mismatch)
        if len(found) == MAX_MISFITS:
            break
    return None, found


@cache
def _info_of(kind: Any) -> inspect.Type:
    """Describe *kind*; that takes far longer than a conversion, and only errors need it."""
    return inspect.type_info(kind)


def overlaps(one: Path_, other: Path_) -> bool:
    """True if one of the two paths is equal to the other or leads through it."""
    return all(a == b or EACH in (a, b) for a, b in zip(one, other, strict=False))


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as text: ('nodes', 3, 'id') becomes 'nodes[3].id', with EACH 'nodes[].id'."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += "[]" if step == EACH else f"[{step}]"
            continue
        word = step if len(step) <= _WORD_SHOWN else step[: _WORD_SHOWN - 3] + "..."
        text += f".{word}" if text else word
    return text


def found_at(data: Any, path: Sequence[str | int]) -> str:
    """Return the value at *path* as text, shortened, and not shown if it may be a secret."""
    try:
        value = _at(data, path)
    except (KeyError, IndexError, TypeError):
        return "nothing"
    if any(may_be_secret(str(step)) for step in path) or _SECRET_TEXT.search(str(value)):
        return "a value (not shown)"
    if isinstance(value, dict | list):
        empty = "a " if value else "an empty "
        return empty + ("mapping" if isinstance(value, dict) else "list")
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def may_be_secret(name: str) -> bool:
    """True if a key's *name*, or a PEM heading in it, says that its value may be a secret."""
    return _SECRET.search(name) is not None or PEM in name


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" with the *known* word that is close to *word*, or ""."""
    close = nearest(word, known)
    return f", did you mean {close!r}?" if close is not None else ""


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Return the known word that is closest to *word*, or None if none is close."""
    from difflib import get_close_matches

    plain = {_plain(each): each for each in known}
    given = _plain(str(word)[:_WORD_SHOWN])
    # difflib finds no near match for very short words, such as "di" for "id".
    swapped = [each for each in plain if sorted(each) == sorted(given)]
    close = get_close_matches(given, plain, n=1) or swapped
    return plain[close[0]] if close else None


def _plain(word: str) -> str:
    """Return *word* in one spelling: Answer-Timeout and answerTimeout become answer_timeout."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[- ]", "_", word).lower()


# -- one error, and a copy of the data without it ------------------------------------------------


def _repaired(text: str, data: Any, kind: Any, info: inspect.Type) -> tuple[TypeMismatch, Any]:
    message, path = _split_path(text)
    path = _located(path, text, data, kind)
    if _OF_KEY.fullmatch(text):
        return _without_key(message, data, path, info)
    unknown = re.search(r"unknown field `(.*)`", message, re.DOTALL)
    if unknown:
        return _without(data, path, unknown[1], info)
    missing = re.search(r"missing required field `(.*)`", message)
    if missing:
        path = (*path, missing[1])
        wording = "is missing and has no default" + _allowed(info, path, data)
    else:
        wording = f"is {found_at(data, path)}, must be {_wanted(message, path, data, info)}"
    # The type of a mapping is unknown without its tag, so the whole mapping is invalid.
    invalid = path[:-1] if _is_tag(info, path, data) else path
    return TypeMismatch(path, wording, (invalid,)), _with_placeholder(data, invalid, info)


def _without(data: Any, path: Path_, key: str, info: inspect.Type) -> tuple[TypeMismatch, Any]:
    """Report an unknown *key*; return the data without it, or with its probable name if free."""
    here = dict(_at(data, path))
    value = here.pop(key)
    if refusal := _find_refusal(info, path, data, key):
        mismatch = TypeMismatch((*path, key), refusal.reason, ((*path, key),), True, refusal.remedy)
        return mismatch, _replaced(data, path, here)
    known = [field.encode_name for each in _structs_at(info, path, data) for field in each.fields]
    close = nearest(key, known)
    message, invalid_paths = "is not a known key", [(*path, key)]
    homes = [f"{dotted(home)}.{key}" for home in _homes(info, key) if home != path]
    if close is not None:
        message += f", did you mean {close!r}?"
        invalid_paths.append((*path, close))
        here.setdefault(close, value)
    elif homes:
        message += f", did you mean {' or '.join(map(repr, homes))}?"
    else:
        message += f", known here are {', '.join(sorted(set(known)))}"
    mismatch = TypeMismatch((*path, key), message, tuple(invalid_paths), at_key=True)
    return mismatch, _replaced(data, path, here)


def _find_refusal(info: inspect.Type, path: Path_, data: Any, key: str) -> RefusedKey | None:
    """Return why the section at *path* refuses *key* on purpose, if it does."""
    refused = (getattr(each.cls, "REFUSED", {}).get(key) for each in _structs_at(info, path, data))
    return next(filter(None, refused), None)


def _without_key(
    message: str, data: Any, path: Path_, info: inspect.Type
) -> tuple[TypeMismatch, Any]:
    """Report a key that its mapping does not allow; return the data without it."""
    home, key = path[:-1], path[-1]
    mappings = [t for t in _types_at(info, home, data) if isinstance(t, inspect.DictType)]
    words = _description(mapping.key_type for mapping in mappings)
    wanted = words or _plain_words(message.removeprefix("Expected ").replace("`", ""))
    text = f"is not allowed as a key, must be {wanted}"
    mismatch = TypeMismatch(path, text, (path,), at_key=True)
    here = {other: value for other, value in _at(data, home).items() if other != key}
    return mismatch, _replaced(data, home, here)


def _with_placeholder(data: Any, path: Path_, info: inspect.Type) -> Any:
    """Return *data* with a placeholder at *path*, or without this key if it has a default."""
    parent = _at(data, path[:-1]) if path else None
    if isinstance(parent, dict) and _is_optional(info, path, data):
        return _replaced(data, path[:-1], {k: v for k, v in parent.items() if k != path[-1]})
    return _replaced(data, path, next(map(_placeholder, _types_at(info, path, data)), None))


def _is_optional(info: inspect.Type, path: Path_, data: Any) -> bool:
    """True if the mapping that contains *path* may omit it."""
    structs = list(_structs_at(info, path[:-1], data))
    return all(not f.required for s in structs for f in s.fields if f.encode_name == path[-1])


def _placeholder(kind: inspect.Type) -> Any:
    """Return any valid value of *kind*."""
    made: Any = None
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            made = schema["examples"][0] if schema and "examples" in schema else _placeholder(inner)
        case inspect.UnionType(types=[first, *_]):
            made = _placeholder(first)
        case inspect.LiteralType(values=values):
            made = values[0]
        case inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
            made = {f.encode_name: _placeholder(f.type) for f in fields if f.required}
            made |= {tag_field: tag} if tag_field else {}
        case inspect.ListType(item_type=item, min_length=length):
            made = [_placeholder(item)] * (length or 0)
        case inspect.TupleType(item_types=items):
            made = [_placeholder(item) for item in items]
        case inspect.DictType():
            made = {}
        case inspect.StrType():
            made = "x"
        case inspect.BoolType():
            made = False
        case inspect.IntType(ge=least) | inspect.FloatType(ge=least):
            made = least if least is not None else 1
    return made


# -- parsing of msgspec's error texts ------------------------------------------------------------


def _split_path(text: str) -> tuple[str, Path_]:
    """Split msgspec's 'message - at `$.a[0].b`' into (message, ('a', 0, 'b'))."""
    message, where = text, ""
    of_key = _OF_KEY.fullmatch(text)
    if of_key:
        return of_key[1], (*_steps(of_key[2]), "...")
    found = re.fullmatch(r"(.*?) - at `(\$[^`]*)`", text, re.DOTALL)
    # After "unknown field" the pattern may have matched inside the name of the key.
    if found and not re.search("unknown field `.*(?<!`)$", found[1], re.DOTALL):
        message, where = found[1], found[2]
    return message, _steps(where)


def _steps(where: str) -> Path_:
    """Parse msgspec's '$.a[0].b' as ('a', 0, 'b')."""
    steps = re.findall(r"\.([^.\[\]`]+)|\[(\d+|\.\.\.)\]", where)
    return tuple(name or (int(index) if index != "..." else index) for name, index in steps)


def _located(path: Path_, text: str, data: Any, kind: Any) -> Path_:
    """Replace each "..." of msgspec in *path* by the key that gives the same error when alone."""
    for place, step in enumerate(path):
        if step != "...":
            continue
        here = path[:place]
        for key, value in _at(data, here).items():
            try:
                msgspec.convert(_replaced(data, here, {key: value}), kind, strict=True)
            except msgspec.ValidationError as error:
                if str(error) == text:
                    path = (*here, key, *path[place + 1 :])
                    break
    return path


def _wanted(message: str, path: Path_, data: Any, info: inspect.Type) -> str:
    """Return what is allowed at *path*: the type's choices, its description, or msgspec's text."""
    types = list(_types_at(info, path, data))
    choices = _choices(types)
    if choices and re.match("Invalid|Expected `.*str", message):
        mapping = any(isinstance(each, inspect.StructType | inspect.DictType) for each in types)
        text = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        return text + " or a mapping" * mapping + did_you_mean(_at(data, path), choices)
    words = _description(types)
    if words and ", got " not in message:
        examples = [word for each in types for word in _schema_of(each).get("examples", ())]
        return words + did_you_mean(_at(data, path), examples)
    if message == "Number out of range":
        return "a number that fits 64 bits"
    text = re.sub(r", got `.*`$", "", message.removeprefix("Expected "), flags=re.DOTALL)
    text = _plain_words(text.replace("`", ""))
    return re.sub(r"(number)( [<>]=? \S+)?\b", rf"\1{_bounds(types)}", text, count=1)


def _bounds(types: Iterable[inspect.Type]) -> str:
    """Return all bounds of the number among *types*, for example ' >= 1, <= 65535'."""
    for each in types:
        if isinstance(each, inspect.IntType | inspect.FloatType):
            signs = ((">", each.gt), (">=", each.ge), ("<", each.lt), ("<=", each.le))
            text = ", ".join(f"{sign} {limit}" for sign, limit in signs if limit is not None)
            return f" {text}" if text else ""
    return ""


def _allowed(info: inspect.Type, path: Path_, data: Any) -> str:
    choices = _choices(list(_types_at(info, path, data)))
    return f", must be one of {', '.join(choices)}" if choices else ""


def _plain_words(text: str) -> str:
    """Replace msgspec's names of types by words for operators."""
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


# -- inspection of the types ---------------------------------------------------------------------


def _types_at(kind: inspect.Type, path: Path_, data: Any) -> Iterator[inspect.Type]:
    """Yield all types that a value at *path* of *data* may have; a union yields its members."""
    if isinstance(kind, inspect.UnionType):
        for each in _possible(kind.types, data):
            yield from _types_at(each, path, data)
    elif isinstance(kind, inspect.Metadata):
        if not path:
            yield kind
        yield from _types_at(kind.type, path, data)
    elif not path:
        yield kind
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            if field.encode_name == path[0]:
                yield from _types_at(field.type, path[1:], _child(data, path[0]))
        if kind.tag_field == path[0] and kind.tag is not None:
            yield inspect.LiteralType((str(kind.tag),))
    elif isinstance(kind, inspect.DictType):
        yield from _types_at(kind.value_type, path[1:], _child(data, path[0]))
    elif isinstance(kind, inspect.ListType):
        yield from _types_at(kind.item_type, path[1:], _child(data, path[0]))
    elif isinstance(kind, inspect.TupleType) and isinstance(path[0], int):
        for item in kind.item_types[path[0] : path[0] + 1]:
            yield from _types_at(item, path[1:], _child(data, path[0]))


def _possible(types: Iterable[inspect.Type], data: Any) -> list[inspect.Type]:
    """Return the member of a union whose tag *data* has, or all members if it has no known tag."""
    structs = [each for each in types if isinstance(each, inspect.StructType)]
    chosen = [s for s in structs if s.tag_field and s.tag == _child(data, s.tag_field)]
    return [*chosen] or [*types]


def _structs_at(info: inspect.Type, path: Path_, data: Any) -> Iterator[inspect.StructType]:
    return (each for each in _types_at(info, path, data) if isinstance(each, inspect.StructType))


def _is_tag(info: inspect.Type, path: Path_, data: Any) -> bool:
    structs = _structs_at(info, path[:-1], data)
    return bool(path) and any(struct.tag_field == path[-1] for struct in structs)


def _homes(kind: inspect.Type, key: str, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the paths of all sections with a key *key*, except those within lists and mappings."""
    for struct in _structs_at(kind, (), None):
        if any(field.encode_name == key for field in struct.fields) and path:
            yield path
        for field in struct.fields:
            yield from _homes(field.type, key, (*path, field.encode_name))


def _choices(types: Iterable[inspect.Type]) -> list[str]:
    """Return the values of all literal types among *types*."""
    words = [v for each in types if isinstance(each, inspect.LiteralType) for v in each.values]
    return [str(word) for word in words]


def _schema_of(kind: inspect.Type) -> dict[str, Any]:
    """Return the description and examples that a type has for operators and editors."""
    return (kind.extra_json_schema or {}) if isinstance(kind, inspect.Metadata) else {}


def _description(types: Iterable[inspect.Type]) -> str | None:
    found = (_schema_of(each).get("description") for each in types)
    return next((words for words in found if words is not None), None)


def _child(data: Any, step: str | int) -> Any:
    try:
        return data[step]
    except (KeyError, IndexError, TypeError):
        return None


def _at(data: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        data = data[step]
    return data


def _replaced(data: Any, path: Path_, value: Any) -> Any:
    """Return a copy of *data* with *value* at *path*."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = _replaced(data[path[0]], path[1:], value) if path[1:] else value
    return copy
