"""Ctrl-C (SIGINT) and SIGTERM: a command ends once, in order, and says so in one line.

Both raise Interrupted, a KeyboardInterrupt, wherever the main thread is. While that is handled,
which is clean-up and takes seconds, further ones change nothing. Two things may lose it. In a
destructor or callback, whose exceptions Python prints and drops, it is raised again a moment later.
A C module that fails in its import with an error of its own is recognised by `is_interrupted`.

Only what the interpreter has loaded anyway is imported here: this module comes first.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

EXIT_INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_AFTER_S = 0.01

_interrupted = False


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    A class of its own: once KeyboardInterrupt itself has left an `exec`, as of a dataclass that is
    imported, `python -m` ends by SIGINT and not with our exit code, whether it was handled or not.
    """


def listen() -> None:
    """From now on both signals raise Interrupted in the main thread."""
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _raise_later


def ignore() -> None:
    """From now on both signals change nothing: the command has ended, the interpreter ends."""
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def is_interrupted() -> bool:
    """Whether one of them has come."""
    return _interrupted


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _interrupted
    if not _is_handled(sys.exc_info()[1]):
        _interrupted = True
        raise Interrupted


def _is_handled(error: BaseException | None) -> bool:
    """Whether *error* is an interrupt, or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _raise_later(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
    else:
        sys.__unraisablehook__(unraisable)
