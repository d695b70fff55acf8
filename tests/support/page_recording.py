"""A recording of a fleet that never ran, as `cipherfleet watch --json` would print it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from cipherfleet_deploy.watch.table import ABSENT, NodeStatus, summarise_rows
from cipherfleet_deploy.watch.watch import WatchResult

BEGAN = 1_767_225_600.0
STEP_S = 5.0


def write_recording(file: Path, names: Sequence[str], minutes: float = 10.0) -> None:
    """Write the recording of a fleet of *names*. Some nodes have faults at the end."""
    with file.open("wb") as lines:
        for result in recording(names, round(60 * minutes / STEP_S)):
            lines.write(msgspec.json.encode(result) + b"\n")


def recording(names: Sequence[str], steps: int) -> Iterator[WatchResult]:
    """Yield *steps* results, in each of which all nodes report."""
    chance = random.Random(7)
    for k in range(steps):
        is_late = k > 0.8 * steps
        rows = [_row(name, place, k, chance, is_late=is_late) for place, name in enumerate(names)]
        yield WatchResult(
            at=BEGAN + STEP_S * k,
            fleet="intel-lab",
            connected=True,
            summary=summarise_rows(rows),
            nodes=rows,
        )


def _row(name: str, place: int, k: int, chance: random.Random, *, is_late: bool) -> NodeStatus:
    if place == 7:
        return NodeStatus(name, ABSENT, stale=False, age_s=None)
    if is_late and place in (3, 11):
        return NodeStatus(name, "lost", stale=False, age_s=90.0, epoch=5, round=360, settled=True)
    slow = 60.0 if place == 5 else 0.0
    return NodeStatus(
        node=name,
        state="alert" if is_late and place == 9 else "ready",
        stale=is_late and place == 13,
        age_s=round(chance.uniform(0.1, 4.9), 1),
        epoch=5,
        phase="collecting",
        round=4 * k - min(3, int(chance.expovariate(1.5))) + 5,
        round_ms=round(250.0 + slow + chance.gauss(0.0, 12.0), 1),
        silent=int(chance.random() < 0.02) + int(is_late and place in (2, 4, 10, 12)),
        missed=place % 3,
        rejected=4 if place == 9 else 0,
        pool=max(0, 8 - int(chance.expovariate(0.6))),
        pool_size=8,
        settled=k > 40 + place,
        temperature_c=45 + place % 9,
        unanswered_s=40 if is_late and place == 15 else 0,
        refusals={"signature": 3, "topic": 1} if place == 9 else {},
        left_out=[],
    )
