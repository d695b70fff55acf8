"""What a daemon's CPU time was used for, since its process began.

The parts add up to the CPU time of the process. The daemon's thread is divided by phase (`Spans`);
`start` is its time before the loop: imports, keys, the self test and the tables. `network` is
paho's thread with MQTT and TLS, `pools` the threads that make obfuscators, `sensor` the sampler.
`other` is what is left: threads that have ended, and threads of libraries.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping

# The beginning of a thread's name, and its part.
THREADS = {"paho-mqtt-client": "network", "pool-": "pools", "sampler": "sensor"}
# Linux's clock of one thread: the complement of its id, shifted, and the bits "per thread" and
# "scheduler". Of an id without a thread it is an error, where pthread_getcpuclockid may crash.
_THREAD_CLOCK = 0b110


def thread_cpu_s(native_id: int) -> float:
    """Return the CPU seconds of a thread of this process; 0 if it has ended."""
    try:
        return time.clock_gettime((~native_id << 3) | _THREAD_CLOCK)
    except OSError:
        return 0.0


def cpu_by_part(phases: Mapping[str, float]) -> dict[str, float]:
    """Return CPU seconds by part; *phases* are those of the daemon's thread, by phase."""
    parts = dict(phases)
    for thread in threading.enumerate():
        for beginning, part in THREADS.items():
            if thread.name.startswith(beginning) and thread.native_id is not None:
                parts[part] = parts.get(part, 0.0) + thread_cpu_s(thread.native_id)
    parts["other"] = max(0.0, time.process_time() - sum(parts.values()))
    return {part: round(seconds, 4) for part, seconds in parts.items()}


class CollectionClock:
    """The CPU time of Python's garbage collection; it is contained in the other parts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def close(self) -> None:
        """Stop the measurement; the figures stay as they are."""
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began
