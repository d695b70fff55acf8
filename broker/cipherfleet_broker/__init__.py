"""Start, check and stop the MQTT broker that connects the nodes.

`start_broker` starts one broker or checks an external one; `start_cluster` starts several linked
brokers. `check_broker` and `check_link` test running brokers. `Security` holds the certificates
and the access rules.
"""

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
