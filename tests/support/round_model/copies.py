"""Copies and fingerprints of agents, so that a search can branch at any event.

Both walk the object graph of an agent in the same way. Values that never change are shared:
numbers, texts, bytes, frozen structs, enums, and the setup of the node. Everything else is copied.
An object that cannot be copied faithfully, such as a function, raises TypeError.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, Literal

import msgspec
import numpy as np
from gmpy2 import mpz

from cipherfleet_node.core.events import Setup

Kind = Literal["atom", "struct", "setup", "dict", "set", "list", "deque", "array", "object"]
ATOMS = (int, float, str, bytes, bool, type(None), Enum, type(mpz()))
KINDS: tuple[tuple[type, Kind], ...] = (
    (Setup, "setup"),
    (dict, "dict"),
    (set, "set"),
    (frozenset, "set"),
    (list, "list"),
    (tuple, "list"),
    (deque, "deque"),
    (np.ndarray, "array"),
)
_known: dict[type, Kind] = {}
SHARED = ("atom", "struct", "setup")


def kind_of(cls: type) -> Kind:
    """Return how values of *cls* are treated; raises TypeError if they cannot be copied."""
    if cls not in _known:
        _known[cls] = _kind_of(cls)
    return _known[cls]


def _kind_of(cls: type) -> Kind:
    if issubclass(cls, ATOMS):
        return "atom"
    if issubclass(cls, msgspec.Struct) and cls.__struct_config__.frozen:
        return "struct"
    kind = next((kind for known, kind in KINDS if issubclass(cls, known)), None)
    if kind is not None:
        return kind
    if "__call__" in dir(cls) or "__dict__" not in dir(cls):
        raise TypeError(f"an agent holds a {cls.__name__}, which cannot be copied")
    return "object"


def clone(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Return a copy of *value* that shares nothing with it that can change."""
    kind = kind_of(type(value))
    if kind in SHARED:
        return value
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = _clone(value, kind, done)
    return done[id(value)]


def _clone(value: Any, kind: Kind, done: dict[int, Any]) -> Any:
    if kind == "dict":
        copied = value.copy()
        for key, item in value.items():
            copied[key] = clone(item, done)
        return copied
    if kind in ("set", "list"):
        return type(value)([clone(item, done) for item in value])
    if kind == "deque":
        return deque([clone(item, done) for item in value], value.maxlen)
    if kind == "array":
        return value.copy()
    result = done[id(value)] = object.__new__(type(value))
    for name, item in vars(value).items():
        result.__dict__[name] = clone(item, done)
    return result


def fingerprint(value: Any) -> Any:
    """Return a hashable value that is equal for equal contents; times are compared as they are."""
    kind = kind_of(type(value))
    if kind == "atom":
        return value
    if kind == "struct":
        return msgspec.msgpack.encode(value)
    if kind == "setup":
        return value.node
    if kind == "dict":
        return frozenset([(key, fingerprint(item)) for key, item in value.items()])
    if kind == "set":
        return frozenset([fingerprint(item) for item in value])
    if kind == "array":
        return value.tobytes()
    items = vars(value).values() if kind == "object" else value
    return tuple([fingerprint(item) for item in items])
