"""Numbers in what devices send: a plain number, or a place in a JSON document.

A place is a path: keys joined by dots (`AM2301.Temperature`), or a list of keys if a key contains a
dot. In a list of JSON a whole number counts the items from 0 on (`sensors.0.value`).
All functions raise PayloadError. Its text never contains the payload, which may be a reading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cipherfleet_node.errors import SensorUnavailable

from .base import join_names

MAX_PAYLOAD_BYTES = 64 * 1024
Path_ = str | Sequence[str | int]
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*")


class PayloadError(SensorUnavailable):
    """A payload without the number that is sought, as the end of a sentence about its source."""


def read_plain(payload: bytes) -> float:
    """Return the number that is all of *payload*, for example that of b" 21.50"."""
    text = payload[: _LONGEST_NUMBER + 1].decode("ascii", "replace").strip()
    if len(payload) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise PayloadError(f"sent {len(payload)} bytes that are not one number")
    return _finite(float(text), "the message")


def read_json(payload: bytes) -> Any:
    """Return the JSON document in *payload*."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"sent more than {MAX_PAYLOAD_BYTES} bytes")
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PayloadError(f"sent {len(payload)} bytes that are not JSON") from None


def number_at(document: Any, path: Path_) -> float:
    """Return the number at *path* of a JSON *document*."""
    value, place = value_at(document, path), describe(path)
    if type(value) not in (int, float):  # isinstance would accept true as an int
        raise PayloadError(f"sent JSON in which {place} is {_KINDS[type(value)]}, not a number")
    try:
        return _finite(float(value), place)
    except OverflowError:
        raise PayloadError(f"sent JSON in which {place} is too large") from None


def value_at(document: Any, path: Path_) -> Any:
    """Return the value at *path* of a JSON *document*."""
    value = document
    for step in steps(path):
        value = _child(value, step, describe(path))
    return value


def steps(path: Path_) -> Sequence[str | int]:
    """Return the keys of *path*."""
    return path.split(".") if isinstance(path, str) else path


def describe(path: Path_) -> str:
    """Return *path* for messages."""
    return repr(path if isinstance(path, str) else ".".join(map(str, path)))


_KINDS: Mapping[type, str] = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null",
}  # fmt: skip


def _child(value: Any, step: str | int, place: str) -> Any:
    if isinstance(value, dict):
        if str(step) in value:
            return value[str(step)]
        # A name that begins like a number could be a reading, and is not shown.
        known = join_names(sorted(name for name in value if _NAME.fullmatch(name)))
        raise PayloadError(f"sent JSON without {place}: there is no {str(step)!r}, but {known}")
    if isinstance(value, list) and str(step).isdecimal() and len(str(step)) < _LONGEST_NUMBER:
        if int(step) < len(value):
            return value[int(step)]
        raise PayloadError(f"sent JSON without {place}: a list has {len(value)} items only")
    raise PayloadError(f"sent JSON without {place}: nothing has a key {str(step)!r} there")


def _finite(number: float, place: str) -> float:
    if not math.isfinite(number):
        raise PayloadError(f"sent a number that is too large, at {place}")
    return number
