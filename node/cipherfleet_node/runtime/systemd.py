"""Notifications to systemd (sd_notify), without a library.

Source: systemd's sd_notify(3): datagrams of KEY=VALUE lines to $NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
import threading
import time

SEND_WITHIN_S = 0.2  # systemd takes a message at once; one that hangs must not stop a node


class ServiceManager:
    """Send notifications to systemd; without NOTIFY_SOCKET nothing is sent.

    The variables are removed from the environment, so that child processes do not inherit them.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        interval_us = os.environ.pop("WATCHDOG_USEC", "")
        # The manual advises half of the interval.
        self.watchdog_s = int(interval_us) / 2e6 if interval_us.isdigit() else None

    def ready(self) -> None:
        """Report that the start is complete."""
        self._send("READY=1")

    def alive(self) -> None:
        """Reset the watchdog timer of the service."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows. It must contain no private value."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Report that the shutdown has begun."""
        self._send("STOPPING=1")

    def pause(self, seconds: float, stopping: threading.Event) -> None:
        """Stay idle before the service ends, so that systemd starts it again only then.

        systemd has one RestartSec for all exit codes. Without a service manager this returns at
        once.
        """
        if not self._address:
            return
        self.status(f"another device has this identity: the next start is in {seconds:g} s")
        beat_s = self.watchdog_s or seconds
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stopping.wait(min(beat_s, left)):
            self.alive()

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(SEND_WITHIN_S)
            try:
                channel.connect(address)
                channel.sendall(text.encode())
            except OSError:
                pass  # systemd does not listen, or its queue is full; a node cannot change this
