"""The command `conformance`: replay scenarios against our own node, or against any command.

A command under test reads one JSON object per line: first the setup, then the events. After each
event it writes one line, the outcome. node/vectors/README.md specifies the format.
"""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

import msgspec

from cipherfleet_node.errors import ConfigError

from .scenario import (
    Closed,
    NodeScenario,
    NodeSetup,
    Outcome,
    Saved,
    ScenarioEffect,
    ScenarioEvent,
)
from .scenario_node import ScenarioNode

LIMIT_S = 120.0  # for one scenario; a command that does not answer is ended
ESTIMATE_TOLERANCE = 1e-12  # relative; processors differ in the last places

Handle = Callable[[ScenarioEvent], Outcome]
Open = Callable[[NodeSetup], AbstractContextManager[Handle]]


class ScenarioResult(msgspec.Struct, frozen=True):
    """What one scenario has shown. *problem* is empty if the node did what it must do."""

    scenario: str
    section: str  # of node/PROTOCOL.md
    steps: int  # how many agreed
    problem: str = ""


class ConformanceResult(msgspec.Struct, frozen=True):
    """The results of all scenarios of a folder."""

    results: list[ScenarioResult]
    failed: int


class Disagreement(Exception):
    """The node under test does something else than the scenario."""


# -- checking -------------------------------------------------------------------------------------


def check_folder(folder: Path, command: str | None) -> ConformanceResult:
    """Run all scenarios in *folder*, against *command* or else against our own node.

    Raises ConfigError if there is none, or if a file is not a scenario.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError(
            f"{folder}: contains no scenario, expected files *.json",
            remedy="name the folder node/vectors/scenarios of the source",
        )
    opened: Open = _open_own if command is None else _opener_of(shlex.split(command))
    results = [_check(_read(file), opened) for file in files]
    return ConformanceResult(results, sum(1 for result in results if result.problem))


def _read(file: Path) -> NodeScenario:
    try:
        return msgspec.json.decode(file.read_bytes(), type=NodeScenario)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file}: is not a scenario: {error}") from None


def _check(scenario: NodeScenario, opened: Open) -> ScenarioResult:
    agreed = 0
    try:
        with opened(scenario.setup) as handle:
            for step in scenario.steps:
                _compare(handle(step.event), step.outcome)
                agreed += 1
    except (Disagreement, OSError) as error:
        event = scenario.steps[agreed].event
        where = f"step {agreed} ({type(event).__name__.lower()} at {event.at:g} s)"
        return ScenarioResult(scenario.name, scenario.section, agreed, f"{where}: {error}")
    return ScenarioResult(scenario.name, scenario.section, agreed)


def _compare(found: Outcome, expected: Outcome) -> None:
    """Raise Disagreement if *found* is another outcome; saves are left out."""
    ours, theirs = _visible(expected.effects), _visible(found.effects)
    for number, (wanted, got) in enumerate(zip(ours, theirs, strict=False)):
        if not _agree(wanted, got):
            raise Disagreement(f"effect {number} is {_show(got)}, expected {_show(wanted)}")
    if len(ours) != len(theirs):
        more = [_show(effect) for effect in (ours[len(theirs) :] or theirs[len(ours) :])]
        what = "missing" if len(ours) > len(theirs) else "not expected"
        raise Disagreement(f"{what}: {', '.join(more)}")
    if not _are_close(_numbers(found.timer), _numbers(expected.timer)):
        raise Disagreement(f"the timer is {found.timer}, expected {expected.timer}")


def _visible(effects: Iterable[ScenarioEffect]) -> list[ScenarioEffect]:
    return [effect for effect in effects if not isinstance(effect, Saved)]


def _agree(wanted: ScenarioEffect, got: ScenarioEffect) -> bool:
    if isinstance(wanted, Closed) and isinstance(got, Closed):
        same = msgspec.structs.replace(got, estimate=wanted.estimate) == wanted
        return same and _are_close(got.estimate, wanted.estimate)
    return wanted == got


def _are_close(found: Sequence[float], expected: Sequence[float]) -> bool:
    if len(found) != len(expected):
        return False
    pairs = zip(found, expected, strict=True)
    return all(math.isclose(a, b, rel_tol=ESTIMATE_TOLERANCE) for a, b in pairs)


def _numbers(timer: float | None) -> list[float]:
    return [] if timer is None else [timer]


def _show(effect: ScenarioEffect) -> str:
    text = msgspec.json.encode(effect).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."


# -- nodes under test -----------------------------------------------------------------------------


def _open_own(setup: NodeSetup) -> AbstractContextManager[Handle]:
    return nullcontext(ScenarioNode(setup).handle)


def _opener_of(command: Sequence[str]) -> Open:
    return lambda setup: _running(command, setup)


@contextmanager
def _running(command: Sequence[str], setup: NodeSetup) -> Iterator[Handle]:
    """Run *command* for one scenario; it ends with the block, or after LIMIT_S."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    wanted, found = process.stdin, process.stdout
    timer = threading.Timer(LIMIT_S, process.kill)
    timer.start()
    try:
        _write(wanted, setup)
        yield lambda event: _ask(wanted, found, event)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _ask(wanted: IO[bytes], found: IO[bytes], event: ScenarioEvent) -> Outcome:
    _write(wanted, event)
    line = found.readline()
    if not line:
        raise Disagreement("the command has ended, expected one line with an outcome")
    try:
        return msgspec.json.decode(line, type=Outcome)
    except msgspec.MsgspecError as error:
        raise Disagreement(f"the command has written no outcome: {error}") from None


def _write(stream: IO[bytes], value: msgspec.Struct) -> None:
    stream.write(msgspec.json.encode(value) + b"\n")
    stream.flush()


# -- our own node as a command --------------------------------------------------------------------


def speak(wanted: IO[bytes] | None = None, found: IO[bytes] | None = None) -> None:
    """Be the node under test on standard input and output, until the input ends."""
    source, sink = wanted or sys.stdin.buffer, found or sys.stdout.buffer
    line = source.readline()
    if not line:
        return
    node = ScenarioNode(msgspec.json.decode(line, type=NodeSetup))
    for event in source:
        _write(sink, node.handle(msgspec.json.decode(event, type=ScenarioEvent)))
