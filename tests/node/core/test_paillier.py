"""Raw Paillier: against phe, against its definition, and inputs that it must refuse."""

from __future__ import annotations

import json
from typing import Any

import gmpy2
import phe
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import paillier
from cipherfleet_node.core.paillier import (
    PrivateKey,
    PublicKey,
    check_ciphertexts,
    encrypt,
    faults_of_modulus,
    scale,
)
from cipherfleet_node.errors import RemoteProtocolError
from tests.support.paths import ROOT
from tests.tools.make_vectors import paillier_vectors

VECTORS = ROOT / "node" / "vectors" / "paillier.json"
KEY = toy_key(0)
N, N2 = KEY.public.n, KEY.public.n_squared

plaintexts = st.one_of(
    st.sampled_from([0, 1, int(N) // 2, int(N) - 1]), st.integers(0, int(N) - 1)
).map(mpz)
signed = st.integers(-int(N) // 2 + 1, int(N) // 2).map(mpz)
halves = st.tuples(st.integers(1, int(KEY.p) - 1), st.integers(1, int(KEY.q) - 1))


def obfuscator(pair: tuple[int, int]) -> mpz:
    return KEY.obfuscator(mpz(pair[0]), mpz(pair[1]))


@given(plaintexts, halves)
def test_decryption_undoes_encryption(m: mpz, pair: tuple[int, int]) -> None:
    assert KEY.decrypt(encrypt(KEY.public, m, obfuscator(pair))) == m


@given(plaintexts, halves)
def test_phe_decrypts_ours_and_we_decrypt_phes(m: mpz, pair: tuple[int, int]) -> None:
    public = phe.PaillierPublicKey(int(N))
    private = phe.PaillierPrivateKey(public, int(KEY.p), int(KEY.q))
    assert private.raw_decrypt(int(encrypt(KEY.public, m, obfuscator(pair)))) == m
    assert KEY.decrypt(mpz(public.raw_encrypt(int(m)))) == m
    # With the same blinding root both make the very same ciphertext.
    root = pair[0] + 1
    ours = encrypt(KEY.public, m, gmpy2.powmod(root, N, N2))
    assert ours == public.raw_encrypt(int(m), r_value=root)


@given(plaintexts, plaintexts, halves, halves, st.integers(0, 4095))
def test_ciphertexts_are_scaled_and_added_as_their_plaintexts(
    m: mpz, shift: mpz, pair: tuple[int, int], other: tuple[int, int], factor: int
) -> None:
    c = encrypt(KEY.public, m, obfuscator(pair))
    added = encrypt(KEY.public, shift, obfuscator(other))
    scaled = scale(KEY.public, c, factor)
    assert KEY.decrypt(scaled) == factor * m % N
    assert KEY.decrypt(scaled * added % N2) == (factor * m + shift) % N
    assert KEY.decrypt(c * added % N2) == (m + shift) % N


@given(signed, halves)
def test_negative_plaintexts_are_reduced_modulo_n(m: mpz, pair: tuple[int, int]) -> None:
    assert KEY.decrypt(encrypt(KEY.public, m, obfuscator(pair))) == m % N


@settings(max_examples=30)
@given(
    st.lists(st.tuples(plaintexts, halves, st.integers(0, 1 << 18)), min_size=1, max_size=8),
)
def test_a_combined_decryption_equals_separate_ones(
    parts: list[tuple[mpz, tuple[int, int], int]],
) -> None:
    ciphertexts = [encrypt(KEY.public, m, obfuscator(pair)) for m, pair, _ in parts]
    exponents = [exponent for _, _, exponent in parts]
    separate = sum(
        exponent * KEY.decrypt(c) for c, exponent in zip(ciphertexts, exponents, strict=True)
    )
    assert KEY.decrypt_combined(ciphertexts, exponents) == separate % N


@given(halves)
def test_the_owners_obfuscator_is_an_nth_residue(pair: tuple[int, int]) -> None:
    """It decrypts to zero and its n-th root r gives it back: r^n = obfuscator mod n^2."""
    made = obfuscator(pair)
    assert 0 < made < N2
    assert KEY.decrypt(made) == 0
    root = gmpy2.powmod(made, gmpy2.invert(N, (KEY.p - 1) * (KEY.q - 1)), N)
    assert gmpy2.powmod(root, N, N2) == made


def test_the_owners_obfuscator_runs_through_all_nth_residues() -> None:
    """Exhaustive on a tiny key: uniform (s_p, s_q) hit every residue equally often."""
    p, q = mpz(11), mpz(17)
    tiny = PrivateKey(p, q)
    n, n2 = int(p * q), int(p * q) ** 2
    residues = {pow(r, n, n2) for r in range(1, n) if gmpy2.gcd(r, n) == 1}
    made = [int(tiny.obfuscator(mpz(a), mpz(b))) for a in range(1, 11) for b in range(1, 17)]
    assert len(made) == len(residues) == 160
    assert set(made) == residues


def refused(value: mpz) -> str:
    with pytest.raises(RemoteProtocolError) as error:
        check_ciphertexts(KEY.public, [value])
    return error.value.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (mpz(0), "ciphertext_range"),
        (mpz(-5), "ciphertext_range"),
        (N2, "ciphertext_range"),
        (N2 + 7, "ciphertext_range"),
        (N2 * 2, "ciphertext_range"),
        (N, "ciphertext_not_unit"),
        (N * (N - 1), "ciphertext_not_unit"),
        (KEY.p, "ciphertext_not_unit"),
        (KEY.p * 12345, "ciphertext_not_unit"),
        (KEY.q**3, "ciphertext_not_unit"),
        (N2 - KEY.q, "ciphertext_not_unit"),
    ],
)
def test_what_is_no_ciphertext_is_refused_under_its_reason(value: mpz, reason: str) -> None:
    assert refused(value) == reason


@pytest.mark.parametrize("value", [mpz(1), N + 1, N2 - 1])
def test_the_ends_of_the_range_are_ciphertexts(value: mpz) -> None:
    check_ciphertexts(KEY.public, [value])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_ciphertext_among_good_ones_is_found(place: int) -> None:
    """One greatest common divisor serves all of them."""
    good = [encrypt(KEY.public, mpz(m), obfuscator((m + 1, m + 2))) for m in range(2)]
    check_ciphertexts(KEY.public, good)
    for bad, reason in ((KEY.p * 5, "ciphertext_not_unit"), (N2, "ciphertext_range")):
        with pytest.raises(RemoteProtocolError) as error:
            check_ciphertexts(KEY.public, [*good[:place], bad, *good[place:]])
        assert error.value.reason == reason


def test_ciphertexts_that_make_a_multiple_of_n_only_together_are_refused() -> None:
    for pair in ([KEY.p, KEY.q], [KEY.p, KEY.p]):
        with pytest.raises(RemoteProtocolError) as error:
            check_ciphertexts(KEY.public, pair)
        assert error.value.reason == "ciphertext_not_unit"


@given(st.lists(st.tuples(st.integers(1, int(N2) - 1).map(mpz), st.booleans()), max_size=4))
def test_a_list_of_ciphertexts_is_good_exactly_if_each_one_is(
    parts: list[tuple[mpz, bool]],
) -> None:
    values = [value - value % KEY.q if bad else value for value, bad in parts]
    each_good = all(value > 0 and gmpy2.gcd(value, N) == 1 for value in values)
    try:
        check_ciphertexts(KEY.public, values)
    except RemoteProtocolError:
        passed = False
    else:
        passed = True
    assert passed == each_good


# -- constant time --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.lists(st.tuples(plaintexts, halves, st.integers(0, 1 << 18)), min_size=1, max_size=4),
)
def test_constant_time_gives_the_same_plaintexts(
    parts: list[tuple[mpz, tuple[int, int], int]],
) -> None:
    steady = PrivateKey(KEY.p, KEY.q, constant_time=True)
    ciphertexts = [encrypt(KEY.public, m, obfuscator(pair)) for m, pair, _ in parts]
    exponents = [exponent for _, _, exponent in parts]
    assert steady.decrypt(ciphertexts[0]) == KEY.decrypt(ciphertexts[0]) == parts[0][0]
    combined = steady.decrypt_combined(ciphertexts, exponents)
    assert combined == KEY.decrypt_combined(ciphertexts, exponents)
    for _, pair, _ in parts:
        assert steady.obfuscator(mpz(pair[0]), mpz(pair[1])) == obfuscator(pair)


@pytest.mark.parametrize("constant_time", [True, False])
def test_every_power_with_a_private_exponent_is_constant_in_time_when_asked(
    constant_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decryption raises to p-1 and q-1, the owner's obfuscator to p and q."""
    steady = PrivateKey(KEY.p, KEY.q, constant_time)
    ciphertext = encrypt(KEY.public, mpz(7), obfuscator((3, 5)))
    seen: dict[str, list[mpz]] = {"powmod": [], "powmod_sec": []}
    for name, exponents in seen.items():
        plain = getattr(paillier, name)

        def watched(x: mpz, e: mpz, m: mpz, plain: Any = plain, seen: Any = exponents) -> mpz:
            seen.append(e)
            return plain(x, e, m)

        monkeypatch.setattr(paillier, name, watched)
    assert steady.decrypt(ciphertext) == 7
    steady.obfuscator(mpz(3), mpz(5))
    private = {KEY.p - 1, KEY.q - 1, KEY.p, KEY.q}
    used = seen["powmod_sec" if constant_time else "powmod"]
    assert private <= set(used)
    assert not private & set(seen["powmod" if constant_time else "powmod_sec"])


def test_phe_accepts_what_we_refuse() -> None:
    """Why the checks are ours: the library decrypts them without complaint."""
    public = phe.PaillierPublicKey(int(N))
    private = phe.PaillierPrivateKey(public, int(KEY.p), int(KEY.q))
    for value in (N2 + 7, KEY.p * 12345):
        assert isinstance(private.raw_decrypt(int(value)), int)


# -- moduli ---------------------------------------------------------------------------------------

PRIME = gmpy2.next_prime(mpz(3) << 510)
SQUARE_ROOT = gmpy2.next_prime(mpz(3) << 254)


@pytest.mark.parametrize(
    ("n", "bits", "faults"),
    [
        (N, 512, []),
        (N, 2048, ["has 512 bits, not 2048"]),
        (PRIME, 512, ["is prime"]),
        (SQUARE_ROOT * SQUARE_ROOT, 512, ["is a perfect power"]),
        (mpz(65521) * (N >> 16 | 1), 512, ["has a factor below 65536"]),
        (N + 1, 512, ["has a factor below 65536"]),
        (mpz(0), 512, ["has 0 bits, not 512"]),
    ],
)
def test_an_unsound_modulus_is_told_by_its_fault(n: mpz, bits: int, faults: list[str]) -> None:
    found = list(faults_of_modulus(int(n), bits))
    assert [fault for fault in found if "bits" not in fault] == [
        fault for fault in faults if "bits" not in fault
    ]
    assert set(faults) <= set(found)


def test_every_small_prime_counts_as_a_small_factor() -> None:
    for small in (2, 3, 65519, 65521):
        assert any("factor" in fault for fault in faults_of_modulus(int(N * small), 512))
    beyond = gmpy2.next_prime(65536)
    assert not any("factor" in fault for fault in faults_of_modulus(int(N * beyond), 512))


# -- what is shown --------------------------------------------------------------------------------


def test_keys_show_neither_their_primes_nor_their_modulus() -> None:
    for text in (repr(KEY), str(KEY), repr(KEY.public), f"{[KEY]}"):
        for number in (KEY.p, KEY.q, N, *vars(KEY).values()):
            assert str(number) not in text or number is KEY.public
        assert "512 bits" in text


def test_a_fingerprint_is_of_the_modulus_alone() -> None:
    assert PublicKey(mpz(N)).fingerprint == KEY.public.fingerprint
    assert toy_key(1).public.fingerprint != KEY.public.fingerprint
    assert len(KEY.public.fingerprint) == 32


# -- vectors --------------------------------------------------------------------------------------


def vectors(name: str) -> list[Any]:
    cases: list[Any] = json.loads(VECTORS.read_text())[name]
    return cases


def test_the_paillier_vectors_are_up_to_date() -> None:
    assert json.loads(VECTORS.read_text()) == paillier_vectors()


@pytest.mark.parametrize("case", vectors("encrypt"), ids=lambda c: c["name"])
def test_encryption_vectors_hold_in_ours_and_in_phe(case: Any) -> None:
    key = json.loads(VECTORS.read_text())["key"]
    p, q = mpz(key["p"]), mpz(key["q"])
    n, m, r = int(p * q), int(case["plaintext"]), int(case["root"])
    public = phe.PaillierPublicKey(n)
    assert str(public.raw_encrypt(m % n, r_value=r)) == case["ciphertext"]
    ours = PrivateKey(p, q)
    assert ours.decrypt(mpz(case["ciphertext"])) == m % n


@pytest.mark.parametrize("case", vectors("scale_and_shift"), ids=lambda c: c["name"])
def test_scaling_vectors_hold(case: Any) -> None:
    key = json.loads(VECTORS.read_text())["key"]
    n = int(key["p"]) * int(key["q"])
    c, factor = int(case["ciphertext"]), int(case["factor"])
    shift, r = int(case["shift"]), int(case["root"])
    by_hand = pow(c, factor, n * n) * (1 + n * (shift % n)) * pow(r, n, n * n) % (n * n)
    assert str(by_hand) == case["result"]
    public = PublicKey(mpz(n))
    scaled = scale(public, mpz(c), factor)
    assert str(scaled) == case["scaled"]
    blinded = encrypt(public, mpz(shift), gmpy2.powmod(r, n, n * n))
    assert str(scaled * blinded % (n * n)) == case["result"]


@pytest.mark.parametrize("case", vectors("check_ciphertexts"), ids=lambda c: c["name"])
def test_ciphertext_vectors_hold(case: Any) -> None:
    key = json.loads(VECTORS.read_text())["key"]
    public = PublicKey(mpz(key["p"]) * mpz(key["q"]))
    ciphertexts = [mpz(text) for text in case["ciphertexts"]]
    if "fails" in case:
        with pytest.raises(RemoteProtocolError) as error:
            check_ciphertexts(public, ciphertexts)
        assert error.value.reason == case["fails"]
    else:
        check_ciphertexts(public, ciphertexts)


@pytest.mark.parametrize("case", vectors("modulus"), ids=lambda c: c["name"])
def test_modulus_vectors_hold(case: Any) -> None:
    assert list(faults_of_modulus(int(case["n"]), int(case["bits"]))) == case["faults"]
