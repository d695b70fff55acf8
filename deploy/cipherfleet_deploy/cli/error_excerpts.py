"""Errors in an operator's file, printed with the line of the file and a caret under the column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cipherfleet_node.errors import ConfigError, Mark

MAX_EXCERPT_BYTES = 4 * 1024 * 1024
MAX_SHOWN = 50
WIDTH = 96  # characters shown of a long line
_KEY = re.compile(r"([\w.-]+)[\"']?[ \t]*:")


def error_lines(error: ConfigError, program: str) -> Iterator[str]:
    """Yield the lines to print for all findings of *error*, and their number if there are several.

    At most MAX_SHOWN findings are shown.
    """
    texts: dict[str, str] = {}
    for finding in error.findings[:MAX_SHOWN]:
        yield f"{program}: {finding}"
        mark = finding.mark
        if mark is not None:
            text = texts.setdefault(mark.file, _text_without_secrets(Path(mark.file)))
            yield from _excerpt(text.split("\n"), mark)
    count = len(error.findings)
    if count > 1:
        more = f", the first {MAX_SHOWN} are shown" if count > MAX_SHOWN else ""
        yield f"{program}: {count} errors{more}"


def _text_without_secrets(file: Path) -> str:
    """Return the text of *file*, or "" if any part of it looks like a secret."""
    from cipherfleet_node.settings.type_errors import PEM, may_be_secret

    try:
        with file.open(encoding="utf-8-sig") as opened:
            text = opened.read(MAX_EXCERPT_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""
    has_secret = PEM in text or any(map(may_be_secret, _KEY.findall(text)))
    return "" if has_secret else text


def _excerpt(lines: list[str], mark: Mark) -> Iterator[str]:
    """Yield two lines: '  6 |   rounds: many', and a caret under the column of the error."""
    if mark.line > len(lines) or not lines[mark.line - 1].strip():
        return
    line, column = lines[mark.line - 1], mark.column
    start = max(0, min(column - WIDTH // 2, len(line) - WIDTH))
    shown = "".join(c if c.isprintable() else " " for c in line[start : start + WIDTH])
    number = f"{mark.line:>5}"
    yield f"{number} | {shown.rstrip()}"
    yield f"{' ' * len(number)} | {' ' * (column - 1 - start)}^"
