"""Membership updates: which are accepted, how they are stored, when they take effect."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import wire
from cipherfleet_node.core.events import MembershipPending, Restart, RoundClosed, Save
from cipherfleet_node.core.messages import (
    OPERATOR,
    Answer,
    GenerationsEntry,
    Membership,
    MembershipEntry,
    PartnerEntry,
)
from cipherfleet_node.core.round import Phase
from cipherfleet_node.errors import ConfigError, WireError
from cipherfleet_node.keys.key_files import (
    MASKS,
    SHARES,
    NodeKeys,
    identity_to_text,
    read_keys,
    shared_secret,
    write_keys,
    write_private,
)
from cipherfleet_node.runtime import membership
from cipherfleet_node.runtime.bundle import Bundle, partner_secrets
from cipherfleet_node.runtime.membership import (
    CURRENT,
    NEXT,
    check_membership,
    complete_promotion,
    is_due,
    promote,
    read_membership,
    store_membership,
)
from cipherfleet_node.runtime.membership_updates import MembershipUpdates
from cipherfleet_node.runtime.start_warnings import neighbour_warning
from cipherfleet_node.runtime.synced_files import write_synced
from cipherfleet_node.settings.sections import (
    Algorithm,
    Broker,
    Column,
    Crypto,
    NodeConfig,
    ObjectiveSection,
    SyntheticField,
    SyntheticSensor,
)
from tests.support.memory_fleet import (
    MemoryFleet,
    agent_of,
    complete,
    coupled_of,
    fleet_of,
    ring,
    start_all,
)
from tests.support.queries import query_of

BOSS = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
BITS = 512


def keys_of(index: int) -> NodeKeys:
    mark = bytes([index + 1]) * 32
    return NodeKeys(
        toy_key(index),
        Ed25519PrivateKey.from_private_bytes(mark),
        X25519PrivateKey.from_private_bytes(mark),
    )


def config_of(**changes: Any) -> NodeConfig:
    config = NodeConfig(
        config_version=1,
        fleet="f",
        node="me",
        algorithm=Algorithm(rounds=3),
        objective=ObjectiveSection(kind="average", values=[Column(field="t")]),
        sensor=SyntheticSensor(fields={"t": SyntheticField(mean=1.0)}),
        operator=identity_to_text(BOSS.public_key()),
        broker=Broker(),
        crypto=Crypto(key_bits=BITS, exchange="sealed", allow_weak_keys=True),
    )
    return msgspec.structs.replace(config, **changes)


def member_of(index: int, name: str, neighbours: list[str]) -> MembershipEntry:
    public = keys_of(index).public
    n = int(public.paillier.n).to_bytes(BITS // 8, "big")
    identity, seal = public.identity.public_bytes_raw(), public.seal.public_bytes_raw()
    return MembershipEntry(name, neighbours, n, identity, seal)


def membership_of(version: int = 1, **changes: Any) -> Membership:
    """A triangle: me, a and b."""
    members = [member_of(1, "a", ["me", "b"]), member_of(2, "b", ["a", "me"])]
    seals = [(m.id, m.seal) for m in members]
    own = keys_of(0).public.fingerprint
    made = Membership("f", OPERATOR, version, "me", 5, own, members, seals, b"", rekey=False)
    return msgspec.structs.replace(made, **changes)


def signed(message: Membership, signer: Ed25519PrivateKey = BOSS) -> bytes:
    return wire.encode(message, signer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_keys(tmp_path, keys_of(0))
    return tmp_path


# -- what is taken --------------------------------------------------------------------------------


def test_a_membership_takes_the_place_of_the_neighbours(folder: Path) -> None:
    config = config_of()
    store_membership(folder, signed(membership_of()))
    joined = read_membership(folder, config, NEXT)
    assert joined is not None
    changed = joined.apply_to(config)
    assert [n.id for n in changed.neighbours] == ["a", "b"]
    assert [n.degree for n in changed.neighbours] == [2, 2]
    assert changed.co_neighbours == {"a", "b"} == set(changed.seals)
    assert joined.neighbours["a"].fingerprint == keys_of(1).public.fingerprint


@pytest.mark.parametrize("names", [[], ["a"]])
def test_a_membership_may_leave_one_neighbour_or_none(folder: Path, names: list[str]) -> None:
    members = [member_of(1, name, ["me"]) for name in names]
    store_membership(folder, signed(membership_of(from_round=0, members=members, seals=[])))
    promote(folder, config_of())
    joined = read_membership(folder, config_of())
    assert joined is not None
    config = joined.apply_to(config_of())
    assert config.is_idle_leaf == bool(names)
    warning = neighbour_warning(config)
    assert warning is not None
    assert ("one neighbour only, a:" if names else "has no neighbours: it waits") in warning
    open_leaf = msgspec.structs.replace(config.crypto, leaves="open")
    assert not msgspec.structs.replace(config, crypto=open_leaf).is_idle_leaf


BAD: dict[str, dict[str, Any]] = {
    "a neighbour twice": {"members": [member_of(1, "a", ["me"])] * 2},
    "itself": {"members": [member_of(1, "me", ["a"])]},
    "who is no neighbour": {"members": [member_of(1, "a", ["b"])]},
    "an empty name": {"members": [member_of(1, "", ["me"])]},
    "a name too long": {"members": [member_of(1, "a" * 64, ["me"])]},
    "a seal missing": {"seals": []},
    "a seal cut": {"seals": [("a", b"1"), ("b", b"2")]},
    "an even modulus": {
        "members": [msgspec.structs.replace(member_of(1, "a", ["me"]), paillier=b"\2" * 64)]
    },
    "a modulus of another size": {
        "members": [msgspec.structs.replace(member_of(1, "a", ["me"]), paillier=b"\3" * 32)]
    },
    "an identity cut": {
        "members": [msgspec.structs.replace(member_of(1, "a", ["me"]), identity=b"\3")]
    },
}


def shielded(**changes: Any) -> NodeConfig:
    mean = ObjectiveSection(kind="mean", values=[Column(field="t")])
    return config_of(algorithm=Algorithm(rounds=3, shield="linear"), objective=mean, **changes)


def generations_of(**changes: Any) -> GenerationsEntry:
    partners = [
        PartnerEntry(index, name, keys_of(number).public.seal.public_bytes_raw())
        for index, name, number in ((1, "a", 1), (3, "b", 2))
    ]
    made = GenerationsEntry(2, 208, 10, 32, 2.0, b"m" * 32, partners)
    return msgspec.structs.replace(made, **changes)


def test_a_membership_brings_partners_whose_secrets_are_equal_at_both_ends(folder: Path) -> None:
    joined = check_membership(membership_of(generations=generations_of()), shielded())
    config = joined.apply_to(shielded())
    assert config.generations is not None
    assert config.generations.members == (b"m" * 32).hex()
    assert (config.generations.index, config.generations.every) == (2, 208)
    secrets = partner_secrets(folder, config, keys_of(0))
    assert secrets.keys() == {1, 3}
    own = keys_of(0).public.seal
    assert secrets[1] == shared_secret(keys_of(1).seal, own, "f", SHARES)
    assert secrets[3] != shared_secret(keys_of(2).seal, own, "f", MASKS)


PARTNERS = generations_of().partners
CUT = PartnerEntry(1, "a", bytes(31))
BAD_GENERATIONS: dict[str, GenerationsEntry | None] = {
    "none, in a fleet with a shield": None,
    "a key cut": generations_of(partners=[CUT]),
    "a digest cut": generations_of(members=b"m" * 31),
    "an id twice": generations_of(partners=[PARTNERS[0], PartnerEntry(4, "a", bytes(32))]),
    "an index twice": generations_of(partners=[PARTNERS[0], PartnerEntry(1, "c", bytes(32))]),
    "its own index": generations_of(index=3),
    "itself": generations_of(partners=[PartnerEntry(5, "me", bytes(32))]),
    "no number of partners": generations_of(mean_partners=float("nan")),
    "too many partners": generations_of(mean_partners=float("inf")),
    "generations that are too short": generations_of(every=69),
}


@pytest.mark.parametrize("fault", BAD_GENERATIONS)
def test_faulty_generations_are_refused(fault: str) -> None:
    membership = membership_of(generations=BAD_GENERATIONS[fault])
    with pytest.raises(WireError) as refused:
        check_membership(membership, shielded())
    assert refused.value.reason == "membership"


def test_generations_without_a_shield_are_refused() -> None:
    with pytest.raises(WireError, match="has generations, and algorithm") as refused:
        check_membership(membership_of(generations=generations_of()), config_of())
    assert refused.value.reason == "membership"


@pytest.mark.parametrize(
    "entry",
    [
        generations_of(index=1024),
        generations_of(every=0),
        generations_of(partners=[PartnerEntry(-1, "a", bytes(32))]),
        generations_of(partners=[PartnerEntry(1, "-a", bytes(32))]),
        generations_of(partners=[PartnerEntry(n, f"n{n}", bytes(32)) for n in range(129)]),
    ],
)
def test_lists_and_numbers_beyond_their_limits_do_not_parse(entry: GenerationsEntry) -> None:
    data, topic = signed(membership_of(generations=entry)), wire.topic_of(membership_of())
    with pytest.raises(WireError) as refused:
        wire.decode(data, topic, "f", {OPERATOR: BOSS.public_key()})
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("fault", BAD)
def test_a_faulty_membership_is_refused(fault: str) -> None:
    with pytest.raises(WireError) as refused:
        check_membership(membership_of(**BAD[fault]), config_of())
    assert refused.value.reason == "membership"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:80] + bytes([data[80] ^ 1]) + data[81:],
        lambda _: signed(membership_of(), Ed25519PrivateKey.generate()),
        lambda _: signed(membership_of(receiver="another")),
        lambda _: signed(membership_of(fleet="another")),
        lambda _: b"",
    ],
)
def test_a_file_that_was_tampered_with_is_named_with_its_mend(
    folder: Path, spoil: Callable[[bytes], bytes]
) -> None:
    place = folder / "membership"
    place.mkdir()
    (place / CURRENT).write_bytes(spoil(signed(membership_of())))
    with pytest.raises(ConfigError, match="not what the operator signed") as refused:
        read_membership(folder, config_of())
    assert str(place / CURRENT) in str(refused.value)
    assert "get the bundle again" in str(refused.value)


def test_without_a_pinned_operator_no_word_is_taken(folder: Path) -> None:
    store_membership(folder, signed(membership_of()))
    with pytest.raises(ConfigError, match="pin no operator"):
        read_membership(folder, config_of(operator=None), NEXT)


def test_only_the_operator_sends_memberships_and_it_sends_nothing_else() -> None:
    verifiers = {OPERATOR: BOSS.public_key(), "a": BOSS.public_key()}
    forged = membership_of(sender="a")
    query = query_of("f", OPERATOR, 1, 1)
    for message in (forged, query):
        with pytest.raises(WireError) as refused:
            wire.decode(wire.encode(message, BOSS), wire.topic_of(message), "f", verifiers)
        assert refused.value.reason == "topic"


# -- letting it hold ------------------------------------------------------------------------------


def test_a_membership_is_due_from_its_round_on(folder: Path) -> None:
    assert not is_due(folder, config_of(), 2**62)
    store_membership(folder, signed(membership_of(from_round=5)))
    assert not is_due(folder, config_of(), 4)
    assert is_due(folder, config_of(), 5)
    assert is_due(folder, config_of(), 6)


def test_new_keys_take_over_with_the_membership_that_names_them(folder: Path) -> None:
    fresh = keys_of(7)
    write_keys(folder, fresh, "keys.next")
    store_membership(folder, signed(membership_of()))
    promote(folder, config_of())  # still for the present keys
    assert read_keys(folder, config_of().crypto).paillier.p == keys_of(0).paillier.p
    store_membership(folder, signed(membership_of(2, fingerprint=fresh.public.fingerprint)))
    promote(folder, config_of())
    assert read_keys(folder, config_of().crypto).paillier.p == fresh.paillier.p
    assert not (folder / "keys.next").exists()
    assert not (folder / "keys.old").exists()


def test_a_new_certificate_takes_over_with_the_key_it_is_for(folder: Path) -> None:
    tls = folder / "tls"
    tls.mkdir()
    for name in ("ca.pem", "node.pem", "node.key"):
        write_private(tls / name, b"old " + name.encode())
    store_membership(folder, signed(membership_of(certificate=b"new")))
    promote(folder, config_of())
    assert (tls / "node.pem").read_bytes() == b"new"
    assert (tls / "node.key").read_bytes() == b"old node.key"
    write_private(folder / "keys/tls.key", b"own")
    store_membership(folder, signed(membership_of(2, certificate=b"newer")))
    promote(folder, config_of())
    assert [(tls / n).read_bytes() for n in ("ca.pem", "node.pem", "node.key")] == [
        b"old ca.pem",
        b"newer",
        b"own",
    ]


def test_a_key_left_by_an_interrupted_change_does_not_come_with_another_certificate(
    folder: Path,
) -> None:
    for place in ("tls", "tls.next"):
        (folder / place).mkdir()
    (folder / "tls/ca.pem").write_bytes(b"authority")
    write_private(folder / "tls.next/node.key", b"left behind")
    store_membership(folder, signed(membership_of(certificate=b"new")))
    promote(folder, config_of())
    assert sorted(file.name for file in (folder / "tls").iterdir()) == ["ca.pem", "node.pem"]


def test_a_new_certificate_may_be_for_a_key_that_the_service_was_given(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tls").mkdir()
    (folder / "tls/ca.pem").write_bytes(b"authority")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "node.key").write_bytes(b"given")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    store_membership(folder, signed(membership_of(certificate=b"new")))
    promote(folder, config_of())
    assert (folder / "tls/node.pem").read_bytes() == b"new"
    assert not (folder / "tls/node.key").exists()  # a credential is not copied onto the disk


class PowerCut(Exception):
    pass


@contextmanager
def cut_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Power fails before the *moment*-th change of a name or a file."""
    calls = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls == moment:
                raise PowerCut
            calls += 1
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink", "rmdir"):
            patched.setattr(Path, name, counting(getattr(Path, name)))
        patched.setattr(membership, "write_synced", counting(write_synced))
        yield


@pytest.mark.parametrize("moment", range(24))
def test_a_loss_of_power_at_any_step_leaves_the_old_or_the_new(
    folder: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, config = keys_of(7), config_of()
    (folder / "tls").mkdir()
    for name in ("ca.pem", "node.pem", "node.key"):
        write_private(folder / "tls" / name, b"old")
    first = signed(membership_of(1))
    store_membership(folder, first)
    promote(folder, config)
    write_keys(folder, fresh, "keys.next")
    second = membership_of(2, fingerprint=fresh.public.fingerprint, certificate=b"new")
    cut = False
    try:
        with cut_at(moment, monkeypatch):
            store_membership(folder, signed(second))
            promote(folder, config)
    except PowerCut:
        cut = True
    complete_promotion(folder)  # the next start
    if is_due(folder, config, 10):
        promote(folder, config)
    joined = read_membership(folder, config)
    assert joined is not None
    keys = read_keys(folder, config.crypto)
    assert keys.public.fingerprint == joined.message.fingerprint
    assert (folder / "tls/node.pem").read_bytes() == (b"new" if joined.version == 2 else b"old")
    assert all((folder / "tls" / name).exists() for name in ("ca.pem", "node.pem", "node.key"))
    assert cut or joined.version == 2
    if not cut:
        assert moment > 8, "the steps were not interrupted at all"


def test_two_revocations_in_a_row_drop_both_neighbours(folder: Path) -> None:
    """The second one comes before the node has restarted without the first neighbour."""
    names = ["a", "b", "c"]
    neighbours = {name: keys_of(index).public for index, name in enumerate(names, 1)}
    rest: Any = None  # objective and sensor are of no concern here
    bundle = Bundle(folder, config_of(), keys_of(0), neighbours, rest, rest, {}, None)
    verifiers: dict[str, wire.Verifier] = {n: keys.identity for n, keys in neighbours.items()}
    updates = MembershipUpdates(bundle, verifiers, lambda *_: None, lambda *_: None)
    for version, left in ((1, names[:2]), (2, names[:1])):
        members = [member_of(names.index(name) + 1, name, ["me"]) for name in left]
        message = membership_of(version, from_round=0, members=members)
        pending = updates.take(message, signed(message), opened=7)
        assert pending == MembershipPending(0, frozenset({names[len(left)]}))
        assert verifiers.keys() == {*left}


# -- in the agent ---------------------------------------------------------------------------------


def effects_of(fleet: MemoryFleet, name: str, from_round: int) -> list[object]:
    return list(agent_of(fleet, name).handle(MembershipPending(from_round), fleet.now))


def test_rounds_go_on_until_the_one_that_others_are_for() -> None:
    fleet = fleet_of(ring(4), rounds=12, sealed=True)
    start_all(fleet)
    fleet.advance(0.02)
    for name in fleet.seats:
        assert effects_of(fleet, name, 6) == []
    fleet.advance(200.0)
    for seat in fleet.seats.values():
        assert [r.number for r in seat.reported] == list(range(6))
        assert seat.switched


def test_a_membership_for_at_once_waits_for_the_open_round() -> None:
    fleet = fleet_of(ring(4), rounds=12, sealed=True)
    start_all(fleet)
    fleet.advance(0.02)
    number = agent_of(fleet, "n00").round_number
    effects = effects_of(fleet, "n00", 0)
    assert not any(isinstance(e, Restart) for e in effects)
    fleet.advance(0.5)
    seat = fleet.seats["n00"]
    assert seat.switched
    assert seat.reported[-1].number == number


def test_a_sealed_round_that_awaits_a_revoked_neighbour_closes_held() -> None:
    """Its roster cannot change. The node restarts without that neighbour before the next one."""
    fleet = fleet_of(complete(5), rounds=12, sealed=True)
    fleet.tap = lambda _s, _r, m: None if isinstance(m, Answer) and m.round == 3 else m
    start_all(fleet)
    fleet.advance(0.5)
    agent = agent_of(fleet, "n00")
    assert agent.round_number == 3
    effects = list(agent.handle(MembershipPending(0, frozenset({"n04"})), fleet.now))
    assert [type(effect) for effect in effects][:3] == [RoundClosed, Save, Restart]
    assert not agent.state.records[-1].counted


def test_a_node_that_waits_for_nobody_switches_at_once() -> None:
    """Its neighbours are gone: only the operator can give it others."""
    fleet = fleet_of(ring(3), rounds=12, sealed=True)
    start_all(fleet)
    fleet.advance(0.02)
    fleet.kill("n01")
    fleet.kill("n02")
    fleet.advance(30.0)
    effects = effects_of(fleet, "n00", 0)
    assert [type(e) for e in effects] == [Save, Restart]


@pytest.mark.parametrize("rounds", [None, 12])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_node_without_neighbours_waits_for_a_membership(rounds: int, sealed: bool) -> None:
    fleet = fleet_of(ring(3), rounds=rounds, sealed=sealed)
    fleet.neighbours["n00"] = []
    fleet.start("n00")
    fleet.advance(100.0)
    seat = fleet.seats["n00"]
    assert agent_of(fleet, "n00").phase is Phase.STARTING
    assert (seat.reported, seat.stopped, seat.switched) == ([], False, False)
    # its new neighbours may be far ahead: it does not wait for that round
    assert [type(e) for e in effects_of(fleet, "n00", 900)] == [Save, Restart]


def test_a_node_that_loses_its_last_neighbour_restarts_at_once() -> None:
    fleet = fleet_of(ring(4), rounds=12)
    fleet.neighbours = {"n00": ["n01"], "n01": ["n00"], "n02": ["n03"], "n03": ["n02"]}
    start_all(fleet)
    fleet.advance(0.02)
    agent = agent_of(fleet, "n00")
    effects = list(agent.handle(MembershipPending(0, frozenset({"n01"})), fleet.now))
    assert [type(e) for e in effects][-2:] == [Save, Restart]


def test_a_node_that_had_no_neighbours_comes_back_at_the_round_of_its_membership() -> None:
    fleet = fleet_of(ring(4), rounds=40, period_s=0.1)
    start_all(fleet)
    fleet.advance(0.35)
    fleet.kill("n00")
    left = agent_of(fleet, "n01").round_number
    fleet.advance(0.5)
    fleet.first_rounds = {"n00": left + 20}
    before = len(fleet.seats["n00"].reported)
    fleet.start("n00")
    fleet.advance(200.0)
    # It jumps to the second highest round of its neighbours, which may be one round before.
    assert fleet.seats["n00"].reported[before].number >= left + 19


def test_a_switch_is_saved_before_it_is_made() -> None:
    fleet = fleet_of(ring(4), rounds=12)
    start_all(fleet)
    fleet.advance(0.02)
    effects_of(fleet, "n00", 3)
    fleet.advance(10.0)
    saved = fleet.seats["n00"].saved
    assert saved is not None
    assert saved.round == 3
    assert fleet.seats["n00"].switched


def test_a_round_whose_roster_names_a_removed_node_closes_held() -> None:
    """A node restarted in the midst of a round whose neighbours are fewer now."""
    fleet = fleet_of(complete(5), rounds=8, sealed=True)
    start_all(fleet)
    fleet.advance(0.02)
    for name in ("n00", "n01", "n02", "n03"):
        fleet.kill(name)
    fleet.kill("n04")
    for names in fleet.neighbours.values():
        if "n04" in names:
            names.remove("n04")
    fleet.neighbours["n04"] = []
    fleet.seats["n04"].stopped = True
    for name in ("n00", "n01", "n02", "n03"):
        fleet.start(name)
    fleet.advance(2_000.0)
    for name in ("n00", "n01", "n02", "n03"):
        assert fleet.seats[name].stopped
        assert coupled_of(fleet, name) >= 8


def test_a_newcomer_waits_for_the_round_from_which_it_is_a_neighbour() -> None:
    fleet = fleet_of(ring(4), rounds=12, period_s=0.1)
    fleet.first_rounds = {"n00": 6}
    start_all(fleet)
    fleet.advance(200.0)
    (first, *_rest) = [r.number for r in fleet.seats["n00"].reported]
    assert first == 6


def test_what_membership_files_hold_is_for_their_owner_only(folder: Path) -> None:
    store_membership(folder, signed(membership_of()))
    assert (folder / "membership").stat().st_mode & 0o077 == 0
    assert (folder / "membership" / NEXT).stat().st_mode & 0o077 == 0
    shutil.rmtree(folder / "membership")
    assert read_membership(folder, config_of()) is None


# -- whatever may be signed -----------------------------------------------------------------------

members = st.builds(
    MembershipEntry,
    st.sampled_from(["a", "b", "me", "", "x" * 70, "\0", "ä"]),
    st.lists(st.sampled_from(["me", "a", "b", "", "z" * 64]), max_size=4),
    st.one_of(st.binary(max_size=80), st.just(member_of(1, "a", []).paillier)),
    st.one_of(st.binary(max_size=40), st.just(member_of(1, "a", []).identity)),
    st.one_of(st.binary(max_size=40), st.just(member_of(1, "a", []).seal)),
)
memberships = st.builds(
    Membership,
    st.just("f"),
    st.just(OPERATOR),
    st.integers(0, wire.MAX_ROUND),
    st.just("me"),
    st.integers(0, wire.MAX_ROUND),
    st.text(max_size=70),
    st.lists(members, max_size=4),
    st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=33)), max_size=4),
    st.binary(max_size=40),
    st.booleans(),
)


@settings(max_examples=400)
@given(memberships)
def test_whatever_the_operator_signs_is_taken_or_refused(message: Membership) -> None:
    """Never an exception of another kind, and what is taken can be configured and kept."""
    data = signed(message)
    with suppress(WireError):
        decoded = wire.decode(data, wire.topic_of(message), "f", {OPERATOR: BOSS.public_key()})
        assert decoded == message
    with suppress(WireError):
        joined = check_membership(message, config_of())
        assert {n.id for n in joined.apply_to(config_of()).neighbours} == set(joined.neighbours)


@settings(max_examples=300)
@given(st.data())
def test_mutated_memberships_raise_nothing_but_wire_errors(data: st.DataObject) -> None:
    encoded = bytearray(signed(membership_of()))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    topic = wire.topic_of(membership_of())
    assume(bytes(encoded) != signed(membership_of()))
    with pytest.raises(WireError):
        wire.decode(bytes(encoded), topic, "f", {OPERATOR: BOSS.public_key()})
