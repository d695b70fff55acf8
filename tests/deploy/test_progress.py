"""Progress lines where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from cipherfleet_deploy.progress import Lines, show_count


def console_of(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=80), file


def test_a_phase_is_printed_at_once_and_its_progress_every_ten_seconds() -> None:
    console, file = console_of(terminal=False)
    now = [100.0]
    lines = Lines(console, 10.0, clock=lambda: now[0])
    lines.begin("keys: 0 of 5")
    for now[0] in (100.1, 109.9, 110.0, 110.1, 119.9, 120.0):
        lines.update(lambda: f"at {now[0]:g}")
    lines.begin("starting")
    now[0] = 129.0
    lines.update(lambda: "too early")
    assert file.getvalue().splitlines() == ["keys: 0 of 5", "at 110", "at 120", "starting"]


def test_on_a_terminal_there_are_bars_and_no_lines() -> None:
    console, file = console_of(terminal=True)
    lines = Lines(console, 0.0)
    lines.begin("starting")
    lines.update(lambda: "going on")
    assert file.getvalue() == ""
    with show_count("keys", 2, console) as advance:
        advance()
    assert "keys" in file.getvalue()
    assert "keys: 0 of 2" not in file.getvalue()


def test_a_long_line_stays_one_line() -> None:
    console, file = console_of(terminal=False)
    Lines(console).begin("[x] " + "word " * 40)
    assert file.getvalue().count("\n") == 1
