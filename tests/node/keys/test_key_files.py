"""Key files: permissions, and keys that are refused."""

from __future__ import annotations

import base64
import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import gmpy2
import phe
import phe.util
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import (
    NodeKeys,
    PublicKeys,
    generate_keys,
    read_keys,
    read_neighbour,
    read_private,
    seal_from_text,
    seal_to_text,
    shared_secret,
    write_keys,
    write_private,
    write_public,
)
from cipherfleet_node.settings.sections import Crypto

CRYPTO = Crypto(key_bits=512, allow_weak_keys=True)
IDENTITY = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
SEAL = X25519PrivateKey.from_private_bytes(b"s" * 32)
KEYS = NodeKeys(toy_key(0), IDENTITY, SEAL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_keys(tmp_path, KEYS)
    (tmp_path / "neighbours").mkdir()
    write_public(tmp_path / "neighbours" / "b.json", KEYS.public)
    return tmp_path


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def number(n: mpz | int) -> str:
    data = int(n).to_bytes((int(n).bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def complaint(folder: Path, crypto: Crypto = CRYPTO) -> str:
    with pytest.raises(ConfigError) as refused:
        read_keys(folder, crypto)
    return str(refused.value)


# -- secrets between nodes ------------------------------------------------------------------------


def test_both_ends_derive_the_same_secret() -> None:
    a, b, c = (X25519PrivateKey.from_private_bytes(bytes([k]) * 32) for k in (1, 2, 3))
    secret = shared_secret(a, b.public_key(), "fleet")
    assert len(secret) == 32
    assert shared_secret(b, a.public_key(), "fleet") == secret
    others = [
        shared_secret(a, c.public_key(), "fleet"),
        shared_secret(b, c.public_key(), "fleet"),
        shared_secret(a, b.public_key(), "other fleet"),
    ]
    assert len({secret, *others}) == 4


def test_a_seal_that_leads_to_no_secret_is_refused() -> None:
    """Points of small order make the exchange the same for everybody."""
    with pytest.raises(ValueError, match="shared key"):
        shared_secret(SEAL, seal_from_text(base64.b64encode(bytes(32)).decode()), "fleet")


def test_seals_are_spelt_in_base64() -> None:
    assert seal_from_text(seal_to_text(SEAL.public_key())) == SEAL.public_key()
    for text in ("", "short", "!" * 44, base64.b64encode(bytes(31)).decode()):
        with pytest.raises(ValueError):  # noqa: PT011  # the text is the library's
            seal_from_text(text)


# -- credentials of the service -------------------------------------------------------------------


def test_credentials_of_the_service_stand_in_for_files_that_are_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd's LoadCredential= gives them; a key made since lies in the folder, and holds."""
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    write_keys(tmp_path / "elsewhere", NodeKeys(toy_key(1), other, SEAL))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert read_keys(folder, CRYPTO).public.fingerprint == KEYS.public.fingerprint
    for name in ("paillier.json", "identity.pem"):
        data = (tmp_path / "elsewhere/keys" / name).read_bytes()
        (credentials / name).write_bytes(data)
        (credentials / name).chmod(0o440)  # systemd's own rules protect it
    assert read_keys(folder, CRYPTO).public.fingerprint == KEYS.public.fingerprint
    for name in ("paillier.json", "identity.pem"):
        (folder / "keys" / name).unlink()
    read = read_keys(folder, CRYPTO)
    assert read.paillier.p == toy_key(1).p
    assert read.identity.private_bytes_raw() == b"o" * 32
    assert read.seal.private_bytes_raw() == b"s" * 32


def test_a_broken_credential_is_refused_and_not_passed_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "keys" / "identity.pem").unlink()
    (tmp_path / "identity.pem").write_text("nothing")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "identity.pem: is not an unencrypted PEM private key" in complaint(folder)


# -- one's own ------------------------------------------------------------------------------------


def test_written_keys_are_read_back(folder: Path) -> None:
    keys = read_keys(folder, CRYPTO)
    assert (keys.paillier.p, keys.paillier.q) == (KEYS.paillier.p, KEYS.paillier.q)
    assert keys.public.fingerprint == KEYS.public.fingerprint


def test_private_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_keys(tmp_path, KEYS)
        write_keys(tmp_path, KEYS)  # also over existing files
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for name in ("paillier.json", "identity.pem", "seal.pem"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600


def test_writing_over_an_open_file_does_not_keep_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, b"new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"new"


def test_the_command_for_an_open_key_is_quoted_for_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "my keys"
    file.write_bytes(b"secret")
    file.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        read_private(file)
    command = shlex.split(str(caught.value).rpartition(": ")[2])
    assert command == ["chmod", "600", str(file)]


@pytest.mark.parametrize("name", ["paillier.json", "identity.pem"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_private_key_that_others_can_read_is_refused_with_the_command(
    folder: Path, name: str, mode: int
) -> None:
    file = folder / "keys" / name
    file.chmod(mode)
    text = complaint(folder)
    assert text == (
        f"{file}: has mode {mode:04o}, must be readable by its owner only: chmod 600 {file}"
    )
    file.chmod(0o600)
    read_keys(folder, CRYPTO)


def test_phe_reads_the_numbers_of_our_file(folder: Path) -> None:
    document = json.loads((folder / "keys" / "paillier.json").read_text())
    assert document["kty"] == document["pub"]["kty"] == "DAJ"
    assert document["pub"]["alg"] == "PAI-GN1"
    n, p, q = (
        phe.util.base64_to_int(text)
        for text in (document["pub"]["n"], document["p"], document["q"])
    )
    private = phe.PaillierPrivateKey(phe.PaillierPublicKey(n), p, q)
    ours = read_keys(folder, CRYPTO).paillier
    assert private.raw_decrypt(private.public_key.raw_encrypt(12345)) == 12345
    assert ours.decrypt(mpz(private.public_key.raw_encrypt(67890))) == 67890


def test_we_read_the_numbers_of_phes_encoding(folder: Path) -> None:
    file = folder / "keys" / "paillier.json"
    other = toy_key(3)
    change(file, p=phe.util.int_to_base64(int(other.p)), q=phe.util.int_to_base64(int(other.q)))
    file.chmod(0o600)
    assert read_keys(folder, CRYPTO).paillier.p == other.p


def test_generated_keys_have_the_asked_size_and_are_never_the_same() -> None:
    first, second = generate_keys(256), generate_keys(256)
    assert first.paillier.public.bits == second.paillier.public.bits == 256
    assert first.public.fingerprint != second.public.fingerprint
    assert gmpy2.is_prime(first.paillier.p)
    assert gmpy2.is_prime(first.paillier.q)


def test_a_missing_key_file_is_told_by_name(folder: Path) -> None:
    (folder / "keys" / "paillier.json").unlink()
    assert complaint(folder).endswith(
        "paillier.json: cannot be read: No such file or directory; set CREDENTIALS_DIRECTORY "
        "(on an installed device: /etc/cipherfleet/NODE), or get the bundle again from provisioning"
    )


def test_a_key_file_that_is_no_credential_either_is_named_with_both_places(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "keys" / "seal.pem").unlink()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "given"))
    line = complaint(folder)
    assert "keys/seal.pem: cannot be read: No such file or directory, nor is it in CRED" in line
    assert line.endswith(f"which is {tmp_path}/given; get the bundle again from provisioning")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ("{}", "p is missing or is not base64url"),
        ('{"p": 5, "q": 7}', "p is missing or is not base64url"),
        ('{"p": "AQAB", "q": ""}', "q is missing or is not base64url"),
        ('{"p": "\\u00e9", "q": "AQAB"}', "p is missing or is not base64url"),
        ('{"p": "A", "q": "AQAB"}', "p is missing or is not base64url"),
        (json.dumps({"p": "A" * 5000, "q": "AQAB"}), "p is missing or is not base64url"),
    ],
)
def test_a_broken_key_file_is_told_by_what_is_wrong(folder: Path, text: str, words: str) -> None:
    write_private(folder / "keys" / "paillier.json", text.encode())
    assert words in complaint(folder)


def test_factors_that_are_not_two_primes_are_refused(folder: Path) -> None:
    p, q = KEYS.paillier.p, KEYS.paillier.q
    for bad in ({"p": number(p + 2)}, {"q": number(p)}, {"p": number(p * q)}, {"p": number(1)}):
        write_keys(folder, KEYS)
        file = folder / "keys" / "paillier.json"
        change(file, **bad)
        file.chmod(0o600)
        assert "p and q are not two primes; get the bundle again" in complaint(folder)


def test_a_key_of_another_size_than_the_fleets_is_refused(folder: Path) -> None:
    assert "has 512 bits, crypto.key_bits is 2048" in complaint(folder, Crypto())


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"rubbish", "not an unencrypted PEM"),
        (
            IDENTITY.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
            ),
            "not an unencrypted PEM",
        ),
        (
            X25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "not an Ed25519 key",
        ),
    ],
    ids=["rubbish", "encrypted", "X25519"],
)
def test_an_identity_that_is_none_is_refused(folder: Path, pem: bytes, words: str) -> None:
    write_private(folder / "keys" / "identity.pem", pem)
    assert words in complaint(folder)


# -- neighbours' ----------------------------------------------------------------------------------


def test_a_neighbours_keys_are_read_and_pinned(folder: Path) -> None:
    public = read_neighbour(folder, "b", KEYS.public.fingerprint, 512)
    assert public.paillier == KEYS.paillier.public


def neighbour_complaint(folder: Path, pinned: str | None = None, bits: int = 512) -> str:
    with pytest.raises(ConfigError) as refused:
        read_neighbour(folder, "b", pinned or KEYS.public.fingerprint, bits)
    return str(refused.value)


def test_another_fingerprint_than_the_pinned_is_refused(folder: Path) -> None:
    text = neighbour_complaint(folder, "0" * 64)
    assert "the configuration pins 0000000000000000..." in text
    assert KEYS.public.fingerprint[:16] in text


def test_a_fingerprint_covers_both_keys(folder: Path) -> None:
    for fields in (
        {"identity": base64.b64encode(b"k" * 32).decode()},
        {"paillier": {"n": number(toy_key(1).public.n)}},
    ):
        write_public(folder / "neighbours" / "b.json", KEYS.public)
        change(folder / "neighbours" / "b.json", **fields)
        assert "the configuration pins" in neighbour_complaint(folder)


N = KEYS.paillier.public.n
SOUND_SIZE = gmpy2.next_prime(mpz(3) << 510)
ROOT = gmpy2.next_prime(mpz(3) << 254)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (SOUND_SIZE, "n is prime"),
        (ROOT * ROOT, "n is a perfect power"),
        (N + 1, "n has a factor below 65536"),
        (N >> 8, "n has 504 bits, not 512"),
        (toy_key(0).p, "n has 256 bits, not 512, is prime"),
        (mpz(1), "n has 1 bits, not 512"),
    ],
)
def test_an_unsound_modulus_is_refused_even_when_it_is_pinned(
    folder: Path, n: mpz, words: str
) -> None:
    """Provisioning may be deceived too: what is pinned is still checked."""
    public = PublicKeys(PublicKey(n), IDENTITY.public_key(), SEAL.public_key())
    write_public(folder / "neighbours" / "b.json", public)
    text = neighbour_complaint(folder, public.fingerprint)
    assert "the key of 'b' is invalid" in text
    assert words in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"paillier": {}}, "n is missing or is not base64url"),
        ({"paillier": "text"}, "n is missing or is not base64url"),
        ({"identity": None}, "identity is not 32 bytes in base64"),
        ({"identity": "AAAA"}, "identity is not 32 bytes in base64"),
        ({"identity": "%%%%"}, "identity is not 32 bytes in base64"),
    ],
)
def test_a_broken_neighbour_file_is_told_by_what_is_wrong(
    folder: Path, fields: dict[str, Any], words: str
) -> None:
    change(folder / "neighbours" / "b.json", **fields)
    assert words in neighbour_complaint(folder)


def test_a_missing_neighbour_file_is_told_by_name(folder: Path) -> None:
    (folder / "neighbours" / "b.json").unlink()
    assert "b.json: cannot be read: No such file" in neighbour_complaint(folder)


# -- what is shown --------------------------------------------------------------------------------


def test_private_keys_are_never_shown(folder: Path) -> None:
    keys = read_keys(folder, CRYPTO)
    raw = keys.identity.private_bytes_raw()
    for text in (repr(keys), str(keys), f"{[keys]}", repr(keys.paillier)):
        assert str(keys.paillier.p) not in text
        assert str(keys.paillier.q) not in text
        assert raw.hex() not in text
        assert repr(raw) not in text


def test_no_complaint_shows_key_material(folder: Path) -> None:
    secret = number(KEYS.paillier.p)
    file = folder / "keys" / "paillier.json"
    for damage in ({"q": number(15)}, {"q": None}):
        write_keys(folder, KEYS)
        change(file, **damage)
        file.chmod(0o600)
        text = complaint(folder)
        assert secret not in text
        assert str(KEYS.paillier.p) not in text
