"""Write node/vectors/*.json: language-neutral vectors, expected failures included.

Run as `python -m tests.tools.make_vectors`. Numbers are decimal texts, bytes are hexadecimal. Keys
are toys of 512 bits, identities are derived from fixed seeds: nothing here protects anything.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gmpy2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import exchange, topics, wire
from cipherfleet_node.core.messages import (
    MAX_CIPHERTEXTS,
    MAX_CO_NEIGHBOURS,
    MAX_REASONS,
    OPERATOR,
    Answer,
    GenerationsEntry,
    Health,
    Membership,
    MembershipEntry,
    Message,
    PartnerEntry,
    Presence,
    Query,
    Refusal,
    Uncounted,
)
from cipherfleet_node.core.packing import MAX_DEGREE, Layout
from cipherfleet_node.core.paillier import encrypt, faults_of_modulus, scale
from cipherfleet_node.core.parameters import SharedParameters
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sealed import Seal
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.errors import WireError
from tests.support.memory_fleet import toy_secret
from tests.support.queries import query_of

from .key_vectors import identities_vectors, sealed_exchange_vectors, sizes_vectors

FOLDER = Path(__file__).parents[2] / "node" / "vectors"
HALF = 1 << 70
MOST = wire.MAX_ROUND
KEY_TAG = b"key-tag."
BITS = 512
SEED = bytes(range(32))


def texts(numbers: Any) -> list[str]:
    return [str(number) for number in numbers]


def hexes(items: Any) -> list[str]:
    return [item.hex() for item in items]


# -- draws ----------------------------------------------------------------------------------------


def draws_vectors() -> Any:
    randomness = RoundRandomness(SEED)
    return {
        "about": "uniform = top 53 bits of each big-endian 64-bit word / 2^53, below = big-endian "
        "128-bit words modulo the bound, words from SHAKE256(seed || label)",
        "seed": SEED.hex(),
        "uniform": [
            {
                "label": label,
                "times_2_53": texts(int(u * 2**53) for u in randomness.uniform(label, 4)),
            }
            for label in ("quantise", "stepsize", "start")
        ],
        "below": [
            {"label": label, "bound": bound, "values": randomness.integers_below(bound, label, 4)}
            for label, bound in (("half-weight/b", 1024), ("dice", 7))
        ],
        "half_weight": [
            {"neighbour": name, "value": exchange.half_weight(randomness, name)}
            for name in ("a", "b", "node-01")
        ],
        "dither": [
            {
                "neighbour": name,
                "half_weight": weight,
                "values": exchange.dither(randomness, name, weight, 6),
            }
            for name, weight in (("b", 2345), ("node-01", 4095))
        ],
    }


# -- packing --------------------------------------------------------------------------------------


def packing_vectors() -> Any:
    modulus = toy_key(0).public.n
    pack: list[dict[str, Any]] = []
    for name, values in (
        ("one entry", [5]),
        ("negative entries borrow from the slot above", [-1, 1, -1]),
        ("extremes of a slot", [HALF - 1, -HALF, HALF - 1, -HALF]),
        ("zeros", [0] * 8),
        ("nine entries need two plaintexts", list(range(-4, 5))),
    ):
        packed = Layout(BITS, len(values)).pack(values)
        pack.append(
            {
                "name": name,
                "key_bits": BITS,
                "values": texts(values),
                "plaintexts": texts(packed),
            }
        )
    for name, values in (
        ("one above the slot", [0, HALF]),
        ("one below the slot", [-HALF - 1, 0]),
    ):
        pack.append({"name": name, "key_bits": BITS, "values": texts(values), "fails": "headroom"})
    unpack: list[dict[str, Any]] = []
    slots: list[int] | None
    for name, dimension, plaintext, bound, slots in (
        ("extremes", 2, (HALF - 1) - (HALF << 71), HALF, [HALF - 1, -HALF]),
        ("zero", 3, 0, 0, [0, 0, 0]),
        ("minus one in every slot", 3, -1 - (1 << 71) - (1 << 142), 1, [-1, -1, -1]),
        ("a slot beyond its bound", 2, 6 + (1 << 71), 5, None),
        ("above the last slot", 2, 1 << 142, HALF, None),
        ("below the last slot", 2, -1 << 142, HALF, None),
        ("half the modulus", 7, int(modulus) // 2, HALF, None),
    ):
        case = {
            "name": name,
            "key_bits": BITS,
            "dimension": dimension,
            "modulus": str(modulus),
            "plaintexts": texts([plaintext % int(modulus)]),
            "bound": str(bound),
        }
        result = {"fails": "out_of_range"} if slots is None else {"values": texts(slots)}
        unpack.append(case | result)
    return {
        "about": "plaintext = sum_l v_l 2^(71 l), signed; -2^70 <= v_l < 2^70; slots = "
        "floor((key_bits - 2) / 71)",
        "pack": pack,
        "unpack": unpack,
    }


# -- paillier -------------------------------------------------------------------------------------


def paillier_vectors() -> Any:
    key = toy_key(0)
    public, n = key.public, key.public.n
    encrypted = []
    for name, m, root in (
        ("zero", 0, 2),
        ("one with root one", 1, 1),
        ("minus one", -1, 3),
        ("largest", n - 1, n - 2),
    ):
        c = encrypt(public, mpz(m), gmpy2.powmod(root, n, public.n_squared))
        encrypted.append(
            {"name": name, "plaintext": str(m), "root": str(root), "ciphertext": str(c)}
        )
    scaled = []
    for name, factor, shift, root in (
        ("half weight and shift", 2345, 1 << 71, 7),
        ("negative shift", 4095, -17, 11),
    ):
        c = mpz(encrypted[2]["ciphertext"])
        power = scale(public, c, factor)
        blinded = encrypt(public, mpz(shift), gmpy2.powmod(root, n, public.n_squared))
        result = power * blinded % public.n_squared
        case = {"name": name, "ciphertext": str(c), "factor": str(factor), "shift": str(shift)}
        scaled.append(case | {"root": str(root), "scaled": str(power), "result": str(result)})
    n2 = public.n_squared
    checks: list[dict[str, Any]] = [
        {"name": name, "ciphertexts": texts(values)}
        for name, values in (("one", [1]), ("largest", [n2 - 1]), ("both", [1, n2 - 1]))
    ]
    for name, values, reason in (
        ("zero", [0], "ciphertext_range"),
        ("negative", [-5], "ciphertext_range"),
        ("n squared", [n2], "ciphertext_range"),
        ("n squared + 7", [n2 + 7], "ciphertext_range"),
        ("n", [n], "ciphertext_not_unit"),
        ("p", [key.p], "ciphertext_not_unit"),
        ("multiple of p", [12345 * key.p], "ciphertext_not_unit"),
        ("power of q", [key.q**3], "ciphertext_not_unit"),
        ("out of range after a good one", [1, n2], "ciphertext_range"),
        ("out of range before a good one", [0, 1], "ciphertext_range"),
        ("no unit among good ones", [1, key.p, n2 - 1], "ciphertext_not_unit"),
        ("a multiple of n only together", [key.p, key.q], "ciphertext_not_unit"),
    ):
        checks.append({"name": name, "ciphertexts": texts(values), "fails": reason})
    prime, root = gmpy2.next_prime(mpz(3) << 510), gmpy2.next_prime(mpz(3) << 254)
    moduli = [
        {
            "name": name,
            "n": str(value),
            "bits": bits,
            "faults": list(faults_of_modulus(int(value), bits)),
        }
        for name, value, bits in (
            ("sound", n, 512),
            ("shorter than the fleet's", n, 2048),
            ("prime", prime, 512),
            ("square", root**2, 512),
            ("even", n + 1, 512),
            ("small factor", n * 65521, gmpy2.bit_length(n * 65521)),
        )
    ]
    return {
        "about": "c = (1 + n m) r^n mod n^2 with g = n + 1; scaled = c^factor, result = scaled "
        "(1 + n shift) r^n; a ciphertext is a unit in 1 .. n^2-1",
        "key": {"p": str(key.p), "q": str(key.q)},
        "encrypt": encrypted,
        "scale_and_shift": scaled,
        "check_ciphertexts": checks,
        "modulus": moduli,
    }


# -- exchange -------------------------------------------------------------------------------------


def exchange_vectors() -> Any:
    key, layout = toy_key(0), Layout(BITS, 9)
    public = key.public
    asked = [0, 1, -1, 2**31 - 1, 1 - 2**31, 12345, -54321, 7, 99]
    roots = iter(range(2, 100))
    take = lambda: gmpy2.powmod(next(roots), public.n, public.n_squared)  # noqa: E731
    query = exchange.make_query(public, layout, asked, take)
    read = exchange.read_ciphertexts(public, layout, query)
    digest = query_of("f", "i", 1, 3, ciphertexts=query).digest
    answers, openings = [], {}
    for name, m, own_weight, sign in (("j", 21, 2049, 1), ("k", 16, 4095, -1)):
        own = [sign * entry for entry in reversed(asked)]
        randomness = RoundRandomness(name.encode() * 32)
        weight = exchange.half_weight(randomness, "i")
        noise = exchange.dither(randomness, "i", weight, 9)
        prepared = exchange.prepare_answer(public, layout, own, weight, noise, take)
        ciphertexts = exchange.make_answer(public, layout, read, weight, prepared)
        openings[name] = exchange.Opening(
            own_weight * m, exchange.read_ciphertexts(public, layout, ciphertexts)
        )
        answers.append(
            {
                "sender": name,
                "seed": randomness.seed.hex(),
                "own": own,
                "half_weight": weight,
                "dither": noise,
                "metropolis": m,
                "askers_half_weight": own_weight,
                "ciphertexts": hexes(ciphertexts),
            }
        )
    size = layout.ciphertext_bytes
    good, beyond, multiple = (
        c.to_bytes(size, "big") for c in (read[0], public.n_squared + 7, 12345 * key.p)
    )
    refusals = [
        {"name": name, "ciphertexts": hexes(items), "fails": reason}
        for name, items, reason in (
            ("too few", [good], "ciphertext_count"),
            ("too many", [good] * 3, "ciphertext_count"),
            ("none", [], "ciphertext_count"),
            ("a byte short", [good, good[1:]], "ciphertext_length"),
            ("a byte long", [good, b"\0" + good], "ciphertext_length"),
            ("empty", [good, b""], "ciphertext_length"),
            ("zero", [good, bytes(size)], "ciphertext_range"),
            ("all ones", [b"\xff" * size, good], "ciphertext_range"),
            ("n squared", [public.n_squared.to_bytes(size, "big"), good], "ciphertext_range"),
            ("n squared + 7", [beyond, good], "ciphertext_range"),
            ("n", [public.n.to_bytes(size, "big"), good], "ciphertext_not_unit"),
            ("multiple of p", [multiple, good], "ciphertext_not_unit"),
        )
    ]
    return {
        "about": "query: -asked under the asker's key with roots 2, 3; answers: H (own - asked) + "
        "e with roots 4 ..; combined = sum H_ij M_ij (H_ji (own - asked) + e)",
        "key": {"p": str(key.p), "q": str(key.q)},
        "asked": asked,
        "query": hexes(query),
        "round": 3,
        "digest": digest.hex(),
        "answers": answers,
        "combined": texts(exchange.open_answers(key, layout, openings)),
        "refused": refusals,
    }


# -- sealed ---------------------------------------------------------------------------------------


def sealed_vectors() -> Any:
    roster, modulus = ["a", "b", "c"], toy_key(0).public.n
    ciphertexts = [b"\x01" * 8, b"\x02" * 8]
    query = query_of("f", "i", 1, 3, roster, ciphertexts=ciphertexts)
    masks = []
    for name in roster:
        secrets = {other: toy_secret(name, other) for other in roster if other != name}
        seal = Seal("f", name, {"i": frozenset(roster)}, secrets)
        masks.append({"sender": name, "values": texts(seal.masks(query, modulus))})
    return {
        "about": 'F = SHAKE256(secret || "cipherfleet/v2/mask" NUL fleet NUL asker NUL index NUL '
        "digest), as many bytes as hold the modulus and 128 bits, big-endian, modulo the modulus; "
        "R_j = sum of F over the roster's members above j, less those below",
        "fleet": "f",
        "asker": "i",
        "round": 3,
        "roster": roster,
        "ciphertexts": hexes(ciphertexts),
        "digest": query.digest.hex(),
        "modulus": str(modulus),
        "secrets": [
            {"between": [a, b], "secret": toy_secret(a, b).hex()}
            for a, b in (("a", "b"), ("a", "c"), ("b", "c"))
        ],
        "masks": masks,
    }


# -- parameters -----------------------------------------------------------------------------------


def parameters_vectors() -> Any:
    sealed = SharedParameters("sealed", 1, 2.0**-24, 0.3, 0.01, 1.0)
    replace = dataclasses.replace
    shielded = replace(
        sealed,
        initial=1.0,
        decay=0.0,
        exponent=0.0,
        exact_scale=0.25,
        schedule=(208, 10, 32),
        shield="linear",
        shares=1.0,
    )
    cases = {
        "sealed, the defaults": sealed,
        "pairwise": replace(sealed, exchange="pairwise"),
        "attenuation": replace(sealed, attenuation=(0.1, 0.81)),
        "attenuation of scale 0 is not none": replace(sealed, attenuation=(0.0, 0.0)),
        "dimension beyond 16 bits": replace(sealed, dimension=70_000),
        "a resolution that is no power of two": replace(sealed, resolution=1e-6),
        "a stepsize that does not decay": replace(sealed, decay=0.0, exponent=0.0),
        "the exact method": replace(sealed, initial=1.0, decay=0.0, exponent=0.0, exact_scale=0.25),
        "the method statistics": replace(
            sealed, initial=1.0, decay=0.0, exponent=0.0, exact_scale=1.0, exact_method="statistics"
        ),
        "the exact method with a shield": shielded,
        "the exact method with the quadratic shield": replace(
            shielded, shield="quadratic", shares=4.0
        ),
        "the exact method with a mean residual": replace(
            sealed,
            dimension=2,
            initial=1.0,
            decay=0.0,
            exponent=0.0,
            exact_scale=0.25,
            drift_window=24,
        ),
        "wire version 3": replace(sealed, wire_version=3),
    }
    return {
        "about": "bytes = the text cipherfleet/v2/parameters, wire_version, exchange, dimension, "
        "value_bits, half_weight_bits, metropolis_bits, resolution, initial, decay, exponent, "
        "none or power, scale and exponent of the attenuation (0 and 0 for none), or exact, c0 and "
        "3 for the exact method, statistics, c0 and 3 for statistics; with a shield linear or "
        "quadratic, the schedule G, D and W of generations and its shares; with a mean residual "
        "drift, its window and 8; texts end with NUL, integers are 8 bytes big "
        "endian, reals IEEE-754 binary64 big endian; tag = the first 8 bytes of their SHA-256",
        "cases": [
            {
                "name": name,
                "fields": dataclasses.asdict(each),
                "bytes": each.encoded.hex(),
                "tag": each.tag.hex(),
            }
            for name, each in cases.items()
        ],
    }


# -- wire -----------------------------------------------------------------------------------------


def wire_messages() -> dict[str, Message]:
    tag = b"paramete"
    membership = Membership(
        "fleet",
        OPERATOR,
        9,
        "b",
        40,
        "f" * 64,
        [MembershipEntry("a", ["b", "c"], b"\xd5" * 64, b"\x01" * 32, b"\x02" * 32)],
        [("c", b"\x03" * 32)],
        b"",
        rekey=False,
    )
    return {
        "query": Query(
            "fleet",
            "a",
            7,
            3,
            [],
            [Uncounted(2, ["b", "c"])],
            False,
            None,
            0,
            tag,
            KEY_TAG,
            [b"\x01" * 4, b"\xff" * 4],
        ),
        "sealed query": Query(
            "fleet", "a", 7, 4, ["b", "c"], [], True, None, 0, tag, KEY_TAG, [b"\x01"]
        ),
        "answer": Answer("fleet", "a", 7, "b", 3, 1500, bytes(range(32)), [b"\x02" * 4]),
        "refusal": Refusal("fleet", "a", 7, "b", 3, 0, bytes(range(32)), "old", 12),
        "refusal of an earlier start": Refusal(
            "fleet", "a", 7, "b", 3, 0, bytes(range(32)), "stale_epoch", 9
        ),
        "presence": Presence("fleet", "a", 7, "ready"),
        "health": Health(
            "fleet",
            "a",
            7,
            12,
            "collecting",
            3,
            250_000,
            1,
            4,
            {"signature": 2, "stale_epoch": 1},
            {},
            5,
            16,
            8,
            ["b"],
            30,
            True,
            47,
            2,
        ),
        "health of a node that has just begun": Health(
            "fleet", "a", 7, 1, "starting", 0, 0, 0, 0, {}, {}, 0, 0, 0, [], 0, None, None, None
        ),
        "largest numbers": query_of("fleet", "a", MOST, MOST),
        "membership": membership,
        "membership with a shield": msgspec.structs.replace(
            membership,
            generations=GenerationsEntry(
                1,
                208,
                10,
                32,
                2.0,
                b"\x05" * 32,
                [PartnerEntry(0, "a", b"\x02" * 32), PartnerEntry(2, "c", b"\x03" * 32)],
            ),
        ),
    }


def longer(data: bytes, at: int, more: bytes, instead_of: int = 0) -> bytes:
    """Return *data* with *more* inserted, which replaces *instead_of* bytes."""
    return data[:at] + more + data[at + instead_of :]


def wider(envelope: list[Any]) -> bytes:
    """Return *envelope* with a longer length of the body than it needs."""
    encode = msgspec.msgpack.encode
    head = b"\x94\x02" + encode(envelope[1])
    length = b"\xc5" + len(envelope[2]).to_bytes(2, "big")
    body: bytes = envelope[2]
    return head + length + body + encode(envelope[3])


def badly_signed(case: Any, signer: Ed25519PrivateKey) -> dict[str, str] | None:
    """Return *case* with a flipped bit in its signature, None if it has none.

    A reader that refuses the case for its flaw only, and checks no signature, takes some of these
    for well signed.
    """
    try:
        *head, signature = msgspec.msgpack.decode(bytes.fromhex(case["bytes"]))
        flipped = bytes([signature[0] ^ 1, *signature[1:]])
    except (msgspec.DecodeError, ValueError, IndexError, TypeError):
        return None
    data = msgspec.msgpack.encode([*head, flipped])
    verifiers = dict.fromkeys(("a", "b", OPERATOR), signer.public_key())
    try:
        wire.decode(data, case["topic"], "fleet", verifiers)
    except WireError as error:
        return {"bytes": data.hex(), "fails": error.reason}
    raise AssertionError("a badly signed message was taken")


def wire_vectors() -> Any:
    encode = msgspec.msgpack.encode
    signer = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
    stranger = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    good = [
        {
            "name": name,
            "topic": wire.topic_of(message),
            "kind": message.KIND,
            "fields": msgspec.json.decode(msgspec.json.encode(message)),
            "bytes": wire.encode(message, signer).hex(),
        }
        for name, message in wire_messages().items()
    ]
    query, presence = wire_messages()["query"], wire_messages()["presence"]
    health = wire_messages()["health"]
    encoded = wire.encode(query, signer)
    envelope = msgspec.msgpack.decode(encoded)

    def signed(kind: str, body: bytes, version: int = wire.WIRE_VERSION) -> bytes:
        signature = signer.sign(b"cipherfleet/v2/" + kind.encode() + b"\0" + body)
        return encode([version, kind, body, signature])

    def changed(**fields: Any) -> bytes:
        return wire.encode(msgspec.structs.replace(query, **fields), signer)

    def replied(**fields: Any) -> bytes:
        return wire.encode(msgspec.structs.replace(wire_messages()["answer"], **fields), signer)

    def refused(**fields: Any) -> bytes:
        return wire.encode(msgspec.structs.replace(wire_messages()["refusal"], **fields), signer)

    def ill(**fields: Any) -> bytes:
        return wire.encode(msgspec.structs.replace(health, **fields), signer)

    membership = wire_messages()["membership"]
    assert isinstance(membership, Membership)

    def enrolled(**fields: Any) -> bytes:
        return wire.encode(msgspec.structs.replace(membership, **fields), signer)

    member = membership.members[0]
    crowded = msgspec.structs.replace(member, neighbours=["b"] * (MAX_DEGREE + 1))
    misnamed = msgspec.structs.replace(member, id="_a")
    members = topics.membership_topic("fleet", "b")
    home, presences = topics.query_topic("fleet", "a"), topics.presence_topic("fleet", "a")
    healths = topics.health_topic("fleet", "a")
    many = {f"reason_{chr(97 + n // 26)}{chr(97 + n % 26)}": 1 for n in range(MAX_REASONS + 1)}
    answers = topics.answer_topic("fleet", "b", "a")
    moved = encode([wire.WIRE_VERSION, "presence", encode(presence), envelope[3]])
    asleep = encode(["fleet", "a", 7, "asleep"])
    body = envelope[2]
    fields = msgspec.msgpack.decode(body)
    at = body.index(b"\x07\x03") + 1  # where the round is
    wide_round, signed_round = longer(body, at, b"\xcc"), longer(body, at, b"\xd0")
    real_round = longer(body, at, b"\xca\x40\x40\x00\x00", 1)
    wide_array = longer(body, 0, b"\xdc\x00" + bytes([body[0] & 15]), 1)
    counted = encode(wire_messages()["health"])
    at = counted.index(b"\x82\xa9signature\x02\xab")
    twice = longer(counted, at, b"\x83\xa9signature\x02", 1)
    bad = [
        {"name": name, "topic": topic, "bytes": data.hex(), "fails": reason}
        for name, topic, data, reason in (
            ("empty", home, b"", "malformed"),
            ("cut", home, encoded[:-1], "malformed"),
            ("trailing byte", home, encoded + b"\0", "malformed"),
            ("a map", home, b"\x80", "malformed"),
            ("an envelope too long", home, encode([*envelope, 0]), "malformed"),
            ("a field too many", home, signed("query", encode([*fields, 0])), "malformed"),
            ("a field too few", home, signed("query", encode(fields[:-3])), "malformed"),
            ("a text that is not UTF-8", home, b"\x94\x01\xa1\xff\xc4\x00\xc4\x00", "malformed"),
            ("version 1", home, signed("query", envelope[2], 1), "version"),
            ("unknown kind", home, signed("quest", envelope[2]), "kind"),
            ("another fleet", home, changed(fleet="other"), "fleet"),
            ("another sender than the topic's", home, changed(sender="c"), "topic"),
            ("another topic", topics.query_topic("fleet", "b"), encoded, "topic"),
            ("a query on the answers' topic", answers, encoded, "topic"),
            ("a presence on the queries' topic", home, wire.encode(presence, signer), "topic"),
            ("a topic of another fleet", "cf/v2/other/q/a", encoded, "topic"),
            ("a topic of another version", "cf/v1/fleet/q/a", encoded, "topic"),
            ("a topic with a level too many", home + "/a", encoded, "topic"),
            ("a topic of a stranger", topics.query_topic("fleet", "c"), b"", "unknown_sender"),
            ("a topic of the operator", topics.query_topic("fleet", OPERATOR), b"", "topic"),
            ("a membership that a node sends", members, enrolled(sender="a"), "topic"),
            ("a membership for another node", members, enrolled(receiver="c"), "topic"),
            ("64 members", members, enrolled(members=[member] * (MAX_DEGREE + 1)), "malformed"),
            ("64 neighbours of a member", members, enrolled(members=[crowded]), "malformed"),
            ("a member that is no node", members, enrolled(members=[misnamed]), "malformed"),
            (
                f"{MAX_CO_NEIGHBOURS + 1} seals",
                members,
                enrolled(seals=[("c", b"")] * (MAX_CO_NEIGHBOURS + 1)),
                "malformed",
            ),
            (
                f"{MAX_CIPHERTEXTS + 1} ciphertexts",
                home,
                changed(ciphertexts=[b""] * (MAX_CIPHERTEXTS + 1)),
                "malformed",
            ),
            ("the version in two bytes", home, longer(encoded, 1, b"\xcc"), "encoding"),
            (
                "the kind with a length of 8 bits",
                home,
                longer(encoded, 2, b"\xd9\x05", 1),
                "encoding",
            ),
            ("the body with a length of 16 bits", home, wider(envelope), "encoding"),
            ("the round in two bytes", home, signed("query", wide_round), "encoding"),
            ("the round as a signed number", home, signed("query", signed_round), "encoding"),
            ("an array with a length of 16 bits", home, signed("query", wide_array), "encoding"),
            ("a reason twice", healths, signed("health", twice), "encoding"),
            ("a number as a real", home, signed("query", real_round), "malformed"),
            ("a round beyond the limit", home, changed(round=MOST + 1), "range"),
            ("an epoch beyond the limit", home, changed(epoch=MOST + 1), "range"),
            ("a closed round beyond the limit", home, changed(uncounted=[[MOST + 1, []]]), "range"),
            ("a closed round below 0", home, changed(uncounted=[[-1, []]]), "range"),
            ("five closed rounds", home, changed(uncounted=[[0, []]] * 5), "malformed"),
            ("a wait of 64 bits", answers, replied(waited_ms=2**63), "range"),
            ("a negative wait", answers, replied(waited_ms=-1), "range"),
            ("a refusal that names a far round", answers, refused(theirs=MOST + 1), "range"),
            ("a refusal for an unknown reason", answers, refused(reason="tired"), "malformed"),
            ("a refusal on the queries' topic", home, refused(), "topic"),
            ("a refusal with a short digest", answers, refused(query=bytes(31)), "length"),
            ("an answer with a short digest", answers, replied(query=bytes(31)), "length"),
            ("a membership far away", members, enrolled(from_round=MOST + 1), "range"),
            ("a negative round", home, changed(round=-1), "range"),
            ("a round of 64 bits", home, changed(round=2**63), "range"),
            ("an epoch of 64 bits", home, changed(epoch=2**64 - 1), "range"),
            ("a roster of 64", home, changed(roster=["b"] * 64), "malformed"),
            ("a name of 64 letters in a roster", home, changed(roster=["b" * 64]), "malformed"),
            ("an empty name in a roster", home, changed(roster=[""]), "malformed"),
            ("a name with a space in a roster", home, changed(roster=["b c"]), "malformed"),
            ("a name that begins with - in a roster", home, changed(roster=["-b"]), "malformed"),
            ("a name with a newline in a roster", home, changed(roster=["b\n"]), "malformed"),
            ("a short tag", home, changed(key=b"short"), "length"),
            ("another signer", home, wire.encode(query, stranger), "signature"),
            ("a signature of another kind", presences, moved, "signature"),
            ("no signature", home, encode([*envelope[:3], b""]), "signature"),
            ("an unknown state", presences, signed("presence", asleep), "malformed"),
            ("health on the presence's topic", presences, wire.encode(health, signer), "topic"),
            ("health of another signer", healths, wire.encode(health, stranger), "signature"),
            ("a negative round time", healths, ill(round_us=-1), "range"),
            ("a round time that is no whole number", healths, ill(round_us=1.5), "malformed"),
            ("a pool of 64 bits", healths, ill(pool=2**63), "range"),
            ("a count of 64 bits", healths, ill(rejected={"signature": 2**63}), "range"),
            ("a negative count", healths, ill(surplus={"late_answer": -1}), "range"),
            ("colder than cold", healths, ill(temperature=-274), "range"),
            ("hotter than any processor", healths, ill(temperature=1000), "range"),
            ("65 reasons", healths, ill(rejected=many), "malformed"),
            ("a reason of 33 letters", healths, ill(rejected={"a" * 33: 1}), "malformed"),
            ("a reason of two lines", healths, ill(rejected={"a\n": 1}), "malformed"),
            (
                "a reason with a control character",
                healths,
                ill(rejected={"\x1b[2J": 1}),
                "malformed",
            ),
            ("an unknown phase", healths, ill(phase="asleep"), "malformed"),
        )
    ]
    return {
        "about": "envelope = [2, kind, body, signature], MessagePack; signature = Ed25519 over "
        '"cipherfleet/v2/" kind NUL body; JSON shows bytes of fields as base64',
        "identity_seed": (b"a" * 32).hex(),
        "fleet": "fleet",
        "senders": ["a", "b", OPERATOR],
        "retained": [
            {"topic": each["topic"], "bytes": each["bytes"], "fails": reason}
            for each in good
            for reason in ["" if each["kind"] in wire.RETAINED_KINDS else "retained"]
        ],
        "decode": good,
        "refused": bad,
        "badly_signed": [
            {"name": f"{case['name']}, badly signed", "topic": case["topic"], **twin}
            for case in bad
            if (twin := badly_signed(case, signer))
        ],
    }


def shield_vectors() -> Any:
    secrets = {index: toy_secret("self", str(index)) for index in (0, 2, 5)}
    made = Shield(1, 208, 10, 32, b"m" * 32, 3.0, secrets, size=4.0)
    name, unit = b"generation.name!", 2.0**-32 * exchange.UNIT
    lists = {"all partners": [0, 1, 2, 5], "one is away": [0, 1, 5], "nobody else": [1]}
    return {
        "about": "what the node with index 1 adds to its vector v (hidden), what it adds when the "
        "participants in fresh had no share (added), and the upper triangle of its c0 Q, row by "
        "row (7.15, rules 7 and 8)",
        "index": made.index,
        "secrets": {str(index): secret.hex() for index, secret in secrets.items()},
        "mean_partners": made.mean_partners,
        "shares": made.size,
        "c0": 0.25,
        "unit": unit,
        "generation": name.hex(),
        "fresh": [5],
        "cases": [
            {
                "name": case,
                "participants": listed,
                "hidden": texts(made.shares(name, listed, 3, unit)),
                "added": texts(made.added_shares(name, listed, [5], 3, unit)),
                "quadratic": list(made.quadratic(listed, 3, 0.25)),
            }
            for case, listed in lists.items()
        ],
    }


ALL = {
    "draws": draws_vectors,
    "packing": packing_vectors,
    "paillier": paillier_vectors,
    "exchange": exchange_vectors,
    "sealed": sealed_vectors,
    "parameters": parameters_vectors,
    "wire": wire_vectors,
    "identities": identities_vectors,
    "sealed_exchange": sealed_exchange_vectors,
    "sizes": sizes_vectors,
    "shield": shield_vectors,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, make in ALL.items():
        text = json.dumps(make(), indent=1) + "\n"
        (FOLDER / f"{file_name}.json").write_text(text)
