"""The JSON Schema of fleet.yaml, made of the same types that check it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from .file import FleetFile

SCHEMA_FILE = Path(__file__).parent / "fleet.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def fleet_schema() -> dict[str, Any]:
    """The shape of fleet.yaml (JSON Schema 2020-12): keys, types, ranges and fixed words.

    What depends on several values, or on files beside it, is `load_fleet`'s to find.
    """
    (top,), parts = msgspec.json.schema_components([FleetFile], ref_template="#/$defs/{name}")
    return {"$schema": DIALECT, "title": "cipherfleet fleet.yaml", **top, "$defs": parts}


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(fleet_schema(), indent=1) + "\n"


def write_schema() -> None:
    """Bring the committed file up to date: `python -m cipherfleet_provisioning.fleet.schema`."""
    SCHEMA_FILE.write_text(schema_text())


if __name__ == "__main__":
    write_schema()
