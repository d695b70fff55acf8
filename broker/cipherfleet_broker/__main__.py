"""`python -m cipherfleet_broker FOLDER`: the health check of a broker in a container.

The check sends one message to itself through the broker, over TLS. FOLDER holds ca.pem, health.pem
and health.key. A member of a cluster does not deliver this message before the other members run;
with --alone the check only verifies the member's certificate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.keys.tls import client_context

from .health import check_broker, check_listening
from .program import LOOPBACK
from .security import TLS_PORT

TIMEOUT_S = 10.0


def main(arguments: list[str]) -> int:
    """Check the broker once and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cipherfleet_broker", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds ca.pem, health.pem and health.key")
    parser.add_argument("--port", type=int, default=TLS_PORT, help="default: %(default)s")
    parser.add_argument("--alone", action="store_true", help="check its certificate only")
    options = parser.parse_args(arguments)
    try:
        check(options.folder, options.port, alone=options.alone)
    except CipherfleetError as error:
        print(f"broker: {error}", file=sys.stderr)
        return error.exit_code
    print("healthy")
    return 0


def check(folder: Path, port: int, *, alone: bool = False) -> None:
    """Raise BrokerUnreachable, or ConfigError if the certificates in *folder* cannot be used."""
    files = [folder / name for name in ("ca.pem", "health.pem", "health.key")]
    try:
        context = client_context(*files)
    except OSError as error:  # SSLError is an OSError
        raise ConfigError(f"{folder}: its certificates cannot be used: {error}") from None
    (check_listening if alone else check_broker)(LOOPBACK, port, TIMEOUT_S, context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
