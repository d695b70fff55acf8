"""The program `cipherfleet`. It handles interrupts and missing libraries with one line each.

A device has the base installation. That includes this program, but neither click nor rich. The
signal handlers are installed before anything else is imported.
"""

from __future__ import annotations

import sys

from .interrupts import EXIT_INTERRUPTED, ignore, is_interrupted, listen

EXIT_USAGE = 2


def main() -> None:
    """Run the command line. Commands import libraries late, so a missing one may show late."""
    listen()
    try:
        from cipherfleet_deploy.cli.main import main as run_command_line

        run_command_line()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (
            is_interrupted() and not isinstance(error, SystemExit)
        ):
            _end("interrupted", EXIT_INTERRUPTED)
        if not isinstance(error, ModuleNotFoundError):
            raise
        from cipherfleet_node.installation import missing_library

        _end(missing_library(str(error.name)), EXIT_USAGE)
    finally:
        ignore()


def _end(text: str, code: int) -> None:
    print(f"cipherfleet: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
