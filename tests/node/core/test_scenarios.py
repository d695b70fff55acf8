"""Scenarios and transcripts of node/vectors hold for our own node, and show what they should."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.conformance.scenario import (
    Closed,
    Counted,
    CoupledLate,
    Delivery,
    NodeScenario,
    NodeSetup,
    Outcome,
    Published,
    Saved,
    ScenarioEffect,
    Start,
    Step,
    Stopped,
    Transcript,
)
from cipherfleet_node.conformance.scenario_node import ScenarioNode
from cipherfleet_node.core.messages import Answer, Message, Presence, Query, Refusal
from tests.tools.make_scenarios import MADE, SCENARIOS, TRANSCRIPTS, make_scenario

FILES = sorted(SCENARIOS.glob("*.json"))
KINDS: dict[str, type[Message]] = {kind.KIND: kind for kind in (Query, Answer, Refusal, Presence)}


@cache
def scenario_in(file: Path) -> NodeScenario:
    return msgspec.json.decode(file.read_bytes(), type=NodeScenario)


@cache
def transcript_in(name: str) -> Transcript:
    return msgspec.json.decode((TRANSCRIPTS / f"{name}.json").read_bytes(), type=Transcript)


def replay(setup: NodeSetup, steps: list[Step], *, with_states: bool = False) -> None:
    """Assert that our node does what *steps* say; estimates may differ in the last places."""
    node = ScenarioNode(setup, with_states=with_states)
    for number, step in enumerate(steps):
        check(node.handle(step.event), step.outcome, f"step {number}: {step.event}")


def check(found: Outcome, expected: Outcome, where: str) -> None:
    for one, other in zip(found.effects, expected.effects, strict=True):
        if isinstance(one, Closed) and isinstance(other, Closed):
            assert close(one.estimate, other.estimate), where
            assert msgspec.structs.replace(one, estimate=other.estimate) == other, where
        else:
            assert readable(one) == other, where
    assert (found.timer is None) == (expected.timer is None), where
    assert close([found.timer or 0.0], [expected.timer or 0.0]), where


def readable(effect: ScenarioEffect) -> ScenarioEffect:
    """Return *effect* as it is after it was written and read."""
    found: ScenarioEffect = msgspec.json.decode(msgspec.json.encode(effect), type=ScenarioEffect)
    return found


def close(one: list[float], other: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_holds_for_our_node(file: Path) -> None:
    scenario = scenario_in(file)
    replay(scenario.setup, scenario.steps)


@pytest.mark.parametrize("exchange", ["sealed", "pairwise"])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_transcript_holds_for_each_of_its_nodes(exchange: str, name: str) -> None:
    """Every message and every saved state, byte for byte."""
    transcript = transcript_in(exchange)
    steps = [without_estimates(step) for step in transcript.steps[name]]
    node = ScenarioNode(transcript.setups[name], with_states=True)
    found = [Step(step.event, node.handle(step.event)) for step in transcript.steps[name]]
    written = msgspec.json.decode(msgspec.json.encode(found), type=list[Step])
    assert [without_estimates(step) for step in written] == steps


def without_estimates(step: Step) -> Step:
    """Return *step* without its real numbers, which may differ in the last places."""
    effects = list[ScenarioEffect]()
    for effect in step.outcome.effects:
        if isinstance(effect, Closed):
            effects.append(msgspec.structs.replace(effect, estimate=[]))
        elif isinstance(effect, Saved):
            state = {k: v for k, v in effect.state.items() if k not in ("estimate", "sizes")}
            effects.append(Saved(state))
        else:
            effects.append(effect)
    return Step(step.event, Outcome(effects, step.outcome.timer))


def test_the_files_are_those_that_are_generated() -> None:
    assert {file.stem for file in FILES} == set(MADE)


def test_a_scenario_is_the_same_in_every_run() -> None:
    assert make_scenario("silence") == make_scenario("silence")


# -- what the scenarios show ----------------------------------------------------------------------


def effects_of(name: str) -> list[ScenarioEffect]:
    steps = scenario_in(SCENARIOS / f"{name}.json").steps
    return [effect for step in steps for effect in step.outcome.effects]


def reasons_of(name: str) -> set[str]:
    return {effect.reason for effect in effects_of(name) if isinstance(effect, Counted)}


def messages_of(name: str) -> list[Message]:
    found: list[Message] = []
    for effect in effects_of(name):
        if isinstance(effect, Published):
            _, kind, body, _ = msgspec.msgpack.decode(bytes.fromhex(effect.data))
            found.append(msgspec.msgpack.decode(body, type=KINDS[kind]))
    return found


def refusals_of(name: str) -> set[str]:
    return {m.reason for m in messages_of(name) if isinstance(m, Refusal)}


def test_a_restarted_node_repeats_its_query() -> None:
    queries = [m for m in messages_of("restart") if isinstance(m, Query) and m.round == 2]
    assert {query.epoch for query in queries} == {1, 2}
    assert len({query.digest for query in queries}) == 1


def test_a_held_round_is_coupled_when_its_last_answer_comes() -> None:
    for name in ("silence", "last-will"):
        held = {e.number for e in effects_of(name) if isinstance(e, Closed) and not e.coupled}
        assert {e.number for e in effects_of(name) if isinstance(e, CoupledLate)} == held
    assert not any(isinstance(e, CoupledLate) for e in effects_of("an-answer-never-comes"))


def test_every_reason_to_refuse_a_query_is_in_a_scenario() -> None:
    assert refusals_of("refusals") == {"old", "stale_epoch"}
    assert refusals_of("another-roster") == {"roster"}
    assert refusals_of("closed-pairwise") == {"closed"}


def test_a_new_draw_changes_the_numbers_of_the_next_query() -> None:
    """The counter is in no message; the kick shows in the ciphertexts only. So it is recounted."""
    scenario = scenario_in(SCENARIOS / "another-roster.json")
    node = ScenarioNode(scenario.setup)
    for step in scenario.steps:
        node.handle(step.event)
    assert node.agent is not None
    assert node.agent.state.drawing.number == 1


def test_after_three_spoiled_rounds_a_part_of_the_roster_is_left_out() -> None:
    closed = [effect for effect in effects_of("spoiled-sum") if isinstance(effect, Closed)]
    spoiled = [effect.number for effect in closed if effect.spoiled]
    assert spoiled == [0, 1, 2]
    after = [effect for effect in closed if effect.number > 2 and effect.coupled]
    assert after
    assert all("b" in effect.left_out for effect in after)


def test_far_claims_flaws_and_second_queries_are_counted() -> None:
    assert "far_round" in reasons_of("far-claim")
    assert "second_query" in reasons_of("second-query")
    wanted = {"malformed", "signature", "topic", "unknown_sender", "retained"}
    assert reasons_of("flaws-on-the-wire") >= wanted | {"parameters", "other_key", "roster"}


def test_a_node_that_lost_its_state_goes_on_beyond_its_neighbours() -> None:
    scenario = scenario_in(SCENARIOS / "lost-state.json")
    seen = -1
    for step in scenario.steps:
        if isinstance(step.event, Delivery) and "/q/" in step.event.topic:
            _, _, body, _ = msgspec.msgpack.decode(bytes.fromhex(step.event.data))
            seen = max(seen, msgspec.msgpack.decode(body, type=Query).round)
    queries = [m.round for m in messages_of("lost-state") if isinstance(m, Query)]
    assert queries
    assert queries[0] > 2
    assert min(queries) == queries[0]


def test_the_first_and_the_last_round_are_in_the_transcripts() -> None:
    for exchange in ("sealed", "pairwise"):
        for steps in transcript_in(exchange).steps.values():
            effects = [effect for step in steps for effect in step.outcome.effects]
            assert [e.number for e in effects if isinstance(e, Closed)] == [0, 1, 2]
            assert isinstance(steps[0].event, Start)
            assert Stopped(complete=True) in effects


def test_a_node_with_another_key_fails_a_scenario() -> None:
    """The comparison is strict: a single changed bit in the setup shows."""
    scenario = scenario_in(SCENARIOS / "start.json")
    setup = msgspec.structs.replace(scenario.setup, draw_secret="00" * 32)
    with pytest.raises(AssertionError):
        replay(setup, scenario.steps)
