"""The bases of a node's tables survive a restart, and a file that does not fit is replaced."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import gmpy2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.keys.bases_file import bases_file, encode_bases
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, Uniform
from cipherfleet_node.runtime.kept_bases import KeptBases

KEY, OTHER_KEY = toy_key(0), toy_key(1)
LIMIT = 1 << 20


@cache
def identity(_number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def kept_in(folder: Path, key: PrivateKey = KEY, number: int = 0) -> KeptBases:
    return KeptBases(folder, "n2", key.public, identity(number))


def file_in(folder: Path) -> Path:
    return bases_file(folder / "keys", "n2")


def some_bases() -> list[mpz]:
    source = OwnByCrt(KEY)
    return [source.make() for _ in range(ROWS)]


def count_powers(monkeypatch: pytest.MonkeyPatch) -> list[mpz]:
    """Return the list to which every obfuscator of full cost is added from now on."""
    made: list[mpz] = []
    real = Uniform.make

    def make(self: Uniform) -> mpz:
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Uniform, "make", make)
    return made


def test_a_restart_computes_no_full_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    powers = count_powers(monkeypatch)
    first = kept_in(tmp_path)
    assert first.load() is None
    source = Full(KEY.public, LIMIT, first.load(), first.save)
    given = [source.make() for _ in range(2 * ROWS)]
    assert len(powers) == ROWS
    again = kept_in(tmp_path).load()
    assert again is not None
    restarted = Full(KEY.public, LIMIT, again, first.save)
    later = [restarted.make() for _ in range(ROWS)]
    assert len(powers) == ROWS
    assert len({*given, *later}) == 3 * ROWS
    root_of = gmpy2.invert(KEY.public.n, (KEY.p - 1) * (KEY.q - 1))
    n2 = KEY.public.n_squared
    for made in later:
        assert gmpy2.powmod(gmpy2.powmod(made, root_of, n2), KEY.public.n, n2) == made


def test_no_kept_base_was_ever_an_obfuscator(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    source = Full(KEY.public, LIMIT, None, kept.save)
    given = {source.make() for _ in range(3 * ROWS)}
    bases = kept.load()
    assert bases is not None
    assert len(set(bases)) == ROWS
    assert not given & set(bases)


def test_bases_that_were_loaded_are_not_given_out() -> None:
    bases = some_bases()
    source = Full(KEY.public, LIMIT, bases)
    assert not {source.make() for _ in range(3 * ROWS)} & set(bases)


def test_bases_are_kept_once_and_only_when_they_are_complete() -> None:
    saved: list[Sequence[mpz]] = []
    source = Full(KEY.public, LIMIT, None, lambda bases: saved.append(list(bases)))
    for _ in range(2 * ROWS - 1):
        source.make()
    assert saved == []
    for _ in range(ROWS):
        source.make()
    assert [len(each) for each in saved] == [ROWS]


def test_the_file_is_private(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        kept_in(tmp_path).save(some_bases())
    finally:
        os.umask(umask)
    assert stat.S_IMODE(file_in(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_in(tmp_path).parent.stat().st_mode) == 0o700


def damage(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage, "damaged"),
        (lambda data: data[:-1], "damaged"),
        (lambda _: b"", "not a file of bases"),
        (lambda data: b"cipherfleet bases 0\n" + data[20:], "of this version"),
        (lambda _: encode_bases(some_bases(), KEY.public, identity(1)), "another node"),
        (lambda _: encode_bases(some_bases(), OTHER_KEY.public, identity(0)), "another key"),
        (lambda _: encode_bases(some_bases()[1:], KEY.public, identity(0)), "expected"),
    ],
    ids=["damaged", "cut", "empty", "old", "of another node", "of another key", "too few"],
)
def test_a_file_that_does_not_fit_is_ignored_and_replaced(
    tmp_path: Path,
    change: object,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert callable(change)
    kept, file = kept_in(tmp_path), file_in(tmp_path)
    kept.save(some_bases())
    file.write_bytes(change(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert kept.load() is None
    assert reason in caplog.text
    bases = some_bases()
    kept.save(bases)
    assert kept.load() == bases


def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    kept_in(tmp_path).save(some_bases())
    file_in(tmp_path).chmod(0o644)
    assert kept_in(tmp_path).load() is None


def test_a_crash_between_write_and_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, old, new = kept_in(tmp_path), some_bases(), some_bases()
    kept.save(old)

    class Crash(BaseException):
        pass

    def crash(_self: Path, _target: Path) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            kept.save(new)
    assert kept.load() == old
    kept.save(new)
    assert kept.load() == new


def test_a_disk_that_refuses_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "keys").write_text("a file where the folder should be")
    source = Full(KEY.public, LIMIT, None, kept_in(tmp_path).save)
    for _ in range(2 * ROWS + 1):
        source.make()
    assert "cannot be written" in caplog.text
