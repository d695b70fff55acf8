"""What a command is doing, for people who wait: a bar on a terminal, else a line now and then.

All of it goes to the console that is given, which is standard error: never to the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY_S = 10.0


def print_line(console: Console, text: str) -> None:
    """*text* as it stands, on one line however long it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """Lines where there is no terminal: one for each phase, and one of its progress now and then.

    Where there is a terminal nothing is printed: bars are for that.
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
        """A phase begins."""
        if not self._console.is_terminal:
            print_line(self._console, text)
            self._next = self._clock() + self._every_s

    def go_on(self, text: Callable[[], str]) -> None:
        """Print *text*, if nothing was printed for *every_s*."""
        if not self._console.is_terminal and self._clock() >= self._next:
            self.begin(text())


@contextmanager
def counting(what: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """A bar of *total* things, or lines; what is yielded is called as each is done."""
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
            lines.go_on(lambda: f"{what}: {done} of {total}")

        yield advance
