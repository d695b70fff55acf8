"""Key files: Paillier keys as JSON Web Keys (as phe writes them), Ed25519 identities, X25519 seals.

The files in keys/ are private. They must be readable by their owner only, or be credentials of the
systemd service instead. neighbours/<id>.json has the public keys of a neighbour.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from gmpy2 import is_prime, mpz

from cipherfleet_node.core.paillier import PrivateKey, PublicKey, faults_of_modulus
from cipherfleet_node.errors import REISSUE_BUNDLE, ConfigError, LocalProtocolError, remedy_for
from cipherfleet_node.settings.node_yaml import NODE_FILE
from cipherfleet_node.settings.sections import Crypto, OwnKeys

from .primes import FactoredPrime, draw_factored_prime

KEYS_FOLDER = "keys"
NEIGHBOURS_FOLDER = "neighbours"
PAILLIER_FILE = "paillier.json"
IDENTITY_FILE = "identity.pem"
SEAL_FILE = "seal.pem"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # systemd's variable: the folder of credentials
INSTALLED = "/etc/cipherfleet/NODE"  # install.sh stores the files here that become credentials


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of a node: Paillier modulus, Ed25519 identity and X25519 seal."""

    paillier: PublicKey
    identity: Ed25519PublicKey
    seal: X25519PublicKey

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over all keys, in hexadecimal digits, which provisioning pins."""
        hashed = hashlib.sha256(b"cipherfleet/v2/keys\0" + self.paillier.fingerprint)
        hashed.update(self.identity.public_bytes_raw() + self.seal.public_bytes_raw())
        return hashed.hexdigest()


@dataclass(frozen=True, repr=False)
class NodeKeys:
    """The private keys of a node. They are never printed."""

    paillier: PrivateKey
    identity: Ed25519PrivateKey
    seal: X25519PrivateKey
    primes: tuple[FactoredPrime, FactoredPrime] | None = None  # None: generated elsewhere

    @property
    def generators(self) -> tuple[mpz, mpz] | None:
        """Generators mod p and q, with which the owner's obfuscators cost less, if known."""
        return (self.primes[0].generator, self.primes[1].generator) if self.primes else None

    @property
    def public(self) -> PublicKeys:
        return PublicKeys(self.paillier.public, self.identity.public_key(), self.seal.public_key())


def generate_keys(bits: int) -> NodeKeys:
    """Generate keys from the operating system's randomness; takes about 0.2 s at 2048 bits."""
    keys = assemble_keys(draw_factored_prime(bits // 2), draw_factored_prime(bits // 2))
    if keys.paillier.public.bits != bits or not _phe_agrees(keys.paillier):
        raise LocalProtocolError("a new key fails the comparison with phe")
    return keys


def assemble_keys(p: FactoredPrime, q: FactoredPrime) -> NodeKeys:
    """Return keys with the Paillier primes *p* and *q*, and a new identity and seal."""
    identity, seal = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    return NodeKeys(PrivateKey(p.prime, q.prime), identity, seal, (p, q))


def _phe_agrees(key: PrivateKey) -> bool:
    """True if phe and our own code decrypt with *key* what phe has encrypted."""
    import phe  # 3 MiB of memory that a running node does not need

    public = phe.PaillierPublicKey(int(key.public.n))
    private = phe.PaillierPrivateKey(public, int(key.p), int(key.q))
    ciphertext = public.raw_encrypt(4711)
    return bool(private.raw_decrypt(ciphertext) == key.decrypt(mpz(ciphertext)) == 4711)


def write_keys(folder: Path, keys: NodeKeys, name: str = KEYS_FOLDER) -> None:
    """Write the private keys into *folder*/*name*; the files have mode 0600 from the beginning."""
    place = folder / name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "kty": "DAJ",
        "key_ops": ["decrypt"],
        "p": _number_to_text(keys.paillier.p),
        "q": _number_to_text(keys.paillier.q),
        "pub": _public_document(keys.paillier.public),
        "kid": "cipherfleet node key",
    }
    if keys.primes is not None:
        document["primes"] = [_prime_document(prime) for prime in keys.primes]
    write_private(place / PAILLIER_FILE, json.dumps(document, indent=1).encode() + b"\n")
    for file, key in ((IDENTITY_FILE, keys.identity), (SEAL_FILE, keys.seal)):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(place / file, pem)


def write_private(file: Path, data: bytes) -> None:
    """Write *data* durably to a new *file* that only its owner can read, at every moment."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def read_keys(folder: Path, crypto: Crypto, name: str = KEYS_FOLDER) -> NodeKeys:
    """Return the private keys in *folder*/*name*.

    Raises ConfigError for a file that is missing, damaged or readable by other users.
    """
    place = folder / name
    document = _read_json(place / PAILLIER_FILE, read_private(place / PAILLIER_FILE))
    p, q = (_text_to_number(place / PAILLIER_FILE, document, name) for name in ("p", "q"))
    if not (is_prime(p) and is_prime(q)) or p == q:
        raise ConfigError(
            f"{place / PAILLIER_FILE}: p and q are not two primes", remedy=REISSUE_BUNDLE
        )
    key = PrivateKey(p, q, crypto.constant_time)
    if key.public.bits != crypto.key_bits:
        raise ConfigError(
            f"{place / PAILLIER_FILE}: the key has {key.public.bits} bits, crypto.key_bits is "
            f"{crypto.key_bits}: {REISSUE_BUNDLE}, or correct crypto.key_bits in {NODE_FILE}"
        )
    primes = _read_primes(place / PAILLIER_FILE, document, key)
    identity, seal = read_signing_key(place / IDENTITY_FILE), _read_seal(place / SEAL_FILE)
    return NodeKeys(key, identity, seal, primes)


def own_keys(public: PublicKeys) -> OwnKeys:
    """Return *public* in the form of the section `keys` of node.yaml."""
    return OwnKeys(
        paillier=public.paillier.fingerprint.hex(),
        identity=identity_to_text(public.identity),
        seal=seal_to_text(public.seal),
    )


def check_own_keys(folder: Path, keys: NodeKeys, wanted: OwnKeys) -> None:
    """Raise ConfigError for a key that node.yaml does not name: the neighbours would refuse it."""
    found = own_keys(keys.public)
    for file, name in (
        (PAILLIER_FILE, "paillier"),
        (IDENTITY_FILE, "identity"),
        (SEAL_FILE, "seal"),
    ):
        if getattr(found, name) != getattr(wanted, name):
            raise ConfigError(
                f"{folder / KEYS_FOLDER / file}: is not this node's key, which keys.{name} in "
                f"{NODE_FILE} names",
                remedy=REISSUE_BUNDLE,
            )


def _prime_document(prime: FactoredPrime) -> dict[str, Any]:
    factors = [_number_to_text(factor) for factor in prime.factors]
    return {"factors": factors, "generator": _number_to_text(prime.generator)}


def _read_primes(
    file: Path, document: dict[str, Any], key: PrivateKey
) -> tuple[FactoredPrime, FactoredPrime] | None:
    """Return the factors of p-1 and q-1 in the file; None in a key that was generated elsewhere."""
    found = document.get("primes")
    if found is None:
        return None
    try:
        p, q = (
            FactoredPrime(
                prime,
                tuple(_text_to_number(file, {"factor": f}, "factor") for f in entry["factors"]),
                _text_to_number(file, entry, "generator"),
            )
            for prime, entry in zip((key.p, key.q), found, strict=True)
        )
    except (ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{file}: primes must be a list of two, each with factors and generator",
            remedy=REISSUE_BUNDLE,
        ) from None
    if not (p.fits() and q.fits()):
        raise ConfigError(f"{file}: primes does not belong to p and q", remedy=REISSUE_BUNDLE)
    return p, q


def read_signing_key(file: Path, remedy: str = REISSUE_BUNDLE) -> Ed25519PrivateKey:
    """Return the Ed25519 key in *file*, PEM; raises ConfigError with *remedy*."""
    key = _read_pem(file, remedy)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file}: is not an Ed25519 key", remedy=remedy)
    return key


def _read_seal(file: Path) -> X25519PrivateKey:
    seal = _read_pem(file, REISSUE_BUNDLE)
    if not isinstance(seal, X25519PrivateKey):
        raise ConfigError(f"{file}: is not an X25519 key", remedy=REISSUE_BUNDLE)
    return seal


def _read_pem(file: Path, remedy: str) -> object:
    try:
        return load_pem_private_key(read_private(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{file}: is not an unencrypted PEM private key", remedy=remedy) from None


# What a secret of two nodes is for. Each purpose has a secret of its own.
MASKS, SHARES = "seal", "partner"


def shared_secret(
    own: X25519PrivateKey, other: X25519PublicKey, fleet: str, purpose: str = MASKS
) -> bytes:
    """Return 32 bytes that only the two owners can compute, equal at both ends.

    It is X25519, then HKDF over SHA-256 with both public keys in its context (RFC 7748, RFC 5869).
    Raises ValueError for an invalid key. Checked by test_both_ends_derive_the_same_secret.
    """
    ends = sorted((own.public_key().public_bytes_raw(), other.public_bytes_raw()))
    context = f"cipherfleet/v2/{purpose}\0{fleet}\0".encode() + b"".join(ends)
    return HKDF(hashes.SHA256(), 32, None, context).derive(own.exchange(other))


def write_public(file: Path, public: PublicKeys) -> None:
    """Write the public keys of a node in the form that its neighbours receive."""
    document = {
        "paillier": _public_document(public.paillier),
        "identity": identity_to_text(public.identity),
        "seal": seal_to_text(public.seal),
    }
    file.write_text(json.dumps(document, indent=1) + "\n")


def read_neighbour(folder: Path, neighbour: str, pinned: str, bits: int) -> PublicKeys:
    """Return a neighbour's public keys, checked for faults and against the *pinned* fingerprint.

    *bits* is the key size of the fleet. Raises ConfigError.
    """
    file = folder / NEIGHBOURS_FOLDER / f"{neighbour}.json"
    try:
        document = _read_json(file, file.read_bytes())
    except OSError as error:
        remedy = remedy_for(error, REISSUE_BUNDLE)
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", remedy=remedy) from None
    paillier = document.get("paillier")
    n = _text_to_number(file, paillier if isinstance(paillier, dict) else {}, "n")
    faults = list(faults_of_modulus(int(n), bits))
    if faults:
        raise ConfigError(
            f"{file}: the key of {neighbour!r} is invalid: n {', '.join(faults)}",
            remedy=REISSUE_BUNDLE,
        )
    try:
        identity = identity_from_text(str(document.get("identity")))
    except ValueError:
        raise ConfigError(
            f"{file}: identity is not 32 bytes in base64", remedy=REISSUE_BUNDLE
        ) from None
    try:
        public = PublicKeys(PublicKey(n), identity, seal_from_text(str(document.get("seal"))))
    except ValueError:
        raise ConfigError(
            f"{file}: seal is not 32 bytes in base64", remedy=REISSUE_BUNDLE
        ) from None
    if public.fingerprint != pinned:
        raise ConfigError(
            f"{file}: the keys of {neighbour!r} have fingerprint "
            f"{public.fingerprint[:16]}..., the configuration pins {pinned[:16]}...",
            remedy=REISSUE_BUNDLE,
        )
    return public


def identity_to_text(identity: Ed25519PublicKey) -> str:
    """Return the 32 bytes of *identity* in base64, as in configurations."""
    return base64.b64encode(identity.public_bytes_raw()).decode()


def identity_from_text(text: str) -> Ed25519PublicKey:
    """Parse the text of `identity_to_text`; raises ValueError."""
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def seal_to_text(seal: X25519PublicKey) -> str:
    """Return the 32 bytes of *seal* in base64, as in configurations."""
    return base64.b64encode(seal.public_bytes_raw()).decode()


def seal_from_text(text: str) -> X25519PublicKey:
    """Parse the text of `seal_to_text`; raises ValueError."""
    return X25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def _public_document(key: PublicKey) -> dict[str, Any]:
    return {"kty": "DAJ", "alg": "PAI-GN1", "key_ops": ["encrypt"], "n": _number_to_text(key.n)}


def find_private(file: Path) -> Path:
    """Return the path of the private *file*, or of the service's credential with the same name.

    The file has priority: systemd reads credentials only when the service starts, and a file may
    have a newer key that the node has generated or received since. Raises ConfigError if neither
    exists, or if this user may not access the folder.
    """
    credentials = os.environ.get(CREDENTIALS_VARIABLE)
    try:
        if file.exists():
            return file
        if credentials and (Path(credentials) / file.name).is_file():
            return Path(credentials) / file.name
    except OSError as error:
        raise _unreadable(file, error) from None
    where, remedy = "", f"set {CREDENTIALS_VARIABLE} (on an installed device: {INSTALLED}), or "
    if credentials:
        where, remedy = f", nor is it in {CREDENTIALS_VARIABLE}, which is {credentials}", ""
    missing = os.strerror(errno.ENOENT)
    raise ConfigError(
        f"{file}: cannot be read: {missing}{where}", remedy=f"{remedy}{REISSUE_BUNDLE}"
    )


def read_private(file: Path) -> bytes:
    """Return the bytes of a private file; raises ConfigError if other users can read it.

    A credential (see `find_private`) is in memory for this service alone. Access rules protect it
    that the mode bits do not show, so its mode is not checked.
    """
    place = find_private(file)
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        if place == file and mode & 0o077:
            raise ConfigError(
                f"{file}: has mode {mode:04o}, must be readable by its owner only: "
                f"chmod 600 {shlex.quote(str(file))}"
            )
        return place.read_bytes()
    except OSError as error:
        raise _unreadable(place, error) from None


def _unreadable(file: Path, error: OSError) -> ConfigError:
    remedy = remedy_for(error, REISSUE_BUNDLE)
    return ConfigError(f"{error.filename or file}: cannot be read: {error.strerror}", remedy=remedy)


def _read_json(file: Path, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError(f"{file}: is not JSON", remedy=REISSUE_BUNDLE) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: is not a JSON object", remedy=REISSUE_BUNDLE)
    return document


def _number_to_text(number: mpz) -> str:
    data = int(number).to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _text_to_number(file: Path, document: dict[str, Any], name: str) -> mpz:
    text = document.get(name)
    try:
        if not isinstance(text, str) or not text.isascii() or not 0 < len(text) <= 4096:
            raise ValueError
        return mpz(int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big"))
    except ValueError:
        raise ConfigError(
            f"{file}: {name} is missing or is not base64url", remedy=REISSUE_BUNDLE
        ) from None
