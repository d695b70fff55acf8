"""The output `file`: outputs/answer.json in the node's folder.

It has a folder of its own, so that a reader needs no access to the private folders beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from cipherfleet_node.errors import AnswerUnavailable, remedy_for

from .answer import Answer

OUTPUTS_FOLDER = "outputs"
ANSWER_FILE = "answer.json"
FOLDER_MODE, FILE_MODE = 0o750, 0o640
_decoder = msgspec.json.Decoder(Answer)

# Replaces a file durably, in one step, with this mode.
Replace = Callable[[Path, bytes, int], None]


class AnswerFile:
    """Write each answer to the file, which is the old one or the new one at every moment."""

    def __init__(self, folder: Path, replace: Replace) -> None:
        self._file, self._replace = answer_file(folder), replace

    def publish(self, answer: Answer) -> None:
        """Replace the file; raises OSError if the disk refuses."""
        place = self._file.parent
        if not place.is_dir():
            place.mkdir()
            place.chmod(FOLDER_MODE)  # whatever the umask is
        self._replace(self._file, encode(answer) + b"\n", FILE_MODE)

    def close(self) -> None:
        """Do nothing: the file stays."""


def encode(answer: Answer) -> bytes:
    """Return *answer* as one line of JSON."""
    return msgspec.json.encode(answer)


def answer_file(folder: Path) -> Path:
    """Return the path of the answer of the node in *folder*."""
    return folder / OUTPUTS_FOLDER / ANSWER_FILE


def load(folder: Path | str) -> Answer:
    """Return the answer that the node in *folder* has published.

    Raises AnswerUnavailable if there is none, or if it cannot be read.
    """
    file = answer_file(Path(folder))
    try:
        return _decoder.decode(file.read_bytes())
    except FileNotFoundError:
        raise AnswerUnavailable(
            f"{file}: there is no answer yet: the node publishes it when it has settled",
            remedy="wait, or see docs/how-to/use-the-answer.md",
        ) from None
    except OSError as error:
        raise AnswerUnavailable(
            f"{file}: cannot be read: {error.strerror}", remedy=remedy_for(error, "")
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise AnswerUnavailable(
            f"{file}: is not an answer of this version",
            remedy="remove it: the node writes it again",
        ) from None
