"""A serial device without hardware: one end of a pseudo-terminal is the port that a node opens."""

from __future__ import annotations

import os
import tty
from pathlib import Path


class PseudoTerminal:
    """A serial device that can be unplugged and plugged in. *port* is a link, as in /dev/serial."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self._ends: tuple[int, int] | None = None  # of the device, and of the port

    def plug_in(self) -> int:
        """Connect the device; return its end. The port stays open: without it reads would fail."""
        self._ends = os.openpty()
        tty.setraw(self._ends[1])
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._ends[1]))
        return self._ends[0]

    def unplug(self) -> None:
        """Disconnect the device: a program that has the port open gets an error."""
        self.port.unlink(missing_ok=True)
        for end in self._ends or ():
            os.close(end)
        self._ends = None

    def send(self, data: bytes) -> None:
        """Send *data* from the device."""
        assert self._ends is not None
        os.write(self._ends[0], data)
