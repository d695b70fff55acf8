"""Discovery messages for Home Assistant: one entity for each number of an answer.

They are retained. The values stay in the one JSON object of the answer: each entity has a template
that takes its value from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .answer import Answer

PREFIX = "homeassistant"


@dataclass(frozen=True)
class Entity:
    """One entity: *key* has only a-z, 0-9 and _, *path* leads to its value in the answer."""

    component: Literal["sensor", "binary_sensor"]
    key: str
    name: str
    path: str
    unit: str = ""
    device_class: str = ""


def discovery(answer: Answer, topic: str, availability: str) -> dict[str, dict[str, Any]]:
    """Return the messages by their topics; *topic* is that of the answer itself."""
    device = f"cipherfleet_{safe_key(answer.fleet)}_{safe_key(answer.node)}"
    messages, keys = {}, set[str]()
    for entity in _entities(answer):
        key = entity.key
        while key in keys:  # two fields that differ only in characters such as - and _
            key += "_"
        keys.add(key)
        message = _message(entity, f"{device}_{key}", topic, availability)
        message["device"] = {
            "identifiers": [device],
            "name": f"{answer.fleet} {answer.node}",
            "manufacturer": "cipherfleet",
            "model": answer.kind,
        }
        messages[f"{PREFIX}/{entity.component}/{device}/{key}/config"] = message
    return messages


def safe_key(name: str) -> str:
    """Return *name* with a-z, 0-9 and _ only: other characters break templates of readers."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "x"


def _message(entity: Entity, unique: str, topic: str, availability: str) -> dict[str, Any]:
    value = f"value_json.{entity.path}"
    message: dict[str, Any] = {
        "name": entity.name,
        "unique_id": unique,
        "state_topic": topic,
        "availability_topic": availability,
    }
    if entity.component == "binary_sensor":
        message["value_template"] = f"{{{{ 'ON' if {value} else 'OFF' }}}}"
    else:
        message["value_template"] = f"{{{{ {value} }}}}"
        message["state_class"] = "measurement"  # without it there are no statistics
    if entity.unit:
        message["unit_of_measurement"] = entity.unit
    if entity.device_class:
        message["device_class"] = entity.device_class
    return message


def _entities(answer: Answer) -> Iterator[Entity]:
    model = answer.model
    own = "" if answer.link == "logit" else model.units.get(model.target or "", "")
    for field in model.values:
        unit = model.units.get(field, "")
        yield Entity("sensor", safe_key(field), field, f"model.values[{field!r}]", unit)
    if model.intercept is not None:
        yield Entity("sensor", "intercept", "intercept", "model.intercept", own)
    for field in model.coefficients:
        key, path = f"coefficient_{safe_key(field)}", f"model.coefficients[{field!r}]"
        yield Entity("sensor", key, f"coefficient of {field}", path)
    for place, each in enumerate(model.daily):
        for part in ("sin", "cos"):
            name = f"{part} {each.order} of {each.field}"
            yield Entity("sensor", safe_key(name), name, f"model.daily[{place}].{part}", own)
    if model.target is not None:
        yield Entity("sensor", "corrected", f"{model.target} corrected", "corrected", own)
    if answer.alarm is not None:
        yield Entity("sensor", "residual", f"{model.target} residual", "residual", own)
        yield Entity("binary_sensor", "alarm", "alarm", "alarm", device_class="problem")
    if answer.fleet_residual is not None:
        name = f"{model.target} residual of the fleet"
        yield Entity("sensor", "fleet_residual", name, "fleet_residual", own)
    if answer.drift_alarm is not None:
        yield Entity("sensor", "drift", f"{model.target} drift", "drift", own)
        yield Entity("binary_sensor", "drift_alarm", "drift", "drift_alarm", device_class="problem")
    yield Entity("binary_sensor", "settled", "settled", "settled")
