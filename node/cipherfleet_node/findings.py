"""Findings, the results of checks: of `cipherfleet-node doctor`, `cipherfleet doctor` and `check`.

The two doctors run every check with a time limit and share the exit code and the JSON object.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from .errors import BrokerUnreachable, CipherfleetError, ConfigError, remedy_for

Level = Literal["fail", "warn", "note", "skip", "ok"]
LEVELS: tuple[Level, ...] = ("fail", "warn", "note", "skip", "ok")  # the most serious first


@dataclass(frozen=True)
class Finding:
    """The result of one check. It contains no reading, key or estimate; *remedy* may be empty."""

    level: Level
    subject: str  # a short name for scripts; it is the same in every run
    text: str
    remedy: str = ""
    nodes: tuple[str, ...] = ()  # the nodes of a fleet that it is about, if it is about some

    def __str__(self) -> str:
        """Return one line, in which control characters are written as escapes."""
        line = f"{self.level:4}  {self.subject:12}  {self.text}"
        line += f"; remedy: {self.remedy}" if self.remedy else ""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def finding_from_error(subject: str, error: CipherfleetError, remedy: str = "") -> Finding:
    """Return *error* as a finding with its own remedy, or else with *remedy*."""
    return Finding("fail", subject, error.text, error.remedy or remedy)


def exit_code(findings: Iterable[Finding], configuration: Collection[str]) -> int:
    """Return the exit code of a command that checks everything once.

    0: no check fails. 3: a check fails whose subject is in *configuration*. 4: only the broker is
    unreachable. 1: any other failure.
    """
    subjects = {finding.subject for finding in findings if finding.level == "fail"}
    if not subjects:
        return 0
    if not subjects.isdisjoint(configuration):
        return ConfigError.exit_code
    return BrokerUnreachable.exit_code if subjects == {"broker"} else CipherfleetError.exit_code


def to_json(findings: Iterable[Finding], exit_code: int) -> str:
    """Return the JSON object that a doctor prints."""
    return json.dumps({"findings": [asdict(each) for each in findings], "exit_code": exit_code})


def run_check(
    subject: str, within_s: float, work: Callable[[], Iterable[Finding]]
) -> Iterator[Finding]:
    """Yield the findings of *work* as they come, and a failure if it takes longer than *within_s*.

    In that case the work continues in its thread, because a call to a dead disk or bus cannot be
    interrupted. An unexpected exception is reported without its text, which may contain a reading.
    """
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for finding in work():
                found.put(finding)
        except CipherfleetError as error:
            found.put(finding_from_error(subject, error))
        except OSError as error:
            text, remedy = f"{error.filename or 'system'}: {error.strerror}", remedy_for(error, "")
            found.put(Finding("fail", subject, text, remedy))
        except Exception as error:
            found.put(Finding("fail", subject, f"the check raised {type(error).__name__}"))
        finally:
            found.put(None)

    threading.Thread(target=run, name=f"check {subject}", daemon=True).start()
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
