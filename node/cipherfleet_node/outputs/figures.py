"""What the output `metrics` shows of a node: counts and durations, and nothing of its readings.

The health report is the one that the node signs for its operator. The rest is of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from cipherfleet_node.core.messages import Health


@dataclass(frozen=True)
class Figures:
    """The latest figures; counts begin with the start of the process, except `coupled`."""

    health: Health
    coupled: int  # rounds, over all starts
    reconnects: int  # connections with the fleet's broker after the first
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    read_at: float | None  # monotonic seconds of the newest reading; None: there is none yet
    resident_mib: float | None
