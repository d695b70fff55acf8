"""Read a file of JSON lines while another process appends to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonLinesReader:
    """Return each complete line once. Start again if the file was replaced or truncated."""

    def __init__(self, file: Path) -> None:
        self._file, self._inode, self._offset = file, 0, 0

    def read(self) -> list[dict[str, Any]]:
        """Return the objects of the new lines.

        A line without a newline waits for the next call. A line that is not a JSON object is
        skipped.
        """
        try:
            with self._file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        *lines, rest = data.split(b"\n")
        self._offset += len(data) - len(rest)
        return [line for text in lines if isinstance(line := _parse(text), dict)]


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a node was killed while it wrote this line
        return None
