"""Progress of a command: a bar on a terminal, and a line every EVERY_S seconds elsewhere.

Progress goes to the console that the caller gives, which is standard error. Results go to standard
output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY_S = 10.0


def print_line(console: Console, text: str) -> None:
    """Print *text* unchanged on one line, however long it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """Progress lines for a console that is not a terminal.

    Prints one line for each phase, and one line about its progress every *every_s* seconds. On a
    terminal it prints nothing: bars show the progress there.
    """

    def __init__(
        self,
        console: Console,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._every_s, self._clock = console, every_s, clock
        self._next = 0.0

    def begin(self, text: str) -> None:
        """Print the first line of a phase."""
        if not self._console.is_terminal:
            print_line(self._console, text)
            self._next = self._clock() + self._every_s

    def update(self, text: Callable[[], str]) -> None:
        """Print *text* if the last line is at least *every_s* seconds old."""
        if not self._console.is_terminal and self._clock() >= self._next:
            self.begin(text())


@contextmanager
def show_count(what: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar of *total* steps, or lines. Yields a function to call after each step."""
    lines, done = Lines(console), 0
    lines.begin(f"{what}: 0 of {total}")
    with Progress(
        TextColumn(what), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)

        def advance() -> None:
            nonlocal done
            done += 1
            progress.advance(task)
            lines.update(lambda: f"{what}: {done} of {total}")

        yield advance
