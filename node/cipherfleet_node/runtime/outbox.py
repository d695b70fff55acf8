"""The messages of the agent on their way to the network: none leaves before what it depends on.

To synchronise the file of answered queries takes longer than to compute an answer. So the messages
after a note wait while further events are ready, and one synchronisation serves all of them. They
keep their order. The daemon sends them before it waits, before it saves a state, and before an
event that may close the round: opening the answers and saving the next round take long. Further
events delay them by MAX_DELAY_S at most.
"""

from __future__ import annotations

from collections.abc import Callable

from cipherfleet_node.core.messages import Message
from cipherfleet_node.core.state import AnsweredQuery, State

from .spans import Spans
from .store import Store

MAX_DELAY_S = 0.01


class Outbox:
    """Pass messages to *send* in their order, each when the state and notes before are durable.

    After StateNotSaved the daemon must end: what waits is never sent.
    """

    def __init__(self, store: Store, spans: Spans, send: Callable[[Message], None]) -> None:
        self._store, self._spans, self._send = store, spans, send
        self._round = 0  # of the latest note
        self._waiting: list[Message] = []
        self._since = 0.0  # monotonic time at which the oldest of them came

    def save(self, state: State) -> None:
        """Send what waits, then save *state* durably. Raises StateNotSaved."""
        self.flush()
        with self._spans.span("save", state.round):
            self._store.save(state)

    def note(self, entry: AnsweredQuery) -> None:
        """Note *entry* for the messages that follow. Raises StateNotSaved."""
        self._store.note(entry)
        self._round = entry.round

    def put(self, message: Message, now: float) -> None:
        """Send *message* at once, or keep it until `flush` if a note is not durable yet."""
        if not self._store.has_unsynced_notes:
            self._send(message)
            return
        self._since = self._since if self._waiting else now
        self._waiting.append(message)

    def is_due(self, now: float) -> bool:
        """True if a message has waited for MAX_DELAY_S."""
        return bool(self._waiting) and now - self._since >= MAX_DELAY_S

    def flush(self) -> None:
        """Make the notes durable and send what waits. Raises StateNotSaved before it sends."""
        if self._store.has_unsynced_notes:
            with self._spans.span("save", self._round):
                self._store.sync_notes()
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self._send(message)
