"""Rules of the round machine, each of which can be switched off: the model must notice it.

Each bug replaces one method of the real classes while a context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec

from cipherfleet_node.core import progress
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.answerer import Answerer
from cipherfleet_node.core.events import Effect, Publish, Save
from cipherfleet_node.core.messages import Answer, Query
from cipherfleet_node.core.opening import Opener
from cipherfleet_node.core.randomness import Draw
from cipherfleet_node.core.state import RoundRecord, State

Switch = Callable[[ExitStack], None]


@contextmanager
def switched_off(*names: str) -> Iterator[None]:
    """Switch the rules *names* off while the context lasts."""
    with ExitStack() as stack:
        for name in names:
            BUGS[name](stack)
        yield


def _replace(stack: ExitStack, owner: object, name: str, new: object) -> None:
    stack.enter_context(mock.patch.object(owner, name, new))


def _answer_any_roster(stack: ExitStack) -> None:
    _replace(stack, Answerer, "_may_see", lambda *_: True)


def _answer_any_query(stack: ExitStack) -> None:
    """Forget which query of a round was answered."""
    reply = Answerer.reply

    def forgetful(self: Answerer, query: Query, state: State, waited_s: float) -> Any:
        self._sent.clear()
        blank = [msgspec.structs.replace(r, answered={}) for r in state.records]
        return reply(self, query, msgspec.structs.replace(state, records=blank), waited_s)

    _replace(stack, Answerer, "reply", forgetful)


def _narrow_within_a_round(stack: ExitStack) -> None:
    """At the first deadline, ask those that have answered once more, without the others."""

    def narrow(self: Agent, now: float) -> Iterator[Effect]:
        current, record = self.collector.current, self._state.open_record
        if current is None or record is None or now < current.deadline:
            return
        left = sorted(current.answered)
        if len(left) < 2:
            yield from self._hold(now, current.unheard)
            return
        narrower = msgspec.structs.replace(record, roster=left)
        self._update(records=[*self._state.records[:-1], narrower])
        yield Save(self._state)
        yield from self._collect(narrower, left, now)

    _replace(stack, Agent, "_on_deadline", narrow)


def _draw_in_every_round(stack: ExitStack) -> None:
    """Take new half weights in every round, also while the state stands still."""
    draw_of = progress.next_draw

    def fresh(state: State, estimate: Any) -> Draw:
        draw = draw_of(state, estimate)
        return Draw(draw.fingerprint, draw.number + (state.round << 32), draw.since)

    _replace(stack, progress, "next_draw", fresh)


def _open_again_after_a_restart(stack: ExitStack) -> None:
    """Open the saved round once more, with another seed, instead of repeating it."""
    _draw_in_every_start(stack)
    _replace(stack, Agent, "_can_repeat", False)


def _draw_in_every_start(stack: ExitStack) -> None:
    draw_of = progress.next_draw

    def fresh(state: State, estimate: Any) -> Draw:
        draw = draw_of(state, estimate)
        return Draw(draw.fingerprint, draw.number + (state.epoch << 32), draw.since)

    _replace(stack, progress, "next_draw", fresh)


def _open_in_part(stack: ExitStack) -> None:
    """Open a held round as soon as one late answer comes."""
    receive = Agent._receive_late_answer

    def hasty(self: Agent, answer: Answer, record: RoundRecord) -> Iterator[Effect]:
        yield from receive(self, answer, record)
        after = self._state.record(record.number)
        if after is not None and after.outcome == "held":
            yield from self._couple_late(record.number)

    _replace(stack, Agent, "_receive_late_answer", hasty)


def _drop_late_sums(stack: ExitStack) -> None:
    """Never count a held round."""
    _replace(stack, Agent, "_receive_late_answer", lambda *_: iter(()))


def _forget_at_a_restart(stack: ExitStack) -> None:
    """Keep the answered queries and rosters in memory only."""
    begin = Agent.__init__

    def forgetful(self: Agent, setup: Any, state: State) -> None:
        records = [msgspec.structs.replace(r, answered={}) for r in state.records]
        begin(self, setup, msgspec.structs.replace(state, records=records, rosters={}))

    _replace(stack, Agent, "__init__", forgetful)


def _never_kick(stack: ExitStack) -> None:
    _replace(stack, Opener, "_kick_size", lambda *_: 0.0)


def _never_draw(stack: ExitStack) -> None:
    _replace(stack, Agent, "_draw_again_if_wanted", lambda *_: None)


def _send_before_the_save(stack: ExitStack) -> None:
    """Publish a query or an answer before the state that it belongs to is saved."""
    handle = Agent.handle

    def eager(self: Agent, event: Any, now: float) -> Iterator[Effect]:
        effects = list(handle(self, event, now))
        yield from sorted(effects, key=lambda effect: not isinstance(effect, Publish))

    _replace(stack, Agent, "handle", eager)


BUGS: Mapping[str, Switch] = {
    "answer_any_roster": _answer_any_roster,
    "answer_any_query": _answer_any_query,
    "narrow_within_a_round": _narrow_within_a_round,
    "draw_in_every_round": _draw_in_every_round,
    "open_again_after_a_restart": _open_again_after_a_restart,
    "open_in_part": _open_in_part,
    "drop_late_sums": _drop_late_sums,
    "forget_at_a_restart": _forget_at_a_restart,
    "never_kick": _never_kick,
    "never_draw": _never_draw,
    "send_before_the_save": _send_before_the_save,
}
