"""The process from which the daemons of tests are forked, as `cipherfleet run` forks its own.

A daemon spends most of its start on imports: more processor time than most tests need for their
rounds. This process imports once for all tests of a worker. Where a daemon needs a command, a clock
or an environment of its own, it is started as a program.
"""

from __future__ import annotations

import atexit
from functools import cache

from cipherfleet_deploy.local.launched import Launcher


@cache
def shared_launcher() -> Launcher:
    """Return the launcher of this process, which ends with it."""
    launcher = Launcher()
    atexit.register(launcher.__exit__, None, None, None)
    return launcher
