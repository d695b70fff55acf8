"""Handlers of Ctrl-C (SIGINT) and SIGTERM: a command cleans up once and prints one line.

Both signals raise Interrupted, a KeyboardInterrupt, in the main thread. While the exception is
handled, further signals change nothing: handling is clean-up, and it takes seconds.

The exception can be lost in two places. In a destructor or a callback, Python prints the exception
and drops it; `_raise_later` raises it again a moment later. A C module that is interrupted during
its import may fail with an error of its own; `is_interrupted` recognises this case.

This module is the first import of the program. It imports only modules that the interpreter has
already loaded, and the list of the signals.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from cipherfleet_node.signals import END_SIGNALS

EXIT_INTERRUPTED = 130
_AGAIN_AFTER_S = 0.01

_interrupted = False


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived.

    It is a subclass for one reason. If KeyboardInterrupt itself leaves an `exec`, such as that of a
    dataclass during an import, then `python -m` ends by SIGINT instead of with our exit code, even
    if the exception was handled.
    """


def listen() -> None:
    """Let both signals raise Interrupted in the main thread from now on."""
    for number in (*END_SIGNALS, signal.SIGALRM):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _raise_later


def ignore() -> None:
    """Let both signals change nothing from now on: the command has ended and Python exits."""
    for number in (*END_SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def is_interrupted() -> bool:
    """Return True if one of the signals has arrived."""
    return _interrupted


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _interrupted
    if not _is_handled(sys.exc_info()[1]):
        _interrupted = True
        raise Interrupted


def _is_handled(error: BaseException | None) -> bool:
    """Return True if *error* is an interrupt, or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _raise_later(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
    else:
        sys.__unraisablehook__(unraisable)
