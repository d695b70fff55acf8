"""The MQTT broker between the nodes: started, checked and stopped by us."""

from __future__ import annotations

from .cluster import RunningCluster, start_cluster
from .health import check_broker, check_link
from .running import RunningBroker, start_broker
from .security import Access, Identity, Security, fleet_access

__all__ = [
    "Access",
    "Identity",
    "RunningBroker",
    "RunningCluster",
    "Security",
    "check_broker",
    "check_link",
    "fleet_access",
    "start_broker",
    "start_cluster",
]
