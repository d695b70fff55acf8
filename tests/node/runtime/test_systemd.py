"""The protocol of the service manager, against a real socket."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cipherfleet_node.runtime.systemd import ServiceManager


@pytest.fixture(params=["in a folder", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The service manager's end; $NOTIFY_SOCKET names it as systemd would."""
    name = f"cipherfleet-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "abstract":
            listening.bind(f"\0{name}")
            monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        else:
            listening.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        listening.settimeout(60.0)
        yield listening


def test_every_word_arrives_as_a_datagram_of_its_own(manager: socket.socket) -> None:
    service = ServiceManager()
    service.ready()
    service.alive()
    service.status("collecting, round 7")
    service.stopping()
    heard = [manager.recv(200) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1", b"STATUS=collecting, round 7", b"STOPPING=1"]


def test_children_do_not_inherit_the_address(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    ServiceManager()
    assert "NOTIFY_SOCKET" not in os.environ
    assert "WATCHDOG_USEC" not in os.environ
    assert manager


def test_a_manager_that_has_gone_is_no_error(manager: socket.socket) -> None:
    service = ServiceManager()
    manager.close()
    service.ready()
    service.alive()


def test_a_manager_that_reads_nothing_stops_no_node(manager: socket.socket) -> None:
    del manager  # its queue holds some messages and then no more
    service, beats = ServiceManager(), int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(beats + 3):
        service.alive()


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = ServiceManager()
    service.ready()
    service.stopping()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("20000000", 10.0), ("1", 5e-7), ("", None), ("soon", None), ("-5", None), (None, None)],
)
def test_the_watchdog_is_fed_at_half_its_interval(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: float | None
) -> None:
    if given is None:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_USEC", given)
    assert ServiceManager().watchdog_s == expected


def test_a_pause_keeps_the_service_alive_until_it_is_over_or_stopped(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    service, stopping = ServiceManager(), threading.Event()
    service.pause(0.1, stopping)
    status = manager.recv(200)
    assert status == b"STATUS=another device has this identity: the next start is in 0.1 s"
    assert manager.recv(200) == b"WATCHDOG=1"
    stopping.set()
    began = time.monotonic()
    service.pause(600.0, stopping)
    assert time.monotonic() - began < 60.0


def test_without_a_manager_there_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    began = time.monotonic()
    ServiceManager().pause(600.0, threading.Event())
    assert time.monotonic() - began < 60.0
