"""Record `cipherfleet demo` on a terminal: python -m tests.tools.record_demo (`make recording`).

Writes docs/images/demo.cast, which `asciinema play` shows with its pauses, and
docs/images/demo.svg, a picture of what the demo prints at its end. Neither refers to another file
or to the network.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from select import select

from rich.console import Console
from rich.text import Text

from tests.support.paths import ROOT

IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 90, 30
REDRAW, REDRAW_S = "\r\x1b[2K", 0.5  # how a bar is drawn again, and how often that is recorded
# rich's own frame names fonts on the network.
FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px "DejaVu Sans Mono", monospace; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""

Events = list[tuple[float, str]]


def record(command: Sequence[str]) -> tuple[Events, str]:
    """Run *command* on a terminal. Return what it printed with times, and its standard output.

    Standard output and standard error have a terminal each, so that the progress bars do not end up
    in the second result.
    """
    results, results_end = _open_terminal()
    progress, progress_end = _open_terminal()
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    began, events, output = time.monotonic(), [], ""
    with subprocess.Popen(
        command, stdout=results_end, stderr=progress_end, env=environment
    ) as process:
        os.close(results_end)
        os.close(progress_end)
        opened = {results, progress}
        while opened:
            for source in select(list(opened), [], [])[0]:
                text = _read(source)
                if not text:
                    opened.discard(source)
                    continue
                events.append((round(time.monotonic() - began, 3), text))
                output += text if source == results else ""
    if process.returncode:
        sys.exit(f"the command ended with exit code {process.returncode}:\n{output}")
    return events, output


def _open_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    return ours, theirs


def _read(source: int) -> str:
    try:
        return os.read(source, 65536).decode("utf-8", "replace")
    except OSError:  # the program has closed its terminal
        return ""


def thin(events: Events) -> Events:
    """Return *events* without most drawings of a progress bar: two each second suffice."""
    kept: Events = []
    drawn = -REDRAW_S
    for at, text in events:
        is_bar = text.startswith(REDRAW) and "\n" not in text
        if is_bar and at - drawn < REDRAW_S:
            continue
        drawn = at if is_bar else drawn
        kept.append((at, text))
    return kept


def write_cast(file: Path, events: Events, title: str) -> None:
    """Write *events* as an asciicast of version 2."""
    head = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": title}
    lines = [json.dumps(head), *(json.dumps([at, "o", text]) for at, text in events)]
    file.write_text("\n".join(lines) + "\n")


def draw(output: str, title: str) -> str:
    """Return *output*, the text of a terminal, as SVG."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output.replace("\r\n", "\n")))
    return console.export_svg(title=title, code_format=FRAME, unique_id="demo")


def main() -> int:
    """Record and write both files."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=IMAGES)
    options.add_argument("command", nargs="*", default=["demo"], help="of cipherfleet")
    given = options.parse_args()
    title = f"cipherfleet {' '.join(given.command)}"
    with tempfile.TemporaryDirectory() as folder:
        place = ["--out", str(Path(folder) / "demo-out")]
        events, output = record(
            [sys.executable, "-m", "cipherfleet_deploy", *given.command, *place]
        )
        hidden = [(at, text.replace(folder, ".")) for at, text in thin(events)]
        write_cast(given.out / "demo.cast", hidden, title)
        (given.out / "demo.svg").write_text(draw(output.replace(folder, "."), title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
