"""The events of a daemon in their order; waiting messages are bounded in bytes.

The MQTT thread puts messages in as fast as they arrive, while the loop takes a few hundred in a
second. A message is dropped if its topic would then hold more bytes than the queue still has free
(the dynamic threshold of shared-memory switches, Choudhury and Hahne 1998). One topic thus gets at
most half of the queue. While the queue moves, k flooded topics come to 1 / (k + 1) of it each, and
as much stays free for all other topics. A dropped message is no loss to the protocol: the rounds
send it again.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter

from .mqtt import Arrived

MAX_QUEUED_BYTES = 8 * 1024 * 1024
# What a message takes beside topic and payload: less than 300 bytes on a 64-bit machine. It also
# bounds the number of short messages, to 16,000 in all.
OVERHEAD_BYTES = 384


class EventQueue:
    """A first-in, first-out queue for several threads. Only messages are ever dropped."""

    def __init__(self, limit_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._free = limit_bytes
        self._waiting: Counter[str] = Counter()  # bytes by topic

    def put(self, event: object) -> bool:
        """Add *event*; return False if it is a message for which its topic has no room."""
        if isinstance(event, Arrived) and not self._reserve(event):
            return False
        self._events.put(event)
        return True

    def get(self, timeout: float) -> object:
        """Remove and return the oldest event; raises queue.Empty after *timeout* seconds."""
        event = self._events.get(timeout=timeout)
        if isinstance(event, Arrived):
            self._release(event)
        return event

    @property
    def is_empty(self) -> bool:
        """True if no event is waiting."""
        return self._events.empty()

    def _reserve(self, message: Arrived) -> bool:
        size = size_of(message)
        with self._lock:
            if self._waiting[message.topic] + size > self._free:
                return False
            self._waiting[message.topic] += size
            self._free -= size
            return True

    def _release(self, message: Arrived) -> None:
        size = size_of(message)
        with self._lock:
            self._free += size
            self._waiting[message.topic] -= size
            if not self._waiting[message.topic]:
                del self._waiting[message.topic]


def size_of(message: Arrived) -> int:
    """Return the bytes for which *message* counts in the queue."""
    # The length of a text in memory is up to four times the number of its characters.
    return OVERHEAD_BYTES + sys.getsizeof(message.topic) + sys.getsizeof(message.payload)
