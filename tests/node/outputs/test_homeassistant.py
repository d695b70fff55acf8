"""Discovery messages as the models of ha-mqtt-discoverable see them.

The models ignore keys that they do not know. So each key must also be one of theirs, or one of the
topics that Home Assistant documents for every entity.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from ha_mqtt_discoverable import DeviceInfo, EntityInfo
from ha_mqtt_discoverable.sensors import BinarySensorInfo, SensorInfo
from pydantic import ValidationError

from cipherfleet_node.outputs.answer import Answer, Model
from cipherfleet_node.outputs.homeassistant import discovery

from .test_command import FULL

MODELS: dict[str, type[EntityInfo]] = {"sensor": SensorInfo, "binary_sensor": BinarySensorInfo}
# Of every MQTT entity; the library writes those that it has itself outside its models.
TOPICS = {"state_topic", "availability_topic", "value_template"}
STATE_CLASSES = {"measurement", "total", "total_increasing"}
AVERAGED = msgspec.structs.replace(
    FULL,
    kind="mean",
    model=Model(values={"t-1": 20.5, "t 2": 3.0}, units={"t-1": "°C"}),
    corrected=None,
    residual=None,
    z=None,
    alarm=None,
)
DRIFTED = msgspec.structs.replace(
    FULL, kind="least_squares", fleet_residual=0.2, drift=1.5, drift_z=5.5, drift_alarm=True
)
CLASSIFIED = msgspec.structs.replace(FULL, kind="logistic", link="logit")


def accepted(topic: str, message: dict[str, Any]) -> EntityInfo:
    """Return *message* as the model of its component; the message must have no unknown key."""
    prefix, component, _, _, last = topic.split("/")
    assert (prefix, last) == ("homeassistant", "config")
    model = MODELS[component]
    assert message.keys() <= {*model.model_fields, *TOPICS}
    assert message["device"].keys() <= {*DeviceInfo.model_fields}
    return model.model_validate(message, strict=True)


@pytest.mark.parametrize(
    "answer", [FULL, AVERAGED, CLASSIFIED, DRIFTED], ids=lambda each: each.kind
)
def test_the_models_accept_every_discovery_message(answer: Answer) -> None:
    messages = discovery(answer, "home/trial/n1", "home/trial/n1/availability")
    for topic, message in messages.items():
        # through JSON, as Home Assistant gets it
        entity = accepted(topic, msgspec.json.decode(msgspec.json.encode(message)))
        assert entity.component == topic.split("/")[1]
        assert entity.unique_id
        assert entity.device is not None
        if isinstance(entity, SensorInfo):
            assert entity.state_class in STATE_CLASSES
            assert entity.value_template
    alarms = [answer.alarm, answer.drift_alarm]
    binary = [each for topic, each in messages.items() if "binary_sensor" in topic]
    assert len(binary) == 1 + sum(alarm is not None for alarm in alarms)
    problems = [each for each in binary if each.get("device_class") == "problem"]
    assert len(problems) == len(binary) - 1  # all but `settled`


def test_the_models_refuse_a_message_that_is_wrong() -> None:
    topic, message = next(iter(discovery(FULL, "t", "a").items()))
    nameless = {key: value for key, value in message.items() if key != "name"}
    with pytest.raises(ValidationError, match="name"):
        accepted(topic, nameless)
    anonymous = {key: value for key, value in message.items() if key != "unique_id"}
    with pytest.raises(ValidationError, match="unique_id"):
        accepted(topic, anonymous)
    with pytest.raises(AssertionError):
        accepted(topic, {**message, "unit": "m"})
