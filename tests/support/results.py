"""A check of what commands print with `--json` against the published schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from cipherfleet_deploy.result_schemas import load_result, make_schema


def check_result(name: str, text: str) -> Any:
    """Return the JSON in *text*. Fail if it is not a result *name*, or has a key of no schema."""
    result = json.loads(text, parse_constant=pytest.fail)
    jsonschema.validate(result, json.loads(make_schema(name)))
    assert json.loads(msgspec.json.encode(msgspec.convert(result, load_result(name)))) == result
    return result
