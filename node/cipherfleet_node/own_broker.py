"""An MQTT broker of the owner's own, and not the fleet's: its certificates and its password.

The output `mqtt` publishes the answer there, and the sensor `mqtt` reads there. At the broker of
the fleet, its operator and all members could read what they must not learn.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cipherfleet_node.errors import CipherfleetError


class BrokerNotUsable(CipherfleetError):
    """A broker that is the fleet's or that cannot be looked up, or a file that cannot be read."""


class Access(Protocol):
    """The settings of a connection. The files are relative to the node's folder."""

    @property
    def tls(self) -> bool:
        """True: with the authorities of the system, unless *ca* names others."""

    @property
    def ca(self) -> str | None:
        """The file with the authorities."""

    @property
    def certificate(self) -> str | None:
        """The file with the client's certificate."""

    @property
    def key(self) -> str | None:
        """The file with the client's private key."""

    @property
    def user(self) -> str | None:
        """The name of the user."""

    @property
    def password_file(self) -> str | None:
        """The file whose first line is the password."""


def refuse_same_broker(where: tuple[str, int], fleet_broker: tuple[str, int], what: str) -> None:
    """Raise BrokerNotUsable if both are one broker, or if a name cannot be looked up to know it.

    *what* would be read by the operator of the fleet's broker.
    """
    (host, port), (other, other_port) = where, fleet_broker
    if port != other_port:
        return
    if _addresses(host) & _addresses(other):
        raise BrokerNotUsable(
            f"{host}:{port} is the broker of the fleet, whose operator would read {what}",
            remedy="name a broker of your own",
        )


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        raise BrokerNotUsable(f"the address of {host!r} is not known now") from None


def secure(client: paho.Client, settings: Access, folder: Path) -> None:
    """Set the certificates and the password of *settings*; raises BrokerNotUsable for a file."""
    try:
        if settings.tls:
            client.tls_set_context(_context(settings, folder))
        if settings.user is not None:
            client.username_pw_set(settings.user, _password(settings, folder))
    except ssl.SSLError as error:
        raise BrokerNotUsable(f"OpenSSL refuses a file: {error.reason}") from None
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "is not a text"
        names = [settings.ca, settings.certificate, settings.key, settings.password_file]
        files = ", ".join(name for name in names if name is not None)
        raise BrokerNotUsable(f"one of {files} cannot be read: {problem}") from None


def follow_connection(
    client: paho.Client,
    opened: Callable[[], None],
    failed: Callable[[str], None],
    ended: Callable[[str], None],
) -> None:
    """Call *opened* when the broker has accepted *client*, in paho's thread.

    Otherwise *failed* or *ended* gets what the broker does, as the end of a sentence. After a
    refusal paho reports the end of the connection as well.
    """

    def connected(
        _client: paho.Client,
        _userdata: Any,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            failed(f"refuses this node: {reason}")
        else:
            opened()

    def disconnected(
        _client: paho.Client,
        _userdata: Any,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            ended("has ended the connection")

    client.on_connect = connected
    client.on_connect_fail = lambda _client, _userdata: failed("cannot be reached")
    client.on_disconnect = disconnected


def _context(settings: Access, folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / settings.ca if settings.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None and settings.key is not None:
        context.load_cert_chain(folder / settings.certificate, folder / settings.key)
    return context


def _password(settings: Access, folder: Path) -> str | None:
    if settings.password_file is None:
        return None
    return (folder / settings.password_file).read_text(encoding="utf-8").partition("\n")[0]
