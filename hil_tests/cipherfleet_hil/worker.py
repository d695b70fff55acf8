"""What runs on the machine that is measured: `python -m cipherfleet_hil.worker environment`.

It imports nothing but what a device has, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from .environment import environment


def main() -> int:
    """Do what the command line says; one JSON object on standard output."""
    options = _parser().parse_args()
    told = environment(options.own)
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cipherfleet_hil.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    state = commands.add_parser("environment", help="the state of this machine")
    state.add_argument(
        "--own",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="a process that is measured, with all that it started; all others are other load",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
