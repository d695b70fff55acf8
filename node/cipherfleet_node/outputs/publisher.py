"""When the answer is published, and the thread of each output.

**Why not at once.** A stream of estimates is a stream of steps, and each step shows a gradient: the
sequence x_i^0, x_i^1, ... tells an observer what the ciphertexts hide. So nothing is published
before the node has settled: its steps are then below MARGIN times the accuracy (core/settling.py),
and what is published is a multiple of the accuracy (physical.py). At most one answer is published
in `every_s` seconds. When the node is unsettled again, the values stay and `settled` is false.
Checked by test_a_stream_without_the_guard_shows_the_readings_and_with_it_nothing.

**Threads.** Each output has a thread of its own, which begins with the first answer. An output that
hangs delays no round and no other output. An answer that waits is replaced by a newer one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from cipherfleet_node.errors import CipherfleetError

from .answer import Answer

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 3.0


class Output(Protocol):
    """A place where answers go. A plug-in has these two methods; see docs/how-to/use-the-answer.md.

    Both are called in a thread that only this output uses, and may raise any exception.
    """

    def publish(self, answer: Answer) -> None:
        """Publish *answer*; calls are at least answer.every_s apart."""

    def close(self) -> None:
        """Release everything; no call follows."""


class OutputFailed(CipherfleetError):
    """An output of ours cannot publish now. The text is for the log: it holds no reading."""


class Sink(Protocol):
    """What a Publisher passes answers to, without waiting."""

    def put(self, answer: Answer) -> None:
        """Take *answer*, which replaces one that still waits."""

    def close(self) -> None:
        """End the thread, after CLOSE_WITHIN_S at most."""


class Publisher:
    """Decide when an answer is published. Times are monotonic seconds."""

    def __init__(
        self, sinks: Sequence[Sink], every_s: float, now: float, latest: Answer | None = None
    ) -> None:
        """Begin at *now*; *latest* was published by an earlier start of the node.

        A node that has published keeps the distance of *every_s* over its restart.
        """
        self._sinks, self._every_s, self._latest = sinks, every_s, latest
        self._due = now if latest is None else now + every_s

    def tend(self, now: float, make: Callable[[], Answer | None], *, is_settled: bool) -> None:
        """Publish the result of *make* if it is due and the node *is_settled*.

        A node that is not settled publishes its latest answer with `settled` false, once.
        """
        if not self._sinks or now < self._due:
            return
        fresh = make() if is_settled else None
        if fresh is None:
            if self._latest is None or not self._latest.settled:
                return
            fresh = msgspec.structs.replace(self._latest, settled=False)
        self._due, self._latest = now + self._every_s, fresh
        for sink in self._sinks:
            sink.put(fresh)

    def close(self) -> None:
        """End the threads of all outputs."""
        for sink in self._sinks:
            sink.close()


class OutputThread:
    """Run an output in a thread of its own. A failure is one line in the log, and so is its end."""

    def __init__(self, name: str, make: Callable[[], Output]) -> None:
        """*make* opens the output, in the thread and before its first answer."""
        self._name, self._make = name, make
        self._news = threading.Condition()
        self._waiting: Answer | None = None
        self._is_closed = self._has_failed = False
        self._thread: threading.Thread | None = None
        self._output: Output | None = None

    def put(self, answer: Answer) -> None:
        """Pass *answer* to the thread."""
        with self._news:
            self._waiting = answer
            self._news.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Publish what waits, then end the thread; a thread that hangs is left behind."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_WITHIN_S)

    def _work(self) -> None:
        while (answer := self._next()) is not None:
            self._attempt(lambda answer=answer: self._opened().publish(answer))  # type: ignore[misc]
        if self._output is not None:
            self._attempt(self._output.close)

    def _next(self) -> Answer | None:
        """Wait for the next answer; None at the end."""
        with self._news:
            self._news.wait_for(lambda: self._waiting is not None or self._is_closed)
            answer, self._waiting = self._waiting, None
            return answer

    def _opened(self) -> Output:
        if self._output is None:
            self._output = self._make()
        return self._output

    def _attempt(self, work: Callable[[], None]) -> None:
        """Run *work*; an exception of a plug-in may hold a reading, so only its type is logged."""
        try:
            work()
        except OutputFailed as error:
            self._report(str(error))
        except OSError as error:
            self._report(error.strerror or type(error).__name__)
        except Exception as error:
            self._report(type(error).__name__)
        else:
            if self._has_failed:
                self._has_failed = False
                log.info("the output %s works again", self._name)

    def _report(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning(
                "the output %s fails: %s; trying again with each answer", self._name, reason
            )
