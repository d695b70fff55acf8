"""Vectors of keys: fingerprints, secrets, seeds, claims, the sealed exchange, sizes and long keys.

`tests.tools.make_vectors` writes them. node/vectors/README.md explains how to verify them.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import gmpy2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import exchange, topics, wire
from cipherfleet_node.core.messages import TAG_BYTES, Claim, Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, Layout
from cipherfleet_node.core.paillier import PrivateKey, PublicKey, encrypt
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import Draw, RoundRandomness, seeds_of, state_fingerprint
from cipherfleet_node.core.sealed import Seal, own_weight
from cipherfleet_node.keys.key_files import PublicKeys, shared_secret
from tests.support.queries import query_of

FLEET = "fleet"
NAMES = ("a", "b", "c")
TOKEN = bytes(range(32))
LONG_BITS = 2048


def private_of(label: str) -> bytes:
    """Return the 32 bytes of a private key, always the same for *label*."""
    return hashlib.sha256(f"cipherfleet vectors {label}".encode()).digest()


def identity_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(private_of(f"identity {name}"))


def seal_of(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(private_of(f"seal {name}"))


def public_of(name: str) -> PublicKeys:
    paillier = toy_key(f"vectors {name}").public
    return PublicKeys(paillier, identity_of(name).public_key(), seal_of(name).public_key())


# -- identities -----------------------------------------------------------------------------------


def identities_vectors() -> Any:
    """Return keys, what is derived from them, and claims of them."""
    return {
        "about": "fingerprint, tag and client id of each node, the secrets of its pairs, the key "
        "of its seeds, and claims; PROTOCOL.md sections 1.3, 2.6, 3.2, 6.2 and 9.1",
        "fleet": FLEET,
        "nodes": [_identity(name) for name in NAMES],
        "secrets": [_secret(a, b) for a, b in (("a", "b"), ("b", "a"), ("b", "c"))],
        "seeds": [_seed(*case) for case in SEEDS],
        "claims": [_claim(proven_by) for proven_by in ("token", "identity")],
    }


def _identity(name: str) -> dict[str, str]:
    private, public = private_of(f"identity {name}"), public_of(name)
    hashed = hashlib.sha256(b"cipherfleet/v2/client-id\0" + private).hexdigest()
    return {
        "node": name,
        "n": str(public.paillier.n),
        "identity_private": private.hex(),
        "identity_public": public.identity.public_bytes_raw().hex(),
        "seal_private": private_of(f"seal {name}").hex(),
        "seal_public": public.seal.public_bytes_raw().hex(),
        "key_tag": public.paillier.fingerprint[:TAG_BYTES].hex(),
        "fingerprint": public.fingerprint,
        "client_id": f"{FLEET}-{name}-{hashed[:16]}",
        "draw_secret": hmac.digest(private, b"cipherfleet/v2/draw-secret\0", "sha256").hex(),
    }


def _secret(a: str, b: str) -> dict[str, Any]:
    secret = shared_secret(seal_of(a), seal_of(b).public_key(), FLEET)
    return {"own": a, "other": b, "secret": secret.hex()}


SEEDS = (
    ("a state at rest", [0.0, 1.5, -2.25], 0.0, 0),
    ("the same with another draw", [0.0, 1.5, -2.25], 0.0, 1),
    ("the same with a kick", [0.0, 1.5, -2.25], 2.0**-10, 1),
    ("another state", [1e-300, 0.1, -0.1], 0.0, 2**47 + 1),
)


def _seed(name: str, estimate: list[float], kick: float, draw: int) -> dict[str, Any]:
    secret = hmac.digest(private_of("identity a"), b"cipherfleet/v2/draw-secret\0", "sha256")
    fingerprint = state_fingerprint(estimate, kick)
    return {
        "name": name,
        "node": "a",
        "estimate": estimate,
        "kick": kick,
        "draw": draw,
        "hashed": struct.pack(f">{len(estimate) + 1}d", *estimate, kick).hex(),
        "fingerprint": fingerprint.hex(),
        "seed": seeds_of(secret)(Draw(fingerprint, draw, 0)).hex(),
    }


def _claim(proven_by: str) -> dict[str, str]:
    public = public_of("b")
    keys = public.identity.public_bytes_raw(), public.seal.public_bytes_raw()
    claim = Claim(FLEET, "a", 7, public.paillier.to_bytes(), *keys, b"\x30\x00", b"")
    if proven_by == "token":
        proof = hmac.digest(TOKEN, claim.proven, "sha256")
    else:
        proof = identity_of("a").sign(claim.proven)
    claim = msgspec.structs.replace(claim, proof=proof)
    return {
        "name": f"proven by the {proven_by}",
        "key": (TOKEN if proven_by == "token" else private_of("identity a")).hex(),
        "signer": private_of("identity b").hex(),
        "topic": topics.claim_topic(FLEET, "a"),
        "proven": claim.proven.hex(),
        "proof": proof.hex(),
        "bytes": wire.encode(claim, identity_of("b")).hex(),
    }


# -- the sealed exchange --------------------------------------------------------------------------


def sealed_exchange_vectors() -> Any:
    """Return whole sealed exchanges: at a toy size, and with a long key and two ciphertexts."""
    return {
        "about": "asker i with roster a, b, c and slots of 59 bits; answer = c^(M H) (1 + n "
        "(pack(M (H own + e)) + R)) root^n; opened = H_i sum; PROTOCOL.md section 6",
        "cases": [_sealed_case("toy key", 512, 9), _sealed_case("long key", LONG_BITS, 41)],
    }


def _sealed_case(name: str, bits: int, dimension: int) -> dict[str, Any]:
    key, layout = toy_key(f"sealed {name}", bits), Layout(bits, dimension, half_weights=1)
    asked = [((7919 * place) % 4096) - 2048 for place in range(dimension)]
    root = gmpy2.powmod(3, key.public.n, key.public.n_squared)
    ciphertexts = exchange.make_query(key.public, layout, asked, lambda: root)
    query = query_to_seal(ciphertexts)
    answers = [_sealed_answer(each, query, key.public, layout) for each in NAMES]
    weight = own_weight(RoundRandomness(b"i" * 32))
    return {
        "name": name,
        "key": {"p": str(key.p), "q": str(key.q)},
        "root": 3,
        "asked": asked,
        "plaintexts": [str(each) for each in layout.pack([-entry for entry in asked])],
        "query": [each.hex() for each in ciphertexts],
        "digest": query.digest.hex(),
        "askers_half_weight": weight,
        "answers": answers,
        "opened": [str(weight * entry) for entry in _open(key, layout, answers)],
    }


def query_to_seal(ciphertexts: list[bytes]) -> Query:
    """Return the query of i in round 3 for a, b and c."""
    return query_of(FLEET, "i", 1, 3, NAMES, ciphertexts)


def _sealed_answer(name: str, query: Query, key: PublicKey, layout: Layout) -> dict[str, Any]:
    secrets = {
        other: shared_secret(seal_of(name), seal_of(other).public_key(), FLEET)
        for other in NAMES
        if other != name
    }
    masks = Seal(FLEET, name, {"i": frozenset(NAMES)}, secrets).masks(query, key.n)
    randomness, metropolis = RoundRandomness(name.encode() * 32), 16
    weight = own_weight(randomness)
    noise = exchange.dither(randomness, "i", weight, layout.dimension)
    own = [ord(name) * place - 500 for place in range(layout.dimension)]
    shifts = layout.pack([metropolis * (weight * x + e) for x, e in zip(own, noise, strict=True)])
    root = gmpy2.powmod(5, key.n, key.n_squared)
    factors = [encrypt(key, shift + r, root) for shift, r in zip(shifts, masks, strict=True)]
    read = exchange.read_ciphertexts(key, layout, query.ciphertexts)
    answer = exchange.make_answer(key, layout, read, metropolis * weight, factors)
    return {
        "sender": name,
        "seed": randomness.seed.hex(),
        "own": own,
        "metropolis": metropolis,
        "half_weight": weight,
        "dither": noise,
        "secrets": {other: secret.hex() for other, secret in secrets.items()},
        "masks": [str(each) for each in masks],
        "root": 5,
        "ciphertexts": [each.hex() for each in answer],
    }


def _open(key: PrivateKey, layout: Layout, answers: list[dict[str, Any]]) -> list[int]:
    products = [mpz(1)] * layout.ciphertexts
    for answer in answers:
        numbers = [int(each, 16) for each in answer["ciphertexts"]]
        pairs = zip(products, numbers, strict=True)
        products = [a * b % key.public.n_squared for a, b in pairs]
    bound = sum(each["metropolis"] for each in answers) << (HALF_WEIGHT_BITS + VALUE_BITS)
    return layout.unpack([key.decrypt(each) for each in products], key.public.n, bound)


# -- sizes ----------------------------------------------------------------------------------------


def sizes_vectors() -> Any:
    """Return how to build the longest message, and one that is a byte too long."""
    return {
        "about": "a query of a with empty tags and one ciphertext of zeros, well signed; only the "
        "SHA-256 of its bytes is given",
        "fleet": FLEET,
        "identity_private": private_of("identity a").hex(),
        "topic": topics.query_topic(FLEET, "a"),
        "cases": [
            _size("as long as it may be", wire.MAX_MESSAGE_BYTES, ""),
            _size("a byte too long", wire.MAX_MESSAGE_BYTES + 1, "too_long"),
        ],
    }


def _size(name: str, size: int, fails: str) -> dict[str, Any]:
    rest = size - len(sized(0x10000)) + 0x10000
    data = sized(rest)
    assert len(data) == size
    result = {"name": name, "ciphertext_bytes": rest, "bytes": size}
    return result | {"sha256": hashlib.sha256(data).hexdigest(), "fails": fails}


def sized(zeros: int) -> bytes:
    """Return the bytes of a query with one ciphertext of so many *zeros*."""
    query = query_of(FLEET, "a", 1, 1, [], [bytes(zeros)])
    return wire.encode(query, identity_of("a"))
