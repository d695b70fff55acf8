"""The JSON Schema of fleet.yaml, generated from the types that check the file."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from cipherfleet_node.sensors.plugins import options_schemas
from cipherfleet_node.settings.sections import PluginSensor

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


@cache
def schema_text() -> str:
    """Return the schema as text, as the committed file contains it."""
    return json.dumps(fleet_schema(), indent=1) + "\n"


def installed_schema() -> dict[str, Any]:
    """Return the schema with the options of the sensor plug-ins that are installed here.

    The committed file has none of them: it is the same on every machine.
    """
    made = fleet_schema()
    cases = []
    for name, settings in options_schemas().items():
        schema = make_schema(settings, name)
        made["$defs"] |= {f"{name}.{part}": kind for part, kind in schema["$defs"].items()}
        options = {"$ref": f"#/$defs/{name}.{settings.__name__}"}
        cases.append(
            {
                "if": {"properties": {"name": {"const": name}}},
                "then": {"properties": {"options": options}},
            }
        )
    if cases:
        made["$defs"][PluginSensor.__name__]["allOf"] = cases
    return made


def write_schema() -> None:
    """Update the committed file: `python -m cipherfleet_provisioning.fleet.schema`."""
    SCHEMA_FILE.write_text(schema_text())


if __name__ == "__main__":
    write_schema()
