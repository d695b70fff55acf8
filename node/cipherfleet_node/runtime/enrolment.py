"""Enrolment: a device joins the fleet with keys that it has generated itself.

The bundle of such a device has a one-time token and, with TLS, a certificate that is for claiming
only: its name is not the node's (`claim_client`). A copy of the bundle can therefore neither speak
for the enrolled node nor end its connection. At its first start the node
generates its keys and publishes a claim with the public keys. The proof in the claim is an HMAC
under the token, which does not show the token. The node then waits for the operator's membership,
which names its neighbours. A claim of later keys is signed by the identity that they replace.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, Claim, Membership
from cipherfleet_node.core.objective import objective_of
from cipherfleet_node.core.topics import claim_topic, membership_topic
from cipherfleet_node.errors import BrokerUnreachable, WireError
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    PAILLIER_FILE,
    NodeKeys,
    generate_keys,
    identity_from_text,
    read_keys,
    read_private,
    read_signing_key,
    write_keys,
    write_private,
)
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.sections import NodeConfig

from .heartbeat import Heartbeat
from .membership import (
    CURRENT,
    TLS_KEY_FILE,
    check_membership,
    is_due,
    promote,
    read_membership,
    store_membership,
)
from .mqtt import Arrived, Link, LinkRefused, LinkUp
from .synced_files import sync_folder
from .systemd import ServiceManager

log = logging.getLogger(__name__)

TOKEN_FILE = "token"  # noqa: S105  # the name of a file
TOKEN_BYTES = 32
WAIT_S = 0.5
CLAIM_AGAIN_S = 60.0


def token_proof(token: bytes, claim: Claim) -> bytes:
    """Return the HMAC-SHA-256 that proves that the sender of *claim* has the token."""
    return hmac.digest(token, claim.proven, "sha256")


def make_claim(
    config: NodeConfig, keys: NodeKeys, request: bytes, prove: bytes | Ed25519PrivateKey
) -> Claim:
    """Return the claim of *keys*; *prove* is the token, or the identity that they replace."""
    public = keys.public
    claim = Claim(
        config.fleet,
        config.node,
        int(time.time()),
        public.paillier.to_bytes(),
        public.identity.public_bytes_raw(),
        public.seal.public_bytes_raw(),
        request,
        b"",
    )
    proof = token_proof(prove, claim) if isinstance(prove, bytes) else prove.sign(claim.proven)
    return msgspec.structs.replace(claim, proof=proof)


def make_own_keys(folder: Path, config: NodeConfig, name: str) -> NodeKeys:
    """Return the keys in *folder*/*name*; generate them if they do not exist.

    With TLS a key for the connection is generated as well. The folder appears with all its files or
    not at all, so an interrupted call can be repeated.
    """
    place = folder / name
    if (place / PAILLIER_FILE).exists():
        return read_keys(folder, config.crypto, name)
    making = f"{name}.making"
    keys = generate_keys(config.crypto.key_bits)
    write_keys(folder, keys, making)
    if config.broker.tls:
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(
            folder / making / TLS_KEY_FILE, Ed25519PrivateKey.generate().private_bytes(*form)
        )
    (folder / making).rename(place)
    sync_folder(folder)
    return keys


def certificate_request(folder: Path, config: NodeConfig, name: str) -> bytes:
    """Return a request for a certificate of the key in *folder*/*name*; empty without TLS."""
    if not config.broker.tls:
        return b""
    from cryptography import x509  # takes memory that plain TCP does not need
    from cryptography.x509.oid import NameOID

    file = folder / name / TLS_KEY_FILE
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, config.node)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(read_signing_key(file), None)
    )
    return request.public_bytes(Encoding.DER)


def check_unenrolled(folder: Path, config: NodeConfig) -> NodeKeys | None:
    """Return the keys that the node has generated, or None before its first start.

    Raises ConfigError for an error in the token, the certificate or the sensor, which would prevent
    the enrolment.
    """
    read_private(folder / TOKEN_FILE)
    has_keys = (folder / KEYS_FOLDER / PAILLIER_FILE).exists()
    keys = read_keys(folder, config.crypto) if has_keys else None
    if config.broker.tls:
        from cipherfleet_node.keys.tls import read_context  # X.509 takes memory

        read_context(folder, config.node, datetime.now(UTC), enrolled=False)
    open_sensor(config.source, folder, objective_of(config.objective, config.role).fields).close()
    return keys


def needs_enrolment(folder: Path, config: NodeConfig) -> bool:
    """True if neither the settings nor a membership of the operator name the neighbours yet."""
    if config.neighbours or config.operator is None:
        return False
    return read_membership(folder, config, CURRENT) is None


def enrol(
    folder: Path, config: NodeConfig, stopping: threading.Event, manager: ServiceManager
) -> bool:
    """Claim new keys and wait for the operator's membership; False if stopped before it came.

    The wait may take days, so the service manager is notified that the service is ready and alive.
    """
    if is_due(folder, config, 2**63):
        _take_over(folder, config)
        return True
    token = read_private(folder / TOKEN_FILE)
    keys = make_own_keys(folder, config, KEYS_FOLDER)
    request = certificate_request(folder, config, KEYS_FOLDER)
    claim = make_claim(config, keys, request, token)
    log.info("claiming the keys with fingerprint %s", keys.public.fingerprint)
    _Claimant(folder, config, keys, claim).run(stopping, manager)
    if not is_due(folder, config, 2**63):
        return False
    _take_over(folder, config)
    return True


def _take_over(folder: Path, config: NodeConfig) -> None:
    promote(folder, config)
    (folder / TOKEN_FILE).unlink(missing_ok=True)  # it is needed only once
    log.info("enrolled: the operator has named the neighbours")


class _Claimant:
    """Publish a claim as a retained message, and wait for the membership."""

    def __init__(self, folder: Path, config: NodeConfig, keys: NodeKeys, claim: Claim) -> None:
        self._folder, self._config, self._keys = folder, config, keys
        self._done = threading.Event()
        self._refused: str | None = None  # the reason if the broker cannot be used
        self._claim_at = math.inf  # monotonic time; not before the connection
        self._payload = wire.encode(claim, keys.identity)
        self._topic = claim_topic(config.fleet, config.node)
        assert config.operator is not None
        self._operator = {OPERATOR: identity_from_text(config.operator)}
        context = None
        if config.broker.tls:
            from cipherfleet_node.keys.tls import read_context  # X.509 takes memory

            context = read_context(folder, config.node, datetime.now(UTC), enrolled=False)
        self._link = Link(
            f"{config.fleet}-{config.node}-claim",
            config.broker,
            [membership_topic(config.fleet, config.node)],
            None,
            self._handle,
            context,
        )

    def run(self, stopping: threading.Event, manager: ServiceManager) -> None:
        heartbeat = Heartbeat(self._folder, math.inf)  # the operator may answer days later
        self._link.start()
        manager.ready()
        manager.status("waiting for the operator to name the neighbours")
        while not stopping.is_set() and not self._done.is_set():
            heartbeat.beat(time.monotonic(), 0, time.monotonic())
            self._link.resubscribe_if_due(time.monotonic())
            if self._link.is_alive(time.monotonic()):
                manager.alive()
            self._claim_if_due(time.monotonic())
            self._done.wait(WAIT_S)
        self._link.stop(1.0)
        heartbeat.stop()
        if self._refused is not None:
            raise BrokerUnreachable(self._refused)

    def _claim_if_due(self, now: float) -> None:
        """Publish the claim again: a broker drops it while its rules do not know the node."""
        if now >= self._claim_at:
            self._claim_at = now + CLAIM_AGAIN_S
            self._link.publish(self._topic, self._payload, retain=True)

    def _handle(self, event: object) -> None:
        match event:
            case LinkUp():
                self._claim_at = 0.0  # at once
            case Arrived():
                self._take(event)
            case LinkRefused(reason):
                self._refused = reason
                self._done.set()

    def _take(self, arrived: Arrived) -> None:
        config = self._config
        try:
            message = wire.decode(arrived.payload, arrived.topic, config.fleet, self._operator)
            assert isinstance(message, Membership)
            check_membership(message, config)
        except WireError as error:
            log.warning("dropped a membership: %s: %s", error.reason, error)
            return
        if message.fingerprint != self._keys.public.fingerprint:
            log.warning("dropped a membership: it is for other keys than those of this node")
            return
        store_membership(self._folder, arrived.payload)
        self._done.set()
