"""A fleet's certificates: its own authority, one for each broker and one for every client.

The authority's key stays with the operator, because its owner can impersonate every node and the
broker. Keys are Ed25519, like the nodes' identity keys. Times are arguments. A certificate is valid
from one day before it is made, for boards without a battery-backed clock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cipherfleet_broker.security import (
    HEALTH,
    LINK,
    WATCHER,
    Identity,
    Security,
    fleet_access,
)
from cipherfleet_node.core.messages import OPERATOR
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import read_signing_key, write_private
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER
from cipherfleet_provisioning.fleet.fleet import Fleet

RESTORE = "restore it from a backup: it cannot be made again"
AUTHORITY, BROKER, WATCHER_STEM = "ca", "broker", "watcher"  # names of files
HERE = ("localhost", "127.0.0.1")
BACKDATED = timedelta(days=1)
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 730
# A name becomes a part of access rules: no wildcard of MQTT (+ #) or NATS (* >), no separator.
CLIENT_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"


@dataclass(frozen=True, repr=False)
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Ed25519PrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate in PEM; it is public."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, certificate: Path, key: Path) -> Identity:
        """Write the certificate and the key, the key with mode 0600."""
        certificate.write_bytes(self.pem)
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(key, self.key.private_bytes(*form))
        return Identity(certificate, key)


def make_authority(fleet: str, now: datetime, days: int = AUTHORITY_DAYS) -> Certified:
    """Make an authority that certifies clients and brokers of *fleet*, and no other authority."""
    constraint = x509.BasicConstraints(ca=True, path_length=0)
    usage = _key_usage(signs_certificates=True)
    subject = _name({NameOID.ORGANIZATION_NAME: "cipherfleet", NameOID.COMMON_NAME: fleet})
    return _make_certified(subject, None, now, days, [constraint, usage])


def issue_broker(
    authority: Certified, hosts: Sequence[str], now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """Issue a certificate for the broker at *hosts*, which are names or addresses.

    It is also valid for localhost, for clients on the broker's machine.
    """
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    return _issue(authority, BROKER, purposes, now, days, [_alternative_names(hosts)])


def issue_link(
    authority: Certified, hosts: Sequence[str], now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """Issue a certificate for the links between the broker at *hosts* and the rest of its cluster.

    It is valid for both ends of a link.
    """
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, LINK, purposes, now, days, [_alternative_names(hosts)])


def issue_client(
    authority: Certified, name: str, now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """Issue a certificate for the client *name*, a node or another client.

    Raises ConfigError for a name that an access rule could read as a wildcard or as several levels.
    """
    _check_client(name)
    return _issue(authority, name, [ExtendedKeyUsageOID.CLIENT_AUTH], now, days)


def certify_client(
    authority: Certified,
    name: str,
    key: Ed25519PublicKey,
    now: datetime,
    days: int = CERTIFICATE_DAYS,
) -> bytes:
    """Return a certificate in PEM for *name*, whose private key stays on its device.

    Raises ConfigError for a name that is not allowed.
    """
    _check_client(name)
    extensions = _leaf_extensions([ExtendedKeyUsageOID.CLIENT_AUTH])
    subject = _name({NameOID.COMMON_NAME: name})
    return _sign_certificate(subject, key, authority, now, days, extensions).public_bytes(
        Encoding.PEM
    )


def certified_key(pem: str) -> Ed25519PublicKey:
    """Return the public key of the certificate *pem*, which this module has issued."""
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    assert isinstance(key, Ed25519PublicKey)
    return key


def requested_key(request: bytes, name: str) -> Ed25519PublicKey:
    """Return the key in a certificate request (PKCS 10, DER).

    Raises ValueError, which names the fault, for a request that is not acceptable.
    """
    wanted = x509.load_der_x509_csr(request)
    key = wanted.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not for an Ed25519 key")
    if not wanted.is_signature_valid:
        raise ValueError("is not signed with its key")
    if [str(part.value) for part in wanted.subject] != [name]:
        raise ValueError("is for another name")
    return key


# -- folders ------------------------------------------------------------------------------------


def write_authority(folder: Path, authority: Certified) -> None:
    """Write the authority's certificate and key into *folder*, which only the operator reads."""
    authority.write(folder / CA_FILE, folder / f"{AUTHORITY}.key")


def read_authority(folder: Path) -> Certified:
    """Read what `write_authority` wrote; raises ConfigError."""
    file, key_file = folder / CA_FILE, folder / f"{AUTHORITY}.key"
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", remedy=RESTORE) from None
    except (ValueError, TypeError):
        raise ConfigError(f"{file}: is not a certificate in PEM", remedy=RESTORE) from None
    key = read_signing_key(key_file, RESTORE)
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_file}: is not the Ed25519 key of {CA_FILE}", remedy=RESTORE)
    return Certified(certificate, key)


def write_client(
    folder: Path, authority: Certified, client: str, now: datetime, days: int = CERTIFICATE_DAYS
) -> Certified:
    """Write the tls folder of *client* into its bundle *folder*; return its new certificate."""
    place = folder / TLS_FOLDER
    place.mkdir(mode=0o700)
    (place / CA_FILE).write_bytes(authority.pem)
    issued = issue_client(authority, client, now, days)
    issued.write(place / CERTIFICATE_FILE, place / KEY_FILE)
    return issued


def secure(
    fleet: Fleet,
    authority: Certified,
    folder: Path,
    now: datetime,
    hosts: Sequence[str] = (),
    *,
    links: bool = False,
) -> Security:
    """Write certificates for the broker and the operator into *folder*, for `start_broker`.

    *hosts* are the names and addresses at which nodes reach the broker. With *links* there is also
    a certificate for the links of a cluster.
    """
    (folder / CA_FILE).write_bytes(authority.pem)
    identities = {
        name: made.write(folder / f"{stem}.pem", folder / f"{stem}.key")
        for name, stem, made in (
            (BROKER, BROKER, issue_broker(authority, hosts, now)),
            (HEALTH, "health", issue_client(authority, HEALTH, now)),
            (OPERATOR, "operator", issue_client(authority, OPERATOR, now)),
            (WATCHER, WATCHER_STEM, issue_client(authority, WATCHER, now)),
        )
    }
    link = None
    if links:
        link = issue_link(authority, hosts, now).write(folder / "link.pem", folder / "link.key")
    graph = fleet.graph
    access = fleet_access(
        fleet.file.fleet, {member.id: graph.neighbours(member.id) for member in fleet.members}
    )
    return Security(folder / CA_FILE, identities[BROKER], identities[HEALTH], access, link=link)


# -- X.509 --------------------------------------------------------------------------------------


def _check_client(name: str) -> None:
    if not re.fullmatch(CLIENT_NAME, name):
        raise ConfigError(
            f"no certificate for {name[:80]!r}: a name is 1 to 63 letters, digits, - and _"
        )


def _issue(
    authority: Certified,
    name: str,
    purposes: Sequence[x509.ObjectIdentifier],
    now: datetime,
    days: int,
    more: Sequence[x509.ExtensionType] = (),
) -> Certified:
    extensions = [*_leaf_extensions(purposes), *more]
    return _make_certified(_name({NameOID.COMMON_NAME: name}), authority, now, days, extensions)


def _leaf_extensions(purposes: Sequence[x509.ObjectIdentifier]) -> list[x509.ExtensionType]:
    # The purpose keeps a node's certificate from passing as the broker's.
    return [
        x509.BasicConstraints(ca=False, path_length=None),
        _key_usage(signs_certificates=False),
        x509.ExtendedKeyUsage(purposes),
    ]


def _make_certified(
    subject: x509.Name,
    authority: Certified | None,
    now: datetime,
    days: int,
    extensions: Sequence[x509.ExtensionType],
) -> Certified:
    """Make a key and its certificate, signed by *authority* or, if that is None, by the key."""
    key = Ed25519PrivateKey.generate()
    signer = authority or key
    return Certified(
        _sign_certificate(subject, key.public_key(), signer, now, days, extensions), key
    )


def _sign_certificate(
    subject: x509.Name,
    key: Ed25519PublicKey,
    signer: Certified | Ed25519PrivateKey,
    now: datetime,
    days: int,
    extensions: Sequence[x509.ExtensionType],
) -> x509.Certificate:
    """Return a certificate of *key*, signed by *signer*, which does not outlast its authority."""
    issuer, ends = subject, now + timedelta(days=days)
    if isinstance(signer, Certified):
        issuer, ends = (
            signer.certificate.subject,
            min(ends, signer.certificate.not_valid_after_utc),
        )
        signer = signer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension in extensions:
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, algorithm=None)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(parts: Mapping[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in parts.items()])


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names = dict.fromkeys((*hosts, *HERE))
    return x509.SubjectAlternativeName([_general_name(host) for host in names])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
