"""Options and checks that several `bench` commands share."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from cipherfleet_node.errors import CipherfleetError, ConfigError

if TYPE_CHECKING:
    from cipherfleet_hil.measurement.document import Measurement


BENCH = click.option(
    "--bench",
    "bench_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="bench file (YAML) of the targets (default: this machine)",
)


def command_line() -> str:
    """Return the command line, for documents that record how they were made."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


class NotValid(CipherfleetError):
    """The measurement is not valid; its document has been written."""

    exit_code: ClassVar[int] = 5


def check_writable(out: Path | None) -> None:
    """Raise ConfigError if *out* cannot be written, before the measurement begins."""
    folder = Path() if out is None else out.parent
    if out is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(
            f"{out}: cannot be written: {folder} is not a folder with write permission"
        )


def refuse_invalid(document: Measurement) -> None:
    """Raise NotValid, with the reasons, if the measurement is not valid."""
    validity = document.cipherfleet.verdict
    if not validity.valid:
        raise NotValid(f"the measurement is not valid: {'; '.join(validity.reasons)}")
