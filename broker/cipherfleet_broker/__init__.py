"""The MQTT broker between the nodes: started, checked and stopped by us."""

from __future__ import annotations

from .health import check_broker
from .running import RunningBroker, start_broker
from .security import Access, Identity, Security, fleet_access

__all__ = [
    "Access",
    "Identity",
    "RunningBroker",
    "Security",
    "check_broker",
    "fleet_access",
    "start_broker",
]
