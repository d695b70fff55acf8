"""node/PROTOCOL.md states the constants and the lists that the code has."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from cipherfleet_node.core import (
    agent,
    claims,
    coupling,
    deadlines,
    messages,
    opening,
    quantiser,
    roster,
    state,
    wire,
)
from cipherfleet_node.runtime import back_off, epochs, mqtt
from tests.support.paths import ROOT

TEXT = " ".join((ROOT / "node" / "PROTOCOL.md").read_text().split())

STATEMENTS = {
    "wire version": f"`version` is {wire.WIRE_VERSION}.",
    "longest message": f"| a message | {wire.MAX_MESSAGE_BYTES:,} bytes |",
    "records": "the records of its latest five rounds",
    "least draws": f"at most once in {opening.ROUNDS_PER_DRAW} rounds",
    "doublings of draws": f"(the exponent is at most {opening.MOST_DOUBLINGS})",
    "kick": f"max({opening.KICK:g} s, {quantiser.START_NOISE:g} resolutions)",
    "start noise": f"x_0 + {quantiser.START_NOISE:g} resolutions * (2 U - 1)",
    "deadline": f"D = {deadlines.MARGIN:g} times the median of the latest nine samples, "
    f"at least A and at most {deadlines.LONGEST:g} A",
    "old samples": f"Rounds more than {deadlines.REMEMBERED_ROUNDS} back give none",
    "back-off": f"has *missed* once more, up to m = {roster.MOST_MISSES}",
    "patience": "From the fifth refusal in a row on",
    "trial": f"{roster.FIRST_TRIAL} rounds later the first half of those left out is asked again",
    "trials": f"{roster.FIRST_TRIAL} * 2^min(t, {roster.MOST_DOUBLINGS}) rounds later",
    "bound": f"floor((away + elapsed) / shortest) + {claims.FAR}",
    "shortest round": f"max({1000 * claims.SHORTEST_ROUND_S:g} ms, "
    f"`period_s` / {claims.PERIODS:g})",
    "waits of claims": f"w is {claims.FIRST_WAIT} at first, doubles with each jump up to "
    f"{claims.LONGEST_WAIT:,}",
    "far": f"at least k + {claims.FAR} for 2 D",
    "cap": f"The cap is {coupling.CAP:g} times the median of *sizes*",
    "floor of the cap": f"at least 2^{coupling.FLOOR.hex().split('p+')[1]} resolutions",
    "first cap": f"it is 2^{coupling.FIRST.hex().split('p+')[1]} resolutions",
    "linger": f"at most {agent.LINGER_TIMEOUTS:g} A after the latest query",
    "giving up": f"for {agent.GIVE_UP_DEADLINES} A gives up",
    "greatest epoch": f"below 2^{agent.GREATEST_EPOCH_FOLLOWED.bit_length() - 1}",
    "epochs": f"max(e, c) + {epochs.ANSWERS + 1:,} + r",
    "random part": f"0 <= r < 2^{epochs.RANDOM_BITS}",
    "keep-alive": f"| keep-alive | {mqtt.KEEPALIVE_S} s |",
    "delays": f"at most {back_off.DROPPED_LIMIT_S:g} s if the broker accepts connections and loses "
    f"them, at most {back_off.REFUSED_LIMIT_S / 60:g} min",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_constant_of_the_protocol_is_that_of_the_code(name: str) -> None:
    assert STATEMENTS[name] in TEXT


def test_numbers_that_are_words_are_those_of_the_code() -> None:
    assert (state.HISTORY_ROUNDS, state.PENDING_ROUNDS) == (5, 4)
    assert (roster.PATIENCE, roster.SPOILED_ROUNDS) == (5, 3)
    assert deadlines.SAMPLES == coupling.TERMS == 9


def cells(heading: str) -> list[str]:
    """The code in the first column of the table after *heading*."""
    text = (ROOT / "node" / "PROTOCOL.md").read_text()
    section = re.split(r"^#{2,3} ", text[text.index(heading) + len(heading) :], flags=re.M)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.M)


def test_the_presence_states_are_those_of_the_code() -> None:
    assert cells("### 7.10 Liveness and presence") == list(get_args(messages.PresenceState))


def test_the_reasons_of_refusals_are_those_of_the_code() -> None:
    assert cells("### 7.4 Answering and refusing") == list(get_args(messages.RefusalReason))


def test_the_fields_of_every_message_are_in_their_order() -> None:
    """Names that the text explains otherwise are left out."""
    explained = {"version", "time", "_operator"}
    for kind in (
        messages.Query,
        messages.Answer,
        messages.Refusal,
        messages.Presence,
        messages.Health,
    ):
        (row,) = re.findall(rf"\| {kind.KIND} \| ([^|]*) \|", TEXT)
        names = [re.sub(r" \(.*", "", name) for name in row.split(", ")]
        assert [n for n in names if n not in explained] == list(kind.__struct_fields__)
