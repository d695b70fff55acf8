"""Cuts every TLS connection of one node again and again, and sees whether its daemon lives.

    python -m tests.tools.flapping_path --seconds 300

The path closes each connection 0.6 s after it was opened. Afterwards the node must take part in
rounds again within 30 s. The exit code is 1 if it does not, or if its daemon has ended.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.daemons import Daemons, open_daemons
from tests.support.faulty_path import FaultyPath

LIFETIME_S = 0.6
RETURNS_WITHIN_S = 30.0
NAMES = ("n1", "n2", "n3")


def flap(daemons: Daemons, path: FaultyPath, seconds: float) -> float:
    """Cut every connection of n1 for *seconds*; return the seconds until it takes part again."""
    path.lifetime_s = LIFETIME_S
    daemons.start(*NAMES)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert daemons.exit_code("n1") is None, daemons.log("n1")
        time.sleep(0.2)
    path.lifetime_s = None
    return daemons.wait_for_rounds(["n1"], 3, RETURNS_WITHIN_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    seconds: float = parser.parse_args().seconds
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultyPath() as path,
        open_daemons(Path(folder), path=path, tls=True) as daemons,
    ):
        try:
            returned_s = flap(daemons, path, seconds)
        except AssertionError as failure:
            print(f"after {path.cuts} cuts: {failure}", file=sys.stderr)
            return 1
        print(f"{path.cuts} cuts in {seconds:g} s, and three rounds {returned_s:.1f} s after that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
