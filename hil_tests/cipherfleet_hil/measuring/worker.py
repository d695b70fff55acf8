"""The worker on a measured machine: `python -m cipherfleet_hil.measuring.worker crypto`.

It imports only packages of the base install and prints one JSON object: `environment` prints the
state of the machine (Environment), `crypto` prints the samples of one process (Samples).
"""

from __future__ import annotations

import argparse
import sys
from random import Random
from typing import Any

import msgspec

from cipherfleet_hil.measurement.document import DocumentPart, Labels, Run
from cipherfleet_hil.measurement.environment import clock_now, read_environment
from cipherfleet_node.errors import CipherfleetError

from .sampling import CLOCKS, CaseSampler, Effort, sample


class CaseSamples(DocumentPart, frozen=True):
    """The samples of one case in one process."""

    labels: Labels
    run: Run


class Samples(DocumentPart, frozen=True):
    """The samples of all cases in one process."""

    cases: list[CaseSamples]


def main() -> int:
    """Run the command; print one JSON object, or one line on standard error."""
    options = _parser().parse_args()
    try:
        done = options.run(options)
    except CipherfleetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
    return 0


def _environment(options: argparse.Namespace) -> Any:
    return read_environment(options.own)


def _crypto(options: argparse.Namespace) -> Samples:
    from .cases import make_sized_cases  # the command `environment` does not need it

    sized = make_sized_cases(options.bits, options.dimension, options.degree, options.case)
    clocks: list[int] = []

    def read_clock() -> None:
        hz = clock_now()  # read it now: a governor slows an idle processor down
        clocks.extend([] if hz is None else [hz])

    sampler = CaseSampler(options.clock)
    effort = Effort(options.seconds, options.passes)
    taken = sample([each.case for each in sized], effort, sampler, Random(), read_clock)  # noqa: S311
    metadata: Labels = {}
    if options.clock == "wall":  # CPU time contains no pauses
        metadata["cpu_share"] = round(sampler.cpu_share, 4)
    if clocks:
        metadata |= {"clock_hz_least": min(clocks), "clock_hz_most": max(clocks)}
    return Samples(
        cases=[
            CaseSamples(
                labels=each.labels,
                run=Run(
                    values=times.values,
                    warmups=[(1, value) for value in times.warmups],
                    metadata=metadata,
                ),
            )
            for each, times in zip(sized, taken, strict=True)
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cipherfleet_hil.measuring.worker", description=__doc__)
    commands = parser.add_subparsers(required=True)
    state = commands.add_parser("environment", help="print the state of this machine")
    state.set_defaults(run=_environment)
    state.add_argument(
        "--own",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="a measured process; its children count as measured, all others as other load",
    )
    crypto = commands.add_parser("crypto", help="print the samples of one process at one key size")
    crypto.set_defaults(run=_crypto)
    crypto.add_argument("--bits", type=int, required=True)
    crypto.add_argument("--dimension", type=int, action="append", required=True)
    crypto.add_argument("--degree", type=int, action="append", required=True)
    crypto.add_argument(
        "--case", action="append", default=[], help="only this case; may be repeated"
    )
    crypto.add_argument("--seconds", type=float, default=0.0)
    crypto.add_argument("--passes", type=int, default=1)
    crypto.add_argument("--clock", choices=[*CLOCKS], default="wall")
    return parser


if __name__ == "__main__":
    sys.exit(main())
