"""Reading a file of JSON lines while somebody else appends to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonLinesReader:
    """Gives each whole line once; begins anew when the file was replaced or cut short."""

    def __init__(self, file: Path) -> None:
        self._file, self._inode, self._place = file, 0, 0

    def read(self) -> list[dict[str, Any]]:
        """The new lines; one without its end waits, one that is no object is skipped."""
        try:
            with self._file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode or status.st_size < self._place:
                    self._inode, self._place = status.st_ino, 0
                stream.seek(self._place)
                data = stream.read()
        except FileNotFoundError:
            return []
        *lines, rest = data.split(b"\n")
        self._place += len(data) - len(rest)
        return [line for text in lines if isinstance(line := _parsed(text), dict)]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a node was killed while it wrote
        return None
