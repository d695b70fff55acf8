"""A fleet's certificates: its own authority, one for the broker, one for every client.

The authority's key stays with the operator: whoever has it can be any node and the broker. Keys are
Ed25519, as the nodes' identities are. Times are arguments; a certificate begins a day early, for
boards without a clock of their own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cipherfleet_broker.security import HEALTH, OPERATOR, Identity, Security, fleet_access
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys import read_private, write_private
from cipherfleet_node.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER

from .fleet import Fleet

AUTHORITY, BROKER = "ca", "broker"  # names of files
HERE = ("localhost", "127.0.0.1")
BACKDATED = timedelta(days=1)
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 730
# What stands in access rules: no wildcard of MQTT (+ #) or of NATS (* >), no separator.
CLIENT_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"


@dataclass(frozen=True, repr=False)
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Ed25519PrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate, as everybody may see it."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, certificate: Path, key: Path) -> Identity:
        """Write both files, the key 0600."""
        certificate.write_bytes(self.pem)
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(key, self.key.private_bytes(*form))
        return Identity(certificate, key)


def make_authority(fleet: str, now: datetime, days: int = AUTHORITY_DAYS) -> Certified:
    """A new authority, which certifies clients and brokers of *fleet* and no further authority."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cipherfleet"),
            x509.NameAttribute(NameOID.COMMON_NAME, fleet),
        ]
    )
    builder = _builder(name, key, now, now + timedelta(days=days)).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return _signed(builder, key, Certified(_unsigned(name, key, now, days), key), signs=True)


def issue_broker(
    authority: Certified, hosts: Sequence[str], now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """For the broker at *hosts*, names or addresses, and on the machine itself."""
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    return _issue(authority, BROKER, ExtendedKeyUsageOID.SERVER_AUTH, now, days, names)


def issue_client(
    authority: Certified, name: str, now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """For the node, or other client, called *name*. Raises ConfigError for a name that could
    mean more than itself in an access rule."""
    if not re.fullmatch(CLIENT_NAME, name):
        raise ConfigError(
            f"no certificate for {name[:80]!r}: a name has at most 63 letters, digits, - and _"
        )
    return _issue(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)
