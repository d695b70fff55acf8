"""Options and checks that several `bench` commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cipherfleet_node.errors import CipherfleetError, ConfigError

if TYPE_CHECKING:
    from cipherfleet_hil.measurement.document import Measurement


class NotValid(CipherfleetError):
    """A measurement whose figures do not mean what they say; it was written all the same."""

    exit_code: ClassVar[int] = 5


def check_writable(out: Path | None) -> None:
    """Raise ConfigError now, not when the measuring is done."""
    folder = Path() if out is None else out.parent
    if out is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"{out}: cannot be written: {folder} is no folder that we may write to")


def refuse_invalid(document: Measurement) -> None:
    """Raise NotValid, with the reasons, where the document says so."""
    verdict = document.cipherfleet.verdict
    if not verdict.valid:
        raise NotValid(f"the measurement is not valid: {'; '.join(verdict.reasons)}")
