"""What a look at one thing found: for the doctors of the device and of the operator."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .errors import CipherfleetError, remedy_for

Level = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; *mend* may be empty. No reading, key or estimate is in it."""

    level: Level
    subject: str  # a short name, the same at every visit
    text: str
    mend: str = ""

    def __str__(self) -> str:
        """One line, whatever a file is called: control characters are written as escapes."""
        line = f"{self.level:4}  {self.subject:12}  {self.text}"
        line += f"; mend: {self.mend}" if self.mend else ""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def failed(subject: str, error: CipherfleetError, mend: str = "") -> Finding:
    """*error* as a finding: what follows its last semicolon is the mend, else *mend*."""
    text, semicolon, told = str(error).rpartition("; ")
    if not semicolon:
        text, told = told, mend
    return Finding("fail", subject, text, told)


def look(subject: str, within_s: float, work: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of *work* as they come, and a failure if it is not done *within_s*.

    The work is left behind in its thread then: a dead disk or bus cannot be interrupted. An error
    that nobody foresaw is told without its text, which may hold a reading.
    """
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for finding in work():
                found.put(finding)
        except CipherfleetError as error:
            found.put(failed(subject, error))
        except OSError as error:
            text, remedy = f"{error.filename or 'system'}: {error.strerror}", remedy_for(error, "")
            found.put(Finding("fail", subject, text, remedy))
        except Exception as error:
            found.put(Finding("fail", subject, f"{type(error).__name__} while it was looked at"))
        finally:
            found.put(None)

    threading.Thread(target=run, name=f"look at {subject}", daemon=True).start()
    deadline = time.monotonic() + within_s
    while True:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield Finding("fail", subject, f"no result within {within_s:g} s", "see `dmesg`")
            return
        if finding is None:
            return
        yield finding
