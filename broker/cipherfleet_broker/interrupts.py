"""Defer Ctrl-C during short steps whose interruption would leave files or processes behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cipherfleet_node.signals import END_SIGNALS


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end of the block.

    For steps that are short and must not be interrupted, for example to make a folder and to
    record its name. Python interrupts only the main thread, so in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    try:
        for number in END_SIGNALS:
            signal.signal(number, lambda number, _frame: held.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
