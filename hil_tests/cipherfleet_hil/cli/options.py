"""Options and checks that several `bench` commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cipherfleet_node.errors import CipherfleetError, ConfigError

if TYPE_CHECKING:
    from cipherfleet_hil.measurement.document import Measurement


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
