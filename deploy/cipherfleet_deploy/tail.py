"""Reading a file of JSON lines while somebody else appends to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Tail:
    """Gives each whole line once; begins anew when the file was replaced by a shorter one."""

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, 0

    def read(self) -> list[dict[str, Any]]:
        """The new lines; one without its end waits, one that is no object is skipped."""
        try:
            if self._file.stat().st_size < self._place:
                self._place = 0
            with self._file.open("rb") as stream:
                stream.seek(self._place)
                data = stream.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        return [line for text in whole.splitlines() if isinstance(line := _parsed(text), dict)]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a node was killed while it wrote
        return None
