"""What the phases of rounds cost, from the spans that nodes write."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PhaseFigures:
    """Durations of one phase in milliseconds, and how many were measured."""

    count: int
    p50_ms: float
    p95_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def read_spans(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The spans of all *files* (spans.jsonl)."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def phase_table(spans: Iterable[dict[str, Any]]) -> dict[str, PhaseFigures]:
    """Figures by phase; phase "round" is a whole round."""
    durations: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        durations[span["phase"]].append(span["ms"])
    return {
        phase: PhaseFigures(
            len(ms), float(np.percentile(ms, 50)), float(np.percentile(ms, 95)), max(ms)
        )
        for phase, ms in durations.items()
    }
