"""Copies and fingerprints of agents, so that a search can branch at any event.

Both walk the object graph of an agent in the same way. Values that never change are shared: numbers,
texts, bytes, frozen structs, enums, and the setup of the node. Everything else is copied. An object
that cannot be copied faithfully, such as a function that an agent keeps, raises TypeError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import msgspec
import numpy as np

from cipherfleet_node.core.events import Setup

ATOMS = (int, float, str, bytes, bool, type(None), Enum, Setup, msgspec.Struct)
SEQUENCES: dict[type, Callable[[Iterable[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}


def is_atom(value: object) -> bool:
    """True if *value* never changes, so that copies may share it."""
    if isinstance(value, msgspec.Struct) and not type(value).__struct_config__.frozen:
        return False
    # An integer of gmpy2 has no __dict__ and is immutable.
    return isinstance(value, ATOMS) or type(value).__name__ == "mpz"


def attributes(value: object) -> dict[str, Any]:
    """Return the attributes of a plain object; raises TypeError if it is none."""
    if callable(value) or not hasattr(value, "__dict__"):
        raise TypeError(f"an agent holds a {type(value).__name__}, which cannot be copied")
    return vars(value)


def clone(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Return a copy of *value* that shares nothing with it that can change."""
    done = {} if done is None else done
    if is_atom(value):
        return value
    if id(value) not in done:
        done[id(value)] = _clone_container(value, done)
    return done[id(value)]


def _clone_container(value: Any, done: dict[int, Any]) -> Any:
    if type(value) in SEQUENCES:
        return SEQUENCES[type(value)](clone(item, done) for item in value)
    if type(value) is deque:
        return deque((clone(item, done) for item in value), value.maxlen)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        copied = value.copy()
        copied.update((key, clone(item, done)) for key, item in value.items())
        return copied
    result = done[id(value)] = object.__new__(type(value))
    for name, item in attributes(value).items():
        object.__setattr__(result, name, clone(item, done))
    return result


def fingerprint(value: Any) -> Any:
    """Return a hashable value that is equal for equal contents; times are compared as they are."""
    if isinstance(value, Setup):
        return value.node
    if isinstance(value, msgspec.Struct):
        return msgspec.msgpack.encode(value)
    if is_atom(value):
        return value
    if isinstance(value, dict):
        return frozenset((key, fingerprint(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(fingerprint(item) for item in value)
    if isinstance(value, list | tuple | deque):
        return tuple(fingerprint(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return tuple((name, fingerprint(item)) for name, item in attributes(value).items())
