"""The MQTT broker between the nodes: started, checked and stopped by us."""

from __future__ import annotations

from .health import check_broker
from .running import RunningBroker, start_broker

__all__ = ["RunningBroker", "check_broker", "start_broker"]
