"""Files with the bases of the tables of `Full`, so that a restart computes no full powers.

`keys/NEIGHBOUR.bases` has 64 bases under the key of one neighbour. It belongs to one node: a MAC
under the node's identity covers it. The bases need not be secret for the products to be uniform:
the leftover hash lemma holds for known bases. But none of them may ever be an obfuscator, because
an obfuscator on the disk would uncover the answer that it once hid.
Source: docs/explanation/cryptography.md#kept-bases.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PublicKey

from .fixed_base import ROWS

_MAGIC = b"cipherfleet bases 1\n"
_TAG_BYTES = 32
_FINGERPRINT_BYTES = 32


def bases_file(keys_folder: Path, neighbour: str) -> Path:
    """Return the file with the bases for the key of *neighbour*."""
    return keys_folder / f"{neighbour}.bases"


def encode_bases(bases: Sequence[mpz], key: PublicKey, identity: Ed25519PrivateKey) -> bytes:
    """Return the content of the file with *bases* under *key*, of the node with *identity*."""
    width = _base_bytes(key)
    numbers = b"".join(int(base).to_bytes(width, "big") for base in bases)
    content = _MAGIC + key.fingerprint + numbers
    return content + _tag(content, identity)


def decode_bases(data: bytes, key: PublicKey, identity: Ed25519PrivateKey) -> list[mpz]:
    """Return the bases that `encode_bases` wrote for the same *key* and *identity*.

    Raises ValueError, which says what is wrong, for any other content.
    """
    content, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    if not content.startswith(_MAGIC):
        raise ValueError("it is not a file of bases of this version")
    if not hmac.compare_digest(tag, _tag(content, identity)):
        raise ValueError("it is damaged, or belongs to another node")
    width, start = _base_bytes(key), len(_MAGIC) + _FINGERPRINT_BYTES
    if content[len(_MAGIC) : start] != key.fingerprint:
        raise ValueError("it belongs to another key of the neighbour")
    if len(content) != start + ROWS * width:
        raise ValueError(f"it has {len(content)} bytes, expected {start + ROWS * width}")
    return [
        mpz(int.from_bytes(content[at : at + width], "big"))
        for at in range(start, len(content), width)
    ]


def _base_bytes(key: PublicKey) -> int:
    return 2 * ((key.bits + 7) // 8)


def _tag(content: bytes, identity: Ed25519PrivateKey) -> bytes:
    label = b"cipherfleet/v2/bases\0"
    secret = hmac.digest(identity.private_bytes_raw(), label, "sha256")
    return hmac.digest(secret, content, "sha256")
