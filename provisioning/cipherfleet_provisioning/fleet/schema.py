"""The JSON Schema of fleet.yaml, generated from the types that check the file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from .file import FleetFile

SCHEMA_FILE = Path(__file__).parent / "fleet.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def fleet_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of fleet.yaml: keys, types, ranges and fixed words.

    It does not cover rules over several values or over other files; `load_fleet` checks these.
    """
    return make_schema(FleetFile, "cipherfleet fleet.yaml")


def make_schema(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of *kind*. It is the same for every version of Python.

    Descriptions are docstrings. From Python 3.13 on, these have no indentation.
    """
    (top,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for part in parts.values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    return {"$schema": DIALECT, "title": title, **top, "$defs": parts}


def schema_text() -> str:
    """Return the schema as text, as the committed file contains it."""
    return json.dumps(fleet_schema(), indent=1) + "\n"


def write_schema() -> None:
    """Update the committed file: `python -m cipherfleet_provisioning.fleet.schema`."""
    SCHEMA_FILE.write_text(schema_text())


if __name__ == "__main__":
    write_schema()
