"""Messages wait for the notes before them, and one synchronisation serves several."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cipherfleet_node.core.messages import Message, Presence
from cipherfleet_node.core.state import AnsweredQuery, first_state
from cipherfleet_node.errors import StateNotSaved
from cipherfleet_node.runtime import answered_log
from cipherfleet_node.runtime.answered_log import read_entries
from cipherfleet_node.runtime.outbox import MAX_DELAY_S, Outbox
from cipherfleet_node.runtime.spans import Spans
from cipherfleet_node.runtime.store import STATE_FOLDER, Store


def message(number: int) -> Message:
    return Presence("f", "n", number, "ready")


def entry(asker: str) -> AnsweredQuery:
    return AnsweredQuery(7, asker, bytes(32), bytes(16))


@dataclass
class Scene:
    outbox: Outbox
    sent: list[Message]
    syncs: list[int]  # how many messages had been sent at each synchronisation


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    sent: list[Message] = []
    syncs: list[int] = []
    genuine = os.fdatasync

    def counted(descriptor: int) -> None:
        syncs.append(len(sent))
        genuine(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    store = Store(tmp_path)
    outbox = Outbox(store, Spans(tmp_path / "logs" / "spans"), sent.append)
    yield Scene(outbox, sent, syncs)
    store.close()


def test_a_message_without_a_note_before_it_is_sent_at_once(scene: Scene) -> None:
    scene.outbox.put(message(1), 0.0)
    assert scene.sent == [message(1)]
    scene.outbox.flush()
    assert scene.sent == [message(1)]
    assert scene.syncs == []


def test_one_sync_serves_all_notes_and_comes_before_all_messages_after_them(scene: Scene) -> None:
    scene.outbox.note(entry("a"))
    scene.outbox.put(message(1), 0.0)
    scene.outbox.note(entry("b"))
    scene.outbox.put(message(2), 0.0)
    scene.outbox.put(message(3), 0.0)
    assert scene.sent == []
    scene.outbox.flush()
    assert scene.sent == [message(1), message(2), message(3)]
    assert scene.syncs == [0]
    scene.outbox.put(message(4), 0.0)
    assert scene.sent[-1] == message(4)


def test_notes_and_messages_before_a_save_go_first(scene: Scene) -> None:
    scene.outbox.note(entry("a"))
    scene.outbox.put(message(1), 0.0)
    scene.outbox.save(first_state("f", "n", bytes(8), 1, 0))
    assert scene.sent == [message(1)]
    assert scene.syncs == [0, 1]


def test_nothing_is_sent_if_the_notes_cannot_be_made_durable(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scene.outbox.note(entry("a"))
    scene.outbox.put(message(1), 0.0)
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StateNotSaved):
        scene.outbox.flush()
    scene.outbox.put(message(2), 0.0)
    assert scene.sent == []


def test_a_message_is_due_after_the_longest_delay_since_the_oldest(scene: Scene) -> None:
    assert not scene.outbox.is_due(100.0)
    scene.outbox.note(entry("a"))
    scene.outbox.put(message(1), 100.0)
    scene.outbox.put(message(2), 100.0 + 0.9 * MAX_DELAY_S)
    assert not scene.outbox.is_due(100.0 + 0.9 * MAX_DELAY_S)
    assert scene.outbox.is_due(100.0 + 1.1 * MAX_DELAY_S)
    scene.outbox.flush()
    assert not scene.outbox.is_due(200.0)


def test_an_entry_that_the_disk_takes_in_parts_is_written_whole(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that becomes full takes a part of a write without an error."""
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: genuine(descriptor, data[:10]))
    scene.outbox.note(entry("a"))
    scene.outbox.flush()
    assert list(read_entries(tmp_path / STATE_FOLDER / answered_log.FILE)) == [entry("a")]
