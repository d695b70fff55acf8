"""The vectors of keys hold, computed here as node/PROTOCOL.md says and without our own code."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cipherfleet_node.core.randomness import Draw, seeds_of, state_fingerprint
from cipherfleet_node.core.wire import decode
from cipherfleet_node.errors import WireError
from tests.support.paths import ROOT
from tests.tools import key_vectors

FOLDER = ROOT / "node/vectors"
IDENTITIES = json.loads((FOLDER / "identities.json").read_text())
EXCHANGES = json.loads((FOLDER / "sealed_exchange.json").read_text())
SIZES = json.loads((FOLDER / "sizes.json").read_text())
FLEET = IDENTITIES["fleet"].encode()
BY_NAME = {each["node"]: each for each in IDENTITIES["nodes"]}


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("identities", key_vectors.identities_vectors),
        ("sealed_exchange", key_vectors.sealed_exchange_vectors),
        ("sizes", key_vectors.sizes_vectors),
    ],
)
def test_the_vectors_of_keys_are_up_to_date(file: str, make: Any) -> None:
    assert json.loads(json.dumps(make())) == json.loads((FOLDER / f"{file}.json").read_text())


@pytest.mark.parametrize("node", IDENTITIES["nodes"], ids=lambda each: each["node"])
def test_fingerprints_tags_and_client_ids_hold(node: Any) -> None:
    private = bytes.fromhex(node["identity_private"])
    identity = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    seal = X25519PrivateKey.from_private_bytes(bytes.fromhex(node["seal_private"]))
    modulus = sha256(minimal(int(node["n"])))
    public = seal.public_key().public_bytes_raw()
    assert identity.hex() == node["identity_public"]
    assert public.hex() == node["seal_public"]
    assert modulus[:8].hex() == node["key_tag"]
    assert sha256(b"cipherfleet/v2/keys\0", modulus, identity, public).hex() == node["fingerprint"]
    client = sha256(b"cipherfleet/v2/client-id\0", private).hex()[:16]
    assert node["client_id"] == f"{FLEET.decode()}-{node['node']}-{client}"


@pytest.mark.parametrize(
    "case", IDENTITIES["secrets"], ids=lambda each: each["own"] + each["other"]
)
def test_secrets_of_pairs_hold(case: Any) -> None:
    own = X25519PrivateKey.from_private_bytes(bytes.fromhex(BY_NAME[case["own"]]["seal_private"]))
    other = X25519PrivateKey.from_private_bytes(
        bytes.fromhex(BY_NAME[case["other"]]["seal_private"])
    ).public_key()
    ends = sorted((own.public_key().public_bytes_raw(), other.public_bytes_raw()))
    context = b"cipherfleet/v2/seal\0" + FLEET + b"\0" + b"".join(ends)
    derived = HKDF(hashes.SHA256(), 32, None, context).derive(own.exchange(other))
    assert derived.hex() == case["secret"]


@pytest.mark.parametrize("case", IDENTITIES["seeds"], ids=lambda each: each["name"])
def test_seeds_hold(case: Any) -> None:
    node = BY_NAME[case["node"]]
    private = bytes.fromhex(node["identity_private"])
    secret = hmac.digest(private, b"cipherfleet/v2/draw-secret\0", "sha256")
    hashed = b"".join(struct.pack(">d", x) for x in [*case["estimate"], case["kick"]])
    fingerprint = sha256(b"cipherfleet/v2/state\0", hashed)
    data = b"cipherfleet/v2/draw\0" + fingerprint + struct.pack(">Q", case["draw"])
    assert secret.hex() == node["draw_secret"]
    assert hashed.hex() == case["hashed"]
    assert fingerprint.hex() == case["fingerprint"]
    assert hmac.digest(secret, data, "sha256").hex() == case["seed"]


def test_a_draw_belongs_to_a_state() -> None:
    """The seed depends on estimate, kick and counter, and on nothing else."""
    seeds = seeds_of(bytes(32))
    at_rest = state_fingerprint([1.0, 2.0], 0.0)
    assert seeds(Draw(at_rest, 0, since=3)) == seeds(Draw(at_rest, 0, since=9))
    others = [
        Draw(state_fingerprint([1.0, 2.0000000000000004], 0.0), 0, since=3),
        Draw(state_fingerprint([2.0, 1.0], 0.0), 0, since=3),
        Draw(state_fingerprint([1.0, 2.0], 1e-9), 0, since=3),
        Draw(at_rest, 1, since=3),
    ]
    assert len({seeds(draw) for draw in [Draw(at_rest, 0, since=3), *others]}) == 5


@pytest.mark.parametrize("case", IDENTITIES["claims"], ids=lambda each: each["name"])
def test_claims_hold(case: Any) -> None:
    key, proven = bytes.fromhex(case["key"]), bytes.fromhex(case["proven"])
    signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["signer"]))
    verifiers = {"a": signer.public_key()}
    claim = decode(bytes.fromhex(case["bytes"]), case["topic"], FLEET.decode(), verifiers)
    proof = bytes.fromhex(case["proof"])
    assert getattr(claim, "proof", b"") == proof
    assert getattr(claim, "proven", b"") == proven
    if "token" in case["name"]:
        assert hmac.digest(key, proven, "sha256") == proof
    else:
        Ed25519PrivateKey.from_private_bytes(key).public_key().verify(proof, proven)


# -- the sealed exchange --------------------------------------------------------------------------


def pack(values: list[int]) -> int:
    return sum(value << (59 * place) for place, value in enumerate(values))


def masks_of(answer: Any, digest: bytes, n: int, count: int) -> list[int]:
    totals = [0] * count
    for other, secret in answer["secrets"].items():
        sign = 1 if other > answer["sender"] else -1
        for index in range(count):
            label = b"\0".join([b"cipherfleet/v2/mask", FLEET, b"i", str(index).encode(), digest])
            length = (n.bit_length() + 128 + 7) // 8
            wide = hashlib.shake_256(bytes.fromhex(secret) + label).digest(length)
            totals[index] += sign * (int.from_bytes(wide, "big") % n)
    return [total % n for total in totals]


@pytest.mark.parametrize("case", EXCHANGES["cases"], ids=lambda each: each["name"])
def test_sealed_exchanges_hold(case: Any) -> None:
    """Queries, masks, answers and the opened sum, with nothing but whole numbers and hashes."""
    p, q = int(case["key"]["p"]), int(case["key"]["q"])
    n, square = p * q, (p * q) ** 2
    slots = (n.bit_length() - 2) // 59
    cuts = [slice(start, start + slots) for start in range(0, len(case["asked"]), slots)]
    obfuscator = pow(case["root"], n, square)
    query = [
        (1 + n * (pack([-x for x in case["asked"][cut]]) % n)) * obfuscator % square for cut in cuts
    ]
    assert [int(each, 16) for each in case["query"]] == query
    packed = [pack([-x for x in case["asked"][cut]]) for cut in cuts]
    assert packed == [int(each) for each in case["plaintexts"]]
    products = [1] * len(cuts)
    for answer in case["answers"]:
        masks = masks_of(answer, bytes.fromhex(case["digest"]), n, len(cuts))
        assert masks == [int(each) for each in answer["masks"]]
        weight, m = answer["half_weight"], answer["metropolis"]
        for index, cut in enumerate(cuts):
            pairs = zip(answer["own"][cut], answer["dither"][cut], strict=True)
            shift = pack([m * (weight * x + e) for x, e in pairs]) + masks[index]
            expected = pow(query[index], m * weight, square) * (1 + n * (shift % n)) % square
            expected = expected * pow(answer["root"], n, square) % square
            assert int(answer["ciphertexts"][index], 16) == expected
            products[index] = products[index] * expected % square
    total = [
        sum(
            a["metropolis"] * (a["half_weight"] * (a["own"][at] - x) + a["dither"][at])
            for a in case["answers"]
        )
        for at, x in enumerate(case["asked"])
    ]
    order = (p - 1) * (q - 1)
    for product, cut in zip(products, cuts, strict=True):
        plaintext = (pow(product, order, square) - 1) // n * pow(order, -1, n) % n
        assert plaintext == pack(total[cut]) % n
    assert [int(each) for each in case["opened"]] == [
        case["askers_half_weight"] * each for each in total
    ]


@pytest.mark.parametrize("case", SIZES["cases"], ids=lambda each: each["name"])
def test_the_longest_message_is_taken_and_no_longer_one(case: Any) -> None:
    data = key_vectors.sized(case["ciphertext_bytes"])
    assert len(data) == case["bytes"]
    assert hashlib.sha256(data).hexdigest() == case["sha256"]
    private = bytes.fromhex(SIZES["identity_private"])
    verifiers = {"a": Ed25519PrivateKey.from_private_bytes(private).public_key()}
    if not case["fails"]:
        decode(data, SIZES["topic"], SIZES["fleet"], verifiers)
        return
    with pytest.raises(WireError) as refused:
        decode(data, SIZES["topic"], SIZES["fleet"], verifiers)
    assert refused.value.reason == case["fails"]
