"""A serial port of Linux with eight data bits and one stop bit, without any handling of characters.

The standard library has all of it: pyserial would add what a sensor does not need.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from cipherfleet_node.settings.sections import Parity

MAX_READ = 4096  # what the kernel keeps of a port that is not read
_PARITY = {"none": 0, "even": termios.PARENB, "odd": termios.PARENB | termios.PARODD}


class SerialPort:
    """An open serial port. All methods raise OSError if the device is not there any more."""

    def __init__(self, device: str, baud: int, parity: Parity) -> None:
        self._port = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Two programs that read one port get a part of each line.
            fcntl.ioctl(self._port, termios.TIOCEXCL)
            _configure(self._port, baud, parity)
        except termios.error as error:
            os.close(self._port)
            raise OSError(*error.args) from None
        except OSError:
            os.close(self._port)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, deadline: float) -> bytes:
        """Return what has come, or wait for it; b"" at the *deadline* (monotonic seconds)."""
        poll = select.poll()
        poll.register(self._port, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(1000 * left):
                break
            with suppress(BlockingIOError):
                data = os.read(self._port, MAX_READ)
                if not data:
                    raise OSError(0, "the device is gone")
                return data
        return b""

    def write(self, data: bytes) -> None:
        """Send *data*, which must fit the kernel's queue; drop what has come before."""
        try:
            termios.tcflush(self._port, termios.TCIFLUSH)
        except termios.error as error:
            raise OSError(*error.args) from None
        if os.write(self._port, data) != len(data):
            raise OSError(0, "the device takes no more data")

    def close(self) -> None:
        """Release the port."""
        with suppress(OSError):
            fcntl.ioctl(self._port, termios.TIOCNXCL)
        os.close(self._port)


def _configure(port: int, baud: int, parity: Parity) -> None:
    """Set the speed and the parity; every byte is delivered as it is, at once."""
    speed = getattr(termios, f"B{baud}")
    iflag = termios.INPCK if parity != "none" else 0  # a byte with a wrong parity becomes 0
    cflag = termios.CS8 | termios.CREAD | termios.CLOCAL | _PARITY[parity]
    no_wait = [b"\0"] * 32
    termios.tcsetattr(port, termios.TCSANOW, [iflag, 0, cflag, 0, speed, speed, no_wait])
