"""The TLS files of a node: reading them, checking them before a connection, and the SSL context.

tls/ca.pem is the certificate of the fleet's authority, and tls/node.pem the certificate of this
node. tls/node.key is the private key; it may be a credential of the service instead. OpenSSL reads
the key from its path, so no copy of it is made.
"""

from __future__ import annotations

import logging
import ssl
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from cipherfleet_node.core.topics import claim_client
from cipherfleet_node.errors import ConfigError, remedy_for
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER

from .key_files import find_private, read_private

log = logging.getLogger(__name__)

EXPIRES_SOON = timedelta(days=30)
REISSUE_TLS = "get the folder tls again from provisioning"


def client_context(
    ca: Path, certificate: Path, key: Path, *, kind: type[ssl.SSLContext] = ssl.SSLContext
) -> ssl.SSLContext:
    """Return a context for TLS 1.3 or newer; *ca* must have certified the name of the broker."""
    context = kind(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, key)
    return context


def read_context(
    folder: Path, node: str, now: datetime, *, enrolled: bool = True
) -> ssl.SSLContext:
    """Return the context with which *node* connects; raises ConfigError for invalid files.

    *now* has a time zone. Before a node is *enrolled*, its certificate may be one that is for
    claiming keys only. A broker refuses a certificate without a reason, so every reason is checked
    here before.
    """
    place = folder / TLS_FOLDER
    ca_file, file = place / CA_FILE, place / CERTIFICATE_FILE
    ca, certificate = _read_certificate(ca_file), _read_certificate(file)
    key_file = find_private(place / KEY_FILE)
    try:
        key = load_pem_private_key(read_private(place / KEY_FILE), password=None)
    except (ValueError, TypeError):
        raise ConfigError(
            f"{key_file}: is not an unencrypted PEM private key", remedy=REISSUE_TLS
        ) from None
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_file}: is not the key of {CERTIFICATE_FILE}", remedy=REISSUE_TLS)
    names = [str(name.value) for name in certificate.subject]
    expected = [[node]] if enrolled else [[claim_client(node)], [node]]
    if names not in expected or not certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        raise ConfigError(
            f"{file}: is the certificate of {', '.join(names)!r}, not of {node!r}",
            remedy=REISSUE_TLS,
        )
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise ConfigError(
            f"{file}: was not issued by the authority in {CA_FILE}", remedy=REISSUE_TLS
        ) from None
    for each, found in ((ca_file, ca), (file, certificate)):
        _check_time(each, found, now)
    if certificate.not_valid_after_utc - now < EXPIRES_SOON:
        log.warning(
            "%s: expires on %s; %s", file, certificate.not_valid_after_utc.date(), REISSUE_TLS
        )
    try:
        return client_context(ca_file, file, key_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{file}: OpenSSL refuses it: {error.reason}", remedy=REISSUE_TLS
        ) from None
    except OSError as error:  # OpenSSL does not say which file
        files = f"{ca_file}, {file} or {key_file}"
        remedy = remedy_for(error, REISSUE_TLS)
        raise ConfigError(f"{files}: cannot be read: {error.strerror}", remedy=remedy) from None


def days_left(file: Path, now: datetime) -> int:
    """Return the whole days until the certificate in *file* expires; negative afterwards.

    Raises ConfigError if it cannot be read.
    """
    return (_read_certificate(file).not_valid_after_utc - now).days


def _read_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        remedy = remedy_for(error, f"broker.tls needs it, {REISSUE_TLS}")
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", remedy=remedy) from None
    except ValueError:
        raise ConfigError(f"{file}: is not a certificate in PEM", remedy=REISSUE_TLS) from None


def _check_time(file: Path, certificate: x509.Certificate, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise ConfigError(
            f"{file}: is not valid before {begins:%Y-%m-%d %H:%M} UTC, and this machine's clock "
            f"shows {now:%Y-%m-%d %H:%M}: set the clock"
        )
    if now > ends:
        raise ConfigError(
            f"{file}: expired at {ends:%Y-%m-%d %H:%M} UTC, and this machine's clock shows "
            f"{now:%Y-%m-%d %H:%M}: {REISSUE_TLS}, or set the clock"
        )
