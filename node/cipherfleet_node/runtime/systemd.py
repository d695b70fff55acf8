"""The service manager's notification protocol (sd_notify), without a library.

Source: systemd's sd_notify(3): datagrams of KEY=VALUE lines to $NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket


class ServiceManager:
    """Tells systemd how we are, if it asked to be told."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        interval_us = os.environ.pop("WATCHDOG_USEC", "")
        # Half of the interval is what the manual advises.
        self.watchdog_s = int(interval_us) / 2e6 if interval_us.isdigit() else None

    def ready(self) -> None:
        """Start-up is complete."""
        self._send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; never a private value."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.connect(address)
                channel.sendall(text.encode())
            except OSError:
                pass  # the manager has gone: nothing that a node could mend
