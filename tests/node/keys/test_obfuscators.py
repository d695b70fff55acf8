"""Sources of obfuscators: valid, uniform on the whole group, within their memory limit."""

from __future__ import annotations

import itertools
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from types import SimpleNamespace

import gmpy2
import pytest
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.keys import obfuscators
from cipherfleet_node.keys.fixed_base import ROWS, Comb, table_bytes
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.keys.primes import draw_factored_prime
from cipherfleet_node.runtime.obfuscator_pools import OWN, Pools

GROUPS = (1, 2, 4, 8)
ENOUGH = 1 << 24  # bytes


def limit_for(entry_bytes: int, group: int) -> int:
    """Just the memory of tables of *group*; singles take as much as pairs, so get one byte less."""
    return table_bytes(entry_bytes, group) - (group == 1)


@cache
def key_and_generators() -> tuple[PrivateKey, tuple[mpz, mpz]]:
    p, q = draw_factored_prime(256), draw_factored_prime(256)
    return PrivateKey(p.prime, q.prime), (p.generator, q.generator)


def own_by_crt() -> Source:
    return OwnByCrt(key_and_generators()[0])


def own_by_tables(group: int = 8) -> OwnByTables:
    return OwnByTables(*key_and_generators(), 2 * limit_for(64, group))


def uniform() -> Source:
    return Uniform(key_and_generators()[0].public)


def full(group: int = 8) -> Full:
    return Full(key_and_generators()[0].public, limit_for(128, group))


def full_with_tables(group: int = 8) -> Full:
    source = full(group)
    for _ in range(ROWS):
        source.make()
    return source


SOURCES: dict[str, Callable[[], Source]] = {
    "own by remainders": own_by_crt,
    "uniform": uniform,
    "full, its first ones": full,
    **{f"own by tables of {group}": partial(own_by_tables, group) for group in GROUPS},
    **{f"full, from tables of {group}": partial(full_with_tables, group) for group in GROUPS},
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_obfuscator_is_an_nth_residue_that_decrypts_to_zero(name: str) -> None:
    key, source = key_and_generators()[0], SOURCES[name]()
    n, n2 = key.public.n, key.public.n_squared
    root_of = gmpy2.invert(n, (key.p - 1) * (key.q - 1))
    for _ in range(20):
        made = source.make()
        assert 0 < made < n2
        assert gmpy2.gcd(made, n) == 1
        assert key.decrypt(made) == 0
        assert gmpy2.powmod(gmpy2.powmod(made, root_of, n), n, n2) == made


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_repeats_itself(name: str) -> None:
    source = SOURCES[name]()
    assert len({source.make() for _ in range(300)}) == 300


def test_full_pays_for_its_bases_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 64 are full powers, all later ones come from the table."""
    powers = []

    def counted(x: mpz, e: mpz, m: mpz) -> mpz:
        powers.append(e)
        return gmpy2.powmod(x, e, m)

    source, n = full(), key_and_generators()[0].public.n
    monkeypatch.setattr(obfuscators, "powmod", counted)
    made = [source.make() for _ in range(ROWS + 50)]
    assert powers == [n] * ROWS
    assert len(set(made)) == ROWS + 50


# -- memory ---------------------------------------------------------------------------------------


def combs(source: OwnByTables | Full) -> list[Comb]:
    if isinstance(source, Full):
        assert source._comb is not None
        return [source._comb]
    return [source._table_p._comb, source._table_q._comb]


def measured_bytes(comb: Comb) -> int:
    return sum(
        sys.getsizeof(table) + sum(sys.getsizeof(entry) for entry in table)
        for table in comb._tables
    )


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [2048, 4096, 6144])
def test_tables_take_the_memory_that_is_reckoned(bits: int, group: int) -> None:
    """At the sizes of p^2 and n^2 of real keys."""
    chance = random.Random(bits)
    modulus = mpz(chance.getrandbits(bits) | 1 << (bits - 1) | 1)
    bases = [mpz(chance.randrange(int(modulus))) for _ in range(ROWS)]
    reckoned = table_bytes(bits // 8, group)
    assert reckoned / 2 < measured_bytes(Comb(bases, 4, modulus, group)) < 1.5 * reckoned


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("make", [own_by_tables, full_with_tables])
def test_tables_are_as_large_as_their_memory_allows(
    make: Callable[[int], OwnByTables | Full], group: int
) -> None:
    for comb in combs(make(group)):
        assert [len(table) for table in comb._tables] == [1 << group] * (ROWS // group)


@pytest.mark.parametrize("limit_kib", [64, 200, 1000, 4000])
def test_tables_keep_within_the_memory_they_are_given(limit_kib: int) -> None:
    limit, (key, generators) = limit_kib * 1024, key_and_generators()
    neighbours = Full(key.public, limit)
    for _ in range(ROWS):
        neighbours.make()
    for source in (OwnByTables(key, generators, limit), neighbours):
        assert sum(measured_bytes(comb) for comb in combs(source)) < 1.5 * limit


# -- uniformity, on keys so small that every obfuscator is met ------------------------------------

# p, q and generators; of the last two p-1 and q-1 share the factors 30 and 12.
TINY = {
    "two primes": (23, 29, 5, 2),
    "a large common factor": (31, 61, 3, 2),
    "another common factor": (13, 37, 2, 2),
}


def tiny_key(name: str) -> tuple[PrivateKey, tuple[mpz, mpz]]:
    p, q, g_p, g_q = (mpz(number) for number in TINY[name])
    assert gmpy2.gcd(p * q, (p - 1) * (q - 1)) == 1
    return PrivateKey(p, q), (g_p, g_q)


def residues(key: PrivateKey) -> set[mpz]:
    n, n2 = key.public.n, key.public.n_squared
    found = {gmpy2.powmod(r, n, n2) for r in range(1, int(n)) if gmpy2.gcd(r, n) == 1}
    assert len(found) == (key.p - 1) * (key.q - 1)
    return found


def is_uniform(made: Sequence[mpz], cells: set[mpz]) -> bool:
    """Chi squared, at a bound that a uniform source passes but once in a million times."""
    counts, expected = Counter(made), len(made) / len(cells)
    assert expected >= 20
    if not counts.keys() <= cells:
        return False
    statistic = sum((counts[cell] - expected) ** 2 / expected for cell in cells)
    freedom = len(cells) - 1
    spread = 2 / (9 * freedom)  # Wilson and Hilferty's cube root is normal
    return bool(statistic < freedom * (1 - spread + 4.75 * spread**0.5) ** 3)


@pytest.fixture
def units_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that share a factor with a real modulus do not occur; with a tiny one they do."""
    plain = obfuscators._draw_below

    def unit_below(bound: mpz) -> mpz:
        return next(x for x in iter(lambda: plain(bound), None) if gmpy2.gcd(x, bound) == 1)

    monkeypatch.setattr(obfuscators, "_draw_below", unit_below)


@pytest.mark.parametrize("name", TINY)
def test_ones_own_obfuscators_are_exactly_uniform(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair of draws, once each, makes every residue once."""
    key, generators = tiny_key(name)
    p, q = int(key.p), int(key.q)
    for source in (OwnByCrt(key), OwnByTables(key, generators, ENOUGH)):
        bounds: set[int] = set()
        randomness = itertools.chain.from_iterable(itertools.product(range(p - 1), range(q - 1)))

        def draw(
            bound: int, randomness: Iterator[int] = randomness, bounds: set[int] = bounds
        ) -> int:
            bounds.add(bound)
            return next(randomness)

        with monkeypatch.context() as patch:
            patch.setattr(obfuscators, "secrets", SimpleNamespace(randbelow=draw))
            made = [source.make() for _ in range((p - 1) * (q - 1))]
        assert bounds == {p - 1, q - 1}
        assert Counter(made) == Counter(residues(key))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", [OwnByCrt, OwnByTables, Uniform, Full])
def test_obfuscators_are_uniform_on_the_whole_group(
    kind: type[Source], name: str, units_only: None
) -> None:
    del units_only
    key, generators = tiny_key(name)
    sources: dict[type, Source] = {
        OwnByCrt: OwnByCrt(key),
        OwnByTables: OwnByTables(key, generators, ENOUGH),
        Uniform: Uniform(key.public),
        Full: Full(key.public, ENOUGH),
    }
    cells = residues(key)
    for _ in range(ROWS):
        sources[kind].make()  # the bases of `Full`
    assert is_uniform([sources[kind].make() for _ in range(20 * len(cells))], cells)


@pytest.mark.parametrize("group", GROUPS)
def test_tables_of_every_size_give_uniform_obfuscators(group: int, units_only: None) -> None:
    del units_only
    key, generators = tiny_key("two primes")
    cells = residues(key)
    neighbours = Full(key.public, limit_for(key.public.bits // 4, group))
    for _ in range(ROWS):
        neighbours.make()
    own = OwnByTables(key, generators, 2 * limit_for(1, group))
    for comb in (*combs(neighbours), *combs(own)):
        assert {len(table) for table in comb._tables} == {1 << group}
    for source in (neighbours, own):
        assert is_uniform([source.make() for _ in range(20 * len(cells))], cells)


def test_the_measure_of_uniformity_sees_a_generator_that_is_none() -> None:
    key, (g_p, g_q) = tiny_key("two primes")
    source, cells = OwnByTables(key, (g_p**2 % key.p, g_q), ENOUGH), residues(key)
    assert not is_uniform([source.make() for _ in range(20 * len(cells))], cells)


def test_the_measure_of_uniformity_sees_bases_of_one_cyclic_group(
    monkeypatch: pytest.MonkeyPatch, units_only: None
) -> None:
    """What is wrong with a single base: with a common factor its powers are a part of the group."""
    del units_only
    key, _ = tiny_key("a large common factor")
    base = Uniform(key.public).make()
    source, cells = Full(key.public, ENOUGH), residues(key)
    powers = (gmpy2.powmod(base, e, key.public.n_squared) for e in itertools.count(1))
    monkeypatch.setattr(Uniform, "make", lambda _self: next(powers))
    for _ in range(ROWS):
        source.make()
    made = [source.make() for _ in range(20 * len(cells))]
    assert not is_uniform(made, cells)
    assert len(set(made)) <= len(cells) // 30


def test_the_measure_of_uniformity_sees_exponents_that_are_too_short(
    monkeypatch: pytest.MonkeyPatch, units_only: None
) -> None:
    """One bit for each of few bases: half the group cannot even be reached."""
    del units_only
    key, _ = tiny_key("two primes")
    monkeypatch.setattr(obfuscators, "ROWS", 8)
    monkeypatch.setattr(obfuscators, "_EXCESS_BITS", -2)
    source, cells = Full(key.public, ENOUGH), residues(key)
    for _ in range(8):
        source.make()
    assert not is_uniform([source.make() for _ in range(20 * len(cells))], cells)


# -- through pools --------------------------------------------------------------------------------


def pools_of(capacity: int, threads: int) -> Pools:
    return Pools({OWN: own_by_tables(), "b": full()}, capacity, threads)


def test_no_value_repeats_from_tables_taken_by_many_threads() -> None:
    """Five thousand, the bases among them, by four threads while three refill."""
    key, pools = key_and_generators()[0], pools_of(capacity=32, threads=3)
    taken: list[list[mpz]] = [[] for _ in range(4)]

    def take(place: int) -> None:
        for _ in range(625):
            taken[place] += [pools.towards("b"), pools.own()]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        pools.start()
        threads = [threading.Thread(target=take, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        pools.close()
    everything = list(itertools.chain.from_iterable(taken))
    assert len(everything) == len(set(everything)) == 5000
    assert all(key.decrypt(made) == 0 for made in everything[:500])
    assert sum(pools.figures().inline.values()) < 5000, "no pool took part"


def test_a_source_that_threads_share_hands_out_each_base_once() -> None:
    source, together = full(), threading.Barrier(8)
    taken: list[list[mpz]] = [[] for _ in range(8)]

    def take(place: int) -> None:
        together.wait()
        taken[place] = [source.make() for _ in range(40)]

    threads = [threading.Thread(target=take, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = list(itertools.chain.from_iterable(taken))
    assert len(everything) == len(set(everything)) == 320
    assert all(key_and_generators()[0].decrypt(made) == 0 for made in everything)


class DiesInThreads:
    """A source whose randomness fails in a pool's thread after a while."""

    def __init__(self, source: Source, lives: int) -> None:
        self._source, self._lives = source, lives

    def make(self) -> mpz:
        """One from the source, or the failure."""
        if threading.current_thread() is not threading.main_thread():
            if self._lives == 0:
                raise OSError("no randomness")
            self._lives -= 1
        return self._source.make()


@pytest.mark.parametrize("lives", [0, 5])
def test_a_refill_that_dies_leaves_the_pools_working_inline(
    lives: int, caplog: pytest.LogCaptureFixture
) -> None:
    key = key_and_generators()[0]
    pools = Pools({"b": DiesInThreads(full(), lives), OWN: own_by_tables()}, 8, threads=1)
    with caplog.at_level(logging.ERROR):
        pools.start()
        deadline = time.monotonic() + 120
        while "made on demand from now on" not in caplog.text:
            assert time.monotonic() < deadline, "the thread does not die"
            time.sleep(0.002)
    ready = pools.figures().levels
    assert ready["b"] == lives
    made = [pools.towards("b") for _ in range(20)] + [pools.own() for _ in range(20)]
    assert len(set(made)) == 40
    assert all(key.decrypt(obfuscator) == 0 for obfuscator in made)
    assert pools.figures().inline == {"b": 20 - lives, OWN: 20 - ready[OWN]}
    pools.close()


def test_an_empty_pool_makes_right_obfuscators_on_the_spot_and_counts_them() -> None:
    key, pools = key_and_generators()[0], pools_of(capacity=0, threads=1)
    pools.start()
    made = [pools.towards("b") for _ in range(ROWS + 20)] + [pools.own() for _ in range(20)]
    pools.close()
    assert len(set(made)) == ROWS + 40
    assert all(key.decrypt(obfuscator) == 0 for obfuscator in made)
    assert pools.figures().inline == {"b": ROWS + 20, OWN: 20}
