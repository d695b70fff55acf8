"""A node refuses every invalid message, and counts it under the right reason.

The same with 10,000 forgeries of each class: python -m tests.tools.forgeries --count 10000
"""

from __future__ import annotations

import re
from functools import cache

import pytest

from cipherfleet_lab.simulation.memory_fleet import PARAMETERS
from cipherfleet_node.core import topics
from cipherfleet_node.core.events import MessageReceived
from cipherfleet_node.core.messages import (
    OPERATOR,
    Answer,
    Membership,
    MembershipEntry,
    Message,
    Presence,
    Query,
)
from cipherfleet_node.core.wire import decode, encode, topic_of
from cipherfleet_node.errors import WireError
from tests.support.paths import ROOT
from tests.support.queries import query_of
from tests.support.wire_fleet import (
    EXCHANGES,
    FLEET,
    NODES,
    ExchangeName,
    Forgery,
    WireFleet,
    agent_of,
    identity_of,
    make_fleet,
    undisturbed,
)
from tests.tools.forgeries import (
    KINDS,
    Kind,
    Tally,
    bombard,
    bombard_with_all,
    cases,
    lie_under_other_keys,
    nonsense,
)

COUNT = 24  # of each class, in each exchange
CORE = ROOT / "node" / "cipherfleet_node" / "core"
RAISING = ("wire", "agent", "answerer", "collector", "exchange", "sealed", "packing", "paillier")


@cache
def tallies(exchange: ExchangeName, by: str) -> dict[str, Tally]:
    """Of all that a broker or a neighbour can forge: the same fleets get every kind."""
    kinds = [kind for known, kind in cases() if (known, kind.by) == (exchange, by)]
    return {tally.kind.name: tally for tally in bombard_with_all(kinds, COUNT, exchange)}


@pytest.mark.parametrize(
    ("exchange", "kind"), cases(), ids=[f"{exchange}-{kind.name}" for exchange, kind in cases()]
)
def test_no_forgery_is_accepted_and_each_is_counted_under_its_reason(
    exchange: ExchangeName, kind: Kind
) -> None:
    tally = tallies(exchange, kind.by)[kind.name]
    assert tally.count == COUNT
    assert tally.accepted == 0
    assert set(tally.reasons) <= kind.reasons
    assert tally.changed == 0, "the fleet came to another result"
    assert tally.powers == 0, "a modular power was taken for a forgery"
    assert tally.verified <= kind.most_verified


def test_the_classes_cover_every_reason_there_is() -> None:
    apart = {
        "out_of_range",
        "overreach",
        "far_round",
    }  # of a whole round, or of a neighbour's claim
    covered = {reason for kind in KINDS.values() for reason in kind.reasons} | apart
    sources = "".join((CORE / f"{name}.py").read_text() for name in RAISING)
    raised = r'(?:ProtocolError|WireError|Surplus|Rejected)\(\s*(?:[\w.]+, )?"(\w+)"'
    replies = {"old_query", "late_answer", "early_answer"}
    assert covered == {*re.findall(raised, sources), *replies}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_ciphertext_under_another_key_is_left_out_and_counted(exchange: ExchangeName) -> None:
    lies = lie_under_other_keys(12, exchange)
    assert lies.sent >= 6 * len(NODES)
    # A neighbour whose answers are out of range is asked less often.
    assert lies.counted >= 0.8 * lies.sent
    assert lies.counted == lies.expected
    assert not lies.others
    assert not lies.changed


def test_without_signatures_forgeries_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is what keeps them out, and this harness would see it fail."""
    monkeypatch.setattr("tests.support.wire_fleet.RecordingVerifier.verify", lambda *_: None)
    tally = bombard(KINDS["a bit of a ciphertext flipped"], 40, "pairwise")
    assert tally.accepted > 0
    assert tally.miscounted > 0


def test_the_result_is_a_strict_measure() -> None:
    """Bit-equal estimates would show a single answer that was left out."""
    fleet = make_fleet(0)

    def lie_once(sender: str, receiver: str, message: Message) -> Message:
        if isinstance(message, Answer) and (sender, receiver, message.round) == ("n01", "n00", 5):
            return nonsense(fleet, message)
        return message

    fleet.tap = lie_once
    fleet.run()
    assert fleet.rejected() == {"out_of_range": 1}
    assert fleet.estimates().tobytes() != undisturbed(0).estimates


# -- single attacks -------------------------------------------------------------------------------


@pytest.fixture
def midway() -> WireFleet:
    """A fleet in the midst of its rounds."""
    fleet = make_fleet(0)
    for name in fleet.seats:
        fleet.start(name)
    while min(agent_of(fleet, name).round_number for name in NODES) < 5:
        fleet.advance(fleet.now + 0.001)
    return fleet


def test_a_message_of_an_earlier_start_is_no_sign_of_life(midway: WireFleet) -> None:
    """A broker that replays it must not make a newcomer believe its neighbours have spoken."""
    agent = agent_of(midway, "n00")
    list(agent.handle(MessageReceived(Presence(FLEET, "n01", 9, "ready")), midway.now))
    agent.neighbours.begin_connection()
    stale = Presence(FLEET, "n01", 1, "ready")
    list(agent.handle(MessageReceived(stale), midway.now))
    assert not agent.neighbours._live
    list(agent.handle(MessageReceived(Presence(FLEET, "n01", 9, "ready")), midway.now))
    assert agent.neighbours._live == {"n01"}


@pytest.mark.parametrize("prepared", [True, False])
def test_a_bad_query_takes_no_power_and_nothing_that_was_prepared(
    midway: WireFleet, prepared: bool
) -> None:
    """Else one bad query would cost its receiver a modular power of full length."""
    agent = agent_of(midway, "n00")
    name = next(iter(agent.answerer.prepared))
    if not prepared:
        del agent.answerer.prepared[name]
    before = dict(agent.answerer.prepared)
    tag, k = midway.keys[name].public.fingerprint[:8], agent.state.records[-1].number
    parameters, epoch = PARAMETERS, midway.seats[name].epoch
    bad = Query(FLEET, name, epoch, k, [], [], False, None, 0, parameters, tag, [bytes(128)])
    outcome = midway.offer(Forgery("n00", topic_of(bad), encode(bad, identity_of(name))))
    assert outcome.reason == "ciphertext_range"
    assert outcome.powers == 0
    assert agent.answerer.prepared == before


def membership(members: list[MembershipEntry], seals: list[tuple[str, bytes]]) -> Membership:
    return Membership(FLEET, OPERATOR, 1, "me", 1, "", members, seals, b"", rekey=False)


LONG = {
    "ciphertexts": query_of(FLEET, "n00", 1, 1, [], [b""] * 120_000),
    "roster": query_of(FLEET, "n00", 1, 1, [""] * 240_000),
    "members": membership([MembershipEntry("", [], b"", b"", b"")] * 29_000, []),
    "neighbours of a member": membership([MembershipEntry("n", ["m"] * 60_000, b"", b"", b"")], []),
    "seals": membership([], [("", b"")] * 60_000),
}


@pytest.mark.parametrize("message", LONG.values(), ids=LONG)
def test_a_list_without_number_is_refused_before_its_entries_are_read(message: Message) -> None:
    """Even if its sender has signed it."""
    import tracemalloc

    signer = identity_of(message.sender)
    payload = encode(message, signer)
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as refused:
            decode(payload, topic_of(message), FLEET, {message.sender: signer.public_key()})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "malformed"
    assert peak < 4 * len(payload)


@pytest.mark.parametrize("message", LONG.values(), ids=LONG)
def test_no_list_is_read_before_topic_and_signature_are_checked(
    message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cipherfleet_node.core.wire._open_body", None)
    payload = encode(message, identity_of("stranger"))
    verifiers = {name: identity_of(name).public_key() for name in ("n00", OPERATOR)}
    for topic, reason in {
        topics.presence_topic(FLEET, "n00"): "topic",
        topics.query_topic(FLEET, "n99"): "unknown_sender",
        topic_of(message): "signature",
    }.items():
        with pytest.raises(WireError) as refused:
            decode(payload, topic, FLEET, verifiers)
        assert refused.value.reason == reason
