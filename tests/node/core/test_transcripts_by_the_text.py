"""The transcripts, computed again from node/PROTOCOL.md alone, without any code of the node.

The sections of the document are named beside what follows from them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.paths import ROOT

FOLDER = ROOT / "node" / "vectors" / "transcripts"
EXCHANGES = ("sealed", "pairwise")
NODES = ("a", "b", "c")
ROUNDS = 3
RESOLUTION = 2.0**-32
METROPOLIS = 64 // (1 + 2)  # a triangle
MARGIN = 1e-9  # relative, of estimates


@cache
def transcript_of(exchange: str) -> Any:
    return json.loads((FOLDER / f"{exchange}.json").read_text())


def effects_of(exchange: str, name: str, kind: str) -> Iterator[Any]:
    for step in transcript_of(exchange)["steps"][name]:
        yield from (e for e in step["outcome"]["effects"] if e["effect"] == kind)


@cache
def messages_of(exchange: str, name: str) -> list[tuple[str, list[Any], bytes]]:
    """Kind, fields and topic of all that *name* publishes; signatures are checked (2.1)."""
    found = []
    public = next(
        each["identity"]
        for setup in transcript_of(exchange)["setups"].values()
        for each in setup["neighbours"]
        if each["id"] == name
    )
    verifier = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    for effect in effects_of(exchange, name, "publish"):
        version, kind, body, signature = msgspec.msgpack.decode(bytes.fromhex(effect["data"]))
        verifier.verify(signature, b"cipherfleet/v2/" + kind.encode() + b"\0" + body)
        assert version == 2
        found.append((kind, msgspec.msgpack.decode(body), effect["topic"]))
    return found


def query_of(exchange: str, name: str, k: int) -> list[Any]:
    queries = (f for kind, f, _ in messages_of(exchange, name) if kind == "query" and f[3] == k)
    return next(queries)


def estimate_of(exchange: str, name: str, k: int) -> list[float]:
    """x_k: the estimate after round k - 1 (section 10), or the first one (9.2)."""
    closed = {e["number"]: e["estimate"] for e in effects_of(exchange, name, "round_closed")}
    if k > 0:
        estimate: list[float] = closed[k - 1]
        return estimate
    start = [0.0, 0.0]
    noise = uniform(seed_of(exchange, name, start), "start", 2)
    return [16 * RESOLUTION * (2 * u - 1) for u in noise]


# -- random choices (section 9) -------------------------------------------------------------------


def seed_of(exchange: str, name: str, x: list[float]) -> bytes:
    setup = transcript_of(exchange)["setups"][name]
    hashed = b"cipherfleet/v2/state\0" + struct.pack(f">{len(x) + 1}d", *x, 0.0)
    data = b"cipherfleet/v2/draw\0" + hashlib.sha256(hashed).digest()
    data += setup["draw"].to_bytes(8, "big")
    return hmac.digest(bytes.fromhex(setup["draw_secret"]), data, "sha256")


def expand(seed: bytes, label: str, size: int, count: int) -> list[int]:
    data = hashlib.shake_256(seed + label.encode()).digest(size * count)
    return [int.from_bytes(data[i : i + size], "big") for i in range(0, len(data), size)]


def uniform(seed: bytes, label: str, count: int) -> list[float]:
    return [(word >> 11) * 2.0**-53 for word in expand(seed, label, 8, count)]


def half_weight(seed: bytes, neighbour: str) -> int:
    return 2049 + 2 * (expand(seed, f"half-weight/{neighbour}", 16, 1)[0] % 1024)


def dither(seed: bytes, neighbour: str, weight: int) -> list[int]:
    return [c % weight - (weight - 1) // 2 for c in expand(seed, f"dither/{neighbour}", 16, 2)]


def quantised(seed: bytes, x: list[float]) -> list[int]:
    noise = uniform(seed, "quantise", 2)
    return [math.floor(e / RESOLUTION + u) for e, u in zip(x, noise, strict=True)]


# -- ciphertexts (sections 5 and 6) ---------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What a node has in a round."""

    seed: bytes
    own: list[int]
    n: int
    obfuscator_root: int

    def obfuscator(self, n: int) -> int:
        return pow(self.obfuscator_root, n, n * n)


@cache
def side_of(exchange: str, name: str, k: int) -> Side:
    setup, x = transcript_of(exchange)["setups"][name], estimate_of(exchange, name, k)
    seed = seed_of(exchange, name, x)
    n = int(setup["p"]) * int(setup["q"])
    return Side(seed, quantised(seed, x), n, int(setup["root"]))


def pack(values: list[int], exchange: str) -> int:
    width = 59 if exchange == "sealed" else 71
    return sum(value << (width * place) for place, value in enumerate(values))


def ciphertext_of(number: int, n: int) -> bytes:
    return number.to_bytes(n.bit_length() // 4, "big")


def digest_of(query: list[Any]) -> bytes:
    """2.6, over the round, the roster and the ciphertexts."""
    parts = [b"cipherfleet/v2/query-digest\0", query[3].to_bytes(8, "big")]
    for items in ([name.encode() for name in query[4]], query[11]):
        parts.append(len(items).to_bytes(8, "big"))
        parts += [len(item).to_bytes(8, "big") + item for item in items]
    return hashlib.sha256(b"".join(parts)).digest()


def mask_of(exchange: str, name: str, query: list[Any], n: int) -> int:
    """6.2; zero in the pairwise exchange."""
    secrets, total = transcript_of(exchange)["setups"][name]["secrets"], 0
    for other in query[4]:
        if other != name:
            label = [b"cipherfleet/v2/mask", b"toy", query[1].encode(), b"0", digest_of(query)]
            data = bytes.fromhex(secrets[other]) + b"\0".join(label)
            wide = hashlib.shake_256(data).digest((n.bit_length() + 128 + 7) // 8)
            total += (1 if other > name else -1) * (int.from_bytes(wide, "big") % n)
    return total


def answer_of(exchange: str, sender: str, asker: str, k: int) -> bytes:
    side, n = side_of(exchange, sender, k), side_of(exchange, asker, k).n
    query = query_of(exchange, asker, k)
    weight, factor = factors_of(exchange, side, asker)
    noise = dither(side.seed, asker, weight)
    shifts = [factor * (weight * x + e) for x, e in zip(side.own, noise, strict=True)]
    shift = pack(shifts, exchange) + mask_of(exchange, sender, query, n)
    power = pow(int.from_bytes(query[11][0], "big"), factor * weight, n * n)
    return ciphertext_of(power * (1 + n * (shift % n)) * side.obfuscator(n) % (n * n), n)


def factors_of(exchange: str, side: Side, asker: str) -> tuple[int, int]:
    """The half weight towards *asker*, and the public factor that the answerer applies."""
    if exchange == "sealed":
        return half_weight(side.seed, ""), METROPOLIS
    return half_weight(side.seed, asker), 1


def coupling_of(exchange: str, asker: str, k: int) -> list[float]:
    """c_i, from the plaintexts of all answers."""
    side, total = side_of(exchange, asker, k), [0, 0]
    for name in NODES:
        if name == asker:
            continue
        other = side_of(exchange, name, k)
        weight, _ = factors_of(exchange, other, asker)
        own = half_weight(side.seed, "" if exchange == "sealed" else name)
        noise = dither(other.seed, asker, weight)
        for at in range(2):
            term = weight * (other.own[at] - side.own[at]) + noise[at]
            total[at] += own * METROPOLIS * term
    return [entry * RESOLUTION * 2.0**-30 for entry in total]


# -- the tests ------------------------------------------------------------------------------------

CASES = [(exchange, name) for exchange in EXCHANGES for name in NODES]


@pytest.mark.parametrize(("exchange", "name"), CASES)
@pytest.mark.parametrize("k", range(ROUNDS))
def test_a_query_follows_from_the_state(exchange: str, name: str, k: int) -> None:
    side, query = side_of(exchange, name, k), query_of(exchange, name, k)
    n, plaintext = side.n, pack([-x for x in side.own], exchange)
    expected = (1 + n * (plaintext % n)) * side.obfuscator(n) % (n * n)
    others = [other for other in NODES if other != name]
    assert query[:3] == ["toy", name, 1]
    assert query[4] == (others if exchange == "sealed" else [])
    assert query[5] == []  # every round has counted all
    modulus = n.to_bytes((n.bit_length() + 7) // 8, "big")
    assert query[10] == hashlib.sha256(modulus).digest()[:8]
    assert query[11] == [ciphertext_of(expected, n)]


@pytest.mark.parametrize(("exchange", "name"), CASES)
def test_every_answer_follows_from_the_query(exchange: str, name: str) -> None:
    answers = [fields for kind, fields, _ in messages_of(exchange, name) if kind == "answer"]
    assert {(f[3], f[4]) for f in answers} == {
        (other, k) for other in NODES if other != name for k in range(ROUNDS)
    }
    for _, sender, _, receiver, k, _, digest, ciphertexts, averaged in answers:
        assert averaged == []
        assert digest == digest_of(query_of(exchange, receiver, k))
        assert ciphertexts == [answer_of(exchange, sender, receiver, k)]


@pytest.mark.parametrize(("exchange", "name"), CASES)
@pytest.mark.parametrize("k", range(ROUNDS))
def test_the_step_follows_from_the_answers(exchange: str, name: str, k: int) -> None:
    """Section 10, with the objective `mean`: g = x - y, since all readings are alike."""
    setup, x = transcript_of(exchange)["setups"][name], estimate_of(exchange, name, k)
    readings = (
        step["event"]["samples"][0]
        for step in transcript_of(exchange)["steps"][name]
        if step["event"]["event"] == "reading"
    )
    reading = next(readings)
    step = setup["algorithm"]["stepsize"]
    mean = step["initial"] / (1.0 + step["decay"] * k ** step["exponent"])
    chosen = uniform(seed_of(exchange, name, x), "stepsize", 2)
    coupling = coupling_of(exchange, name, k)
    expected = [
        x[at]
        + coupling[at]
        - mean * (1.0 + step["spread"] * (2.0 * chosen[at] - 1.0)) * (x[at] - reading[field])
        for at, field in enumerate(("u", "v"))
    ]
    found = estimate_of(exchange, name, k + 1)
    assert all(math.isclose(a, b, rel_tol=MARGIN) for a, b in zip(found, expected, strict=True))
