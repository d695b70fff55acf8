"""The tables of bench on narrow and wide terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cipherfleet_hil.measurement.document import Measurement, benchmark
from cipherfleet_hil.measuring.cases import CASE_DESCRIPTIONS
from cipherfleet_hil.report.rounds_table import show_rounds
from cipherfleet_hil.report.terminal import show
from tests.support.measured import document, rounds, samples


def printed(width: int, measured: Measurement) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    (show_rounds if measured.cipherfleet.nodes else show)(measured, console)
    text = file.getvalue()
    assert "…" not in text, "a text was cut"
    assert max(map(len, text.splitlines())) <= width
    return text


def all_cases() -> Measurement:
    from random import Random

    labels = {"key_bits": 2048, "dimension": 4096, "degree": 16}
    return document(
        [
            benchmark(case, {"case": case, **labels}, samples(Random(1), 1.5))
            for case in CASE_DESCRIPTIONS
        ]
    )


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_times_of_an_exchange_are_whole(width: int) -> None:
    text = printed(width, all_cases())
    assert all(case in text for case in CASE_DESCRIPTIONS)
    assert "p50" in text, "the median has room at any width"
    assert ("no room for: " in text) == (width == 60)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_phases_of_ten_nodes_are_whole(width: int) -> None:
    text = printed(width, rounds(10))
    assert all(text.count(f"node{n} (pi)") == 1 for n in range(10))
    assert text.count("phases of a round") == {60: 5, 80: 3, 200: 1}[width]
