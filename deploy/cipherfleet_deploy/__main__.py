"""The program `cipherfleet`: one line where a library of the command line is not installed.

The base installation is what a device carries: it has this program, but neither click nor rich.
"""

from __future__ import annotations

import sys

EXIT_USAGE = 2


def main() -> None:
    """Run the command line. It imports most libraries late, so their absence may show late."""
    try:
        from .cli import main as run_command_line  # noqa: PLC0415

        run_command_line()
    except ModuleNotFoundError as error:
        from cipherfleet_node.installation import missing_library  # noqa: PLC0415

        print(f"cipherfleet: {missing_library(str(error.name))}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
