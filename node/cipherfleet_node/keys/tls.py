"""The node's certificate: read, checked before anything connects, made into an SSL context.

tls/ca.pem is the fleet's authority, tls/node.pem says who this node is, tls/node.key is private and
may be a credential of the service instead. OpenSSL reads the key by its path, wherever it is: no
copy is made.
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

from cipherfleet_node.errors import ConfigError, remedy_for
from cipherfleet_node.settings.node_yaml import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_FOLDER

from .key_files import find_private, read_private

log = logging.getLogger(__name__)

EXPIRES_SOON = timedelta(days=30)
RENEW = "get the folder tls anew from provisioning"


def client_context(
    ca: Path, certificate: Path, key: Path, *, kind: type[ssl.SSLContext] = ssl.SSLContext
) -> ssl.SSLContext:
    """TLS 1.3 or newer; the broker must be certified by *ca*, and for the name we call it by."""
    context = kind(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, key)
    return context


def read_context(folder: Path, node: str, now: datetime) -> ssl.SSLContext:
    """What *node* connects with; raises ConfigError, naming file and mend, for what brokers refuse.

    *now* has a time zone. A broker tells nothing but 'no', so every reason is looked for here.
    """
    place = folder / TLS_FOLDER
    ca_file, file = place / CA_FILE, place / CERTIFICATE_FILE
    ca, certificate = _read_certificate(ca_file), _read_certificate(file)
    key_file = find_private(place / KEY_FILE)
    try:
        key = load_pem_private_key(read_private(place / KEY_FILE), password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"{key_file}: is not an unencrypted PEM private key; {RENEW}") from None
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_file}: is not the key of {CERTIFICATE_FILE}; {RENEW}")
    names = [str(name.value) for name in certificate.subject]
    if names != [node] or not certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        raise ConfigError(
            f"{file}: is the certificate of {', '.join(names)!r}, not of {node!r}; {RENEW}"
        )
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise ConfigError(
            f"{file}: was not issued by the authority in {CA_FILE}; {RENEW}"
        ) from None
    for each, found in ((ca_file, ca), (file, certificate)):
        _check_time(each, found, now)
    if certificate.not_valid_after_utc - now < EXPIRES_SOON:
        log.warning("%s: expires on %s; %s", file, certificate.not_valid_after_utc.date(), RENEW)
    try:
        return client_context(ca_file, file, key_file)
    except ssl.SSLError as error:
        raise ConfigError(f"{file}: OpenSSL refuses it: {error.reason}; {RENEW}") from None
    except OSError as error:  # OpenSSL does not say which file
        files = f"{ca_file}, {file} or {key_file}"
        remedy = remedy_for(error, RENEW)
        raise ConfigError(f"{files}: cannot be read: {error.strerror}; {remedy}") from None


def days_left(file: Path, now: datetime) -> int:
    """Whole days until the certificate in *file* ends, below 0 afterwards; raises ConfigError."""
    return (_read_certificate(file).not_valid_after_utc - now).days


def _read_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        remedy = remedy_for(error, f"broker.tls needs it, {RENEW}")
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; {remedy}") from None
    except ValueError:
        raise ConfigError(f"{file}: is not a certificate in PEM; {RENEW}") from None


def _check_time(file: Path, certificate: x509.Certificate, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise ConfigError(
            f"{file}: is not valid before {begins:%Y-%m-%d %H:%M} UTC, and this machine's clock "
            f"says {now:%Y-%m-%d %H:%M}: set the clock"
        )
    if now > ends:
        raise ConfigError(
            f"{file}: expired at {ends:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}: {RENEW}, or set the clock"
        )
